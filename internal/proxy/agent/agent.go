// SPDX-License-Identifier: Apache-2.0

// Package agent is the running proxy: it wires the rooms of the data plane from
// a bootstrap, starts them, says when they are ready, and ends them in order.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"golang.org/x/sys/unix"

	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
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
	// TokenFile holds the bearer token that proves the workload to the control
	// plane and to the CA; /proc/self/fd/N names an inherited descriptor. It is
	// read anew each time. Empty: no token, and no identity of the workload.
	TokenFile string
	// HealthAddress is where /healthz/ready is served, empty: the node's
	// metadata decides (ENVOY_STATUS_PORT, on the admin port's host).
	HealthAddress string
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
	identity  *secret.Identity // nil without a token
	memory    memory

	wantMu sync.Mutex // guards wanted
	wanted map[string]bool

	started  time.Time
	live     atomic.Bool
	draining atomic.Bool
	quit     chan struct{}
	quitOnce sync.Once
	drainReq chan struct{} // /drain_listeners
}

// Run starts the proxy of a bootstrap and serves until ctx is done; it then
// drains, for the drain time at most, and returns. An error says what could not
// be started.
func Run(ctx context.Context, bs *bootstrap.Bootstrap, o Options) error {
	s, err := newServer(bs, o)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

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
		wanted: map[string]bool{}, started: time.Now(), quit: make(chan struct{}), drainReq: make(chan struct{}, 1),
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
	return s, nil
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

// checkReady marks the proxy live once all configuration it asked for is there.
func (s *Server) checkReady() {
	if s.live.Load() || s.draining.Load() || len(s.listeners.Warming()) > 0 {
		return
	}
	if s.xds != nil && (s.bs.CDS && !s.xds.Received(xdsclient.Clusters) || s.bs.LDS && !s.xds.Received(xdsclient.Listeners)) {
		return
	}
	if s.live.CompareAndSwap(false, true) {
		s.registry.Server.SetState(telemetry.StateLive)
		s.registry.Server.InitializationMs.Set(time.Since(s.started).Milliseconds())
		s.log.Info("ready", "after", time.Since(s.started).Round(time.Millisecond))
	}
}

// Ready says whether the proxy serves.
func (s *Server) Ready() bool { return s.live.Load() && !s.draining.Load() }

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
	s.log.Info("draining", "connections", s.listeners.Connections(), "at_most", s.opts.DrainTime)
	s.startDraining()
	begin := time.Now()
	for time.Since(begin) < s.opts.DrainTime && s.listeners.Connections() > 0 {
		if time.Since(begin) > min(idleGrace, s.opts.DrainTime/2) {
			s.listeners.CloseIdle()
		}
		time.Sleep(drainPoll)
	}
	s.log.Info("drained", "connections", s.listeners.Connections(), "after", time.Since(begin).Round(time.Millisecond))
}
