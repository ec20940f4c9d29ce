// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"log/slog"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/graph"
	"github.com/lateen-mesh/lateen/internal/identity"
	"github.com/lateen-mesh/lateen/internal/xds"
	"github.com/lateen-mesh/lateen/internal/xds/ads"
)

// publisher brings the store's changes through the gate into the pipeline, and
// the pipeline's views to the proxies. It is the discovery service's source.
type publisher struct {
	log      *slog.Logger
	pipeline *xds.Pipeline
	pods     bool          // proxies are in pods that the store knows; set before the first connects
	ready    chan struct{} // closed after the first batch

	feedMu sync.Mutex // guards feeds; may be taken with the pipeline's lock held, never the other way
	feeds  map[xds.Class]*ads.Feed

	mu     sync.Mutex // guards what follows
	gate   *compile.Gate
	seen   map[config.Key]string // resource versions that went through; gone: deleted
	epoch  uint64
	passed chan struct{} // closed and replaced after each batch
}

func newPublisher(log *slog.Logger) *publisher {
	p := &publisher{
		log: log, ready: make(chan struct{}), feeds: map[xds.Class]*ads.Feed{},
		gate: compile.NewGate(), seen: map[config.Key]string{}, passed: make(chan struct{}),
	}
	p.pipeline = xds.NewPipeline(p.publish)
	return p
}

// publish is called by the pipeline for each class whose view changed.
func (p *publisher) publish(c xds.Class, v *xds.View) {
	p.feedMu.Lock()
	defer p.feedMu.Unlock()
	if f := p.feeds[c]; f != nil {
		f.Publish(v)
	}
}

// follow applies batches until the channel is closed.
func (p *publisher) follow(ctx context.Context, batches <-chan config.Batch) {
	for b := range batches {
		p.apply(b)
	}
	if ctx.Err() == nil {
		p.log.Error("the configuration store ended its watch")
	}
}

func (p *publisher) apply(b config.Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.gate.Held())
	p.epoch = p.pipeline.Apply(p.gate.Pass(b.Events))
	for _, e := range b.Events {
		if e.Object == nil {
			delete(p.seen, e.Key)
		} else {
			p.seen[e.Key] = e.Object.ResourceVersion
		}
	}
	if held := p.gate.Held(); len(held) > before {
		for _, h := range held {
			p.log.Warn("object is held back", "object", h.Key.String(), "reason", h.Reason)
		}
	}
	close(p.passed)
	p.passed = make(chan struct{})
	if b.Initial {
		close(p.ready)
	}
}

// await returns the epoch in force once the object went through with that
// resource version; an empty version waits until it is gone.
func (p *publisher) await(ctx context.Context, k config.Key, version string) (uint64, error) {
	for {
		p.mu.Lock()
		seen, epoch, passed := p.seen[k], p.epoch, p.passed
		p.mu.Unlock()
		if seen == version {
			return epoch, nil
		}
		select {
		case <-passed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (p *publisher) current() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

// held returns why objects are not in force as they are stored.
func (p *publisher) held() []compile.Held {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gate.Held()
}

// dangling returns what is in force although something it names is missing.
func (p *publisher) dangling() []compile.Held {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gate.Dangling()
}

func (p *publisher) dump() []graph.Info { return p.pipeline.Dump() }

// Connect implements ads.Source.
func (p *publisher) Connect(ctx context.Context, c *ads.Client) (ads.Subscription, error) {
	select {
	case <-p.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	class, err := xds.ClassOf(c.Node, c.Delta)
	if err != nil {
		return nil, err
	}
	if class, err = p.proved(class, c.Identity); err != nil {
		return nil, err
	}
	p.pipeline.Hold(class, func(v *xds.View) {
		p.feedMu.Lock()
		defer p.feedMu.Unlock()
		p.feeds[class] = ads.NewFeed(v)
	})
	p.feedMu.Lock()
	defer p.feedMu.Unlock()
	return &subscription{Feed: p.feeds[class], class: class, publisher: p}, nil
}

// proved holds a class against the identity of its proxy, empty where nothing is
// proved: a proxy may only ask for what its own namespace sees, and a gateway in
// a cluster only for what its account's pod is given.
func (p *publisher) proved(class xds.Class, proof string) (xds.Class, error) {
	if proof == "" {
		return class, nil
	}
	id, err := identity.Parse(proof)
	if err != nil || id.Namespace != class.Namespace {
		return class, status.Errorf(codes.PermissionDenied, "a proxy of namespace %q has the identity %s", class.Namespace, proof)
	}
	if p.pods && class.Mode == compile.ModeGateway {
		class.Account = id.ServiceAccount
	}
	return class, nil
}

type subscription struct {
	*ads.Feed
	class     xds.Class
	publisher *publisher
	once      sync.Once
}

// Class implements ads.Subscription.
func (s *subscription) Class() string { return s.class.String() }

// Close implements ads.Subscription.
func (s *subscription) Close() {
	s.once.Do(func() {
		p := s.publisher
		p.pipeline.Release(s.class, func() {
			p.feedMu.Lock()
			defer p.feedMu.Unlock()
			delete(p.feeds, s.class)
		})
	})
}
