// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/pod"
)

// podUsage is the part of the help that is about pods.
const podUsage = `
In a Kubernetes pod (pilot-agent's commands and flags):
  lateen-proxy proxy sidecar|router [flags]   serve as the pod's environment says
  lateen-proxy wait [flags]                   return once the proxy is ready
  lateen-proxy request METHOD PATH [BODY]     ask the proxy's admin port (15000)

Examples:
  lateen-proxy request GET stats
  lateen-proxy request --debug-port 15020 POST drain
`

// withoutEffect are pilot-agent's flags that other programs' manifests set and
// that have nothing to act on here.
var withoutEffect = []struct{ name, why string }{
	{"proxyComponentLogLevel", "there is one logger, see --proxyLogLevel"},
	{"templateFile", "there is no Envoy bootstrap template"},
	{"outlierLogPath", "ejections are counted in the metrics"},
	{"stsPort", "there is no token exchange server"},
	{"tokenManagerPlugin", "there is no token exchange server"},
	{"log_caller", "lines do not name their place in the source"},
	{"log_stacktrace_level", "only a recovered panic has a stack trace"},
	{"log_target", "lines go to standard output"},
	{"vklog", "client-go is not linked"},
}

type proxySettings struct {
	pod.Flags
	proxyLevel, outputLevel string
	asJSON, profiling       bool
}

func proxyFlags(s *proxySettings) *flag.FlagSet {
	f := newFlags("proxy")
	f.StringVar(&s.Domain, "domain", "", "DNS `domain` of the pod's services (default <namespace>.svc.cluster.local)")
	f.StringVar(&s.ServiceCluster, "serviceCluster", "", "`name` of the node's cluster (default <canonical service>.<namespace>)")
	f.StringVar(&s.MeshConfigFile, "meshConfig", "./etc/istio/config/mesh", "`file` whose defaultConfig is read when it exists")
	f.IntVar(&s.Concurrency, "concurrency", 0, "processors to use (default: the container's limit)")
	f.StringVar(&s.proxyLevel, "proxyLogLevel", "", "`level` of the log: trace, debug, info, warning, error, critical, off; the more talkative of this and --log_output_level counts")
	f.StringVar(&s.outputLevel, "log_output_level", "default:info", "`level` of the log: debug, info, warn, error or none; scope:level pairs, of which the most talkative counts")
	f.BoolVar(&s.asJSON, "log_as_json", false, "write the log as JSON")
	f.BoolVar(&s.profiling, "profiling", true, "accepted without effect: profiles are not served")
	for _, w := range withoutEffect {
		f.String(w.name, "", "accepted without effect: "+w.why)
	}
	return f
}

func newFlags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(os.Stderr)
	return f
}

// parse takes flags before, between and after the arguments, as pilot-agent does.
func parse(f *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		if f.NArg() == 0 {
			return rest, nil
		}
		rest = append(rest, f.Arg(0))
		args = f.Args()[1:]
	}
}

// parsed handles what a flag set has to say; done means that code is the
// program's exit code.
func parsed(err error) (code int, done bool) {
	if errors.Is(err, flag.ErrHelp) {
		return 0, true
	}
	return exitUsage, err != nil
}

func serveProxy(args []string) int {
	var s proxySettings
	rest, err := parse(proxyFlags(&s), args)
	if code, done := parsed(err); done {
		return code
	}
	s.Role = pod.Sidecar
	if len(rest) > 1 {
		return complain(exitUsage, errors.New("proxy takes one role, sidecar or router"))
	}
	if len(rest) == 1 {
		s.Role = rest[0]
	}
	level := new(slog.LevelVar)
	if err := podLevel(level, s.proxyLevel, s.outputLevel); err != nil {
		return complain(exitUsage, err)
	}
	log := slog.New(podLog(os.Stdout, level, s.asJSON))
	c, err := pod.Load(s.Flags, pod.Environment{})
	if err != nil {
		return complain(exitData, err)
	}
	if s.Concurrency > 0 {
		c.Proxy.Concurrency = s.Concurrency
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := pod.Run(ctx, c, pod.Program{Version: versionText(), Log: log, Level: level}); err != nil {
		log.Error("lateen-proxy ended", "error", err)
		return 1
	}
	return 0
}

func podLog(w io.Writer, level slog.Leveler, asJSON bool) slog.Handler {
	if asJSON {
		return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	}
	return pod.NewLogHandler(w, level)
}

// podLevel sets the more talkative of Envoy's level and Istio's
// "scope:level,scope:level".
func podLevel(v *slog.LevelVar, proxy, output string) error {
	best := slog.LevelError + 8
	words := strings.Split(output, ",")
	for _, w := range append(words, proxy) {
		if _, l, ok := strings.Cut(w, ":"); ok {
			w = l
		}
		var one slog.LevelVar
		switch w {
		case "":
			continue
		case "none":
			w = "off"
		case "fatal":
			w = "critical"
		}
		if err := setLevel(&one, w); err != nil {
			return fmt.Errorf("log level %q is none of debug, info, warning, error", w)
		}
		best = min(best, one.Level())
	}
	v.Set(best)
	return nil
}

func waitReady(args []string) int {
	var o pod.WaitOptions
	var timeout, request, period int
	f := newFlags("wait")
	f.StringVar(&o.URL, "url", "http://localhost:15021/healthz/ready", "what to ask")
	f.IntVar(&timeout, "timeoutSeconds", 60, "`seconds` until giving up")
	f.IntVar(&request, "requestTimeoutMillis", 500, "`milliseconds` until one question is given up")
	f.IntVar(&period, "periodMillis", 500, "`milliseconds` between questions")
	rest, err := parse(f, args)
	if code, done := parsed(err); done {
		return code
	}
	if len(rest) > 0 {
		return complain(exitUsage, errors.New("wait takes flags only"))
	}
	o.Timeout, o.RequestTimeout, o.Period = time.Duration(timeout)*time.Second, time.Duration(request)*time.Millisecond, time.Duration(period)*time.Millisecond
	if err := pod.Wait(context.Background(), o); err != nil {
		return complain(1, err)
	}
	fmt.Println("lateen-proxy is ready")
	return 0
}

func sendRequest(args []string) int {
	f := newFlags("request")
	port := f.Int("debug-port", 15000, "`port` of this pod's proxy")
	rest, err := parse(f, args)
	if code, done := parsed(err); done {
		return code
	}
	if len(rest) < 2 || len(rest) > 3 {
		return complain(exitUsage, errors.New("request takes METHOD PATH [BODY], as in: request GET stats"))
	}
	if *port < 1 || *port > 65535 {
		return complain(exitUsage, fmt.Errorf("--debug-port: %d is no port", *port))
	}
	body := ""
	if len(rest) == 3 {
		body = rest[2]
	}
	if err := pod.Request(context.Background(), os.Stdout, uint16(*port), rest[0], rest[1], body); err != nil {
		return complain(1, err)
	}
	return 0
}
