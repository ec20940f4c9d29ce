// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/retry"
	"github.com/lateen-mesh/lateen/internal/proxy/route"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// maxStale bounds how often a request moves on from a pooled connection that
// turned out to be closed; these moves are no retries, nothing was sent.
const maxStale = 16

// forward is the router: it sends the request to a host of the route's cluster,
// again where the retry policy says so, and its response downstream.
func (x *exchange) forward() {
	a := x.match.Route.Action
	x.m.stats.Inc(x.c.stripe, telemetry.HTTPRouterTotal)
	if x.match.Cluster != "" {
		x.cl = x.m.deps.Clusters.Get(x.match.Cluster)
	}
	if x.cl == nil {
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPNoCluster)
		x.reply(a.ClusterNotFoundStatus, "", format.NoClusterFound, format.ClusterNotFound)
		return
	}
	x.entry.UpstreamCluster = x.cl.Name
	x.timeouts = a.Timeouts(x.req)
	x.retry = retry.Begin(a.Retry, x.req)
	x.prepare(a)
	if x.terminatesConnect(a) {
		x.connect()
		return
	}
	x.bodyDone = x.req.BodyLength == 0 || len(x.req.Upgrade) > 0 || string(x.req.Method) == "CONNECT"
	x.keep = !x.bodyDone
	if x.bodyDone {
		x.startGlobal(x.start)
	}
	x.attemptAll(a)
}

// prepare turns the request into the one that goes upstream.
func (x *exchange) prepare(a *route.Action) {
	envoy := !x.cfg.suppressHeaders
	x.want.Downstream, x.want.High, x.want.Stripe = x.req.Proto, a.HighPriority, x.c.stripe
	x.pick.OriginalDst = netip.AddrPort{}
	if x.c.info.Redirected {
		x.pick.OriginalDst = x.c.info.Local
	}
	if p := x.retry.Policy(); p.PreviousHosts {
		x.pick.Attempts = p.HostAttempts
	}
	if a.Hashes() {
		x.hash(a)
	}
	if d := x.timeouts.MaxStream; x.timeouts.HasMaxStream {
		x.maxEnd = time.Time{}
		if d > 0 {
			x.maxEnd = x.start.Add(d)
		}
	}
	if x.xEnvoy {
		x.stripEnvoy(routerOnly)
	}
	if envoy {
		d := x.timeouts.PerTry
		if d == 0 {
			d = x.timeouts.Global
		}
		if d > 0 {
			x.req.Header.SetID(message.XEnvoyExpectedRqTimeoutMs, x.number(d.Milliseconds()))
		}
	}
	x.match.RewriteRequest(x.req, &x.entry, &x.arena, envoy)
	x.want.Authority = x.req.Authority
}

func (x *exchange) startGlobal(now time.Time) {
	if d := x.timeouts.Global; d > 0 {
		x.global = now.Add(d)
	}
}

// outcome is how an attempt ended.
type outcome uint8

const (
	finished outcome = iota // the exchange is over
	again                   // a retry is due
	moved                   // nothing was sent: try another connection
)

func (x *exchange) attemptAll(a *route.Action) {
	for stale := 0; ; {
		got := x.attempt(a, stale >= maxStale || x.replayed)
		x.endAttempt()
		switch got {
		case finished:
			return
		case moved:
			stale++
		case again:
			if !x.backOff() {
				return
			}
		}
	}
}

// endAttempt gives the upstream stream back.
func (x *exchange) endAttempt() {
	x.stopUpload()
	x.us.Close()
	if x.retryHeld && !x.keepHeld {
		x.retryHeld = false
		x.cl.Limits(x.want.High).ReleaseRetry()
	}
	x.keepHeld = false
}

// backOff waits before a retry.
func (x *exchange) backOff() bool {
	x.retry.Use()
	st := x.m.deps.Pools.Stats(x.cl)
	st.Inc(x.c.stripe, telemetry.ClusterRqRetry)
	d := x.backOffFor
	if x.backOffSet {
		st.Inc(x.c.stripe, telemetry.ClusterRqRetryBackoffRatelimited)
	} else {
		st.Inc(x.c.stripe, telemetry.ClusterRqRetryBackoffExponential)
		d = x.retry.BackOff(x.m.rand())
	}
	x.backOffFor, x.backOffSet = 0, false
	if !x.global.IsZero() {
		if left := time.Until(x.global); left <= d {
			x.sleep(left)
			x.timedOut(x.global)
			return false
		}
	}
	if !x.sleep(d) {
		x.clientFailed()
		return false
	}
	return true
}

// attempt sends the request once. fresh asks for a new connection.
func (x *exchange) attempt(a *route.Action, fresh bool) outcome {
	x.pick.Tried = x.tried
	host := x.cl.Pick(&x.pick)
	if host == nil {
		x.m.deps.Pools.Stats(x.cl).Inc(x.c.stripe, telemetry.ClusterCxNoneHealthy)
		x.reply(503, "no healthy upstream", format.NoHealthyUpstream, format.NoHealthyUpstreamDetails)
		return finished
	}
	x.entry.UpstreamHost, x.entry.UpstreamHostName = host.Address(), host.Hostname()
	if a.AutoHostRewrite && host.Hostname() != "" {
		x.req.Authority = x.want.Authority // not an earlier attempt's
		a.SetAuthority(x.req, []byte(host.Hostname()), &x.arena, !x.cfg.suppressHeaders)
	}
	if err := x.acquire(host, fresh); err != nil {
		x.attempts++
		host.Stats().RqError.Add(1)
		return x.failed(host, err, false)
	}
	resp, err := x.exchangeHeads(host)
	if err != nil {
		var se *message.StreamError
		if x.us.Reused && errors.As(err, &se) && (se.Unsent || x.lostOnReuse(se)) && x.resumable() {
			x.attempts--
			x.replayed = x.replayed || !se.Unsent
			return moved
		}
		return x.failed(host, err, true)
	}
	return x.respond(host, resp)
}

// acquire fills x.us.
func (x *exchange) acquire(h *cluster.Host, fresh bool) error {
	pools := x.m.deps.Pools
	if !fresh {
		s, ok, err := pools.Try(h, &x.want)
		if err != nil {
			return err
		}
		if ok {
			x.us = s
			return nil
		}
	}
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	if !x.global.IsZero() {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadlineCause(ctx, x.global, errGlobal)
		defer stop()
	}
	x.cancel = cancel
	x.ds.WatchPeer(x.onGone)
	s, err := pools.Get(ctx, h, &x.want)
	x.ds.UnwatchPeer()
	x.cancel = nil
	if err != nil {
		return err
	}
	x.us = s
	return nil
}

var errGlobal = &message.StreamError{Reason: message.LocalReset, Detail: format.ResponseTimeout, Err: os.ErrDeadlineExceeded}

// exchangeHeads sends the request and waits for the response's head.
func (x *exchange) exchangeHeads(h *cluster.Host) (*message.Response, error) {
	x.attempts++
	if d := x.timeouts.PerTry; d > 0 {
		x.perTry = time.Now().Add(d)
	}
	if v := x.match.VirtualHost; v != nil && v.IncludeRequestAttemptCount {
		x.req.Header.SetID(message.XEnvoyAttemptCount, x.number(int64(x.attempts)))
	}
	if len(x.m.log) > 0 {
		if t, ok := x.us.Local.(*net.TCPAddr); ok {
			x.entry.UpstreamLocal = t.AddrPort()
		}
	}
	x.entry.UpstreamProto = x.us.Proto
	h.Stats().RqTotal.Add(1)
	if err := x.sendRequest(); err != nil {
		return nil, err
	}
	x.us.SetReadDeadline(x.headDeadline())
	if !x.uploading {
		x.ds.WatchPeer(x.onGone)
		defer x.ds.UnwatchPeer()
	}
	for {
		resp, err := x.us.ReadHead()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(x.headDeadline()) {
				x.us.SetReadDeadline(x.headDeadline()) // the body's end moved it
				continue
			}
			return nil, err
		}
		if resp.Status >= 200 || resp.Status == 101 {
			return resp, nil
		}
		if resp.Status == 103 || resp.Status == 100 && x.cfg.proxyContinue {
			if err := x.ds.WriteInformational(resp.Status, &resp.Header); err != nil {
				x.left.Store(true)
				return nil, err
			}
		}
	}
}

// headDeadline is when waiting for the response's head ends.
func (x *exchange) headDeadline() time.Time {
	t := earlier(x.globalEnd(), x.perTry)
	if x.idle > 0 {
		// Counted from the request's start where that is recent enough: the exact
		// moment of the last byte is looked up only when the deadline fires.
		t = earlier(t, x.lastProgress().Add(x.idle))
	}
	return earlier(t, x.maxEnd)
}

// respond decides about a response head and sends the response downstream.
func (x *exchange) respond(h *cluster.Host, resp *message.Response) outcome {
	now := time.Now()
	st := x.m.deps.Pools.Stats(x.cl)
	st.Completed(x.c.stripe, resp.Status)
	x.entry.UpstreamFirstRx = now.Sub(x.start)
	st.Observe(x.c.stripe, telemetry.ClusterRqTime, x.entry.UpstreamFirstRx)
	if resp.Status >= 500 {
		h.Stats().RqError.Add(1)
	} else {
		h.Stats().RqSuccess.Add(1)
	}
	unsent := takeUnsent(resp)
	x.reached = x.reached || !unsent
	if (x.retry.WantsResponse(resp) || unsent && x.retry.WantsReset(message.ConnectionFailure, false)) && !x.mayStream(resp) {
		if x.mayRetry(x.retry.Enabled()) {
			x.backOffFor, x.backOffSet = x.retry.RateLimitedBackOff(resp, now, x.m.rand())
			x.drainResponse()
			x.tried = append(x.tried, h)
			x.heldRetry()
			return again
		}
	}
	if x.retryHeld {
		st.Inc(x.c.stripe, telemetry.ClusterRqRetrySuccess)
	}
	x.entry.Details = format.ViaUpstream
	x.relay(resp, now)
	return finished
}

// mayStream says that the response turns the stream into a tunnel.
func (x *exchange) mayStream(resp *message.Response) bool {
	return resp.Status == 101 || string(x.req.Method) == "CONNECT" && resp.Status/100 == 2
}

// mayRetry says whether a retry that the policy wants (allowed: and has left)
// can be made: the request must still be there as a whole, and the circuit
// breaker must allow it.
func (x *exchange) mayRetry(allowed bool) bool {
	st := x.m.deps.Pools.Stats(x.cl)
	if !allowed {
		if x.retry.Exhausted() && x.retry.Attempt() > 0 {
			x.entry.Flags |= format.UpstreamRetryLimitExceeded
			st.Inc(x.c.stripe, telemetry.ClusterRqRetryLimitExceeded)
		}
		return false
	}
	if !x.resumable() {
		return false
	}
	if !x.cl.Limits(x.want.High).AcquireRetry() {
		st.Inc(x.c.stripe, telemetry.ClusterRqRetryOverflow)
		x.entry.Flags |= format.UpstreamOverflow
		return false
	}
	return true
}

// heldRetry gives back the place of the attempt that failed, should it have
// been a retry itself, and keeps the one that mayRetry took for the next.
func (x *exchange) heldRetry() {
	x.us.Close()
	if x.retryHeld {
		x.cl.Limits(x.want.High).ReleaseRetry()
	}
	x.retryHeld, x.keepHeld = true, true
}

// resumable says whether the request can be sent again from its beginning; it
// stops a body that is still being sent.
func (x *exchange) resumable() bool {
	if x.uploading {
		x.stopUpload()
	}
	return x.bodyErr == nil && !x.left.Load() && (x.keep || len(x.replay) == 0 && !x.bodyLost)
}

// drainResponse reads the rest of a response that is here already, so that its
// connection can be used again.
func (x *exchange) drainResponse() {
	for x.us.ClientStream != nil && x.us.ResponseComplete() {
		if _, err := x.us.ReadBody(); err != nil {
			return
		}
	}
}

// failed handles an attempt that gave no response. sent says that the request's
// head was given to a connection.
func (x *exchange) failed(h *cluster.Host, err error, sent bool) outcome {
	if x.uploading {
		x.stopUpload()
	}
	st := x.m.deps.Pools.Stats(x.cl)
	switch {
	case x.bodyErr != nil:
		x.bodyFailed()
		return finished
	case x.left.Load():
		x.clientFailed()
		st.Inc(x.c.stripe, telemetry.ClusterRqCancelled)
		return finished
	case errors.Is(err, os.ErrDeadlineExceeded):
		return x.headTimeout(h)
	}
	var se *message.StreamError
	if !errors.As(err, &se) {
		se = &message.StreamError{Reason: message.LocalReset, Err: err}
	}
	reset := se.Reason
	x.reached = x.reached || sent && !se.Unsent
	if sent {
		h.Stats().RqError.Add(1)
		st.Inc(x.c.stripe, telemetry.ClusterRqRxReset)
	}
	if x.mayRetry(x.retry.WantsReset(reset, sent && !se.Unsent) && x.retry.ShouldRetryReset(reset, sent && !se.Unsent)) {
		x.tried = append(x.tried, h)
		x.heldRetry()
		return again
	}
	if !x.awaitDrain(h, reset) {
		x.clientFailed()
		st.Inc(x.c.stripe, telemetry.ClusterRqCancelled)
		return finished
	}
	x.entry.UpstreamTransportFailure = failureText(se)
	status := 503
	if se.Reason == message.ProtocolError {
		status = 502
	}
	st.Completed(x.c.stripe, status)
	body := "upstream connect error or disconnect/reset before headers. "
	if x.attempts > 1 {
		body += "retried and the latest "
	}
	x.markUnsent(&x.local, reset)
	x.reply(status, body+"reset reason: "+reset.String(), classify(reset), resetDetails(reset, x.entry.UpstreamTransportFailure))
	return finished
}

// classify gives the response flag of a reset.
func classify(r message.ResetReason) format.Flags {
	switch r {
	case message.ConnectionFailure, message.ConnectTimeout:
		return format.UpstreamConnectionFailure
	case message.RemoteReset, message.RefusedStream:
		return format.UpstreamRemoteReset
	case message.Overflow:
		return format.UpstreamOverflow
	case message.ProtocolError:
		return format.UpstreamProtocolError
	case message.ConnectionTermination:
		return format.UpstreamConnectionTermination
	}
	return format.LocalReset
}

// failureText is %UPSTREAM_TRANSPORT_FAILURE_REASON%.
func failureText(se *message.StreamError) string {
	if se.Detail != "" {
		return se.Detail
	}
	if se.Err != nil && (se.Reason == message.ConnectionFailure || se.Reason == message.ConnectTimeout) {
		return "delayed connect error: " + se.Err.Error()
	}
	return ""
}

// resetDetails is Envoy's upstream_reset_before_response_started{...}.
func resetDetails(r message.ResetReason, failure string) string {
	s := format.UpstreamResetBeforeResponse + "{" + r.String()
	if failure != "" {
		s += "|" + failure
	}
	return strings.ReplaceAll(s+"}", " ", "_")
}

// headTimeout decides which deadline passed before the response's head.
func (x *exchange) headTimeout(h *cluster.Host) outcome {
	now := time.Now()
	if !x.perTry.IsZero() && !now.Before(x.perTry) && (x.globalEnd().IsZero() || now.Before(x.globalEnd())) {
		st := x.m.deps.Pools.Stats(x.cl)
		st.Inc(x.c.stripe, telemetry.ClusterRqPerTryTimeout)
		h.Stats().RqTimeout.Add(1)
		if x.mayRetry(x.retry.ShouldRetryTimeout()) {
			x.tried = append(x.tried, h)
			x.heldRetry()
			return again
		}
		st.Completed(x.c.stripe, 504)
		x.reply(504, "upstream request timeout", format.UpstreamRequestTimeout, format.UpstreamPerTryTimeout)
		return finished
	}
	h.Stats().RqTimeout.Add(1)
	x.timedOut(now)
	return finished
}

// timedOut answers for the deadline that has passed.
func (x *exchange) timedOut(now time.Time) {
	over := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	// 408 tells the client that its own request was too slow, which is so only
	// while that is not complete (Envoy: maybeRequestTimeoutCode).
	status := 408
	if x.bodyDone {
		status = 504
	}
	switch {
	case over(x.globalEnd()):
		st := x.m.deps.Pools.Stats(x.cl)
		st.Inc(x.c.stripe, telemetry.ClusterRqTimeout)
		st.Completed(x.c.stripe, 504)
		x.reply(504, "upstream request timeout", format.UpstreamRequestTimeout, format.ResponseTimeout)
	case over(x.maxEnd):
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPRqMaxDurationReached)
		x.reply(status, "downstream duration timeout", format.DurationTimeout, format.MaxDurationTimeout)
	default:
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPRqIdleTimeout)
		x.reply(status, "stream timeout", format.StreamIdleTimeout, format.StreamIdleTimeoutDetails)
	}
}
