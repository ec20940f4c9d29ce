// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"

	"golang.org/x/net/netutil"
)

// running is what the status port shows and changes of a proxy; *agent.Server
// is one.
type running interface {
	Ready() bool
	Waiting() string
	Drain()
	Quit()
	Metrics() http.Handler
}

// statusHandler serves the status port, 15020: what pilot-agent serves there.
// The pod's network can reach it, so that a change is taken from loopback only.
func statusHandler(p running, metrics, probes http.Handler, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/healthz/ready", readyHandler(p, log))
	mux.Handle("/stats/prometheus", metrics)
	mux.Handle("/metrics", metrics)
	mux.Handle("/app-health/", probes)
	mux.Handle("/app-lifecycle/", probes)
	mux.Handle("/quitquitquit", fromLoopback(func() {
		log.Info("handling /quitquitquit, ending")
		p.Quit()
	}))
	mux.Handle("/drain", fromLoopback(func() {
		log.Info("handling /drain, starting drain")
		p.Drain()
	}))
	return mux
}

// fromLoopback does something for a POST of a process of this pod.
func fromLoopback(f func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !from.Addr().Unmap().IsLoopback() {
			http.Error(w, "Only requests from localhost are allowed", http.StatusForbidden)
			return
		}
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", "POST")
			http.Error(w, "Method Not Allowed: use POST", http.StatusMethodNotAllowed)
			return
		}
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			http.Error(w, "requests of web pages are not allowed", http.StatusForbidden)
			return
		}
		fmt.Fprintln(w, "OK")
		f()
	})
}

// readyHandler answers readiness probes and says once in the log when the
// answer changes.
func readyHandler(p running, log *slog.Logger) http.Handler {
	var before atomic.Bool
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ready := p.Ready()
		if was := before.Swap(ready); was && !ready {
			log.Warn("lateen-proxy is not ready", "reason", p.Waiting())
		}
		if !ready {
			http.Error(w, p.Waiting(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		fmt.Fprintln(w, "LIVE")
	})
}

// only serves one path and nothing else.
func only(path string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// maxStatusConnections bounds each port that the cluster's network can reach.
const maxStatusConnections = 1024

// listen opens the ports of a pod, all or none.
func listen(addresses ...string) ([]net.Listener, error) {
	var out []net.Listener
	for _, a := range addresses {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, fmt.Errorf("status port: %w", err)
		}
		out = append(out, netutil.LimitListener(ln, maxStatusConnections))
	}
	return out, nil
}
