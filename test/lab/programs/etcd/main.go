// SPDX-License-Identifier: Apache-2.0

// Command etcd is etcd. Its own module has replace directives, so that it
// cannot be had by go install.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
