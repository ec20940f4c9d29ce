// SPDX-License-Identifier: Apache-2.0

// Command servers runs one of the small sample servers of Istio's documents.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/lateen-mesh/lateen/samples/servers"
)

var version = "unknown"

const usage = `Run one of the small servers of the samples.

Usage:
  servers helloworld [PORT]            GET /hello and /health (5000)
  servers tcp-echo PORT[,PORT] PREFIX  each line comes back as "PREFIX line"
  servers health [PORT[,PORT]]         GET /foo and /bar (8001,8002)
  servers websocket [PORT]             a page, /ws and /api (8888)
  servers load [FLAGS] URL             requests at a steady rate, and how many failed
  servers version

helloworld says the version that SERVICE_VERSION gives (v1) and the instance
that HOSTNAME gives. A port may be an address, such as 127.0.0.1:5000.

Examples:
  servers helloworld
  servers tcp-echo 9000,9001 hello
  servers load --rate 100 --duration 1m http://127.0.0.1:5000/hello
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
	if args[0] == "load" {
		return load(ctx, args[1:], os.Stdin, stdout, stderr)
	}
	p, err := choose(args, getenv)
	if err != nil {
		fmt.Fprintf(stderr, "servers: %v\n", err)
		return 64
	}
	if err := p.run(ctx, slog.New(slog.NewTextHandler(stderr, nil)).With("server", args[0])); err != nil {
		fmt.Fprintf(stderr, "servers: %v\n", err)
		return 1
	}
	return 0
}

// program is a server and where it listens.
type program struct {
	addresses []string
	serve     func(ctx context.Context, l net.Listener) error
	close     func()
}

func choose(args []string, getenv func(string) string) (program, error) {
	var p program
	ports, most := "", 2
	switch args[0] {
	case "helloworld":
		ports = "5000"
		instance := getenv("HOSTNAME")
		if instance == "" {
			instance, _ = os.Hostname()
		}
		h := servers.Helloworld(cmp.Or(getenv("SERVICE_VERSION"), "v1"), instance)
		p.serve = func(ctx context.Context, l net.Listener) error { return servers.Serve(ctx, l, h) }
	case "tcp-echo":
		if most = 3; len(args) != most {
			return p, errors.New("tcp-echo takes ports and a prefix, as in: servers tcp-echo 9000,9001 hello")
		}
		p.serve = servers.Echo{Prefix: args[2]}.Serve
	case "health":
		ports = "8001,8002"
		p.serve = func(ctx context.Context, l net.Listener) error {
			_, port, err := net.SplitHostPort(l.Addr().String())
			if err != nil {
				return err
			}
			return servers.Serve(ctx, l, servers.Health(port))
		}
	case "websocket":
		ports = "8888"
		hub := servers.NewHub()
		p.serve = func(ctx context.Context, l net.Listener) error { return servers.Serve(ctx, l, hub) }
		p.close = hub.Close
	default:
		return p, fmt.Errorf("unknown server %q: have helloworld, tcp-echo, health, websocket, load", args[0])
	}
	if len(args) > most {
		return p, fmt.Errorf("%s: unexpected argument %q", args[0], args[most])
	}
	if len(args) > 1 {
		ports = args[1]
	}
	for port := range strings.SplitSeq(ports, ",") {
		if !strings.Contains(port, ":") {
			port = ":" + port
		}
		p.addresses = append(p.addresses, port)
	}
	return p, nil
}

// run listens everywhere before it serves anywhere, and ends with the first
// server that fails.
func (p program) run(ctx context.Context, log *slog.Logger) error {
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	for _, a := range p.addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", a, err)
		}
		listeners = append(listeners, l)
		log.Info("serving", "address", l.Addr().String())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			defer cancel()
			ended <- p.serve(ctx, l)
		}()
	}
	<-ctx.Done()
	if p.close != nil {
		p.close()
	}
	var errs []error
	for range listeners {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}
