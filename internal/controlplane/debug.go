// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/xds/ads"
)

func itoa(n int) string { return strconv.Itoa(n) }

// serveDebug serves Istio's monitoring port: /ready, /metrics, /version and a
// part of /debug. It reads only and is on loopback only, but for a cluster:
// there everybody may read the metrics, and who has a port forwarded the rest.
func (p *plane) serveDebug(fail func(error)) error {
	if p.opts.DebugAddress == "" {
		return nil
	}
	if p.cluster == nil {
		if err := loopback(p.opts.DebugAddress); err != nil {
			return err
		}
	}
	l, err := p.listen("debug", p.opts.DebugAddress)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, p.opts.Version) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		p.metrics(w)
	})
	debug := http.NewServeMux()
	handle(debug, "GET /debug/adsz", func(*http.Request) ([]ads.ClientStatus, error) { return p.ads.Status(), nil })
	handle(debug, "GET /debug/syncz", func(*http.Request) ([]ads.SyncStatus, error) { return ads.SyncZ(p.ads.Status()), nil })
	handle(debug, "GET /debug/graphz", func(*http.Request) (any, error) { return p.publisher.dump(), nil })
	mux.Handle("/debug/", callerGuard(hostGuard(debug)))
	if p.cluster != nil {
		p.serveHTTP(l, mux, 30*time.Second, fail)
	} else {
		p.serveHTTP(l, hostGuard(mux), 30*time.Second, fail)
	}
	return nil
}

// callerGuard refuses requests from other machines.
func callerGuard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			http.Error(w, "this page is for the machine itself; use a port-forward", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// hostGuard refuses requests that a browser was tricked into making to a
// loopback port under another name (DNS rebinding).
func hostGuard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this port is reached by a loopback address only", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// metrics writes Prometheus text under Istio's names.
func (p *plane) metrics(w io.Writer) {
	m := p.ads.Metrics()
	header := func(name, kind, help string) { fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	header("pilot_info", "gauge", "Version of the control plane.")
	fmt.Fprintf(w, "pilot_info{version=%q} 1\n", p.opts.Version)
	header("pilot_xds", "gauge", "Proxies connected.")
	fmt.Fprintf(w, "pilot_xds{version=%q} %d\n", p.opts.Version, m.Connected)
	header("pilot_xds_pushes", "counter", "Responses sent, by type.")
	for _, t := range slices.Sorted(maps.Keys(m.Pushes)) {
		fmt.Fprintf(w, "pilot_xds_pushes{type=%q} %d\n", t, m.Pushes[t])
	}
	header("pilot_total_xds_rejects", "counter", "Responses refused by proxies, by type.")
	for _, t := range slices.Sorted(maps.Keys(m.Rejects)) {
		fmt.Fprintf(w, "pilot_total_xds_rejects{type=%q} %d\n", t, m.Rejects[t])
	}
	header("lateen_xds_sent_bytes", "counter", "Bytes of responses.")
	fmt.Fprintf(w, "lateen_xds_sent_bytes %d\n", m.SentBytes)
	header("pilot_proxy_convergence_time", "histogram", "Seconds from a change to a proxy's last answer.")
	total := uint64(0)
	for i, bound := range ads.ConvergenceBounds {
		total += m.Convergence[i]
		fmt.Fprintf(w, "pilot_proxy_convergence_time_bucket{le=\"%g\"} %d\n", bound, total)
	}
	fmt.Fprintf(w, "pilot_proxy_convergence_time_bucket{le=\"+Inf\"} %d\npilot_proxy_convergence_time_sum %g\npilot_proxy_convergence_time_count %d\n",
		m.ConvergenceCount, m.ConvergenceSum, m.ConvergenceCount)
	if p.caServer != nil {
		requests, issued, _ := p.caServer.Counts()
		header("citadel_server_csr_count", "counter", "Certificate requests.")
		fmt.Fprintf(w, "citadel_server_csr_count %d\n", requests)
		header("citadel_server_success_cert_issuance_count", "counter", "Certificates issued.")
		fmt.Fprintf(w, "citadel_server_success_cert_issuance_count %d\n", issued)
		header("citadel_server_root_cert_expiry_timestamp", "gauge", "When the root ends, in Unix seconds.")
		fmt.Fprintf(w, "citadel_server_root_cert_expiry_timestamp %d\n", p.authority.Root().NotAfter.Unix())
	}
	header("lateen_objects_held", "gauge", "Objects not in force as they are stored.")
	fmt.Fprintf(w, "lateen_objects_held %d\n", len(p.publisher.held()))
	header("lateen_config_problems", "gauge", "Problems in the configuration.")
	fmt.Fprintf(w, "lateen_config_problems{severity=\"error\"} %d\n", p.errorCount())
	if p.cluster != nil && p.cluster.webhook != nil {
		p.cluster.webhook.WriteMetrics(w)
	}
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	header("go_memstats_heap_inuse_bytes", "gauge", "Heap in use.")
	fmt.Fprintf(w, "go_memstats_heap_inuse_bytes %d\n", ms.HeapInuse)
}

func (p *plane) errorCount() int {
	n := 0
	for _, x := range p.store.Problems() {
		if x.Severity == config.SeverityError {
			n++
		}
	}
	return n
}
