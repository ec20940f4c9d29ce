// SPDX-License-Identifier: Apache-2.0

// Command bookinfo serves one service of the Bookinfo sample application.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/lateen-mesh/lateen/samples/bookinfo"
)

var version = "unknown"

const usage = `Serve one service of the Bookinfo sample application.

Usage:
  bookinfo {productpage|details|reviews|ratings} [flags]
  bookinfo version

Without arguments it serves the service that SERVICE_NAME names, as the
container images do.

Flags (and the environment they default to):
  --listen ADDR     address to listen on (LISTEN_ADDRESS, else :9080)
  --version V       version to play: v1, v2, v3 (SERVICE_VERSION, else v1)
  --details URL     the details service (DETAILS_HOSTNAME, DETAILS_SERVICE_PORT, else http://details:9080)
  --reviews URL     the reviews service (REVIEWS_HOSTNAME, REVIEWS_SERVICE_PORT, else http://reviews:9080)
  --ratings URL     the ratings service (RATINGS_HOSTNAME, RATINGS_SERVICE_PORT, else http://ratings:9080)

Calls go through HTTP_PROXY when it is set.

Examples:
  bookinfo ratings --listen 127.0.0.1:9083
  bookinfo reviews --version v3 --listen 127.0.0.1:9082 --ratings http://localhost:9083
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if name := getenv("SERVICE_NAME"); len(args) == 0 && name != "" {
		args = []string{name}
	}
	if len(args) == 0 || args[0] == "-h" || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(stdout, usage)
		return 0
	}
	service := args[0]
	if service == "version" {
		fmt.Fprintln(stdout, version)
		return 0
	}
	if !slices.Contains(bookinfo.Services, service) {
		fmt.Fprintf(stderr, "bookinfo: unknown service %q: have %s\n", service, strings.Join(bookinfo.Services, ", "))
		return 64
	}
	c := bookinfo.FromEnv(getenv)
	listen := getenv("LISTEN_ADDRESS")
	if listen == "" {
		listen = ":9080"
	}
	f := flag.NewFlagSet("bookinfo "+service, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, usage) }
	f.StringVar(&listen, "listen", listen, "")
	f.StringVar(&c.Version, "version", c.Version, "")
	f.StringVar(&c.Details, "details", c.Details, "")
	f.StringVar(&c.Reviews, "reviews", c.Reviews, "")
	f.StringVar(&c.Ratings, "ratings", c.Ratings, "")
	if err := f.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 64
	}
	h, err := bookinfo.Handler(service, c)
	if err != nil {
		fmt.Fprintf(stderr, "bookinfo: %v\n", err)
		return 64
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Fprintf(stderr, "bookinfo: listen on %s: %v\n", listen, err)
		return 1
	}
	slog.New(slog.NewTextHandler(stderr, nil)).Info("serving", "service", service, "version", c.Version, "address", l.Addr().String())
	if err := bookinfo.Serve(ctx, l, h); err != nil {
		fmt.Fprintf(stderr, "bookinfo: %v\n", err)
		return 1
	}
	return 0
}
