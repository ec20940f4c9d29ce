// SPDX-License-Identifier: Apache-2.0

package bookinfo

import (
	"embed"
	"io/fs"
)

//go:embed mesh
var meshFiles embed.FS

// Mesh is the directory `lateen demo` runs: the four services, their
// workloads, and the gateway in front.
func Mesh() fs.FS {
	sub, err := fs.Sub(meshFiles, "mesh")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}
