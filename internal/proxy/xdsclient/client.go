// SPDX-License-Identifier: Apache-2.0

// Package xdsclient keeps a proxy's configuration the control plane's, over one
// delta ADS stream (xds_protocol: "Incremental xDS").
//
// Clusters and listeners are subscribed to as a whole; endpoints, routes and
// secrets by the names that accepted configuration refers to; the virtual hosts
// of a route configuration with `vhds` by the name "<route configuration>/*",
// which stands for every "<route configuration>/<host>" and is removed when there
// are none. A refused resource
// keeps its last good version, the others of its response are applied, and the
// NACK names each refused one.
package xdsclient

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// Stream is one delta ADS stream. Send and Recv may each be in use by one
// goroutine.
type Stream interface {
	Send(*discoveryv3.DeltaDiscoveryRequest) error
	Recv() (*discoveryv3.DeltaDiscoveryResponse, error)
	// Close ends the stream and what belongs to it; blocked calls return.
	Close()
}

// Dial opens a stream that ends with ctx.
type Dial func(ctx context.Context) (Stream, error)

// Resource is one decoded and checked resource.
type Resource struct {
	Name    string
	Version string
	Message proto.Message
	body    []byte
}

// Body is the serialized message.
func (r *Resource) Body() []byte { return r.body }

// Sink takes configuration. Its methods are called by one goroutine.
type Sink interface {
	// Apply takes new and changed resources of one type and removes names. The
	// result holds the resources that are refused; they keep their last good
	// version.
	Apply(t Type, changed []Resource, removed []string) map[string]error
	// Names are the resources of a type that the configuration refers to. It is
	// asked after each Apply, for types that are not subscribed to as a whole.
	Names(t Type) []string
}

// Config is what a Client needs; Node, Dial and Sink must be set.
type Config struct {
	Node     *corev3.Node
	Dial     Dial
	Sink     Sink
	Registry *telemetry.Registry // nil: counts go nowhere
	Log      *slog.Logger        // nil: no log
	// CDS, LDS and NDS say which wildcard types are asked for.
	CDS, LDS, NDS bool
	// Jitter gives a number in [0, 1); nil means math/rand/v2.
	Jitter func() float64
	// Settled is called after a response was applied and before the client waits
	// again; nil does nothing.
	Settled func(t Type)
}

// Bounds of the pause between two attempts to reach the control plane, which
// doubles, each a random share. Envoy's goes up to 30 s; but while a proxy waits,
// pods that it does not hear of replace those it knows.
const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// Client is a delta ADS client. Make it with New.
type Client struct {
	cfg   Config
	cache Cache
	wake  chan struct{}

	subscribed [numTypes]map[string]bool // as far as the control plane knows, kept by Run's goroutine
	received   [numTypes]atomic.Bool
	connected  atomic.Bool
	lastErr    atomic.Pointer[string]
}

// New makes a client; Run drives it.
func New(cfg Config) *Client {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Registry == nil {
		cfg.Registry = telemetry.NewRegistry()
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	return &Client{cfg: cfg, wake: make(chan struct{}, 1)}
}

// Cache gives what was received, for the admin port.
func (c *Client) Cache() *Cache { return &c.cache }

// Received says whether a response of that type was processed since the start.
func (c *Client) Received(t Type) bool { return c.received[t].Load() }

// Connected says whether a stream is open.
func (c *Client) Connected() bool { return c.connected.Load() }

// LastError is why the last stream ended or could not be opened, "" when none
// did since the last response.
func (c *Client) LastError() string {
	if s := c.lastErr.Load(); s != nil {
		return *s
	}
	return ""
}

// NamesChanged says that Sink.Names may answer differently although nothing was
// applied. Any goroutine may call it.
func (c *Client) NamesChanged() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run keeps a stream open until ctx is done.
func (c *Client) Run(ctx context.Context) {
	state := c.cfg.Registry.Gauge("control_plane.connected_state")
	state.Set(0)
	pause := minBackoff
	for ctx.Err() == nil {
		progress, err := c.session(ctx)
		c.connected.Store(false)
		state.Set(0)
		if ctx.Err() != nil {
			return
		}
		if progress {
			pause = minBackoff
		}
		wait := time.Duration(c.cfg.Jitter() * float64(pause))
		text := err.Error()
		c.lastErr.Store(&text)
		c.cfg.Log.Warn("control plane stream ended", "error", text, "retry_in", wait.Round(time.Millisecond))
		c.cfg.Registry.Counter("cluster_manager.cds.update_failure").Inc()
		pause = min(2*pause, maxBackoff)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// session runs one stream to its end. progress says that a response came.
func (c *Client) session(ctx context.Context) (progress bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.cfg.Dial(ctx)
	if err != nil {
		return false, fmt.Errorf("open stream: %w", err)
	}
	s := &session{c: c, stream: stream, node: c.cfg.Node}
	responses := make(chan *discoveryv3.DeltaDiscoveryResponse)
	failed := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // the reader may hold a response that nobody takes any more
	defer stream.Close()
	wg.Go(func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case responses <- r:
			case <-ctx.Done():
				return
			}
		}
	})
	if err := s.open(); err != nil {
		return false, err
	}
	c.connected.Store(true)
	c.cfg.Registry.Gauge("control_plane.connected_state").Set(1)
	for {
		select {
		case <-ctx.Done():
			return progress, ctx.Err()
		case err := <-failed:
			return progress, err
		case <-c.wake:
			if err := s.subscribe(); err != nil {
				return progress, err
			}
		case r := <-responses:
			if err := s.handle(r); err != nil {
				return progress, err
			}
			progress = true
		}
	}
}

// session is the state of one stream.
type session struct {
	c      *Client
	stream Stream
	node   *corev3.Node // sent with the first request, then nil
	opened [numTypes]bool
}

// open sends the first request of every type that is wanted, with the versions
// already held, so that an unchanged configuration is not sent again.
func (s *session) open() error {
	for t := range numTypes {
		if infos[t].wildcard && s.wantsAll(t) {
			if err := s.first(t, []string{"*"}); err != nil {
				return err
			}
		}
	}
	return s.subscribe()
}

func (s *session) wantsAll(t Type) bool {
	return t == Clusters && s.c.cfg.CDS || t == Listeners && s.c.cfg.LDS || t == NameTables && s.c.cfg.NDS
}

func (s *session) first(t Type, names []string) error {
	s.opened[t] = true
	return s.send(t, &discoveryv3.DeltaDiscoveryRequest{
		ResourceNamesSubscribe:  names,
		InitialResourceVersions: s.c.cache.versions(t),
	})
}

func (s *session) send(t Type, r *discoveryv3.DeltaDiscoveryRequest) error {
	r.TypeUrl = infos[t].url
	r.Node, s.node = s.node, nil
	return s.stream.Send(r)
}

// subscribe tells the control plane which names are wanted now. Resources that
// are no longer wanted are forgotten: nobody will say when they change.
func (s *session) subscribe() error {
	for t := range numTypes {
		if infos[t].wildcard {
			continue
		}
		want := map[string]bool{}
		for _, n := range s.c.cfg.Sink.Names(t) {
			want[n] = true
		}
		have := s.c.subscribed[t]
		s.c.subscribed[t] = want
		if !s.opened[t] {
			s.drop(t, want)
			if len(want) > 0 {
				if err := s.first(t, sorted(want)); err != nil {
					return err
				}
			}
			continue
		}
		r := &discoveryv3.DeltaDiscoveryRequest{}
		for _, n := range sorted(want) {
			if !have[n] {
				r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, n)
			}
		}
		for _, n := range sorted(have) {
			if !want[n] {
				r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, n)
			}
		}
		if len(r.ResourceNamesUnsubscribe) > 0 {
			s.drop(t, want)
		}
		if len(r.ResourceNamesSubscribe)+len(r.ResourceNamesUnsubscribe) > 0 {
			if err := s.send(t, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *session) drop(t Type, want map[string]bool) {
	if gone := s.c.cache.retain(t, want); len(gone) > 0 {
		s.c.cfg.Sink.Apply(t, nil, gone)
	}
}
