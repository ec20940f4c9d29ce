// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/retry"
	"github.com/lateen-mesh/lateen/internal/proxy/route"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
	"github.com/lateen-mesh/lateen/internal/proxy/upstream"
)

// exchange is one request and its response. It is pooled; what it holds lives
// until finish.
type exchange struct {
	exchangeState

	// What is kept for the next use.
	entry    format.Entry
	arena    message.Arena
	local    message.Response // head of an answer of our own
	tried    []*cluster.Host
	replay   []byte // what was read of the request body, kept for a retry
	uploaded chan struct{}
	wake     chan struct{}
	onGone   func()
	upload   func()

	// Shared with the goroutine that sends the body, or that sees the client
	// leave. The times are nanoseconds since the epoch: the route timeout's end,
	// and the last moment at which bytes moved.
	stopping, left       atomic.Bool
	lateGlobal, progress atomic.Int64
	// requestRead is when the request's last byte came, counted from start.
	requestRead atomic.Int64
}

// exchangeState is what begins anew with each exchange.
type exchangeState struct {
	m     *Manager
	c     *conn
	cfg   *config
	ctx   context.Context
	ds    message.ServerStream
	req   *message.Request
	match route.Match
	start time.Time
	end   time.Time
	idle  time.Duration // stream idle timeout in force

	headSent bool // the final response head went downstream
	ended    bool // the response was written to its end, or the stream was reset
	tunnel   bool

	// The router's.
	cl        *cluster.Cluster
	us        upstream.Stream
	want      upstream.Want
	pick      cluster.PickContext
	timeouts  route.Timeouts
	retry     retry.State
	retryHeld bool // a place in the retry circuit breaker is taken
	keepHeld  bool // and is the next attempt's
	// backOffFor is the wait that the response asked for, if backOffSet.
	backOffFor time.Duration
	backOffSet bool
	attempts   int
	reached    bool      // an upstream may have begun with the request
	replayed   bool      // it was sent again after a reused connection's end
	global     time.Time // route timeout's end, zero for none yet
	perTry     time.Time
	maxEnd     time.Time // max_stream_duration's end
	xEnvoy     bool      // the request has x-envoy-* fields
	cookie     *route.HashCookie
	cookieVal  []byte
	cancel     context.CancelCauseFunc // ends the wait for a connection

	// The request body.
	bodyDone  bool
	bodyLost  bool  // some of it was read and not kept
	bodyErr   error // why the client's side of it broke
	keep      bool  // keep it for a retry
	uploading bool
}

// maxKept bounds the memory that a pooled exchange keeps for bodies.
const maxKept = 16 << 10

var exchanges = sync.Pool{New: func() any {
	x := &exchange{
		tried:    make([]*cluster.Host, 0, 4),
		uploaded: make(chan struct{}, 1),
		wake:     make(chan struct{}, 1),
	}
	x.local.Header.Fields = make([]message.Field, 0, 8)
	x.onGone = x.gone
	x.upload = x.uploadBody
	return x
}}

func newExchange(c *conn, ds message.ServerStream) *exchange {
	x := exchanges.Get().(*exchange)
	x.m, x.c, x.cfg = c.m, c, c.m.cfg
	x.ds, x.req = ds, ds.Request()
	return x
}

// free gives the exchange back to the pool.
func (x *exchange) free() {
	x.entry.Reset()
	x.arena.Reset()
	x.local.Reset()
	clear(x.tried[:cap(x.tried)])
	if cap(x.replay) > maxKept {
		x.replay = nil
	}
	select {
	case <-x.wake:
	default:
	}
	x.exchangeState = exchangeState{}
	x.tried, x.replay = x.tried[:0], x.replay[:0]
	x.stopping.Store(false)
	x.left.Store(false)
	x.lateGlobal.Store(0)
	x.requestRead.Store(0)
	x.progress.Store(0)
	exchanges.Put(x)
}

// begin starts the clocks and counters.
func (x *exchange) begin(ctx context.Context) {
	x.ctx = ctx
	x.start = time.Now()
	x.idle = x.cfg.streamIdle
	x.c.requests.Add(1)
	e := &x.entry
	e.Request, e.Start = x.req, x.start
	e.DownstreamLocal, e.DownstreamRemote, e.DownstreamDirectRemote = x.c.info.Local, x.c.info.Remote, x.c.info.Remote
	e.SNI, e.TLS, e.ConnectionID = x.c.info.SNI, x.c.info.TLS, x.c.info.ID
	s := x.m.stats
	s.Inc(x.c.stripe, telemetry.HTTPRqTotal)
	s.Inc(x.c.stripe, telemetry.HTTPRqActive)
	if x.req.Proto == message.HTTP2 {
		s.Inc(x.c.stripe, telemetry.HTTPRqHTTP2Total)
	} else {
		s.Inc(x.c.stripe, telemetry.HTTPRqHTTP1Total)
	}
	if d := x.cfg.maxStreamDuration; d > 0 {
		x.maxEnd = x.start.Add(d)
	}
}

// run serves the exchange.
func (x *exchange) run(ctx context.Context) {
	x.begin(ctx)
	x.readDeadline()
	if x.admit() {
		x.mutateRequest()
		x.dispatch()
	}
	x.finish()
}

// dispatch finds the route, lets the fault filter have its way and does what the
// route says.
func (x *exchange) dispatch() {
	t, ok := x.m.table.Load(), false
	if t != nil {
		x.match, ok = t.Match(x.req)
	}
	m := &x.match
	if m.VirtualHost != nil {
		x.entry.VirtualHostName = m.VirtualHost.Name
	}
	if ok {
		x.entry.RouteName = m.Route.Name
	}
	if !x.upgradeOK() {
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPRqWSOnNonWSRoute)
		x.reply(403, "", 0, format.UpgradeFailed)
		return
	}
	if t == nil {
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPNoRoute)
		x.reply(404, "", format.NoRouteFound, format.RouteConfigurationNotFound)
		return
	}
	if !ok {
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPNoRoute)
		x.reply(404, "", format.NoRouteFound, format.RouteNotFound)
		return
	}
	r := m.Route
	if r.Action != nil && r.Action.HasIdleTimeout {
		x.idle = r.Action.IdleTimeout
		x.readDeadline()
	}
	if x.m.fault != nil && x.fault() {
		return
	}
	switch {
	case r.Redirect != nil:
		x.redirect()
	case r.Direct != nil:
		x.direct()
	case r.Action != nil:
		x.forward()
	default: // NonForwarding: only for proxyless gRPC (A28)
		x.reply(404, "", format.NoRouteFound, format.RouteNotFound)
	}
}

// upgradeOK says whether an asked upgrade, or CONNECT, is allowed here.
func (x *exchange) upgradeOK() bool {
	kind := "connect"
	switch {
	case len(x.req.Upgrade) > 0:
		kind = string(x.req.Upgrade)
	case string(x.req.Method) != "CONNECT":
		return true
	}
	if r := x.match.Route; r != nil && r.Action != nil {
		if u := r.Action.Upgrade(kind); u != nil {
			return u.Enabled
		}
	}
	return x.cfg.upgradeAllowed(kind)
}

// readDeadline moves the downstream read deadline to the end of the idle
// timeout or request timeout, counted from now.
func (x *exchange) readDeadline() {
	var t time.Time
	if x.req.BodyLength != 0 || x.tunnel {
		t = x.idleEnd()
		if d := x.cfg.requestTimeout; d > 0 && !x.tunnel {
			t = earlier(t, x.start.Add(d))
		}
		t = earlier(t, x.maxEnd)
	}
	x.ds.SetReadDeadline(t)
	x.ds.SetWriteDeadline(x.idleEnd())
}

// idleEnd is when a wait that begins now has lasted too long.
func (x *exchange) idleEnd() time.Time {
	if x.idle <= 0 {
		return time.Time{}
	}
	return time.Now().Add(x.idle)
}

// earlier is the earlier of two deadlines, of which zero means none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// gone is called when the client has left, from another goroutine, but only
// between WatchPeer and UnwatchPeer: what it reads is not changed then.
func (x *exchange) gone() {
	x.left.Store(true)
	if x.cancel != nil {
		x.cancel(errClientLeft)
	}
	if x.us.ClientStream != nil {
		x.us.Cancel()
	}
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

var errClientLeft = &message.StreamError{Reason: message.LocalReset, Detail: format.DownstreamRemoteDisconnect}

// sleep waits and says whether the client is still there afterwards.
func (x *exchange) sleep(d time.Duration) bool { return x.pause(d, nil) }

// pause is sleep that also ends with until.
func (x *exchange) pause(d time.Duration, until <-chan struct{}) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	x.ds.WatchPeer(x.onGone)
	defer x.ds.UnwatchPeer()
	select {
	case <-t.C:
	case <-until:
	case <-x.wake:
	case <-x.ctx.Done():
		x.left.Store(true)
	}
	return !x.left.Load()
}

// finish counts and logs the exchange.
func (x *exchange) finish() {
	x.end = time.Now()
	e := &x.entry
	e.Duration = x.end.Sub(x.start)
	e.BytesReceived, e.BytesSent = x.ds.Counters()
	e.Attempts = x.attempts
	e.RequestRead = time.Duration(x.requestRead.Load())
	s := x.m.stats
	s.Dec(x.c.stripe, telemetry.HTTPRqActive)
	s.Observe(x.c.stripe, telemetry.HTTPRqTime, e.Duration)
	if e.Status != 0 {
		s.Completed(x.c.stripe, e.Status)
	}
	if e.Flags&format.DownstreamConnectionTermination != 0 {
		s.Inc(x.c.stripe, telemetry.HTTPRqRxReset)
	}
	x.m.log.Write(e)
	if !x.ended {
		x.ds.Reset(message.LocalReset)
	}
}
