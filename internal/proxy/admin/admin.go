// SPDX-License-Identifier: Apache-2.0

// Package admin serves the proxy's administration port: what Envoy serves
// there, in the forms istioctl, pilot-agent, Prometheus and Kiali read.
//
// It listens on loopback or where the bootstrap says. Changes take POST only,
// and a request whose Host is a name other than localhost is refused, so that no
// web page can reach it by DNS rebinding. A change that a browser says another
// origin asked for is refused too, so that no web page can post a form to it.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/listener"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// Proxy is what the admin port shows and changes.
type Proxy struct {
	Bootstrap *bootstrapv3.Bootstrap
	Registry  *telemetry.Registry
	Clusters  *cluster.Manager
	Listeners *listener.Manager
	Secrets   *secret.Store
	Cache     *xdsclient.Cache // nil without a control plane
	Level     *slog.LevelVar   // nil: the level cannot be changed
	Version   string
	Started   time.Time
	// State is LIVE, DRAINING, PRE_INITIALIZING or INITIALIZING.
	State func() string
	// Live is closed once State was LIVE; nil: Health waits for nothing.
	Live <-chan struct{}
	// Drain asks connections to end; StopListening also closes the sockets.
	Drain         func()
	StopListening func()
	Quit          func()
	// Options are the command line's, for /server_info.
	Options map[string]any
}

// Bounds of a request to the admin port.
const (
	headerTimeout = 5 * time.Second
	writeTimeout  = 60 * time.Second
	idleTimeout   = 60 * time.Second
	maxHeader     = 16 << 10
)

// Serve serves the admin port until ctx is done, which closes ln.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
		log.Error("admin port ended", "error", err)
	}
}

// startHold is how long a probe of a proxy that starts may wait for its answer.
// A kubelet asks again only a second after it heard no, and a proxy starts in a
// tenth of one. It is less than the shortest timeout of those who ask, the
// 500 ms of pilot-agent wait.
const startHold = 400 * time.Millisecond

// Health serves /healthz/ready alone, for a port that probes may reach. Until
// the proxy was live once, an answer may take startHold.
func (p *Proxy) Health() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz/ready" {
			http.NotFound(w, r)
			return
		}
		if p.Live != nil {
			hold := time.NewTimer(startHold)
			defer hold.Stop()
			select {
			case <-p.Live:
			case <-hold.C:
			case <-r.Context().Done():
			}
		}
		p.ready(w, r)
	})
}

// page is one path of the admin port.
type page struct {
	help   string
	change bool // POST only
	serve  func(w http.ResponseWriter, r *http.Request)
}

// Handler serves the admin port.
func (p *Proxy) Handler() http.Handler {
	pages := map[string]page{
		"/certs":            {"print certs on machine", false, p.certs},
		"/clusters":         {"upstream cluster status", false, p.clusters},
		"/config_dump":      {"dump current configs", false, p.configDump},
		"/drain_listeners":  {"drain listeners", true, p.drainListeners},
		"/healthz/ready":    {"200 when live", false, p.ready},
		"/listeners":        {"print listener info", false, p.listeners},
		"/logging":          {"query/change logging levels", true, p.logging},
		"/memory":           {"print current allocation/heap usage", false, p.memory},
		"/quitquitquit":     {"exit the server", true, p.quit},
		"/ready":            {"print server state, return 200 if LIVE, otherwise return 503", false, p.ready},
		"/server_info":      {"print server version/status information", false, p.serverInfo},
		"/stats":            {"print server stats", false, p.stats},
		"/stats/prometheus": {"print server stats in prometheus format", false, p.Prometheus},
		"/healthcheck/fail": {"cause the server to fail health checks", true, p.drainListeners},
		"/reset_counters":   {"not supported: counters only grow", true, nil},
		"/config_dump/eds":  {"dump endpoints as sent", false, p.endpointDump},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hostAllowed(r.Host) {
			http.Error(w, "host not allowed", http.StatusForbidden)
			return
		}
		w.Header().Set("Cache-Control", "no-cache, max-age=0")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.URL.Path == "/" || r.URL.Path == "/help" {
			help(w, pages)
			return
		}
		pg, ok := pages[r.URL.Path]
		switch {
		case !ok || pg.serve == nil:
			http.Error(w, "invalid path. admin commands are listed at /help", http.StatusNotFound)
		case pg.change && r.Method != http.MethodPost:
			w.Header().Set("Allow", "POST")
			http.Error(w, "Method Not Allowed: use POST", http.StatusMethodNotAllowed)
		case pg.change && !sameOrigin(r):
			http.Error(w, "changes from another origin are not allowed", http.StatusForbidden)
		case !pg.change && r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		default:
			pg.serve(w, r)
		}
	})
}

// hostAllowed takes IP addresses and localhost: a name is how a web page would
// reach a port that only listens on this machine.
func hostAllowed(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "" || host == "localhost" {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// sameOrigin says whether nothing in r speaks of another origin. Programs that
// are no browsers send neither header. Both have to agree, where
// http.CrossOriginProtection leaves Origin unread next to a Sec-Fetch-Site.
func sameOrigin(r *http.Request) bool {
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "none" && site != "same-origin" {
			return false
		}
	}
	for _, origin := range r.Header.Values("Origin") {
		// "null", the origin of sandboxed pages, has no host.
		u, err := url.Parse(origin)
		if err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) {
			return false
		}
	}
	return true
}

func help(w http.ResponseWriter, pages map[string]page) {
	text(w)
	fmt.Fprintln(w, "admin commands are:")
	for _, path := range sortedKeys(pages) {
		method := ""
		if pages[path].change {
			method = " (POST)"
		}
		fmt.Fprintf(w, "  %s%s: %s\n", path, method, pages[path].help)
	}
}

func text(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/plain; charset=UTF-8") }

func (p *Proxy) ready(w http.ResponseWriter, _ *http.Request) {
	text(w)
	state := p.State()
	if state != "LIVE" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, state)
}

func filterOf(r *http.Request) (telemetry.Filter, error) {
	q := r.URL.Query()
	f := telemetry.Filter{UsedOnly: q.Has("usedonly")}
	if s := q.Get("filter"); s != "" {
		if len(s) > 1024 {
			return f, errors.New("filter is longer than 1024 bytes")
		}
		re, err := regexp.Compile(s)
		if err != nil {
			return f, fmt.Errorf("invalid re2 regex: %w", err)
		}
		f.Match = re
	}
	return f, nil
}

func (p *Proxy) stats(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Query().Get("format") {
	case "prometheus":
		p.Prometheus(w, r)
		return
	case "", "text":
	default:
		http.Error(w, "usage: /stats?format=text or /stats?format=prometheus", http.StatusBadRequest)
		return
	}
	f, err := filterOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	text(w)
	_ = p.Registry.WriteText(w, f)
}

// Prometheus serves the metrics of Registry alone, for a port that Prometheus may
// reach.
func (p *Proxy) Prometheus(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = p.Registry.WritePrometheus(w, f)
}

func (p *Proxy) drainListeners(w http.ResponseWriter, r *http.Request) {
	p.Drain()
	if !r.URL.Query().Has("graceful") {
		p.StopListening()
	}
	text(w)
	fmt.Fprintln(w, "OK")
}

func (p *Proxy) quit(w http.ResponseWriter, _ *http.Request) {
	text(w)
	fmt.Fprintln(w, "OK")
	p.Quit()
}

// levels are Envoy's names of log levels.
var levels = map[string]slog.Level{
	"trace": slog.LevelDebug - 4, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn,
	"warn": slog.LevelWarn, "error": slog.LevelError, "critical": slog.LevelError + 4, "off": slog.LevelError + 8,
}

func levelName(l slog.Level) string {
	best := "off"
	for n, v := range levels {
		if v == l && n != "warn" {
			best = n
		}
	}
	return best
}

func (p *Proxy) logging(w http.ResponseWriter, r *http.Request) {
	if p.Level == nil {
		http.Error(w, "the log level is fixed", http.StatusBadRequest)
		return
	}
	q := r.URL.Query()
	name := q.Get("level")
	for k, v := range q { // /logging?http=debug sets one logger in Envoy; there is one here
		if k != "level" && k != "paths" && len(v) == 1 && name == "" {
			name = v[0]
		}
	}
	if name != "" {
		l, ok := levels[name]
		if !ok {
			http.Error(w, fmt.Sprintf("error: unknown logger level %q", name), http.StatusBadRequest)
			return
		}
		p.Level.Set(l)
	}
	text(w)
	fmt.Fprintf(w, "active loggers:\n  lateen: %s\n", levelName(p.Level.Level()))
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	_ = e.Encode(v)
}
