// SPDX-License-Identifier: Apache-2.0

// Package agent is the running proxy: it wires the rooms of the data plane from
// a bootstrap, starts them, says when they are ready, and ends them in order.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"golang.org/x/sys/unix"

	"github.com/lateen-mesh/lateen/internal/proxy/admin"
	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/dns"
	"github.com/lateen-mesh/lateen/internal/proxy/listener"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/accesslog"
	"github.com/lateen-mesh/lateen/internal/proxy/upstream"
	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// Options are the settings of a proxy that are not in its bootstrap.
type Options struct {
	Log   *slog.Logger
	Level *slog.LevelVar // of Log, for /logging; nil: it cannot be changed
	// Version is the program's, for /server_info and the node.
	Version string
	// DrainTime is how long connections may go on after SIGTERM, and after
	// their filter chain went; default 5 s.
	DrainTime time.Duration
	// MinimumDrain is how long new connections are taken after SIGTERM even when
	// there is none left, for clients that have not heard yet. It does not count
	// when Drain was called before, nor after Quit. At most DrainTime unless
	// DrainToZero.
	MinimumDrain time.Duration
	// DrainToZero waits for the last connection however long it takes.
	DrainToZero bool
	// TokenFile holds the bearer token that proves the workload to the control
	// plane and to the CA; /proc/self/fd/N names an inherited descriptor. It is
	// read anew each time. Empty: no token, and no identity of the workload.
	TokenFile string
	// CAAddress is where certificates are asked for, "host:port"; empty: at the
	// control plane. It is verified as the control plane is.
	CAAddress string
	// CertificateTTL is asked for, 0: the authority's choice.
	CertificateTTL time.Duration
	// ExtraRoots are trusted in peers beside the mesh's root.
	ExtraRoots []*x509.Certificate
	// OnReady is called once, when the proxy is ready first.
	OnReady func(after time.Duration)
	// HealthAddress is where /healthz/ready is served, empty: the node's
	// metadata decides (ENVOY_STATUS_PORT, on the admin port's host).
	HealthAddress string
	// ResolvConf names the servers of the DNS proxy; empty: /etc/resolv.conf.
	// DNSAddresses are where it listens; nil: 127.0.0.1:15053 and [::1]:15053.
	// There is one when the node's metadata has DNS_CAPTURE.
	ResolvConf   string
	DNSAddresses []string
	// MaxConnections bounds downstream connections; 0 takes half of the
	// descriptors the process may have.
	MaxConnections int64
	// Stdout and Stderr are what access logs to /dev/stdout and /dev/stderr
	// write to; nil means the process's own.
	Stdout, Stderr io.Writer
}

const defaultDrainTime = 5 * time.Second

// Server is one running proxy.
type Server struct {
	bs   *bootstrap.Bootstrap
	opts Options
	log  *slog.Logger

	registry  *telemetry.Registry
	sinks     *accesslog.Sinks
	secrets   *secret.Store
	clusters  *cluster.Manager
	pools     *upstream.Pools
	routes    *routes
	listeners *listener.Manager
	xds       *xdsclient.Client // nil without a control plane
	sink      *sink
	dns       *dns.Server      // nil: DNS is not captured
	identity  *secret.Identity // nil without a token
	memory    memory

	wantMu sync.Mutex // guards wanted
	wanted map[string]bool

	started time.Time
	live    atomic.Bool
	// becameLive is closed when live is set.
	becameLive chan struct{}
	draining   atomic.Bool
	quit       chan struct{}
	quitOnce   sync.Once
	hurry      bool          // draining waits for connections alone; of run's goroutine
	drainReq   chan struct{} // /drain_listeners
}

// Run starts the proxy of a bootstrap and serves until ctx is done; it then
// drains, for the drain time at most, and returns. An error says what could not
// be started.
func Run(ctx context.Context, bs *bootstrap.Bootstrap, o Options) error {
	s, err := New(bs, o)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// New makes the proxy of a bootstrap without starting it.
func New(bs *bootstrap.Bootstrap, o Options) (*Server, error) { return newServer(bs, o) }

// Run is what the function Run does, for a proxy made by New. It is called once.
func (s *Server) Run(ctx context.Context) error { return s.run(ctx) }

func newServer(bs *bootstrap.Bootstrap, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.DrainTime <= 0 {
		o.DrainTime = defaultDrainTime
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = connectionBound()
	}
	s := &Server{
		bs: bs, opts: o, log: o.Log, registry: telemetry.NewRegistry(), secrets: new(secret.Store),
		wanted: map[string]bool{}, started: time.Now(), quit: make(chan struct{}), becameLive: make(chan struct{}), drainReq: make(chan struct{}, 1),
	}
	s.memory.start()
	s.sinks = accesslog.NewSinks(o.Stdout, o.Stderr, s.registry.Server.AccessLogsDropped.Inc)
	s.pools = upstream.New(s.registry)
	s.clusters = cluster.NewManager(cluster.Options{Secrets: s.secrets, Log: s.log})
	s.routes = newRoutes(s.namesChanged)
	s.listeners = listener.NewManager(listener.Options{
		Build: s.build, Secrets: s.secrets, Registry: s.registry, Log: s.log,
		DrainTime: o.DrainTime, MaxConnections: o.MaxConnections,
	})
	s.registry.Server.SetState(telemetry.StateInitializing)
	s.registry.Server.StartTimeUnix.Set(s.started.Unix())
	s.registry.GaugeFunc("server.total_connections_open", s.listeners.Connections)
	return s, s.newDNS()
}

// connectionBound is half of the descriptors the process may have: each
// connection has an upstream one.
func connectionBound() int64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || r.Cur > 1<<31 {
		return 1 << 20
	}
	return max(int64(r.Cur)/2-64, 64)
}

// run owns every goroutine of the proxy and waits for all of them.
func (s *Server) run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() {
		stop()
		wg.Wait()
		s.memory.stop()
		s.listeners.Close()
		s.clusters.Close()
		s.sinks.Close(time.Second)
	}()
	if err := s.applyStatic(); err != nil {
		return err
	}
	if err := s.startDNS(running, &wg); err != nil {
		return err
	}
	if err := s.startControlPlane(running, &wg); err != nil {
		return err
	}
	if err := s.startAdmin(running, &wg); err != nil {
		return err
	}
	wg.Go(func() { s.secrets.WatchFiles(running, s.log) })
	wg.Go(func() { s.memory.run(running) })
	s.registry.Gauge("listener_manager.workers_started").Set(1)
	s.memory.pushed()
	s.checkReady()
	for {
		select {
		case <-ctx.Done():
			s.drain()
			return nil
		case <-s.quit:
			s.hurry = true
			s.drain()
			return nil
		case <-s.drainReq:
			s.startDraining()
		}
	}
}

// applyStatic takes the bootstrap's own resources. There is no last good
// version to fall back to, so that a refused one is an error.
func (s *Server) applyStatic() error {
	res := s.bs.Message.GetStaticResources()
	for _, m := range res.GetSecrets() {
		if err := s.secrets.Set(m); err != nil {
			return fmt.Errorf("static_resources.secrets: %q: %w", m.GetName(), err)
		}
	}
	if err := s.clusters.ApplyStatic(res.GetClusters()); err != nil {
		return fmt.Errorf("static_resources.clusters: %w", err)
	}
	msgs := res.GetListeners()
	for i, l := range msgs {
		if l.GetName() == "" { // Envoy names them itself
			l = cloneListener(l)
			l.Name = fmt.Sprintf("static-%d", i)
			msgs[i] = l
		}
	}
	if bad := s.listeners.Apply(msgs, nil); len(bad) > 0 {
		var errs []error
		for _, n := range slices.Sorted(maps.Keys(bad)) {
			errs = append(errs, fmt.Errorf("static_resources.listeners: %q: %w", n, bad[n]))
		}
		return errors.Join(errs...)
	}
	return nil
}

func cloneListener(l *listenerv3.Listener) *listenerv3.Listener {
	out := &listenerv3.Listener{}
	mergeInto(out, l)
	return out
}

// namesChanged is called when the configuration refers to other resources than
// before, or a route configuration is no longer waited for.
func (s *Server) namesChanged() {
	if s.xds != nil {
		s.xds.NamesChanged()
	}
	go s.rewarm() // the caller may hold the listeners' lock
}

// rewarm activates listeners whose routes have arrived.
func (s *Server) rewarm() {
	for name, err := range s.listeners.Rewarm() {
		s.log.Warn("listener refused", "name", name, "error", err)
	}
	s.checkReady()
}

func (s *Server) wantedSecrets() []string {
	s.wantMu.Lock()
	defer s.wantMu.Unlock()
	return slices.Sorted(maps.Keys(s.wanted))
}

// checkReady marks the proxy live once all configuration it asked for is there,
// and the workload's certificate if it is to have one.
func (s *Server) checkReady() {
	if s.live.Load() || s.draining.Load() || s.Waiting() != "" {
		return
	}
	if s.live.CompareAndSwap(false, true) {
		close(s.becameLive)
		after := time.Since(s.started)
		s.registry.Server.SetState(telemetry.StateLive)
		s.registry.Server.InitializationMs.Set(after.Milliseconds())
		if s.opts.OnReady != nil {
			s.opts.OnReady(after)
			return
		}
		s.log.Info("ready", "after", after.Round(time.Millisecond))
	}
}

// Waiting says what a proxy that is not ready yet waits for, "" for nothing.
func (s *Server) Waiting() string {
	if s.draining.Load() {
		return "draining"
	}
	if s.live.Load() {
		return ""
	}
	if s.identity != nil && s.secrets.Certificate() == nil {
		return "no workload certificate yet"
	}
	if s.xds != nil {
		var missing []string
		if s.bs.CDS && !s.xds.Received(xdsclient.Clusters) {
			missing = append(missing, "clusters")
		}
		if s.bs.LDS && !s.xds.Received(xdsclient.Listeners) {
			missing = append(missing, "listeners")
		}
		if s.dns != nil && !s.dns.Ready() {
			missing = append(missing, "DNS names")
		}
		if len(missing) > 0 {
			text := "config not received from the control plane: " + strings.Join(missing, ", ")
			if err := s.xds.LastError(); err != "" {
				text += " (" + err + ")"
			}
			return text
		}
	}
	if w := s.listeners.Warming(); len(w) > 0 {
		return "listeners warming: " + strings.Join(w, ", ")
	}
	return ""
}

// Ready says whether the proxy serves.
func (s *Server) Ready() bool { return s.live.Load() && !s.draining.Load() }

// Drain asks every connection to end in order; new ones are still taken. The
// process goes on until its context ends.
func (s *Server) Drain() { s.requestDrain() }

// Quit ends Run as soon as the connections have ended, after the drain time at
// most.
func (s *Server) Quit() { s.requestQuit() }

// Metrics serves the proxy's metrics as the admin port's /stats/prometheus does.
func (s *Server) Metrics() http.Handler {
	return http.HandlerFunc((&admin.Proxy{Registry: s.registry}).Prometheus)
}

// Counter is a counter of that name among the proxy's metrics.
func (s *Server) Counter(name string) *telemetry.Counter { return s.registry.Counter(name) }

func (s *Server) startDraining() {
	if s.draining.Swap(true) {
		return
	}
	s.registry.Server.SetState(telemetry.StateDraining)
	s.listeners.Drain()
}

// Looking at what is left while draining: how often, and for how long clients
// may find their idle connections still open.
const (
	drainPoll = 20 * time.Millisecond
	idleGrace = 500 * time.Millisecond
)

// drain lets connections end, for the drain time at most. New ones are taken
// until the last has ended, for whoever has not heard yet.
func (s *Server) drain() {
	least := s.opts.MinimumDrain
	if s.hurry || s.draining.Load() {
		least = 0 // clients have had their time, or there is nobody to serve
	}
	grace := max(least, min(idleGrace, s.opts.DrainTime/2))
	s.log.Info("draining", "connections", s.listeners.Connections(), "at_most", s.opts.DrainTime)
	s.startDraining()
	begin := time.Now()
	for {
		waited := time.Since(begin)
		if waited >= least && s.listeners.Connections() == 0 || !s.opts.DrainToZero && waited >= s.opts.DrainTime {
			break
		}
		if waited > grace {
			s.listeners.CloseIdle()
		}
		time.Sleep(drainPoll)
	}
	// Whoever came in since the last look is served; who comes now is refused.
	s.listeners.StopListening()
	stopped := time.Now()
	for s.listeners.Connections() > 0 && (s.opts.DrainToZero || time.Since(begin) < s.opts.DrainTime) {
		if time.Since(stopped) > idleGrace {
			s.listeners.CloseIdle()
		}
		time.Sleep(drainPoll)
	}
	s.log.Info("drained", "connections", s.listeners.Connections(), "after", time.Since(begin).Round(time.Millisecond))
}
