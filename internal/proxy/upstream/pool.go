// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/http1"
	"github.com/lateen-mesh/lateen/internal/proxy/http2"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// sweepEvery is how often idle connections are looked at: those the server has
// closed or that were idle for too long go. The count of sweeps is the pool's
// clock, so that lending and giving back ask for no time.
const sweepEvery = 5 * time.Second

// pool holds the connections to one host.
type pool struct {
	pools *Pools
	host  *cluster.Host

	released func(*http1.ClientConn, bool)

	mu      sync.Mutex
	closed  bool
	idle    *http1.ClientConn // the last one given back first
	open    int               // HTTP/1.1 connections, idle or lent, and dials
	waiters waiters           // exchanges that the circuit breaker made wait
	muxes   []*mux
	dialing chan struct{} // closed when the HTTP/2 dial in progress ends
	sweeps  int64
	timer   *time.Timer
	ticking bool
}

// h1 is what a pool keeps of an HTTP/1.1 connection.
type h1 struct {
	pool  *pool
	sni   string
	local net.Addr
	since int64 // sweeps when it was given back
	born  time.Time
	limit *cluster.Limits
}

// mux is an HTTP/2 connection.
type mux struct {
	*http2.ClientConn
	sni   string
	local net.Addr
}

func newPool(p *Pools, h *cluster.Host) *pool {
	hp := &pool{pools: p, host: h}
	hp.released = hp.giveBack
	return hp
}

// stats are the cluster's. They are looked up on use, because a pool is made
// under the lock that guards their making.
func (hp *pool) stats() *telemetry.ClusterStats { return hp.pools.Stats(hp.host.Cluster()) }

// protocol decides between HTTP/1.1 and HTTP/2. auto says that ALPN decides.
func (hp *pool) protocol(w *Want) (h2, auto bool) {
	switch hp.host.Cluster().HTTP.Protocol {
	case cluster.HTTP2:
		return true, false
	case cluster.UseDownstream:
		return w.Downstream == message.HTTP2, false
	case cluster.Auto:
		return false, hp.host.Transport().TLS != nil
	}
	return false, false
}

// serverName is the SNI that this exchange needs beside the context's own.
func (hp *pool) serverName(w *Want) string {
	if !hp.host.Cluster().HTTP.AutoSNI || hp.host.Transport().TLS == nil {
		return ""
	}
	host := string(w.Authority)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(host)
}

// take fills s with a stream on an open connection, if there is one.
func (hp *pool) take(s *Stream, w *Want) bool {
	h2, auto := hp.protocol(w)
	sni := hp.serverName(w)
	hp.mu.Lock()
	defer hp.mu.Unlock()
	if (h2 || auto) && hp.takeMux(s, sni) {
		return true
	}
	return !h2 && hp.takeIdle(s, sni)
}

// takeIdle pops an idle connection. hp.mu is held.
func (hp *pool) takeIdle(s *Stream, sni string) bool {
	for at := &hp.idle; *at != nil; at = &(*at).Next {
		c := *at
		o := c.Owner.(*h1)
		if o.sni != sni {
			continue
		}
		*at, c.Next = c.Next, nil
		hp.lend(s, c, o)
		return true
	}
	return false
}

func (hp *pool) lend(s *Stream, c *http1.ClientConn, o *h1) {
	s.Reused = c.Exchanges > 0
	s.ClientStream, s.Proto, s.Local = c.Begin(), message.HTTP11, o.local
}

// takeMux opens a stream on an HTTP/2 connection. hp.mu is held.
func (hp *pool) takeMux(s *Stream, sni string) bool {
	for _, m := range hp.muxes {
		if m.sni != sni {
			continue
		}
		if st, err := m.NewStream(); err == nil {
			s.ClientStream, s.Proto, s.Local, s.Reused = st, message.HTTP2, m.local, true
			return true
		}
	}
	return false
}

// giveBack is called at the end of each HTTP/1.1 exchange.
func (hp *pool) giveBack(c *http1.ClientConn, reusable bool) {
	o := c.Owner.(*h1)
	cfg := hp.host.Cluster().HTTP
	if reusable {
		switch {
		case cfg.MaxRequestsPerConn > 0 && c.Exchanges >= int(cfg.MaxRequestsPerConn):
			hp.stats().Inc(0, telemetry.ClusterCxMaxRequests)
			reusable = false
		case cfg.MaxConnectionDuration > 0 && time.Since(o.born) >= cfg.MaxConnectionDuration:
			hp.stats().Inc(0, telemetry.ClusterCxMaxDurationReached)
			reusable = false
		}
		if !reusable {
			c.Shut()
		}
	}
	hp.mu.Lock()
	if reusable && hp.closed {
		reusable = false
		c.Shut()
	}
	if !reusable {
		hp.lost(o)
		hp.mu.Unlock()
		return
	}
	if wt := hp.waiters.pop(o.sni); wt != nil {
		hp.mu.Unlock()
		wt.got <- c
		return
	}
	o.since = hp.sweeps
	c.Next, hp.idle = hp.idle, c
	if !hp.ticking {
		hp.startSweeping()
	}
	hp.mu.Unlock()
}

// lost counts a connection out and lets a waiter try to make a new one. hp.mu
// is held; the connection is closed.
func (hp *pool) lost(o *h1) {
	hp.open--
	o.limit.ReleaseConnection()
	hp.countOut()
	if wt := hp.waiters.popAny(); wt != nil {
		wt.got <- nil
	}
}

func (hp *pool) countOut() {
	hp.stats().Dec(0, telemetry.ClusterCxActive)
	hp.stats().Inc(0, telemetry.ClusterCxDestroy)
	hp.host.Stats().CxActive.Add(-1)
}

func (hp *pool) startSweeping() {
	hp.ticking = true
	if hp.timer == nil {
		hp.timer = time.AfterFunc(sweepEvery, hp.sweep)
		return
	}
	hp.timer.Reset(sweepEvery)
}

// sweep closes idle connections that are closed at the other end or too old.
func (hp *pool) sweep() {
	idle := hp.host.Cluster().HTTP.IdleTimeout
	hp.mu.Lock()
	defer hp.mu.Unlock()
	hp.sweeps++
	for at := &hp.idle; *at != nil; {
		c := *at
		o := c.Owner.(*h1)
		old := idle > 0 && time.Duration(hp.sweeps-o.since)*sweepEvery > idle
		if !old && !hp.closed && c.Alive() {
			at = &c.Next
			continue
		}
		if old {
			hp.stats().Inc(0, telemetry.ClusterCxIdleTimeout)
		}
		*at = c.Next
		c.Shut()
		hp.lost(o)
	}
	if hp.ticking = hp.idle != nil; hp.ticking {
		hp.timer.Reset(sweepEvery)
	}
}

// Close implements cluster.Pool.
func (hp *pool) Close() {
	hp.mu.Lock()
	defer hp.mu.Unlock()
	hp.closed = true
	for c := hp.idle; c != nil; c = c.Next {
		c.Shut()
		hp.lost(c.Owner.(*h1))
	}
	hp.idle = nil
	for _, m := range hp.muxes {
		m.Drain()
	}
}

// wait fills s with a stream, dialling or waiting as the circuit breaker allows.
func (hp *pool) wait(ctx context.Context, s *Stream, w *Want) error {
	h2, auto := hp.protocol(w)
	sni := hp.serverName(w)
	for {
		if hp.take(s, w) {
			return nil
		}
		if h2 {
			if err := hp.waitMux(ctx, s, w, sni); err != errTryAgain {
				return err
			}
			continue
		}
		if wt := hp.reserve(s, sni); wt != nil {
			select {
			case c := <-wt.got:
				if c != nil {
					hp.lend(s, c, c.Owner.(*h1))
					return nil
				}
				continue
			case <-ctx.Done():
				hp.leave(wt)
				return context.Cause(ctx)
			}
		}
		return hp.dialFor(ctx, s, w, sni, auto)
	}
}

// reserve takes a place for a new HTTP/1.1 connection, nil, or else a place in
// the queue. A host may always have one connection.
func (hp *pool) reserve(s *Stream, sni string) *waiter {
	hp.mu.Lock()
	defer hp.mu.Unlock()
	c := hp.host.Cluster()
	perHost := uint32(hp.open) < c.PerHost
	switch {
	case hp.open == 0 && !s.limits.AcquireConnection():
		s.limits.ForceConnection()
	case hp.open == 0:
	case perHost && s.limits.AcquireConnection():
	default:
		hp.stats().Inc(s.stripe, telemetry.ClusterCxOverflow)
		return hp.waiters.push(sni)
	}
	hp.open++
	return nil
}

// leave gives up waiting; a connection handed over meanwhile goes back.
func (hp *pool) leave(wt *waiter) {
	hp.mu.Lock()
	queued := hp.waiters.remove(wt)
	hp.mu.Unlock()
	if queued {
		return
	}
	if c := <-wt.got; c != nil {
		hp.giveBack(c, true)
		return
	}
	hp.mu.Lock()
	if next := hp.waiters.popAny(); next != nil {
		next.got <- nil
	}
	hp.mu.Unlock()
}

// dialFor makes the connection that reserve made room for.
func (hp *pool) dialFor(ctx context.Context, s *Stream, w *Want, sni string, auto bool) error {
	conn, err := hp.dial(ctx, w)
	if err != nil {
		hp.mu.Lock()
		hp.open--
		s.limits.ReleaseConnection()
		if wt := hp.waiters.popAny(); wt != nil {
			wt.got <- nil
		}
		hp.mu.Unlock()
		return err
	}
	if auto && negotiated(conn) == "h2" {
		hp.mu.Lock()
		hp.open--
		hp.mu.Unlock()
		m, err := hp.newMux(conn, sni, s.limits)
		if err != nil {
			return err
		}
		st, err := m.NewStream()
		if err != nil {
			return err
		}
		s.ClientStream, s.Proto, s.Local = st, message.HTTP2, m.local
		return nil
	}
	opts := hp.host.Cluster().HTTP
	c := http1.NewClientConn(conn, http1.ClientConfig{
		Limits:   http1.Limits{HeadBytes: int(opts.MaxResponseHeadersKB) << 10, Fields: int(opts.MaxHeadersCount)},
		Trailers: opts.EnableTrailers,
		Released: hp.released,
	})
	o := &h1{pool: hp, sni: sni, local: conn.LocalAddr(), born: time.Now(), limit: s.limits}
	c.Owner = o
	hp.stats().Inc(s.stripe, telemetry.ClusterCxHTTP1Total)
	hp.lend(s, c, o)
	return nil
}
