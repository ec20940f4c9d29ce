// SPDX-License-Identifier: Apache-2.0

// Command lateen-proxy is Lateen's data plane: the proxy beside every workload
// and at the edges of the mesh.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/agent"
	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
)

// version is set by the build (-ldflags "-X main.version=...").
var version = ""

const usage = `lateen-proxy is the data plane of the Lateen service mesh.

Usage:
  lateen-proxy run -c FILE [flags]   serve an Envoy v3 bootstrap (YAML or JSON)
  lateen-proxy istio-iptables ...    redirect a pod's connections to the proxy (see its --help)
  lateen-proxy version               print the version

Examples:
  lateen-proxy run -c bootstrap.yaml
  lateen-proxy run -c bootstrap.json --log-level debug --drain-time-s 10

Flags of run:
`

// Exit codes (sysexits.h): bad command line, bad input.
const (
	exitUsage = 64
	exitData  = 65
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return exitUsage
	}
	switch args[0] {
	case "run":
		return serve(args[1:])
	case "proxy":
		return serveProxy(args[1:])
	case "wait":
		return waitReady(args[1:])
	case "request":
		return sendRequest(args[1:])
	case "istio-iptables", "init":
		return runIptables(args[1:], false)
	case "istio-clean-iptables":
		return runIptables(args[1:], true)
	case "version", "--version":
		fmt.Printf("lateen-proxy %s %s %s/%s\n", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	case "help", "-h", "--help":
		fmt.Print(usage)
		flags(new(settings)).PrintDefaults()
		fmt.Print(podUsage)
		return 0
	}
	fmt.Fprintf(os.Stderr, "unknown command %q; see lateen-proxy --help\n", args[0])
	return exitUsage
}

type settings struct {
	config, level, tokenFile, health string
	drainSeconds                     int
	maxConnections                   int64
	allowUnknown                     bool
}

func flags(s *settings) *flag.FlagSet {
	f := flag.NewFlagSet("run", flag.ContinueOnError)
	f.SetOutput(os.Stderr)
	f.StringVar(&s.config, "c", "", "bootstrap `file`")
	f.StringVar(&s.config, "config-path", "", "the same as -c `file`")
	f.StringVar(&s.level, "log-level", "info", "debug, info, warning or error")
	f.StringVar(&s.level, "l", "info", "the same as --log-level")
	f.IntVar(&s.drainSeconds, "drain-time-s", 5, "how long connections may go on after SIGTERM, in `seconds`")
	f.StringVar(&s.tokenFile, "token-file", "", "`file` with the token that proves the workload to the control plane (/proc/self/fd/N names an inherited descriptor)")
	f.StringVar(&s.health, "health-address", "", "`address` that serves /healthz/ready, as in 127.0.1.1:15021")
	f.Int64Var(&s.maxConnections, "max-connections", 0, "bound of downstream connections (default half of the open files limit)")
	f.BoolVar(&s.allowUnknown, "allow-unknown-static-fields", false, "ignore fields of the bootstrap that are unknown or not supported")
	return f
}

func serve(args []string) int {
	var s settings
	f := flags(&s)
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage // the flag set has said why
	}
	if s.config == "" || f.NArg() > 0 {
		return complain(exitUsage, errors.New("run takes -c FILE and nothing else"))
	}
	level := new(slog.LevelVar)
	if err := setLevel(level, s.level); err != nil {
		return complain(exitUsage, err)
	}
	bs, err := bootstrap.Load(s.config, bootstrap.Options{AllowUnknownFields: s.allowUnknown})
	if err != nil {
		return complain(exitData, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err = agent.Run(ctx, bs, agent.Options{
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), Level: level,
		Version: versionText(), DrainTime: time.Duration(s.drainSeconds) * time.Second,
		TokenFile: s.tokenFile, HealthAddress: s.health, MaxConnections: s.maxConnections,
	})
	if err != nil {
		return complain(1, err)
	}
	return 0
}

func setLevel(v *slog.LevelVar, name string) error {
	switch name {
	case "trace", "debug":
		v.Set(slog.LevelDebug)
	case "info":
		v.Set(slog.LevelInfo)
	case "warning", "warn":
		v.Set(slog.LevelWarn)
	case "error", "critical", "off":
		v.Set(slog.LevelError)
	default:
		return fmt.Errorf("--log-level: %q is none of debug, info, warning, error", name)
	}
	return nil
}

func versionText() string {
	if version != "" {
		return version
	}
	if i, ok := debug.ReadBuildInfo(); ok && i.Main.Version != "" {
		return i.Main.Version
	}
	return "dev"
}

func complain(code int, err error) int {
	fmt.Fprintln(os.Stderr, "lateen-proxy:", err)
	return code
}
