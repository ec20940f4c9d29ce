// SPDX-License-Identifier: Apache-2.0

// Command todo serves one service of the todo sample application.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/samples/todo"
)

var version = "unknown"

const usage = `Serve one service of the todo sample application.

Usage:
  todo ui [flags]        the page
  todo backend [flags]   the list
  todo version

Flags (and the environment they default to):
  --listen ADDR    address to listen on (LISTEN_ADDRESS, else :8090 for ui, :8080 for backend)
  --version V      of ui: v0.1 or v0.2 (SERVICE_VERSION, else v0.1)
  --backend URL    of ui: where the list is (BACKEND_URL, else http://todobackend:8080/)

Calls go through HTTP_PROXY when it is set.

Examples:
  todo backend --listen 127.0.0.1:8080
  todo ui --version v0.2 --listen 127.0.0.1:8090 --backend http://localhost:8080/
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit codes: 64 is a wrong command line (sysexits.h), 1 a server that failed.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if args[0] == "version" {
		fmt.Fprintln(stdout, version)
		return 0
	}
	h, listen, err := configure(args, getenv, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "todo: %v\n", err)
		return 64
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Fprintf(stderr, "todo: listen on %s: %v\n", listen, err)
		return 1
	}
	slog.New(slog.NewTextHandler(stderr, nil)).Info("serving", "service", args[0], "address", l.Addr().String())
	if err := todo.Serve(ctx, l, h); err != nil {
		fmt.Fprintf(stderr, "todo: %v\n", err)
		return 1
	}
	return 0
}

func configure(args []string, getenv func(string) string, stderr io.Writer) (h http.Handler, listen string, err error) {
	f := flag.NewFlagSet("todo "+args[0], flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() { fmt.Fprint(stderr, usage) }
	listen = getenv("LISTEN_ADDRESS")
	f.StringVar(&listen, "listen", listen, "")
	var c todo.Config
	switch args[0] {
	case "ui":
		f.StringVar(&c.Version, "version", cmp.Or(getenv("SERVICE_VERSION"), "v0.1"), "")
		f.StringVar(&c.Backend, "backend", cmp.Or(getenv("BACKEND_URL"), "http://todobackend:8080/"), "")
	case "backend":
	default:
		return nil, "", fmt.Errorf("unknown service %q: have ui, backend", args[0])
	}
	if err := f.Parse(args[1:]); err != nil {
		return nil, "", err
	}
	if f.NArg() > 0 {
		return nil, "", fmt.Errorf("%s: unexpected argument %q", args[0], f.Arg(0))
	}
	if args[0] == "backend" {
		return todo.Backend(), cmp.Or(listen, ":8080"), nil
	}
	if c.Instance = getenv("HOSTNAME"); c.Instance == "" {
		c.Instance, _ = os.Hostname()
	}
	c.Client = &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     time.Minute,
	}}
	h, err = todo.UI(c)
	return h, cmp.Or(listen, ":8090"), err
}
