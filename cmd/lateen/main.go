// SPDX-License-Identifier: Apache-2.0

// Command lateen runs a service mesh on this machine and drives it.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/internal/cli"
)

var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// A second signal ends us at once; the kernel then ends our children.
	context.AfterFunc(ctx, stop)
	code := cli.Run(ctx, os.Args[1:], cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Version: version, Bin: siblings(), Now: time.Now,
	})
	stop()
	os.Exit(code)
}

// siblings is the directory this program was started from, links resolved.
func siblings() string {
	p, err := os.Executable()
	if err != nil {
		return "."
	}
	if real, err := filepath.EvalSymlinks(p); err == nil {
		p = real
	}
	return filepath.Dir(p)
}
