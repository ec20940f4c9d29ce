// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// The request body travels on the exchange's own goroutine as long as what goes
// next is here already. When it has to be waited for, a second goroutine takes
// it over (uploadBody), and the first waits for the response. Shared between the
// two are bodyDone, bodyErr, replay and keep, which the first reads only after
// stopUpload, and the deadlines, which are atomic.

// sendRequest sends head and body, or as much of the body as is here.
func (x *exchange) sendRequest() error {
	if x.us.Proto == message.HTTP2 || x.idle > 0 {
		x.us.SetWriteDeadline(x.idleEnd())
	} else {
		x.us.SetWriteDeadline(time.Time{})
	}
	if x.bodyDone && (len(x.req.Upgrade) > 0 || string(x.req.Method) == "CONNECT") {
		// What may become a tunnel must not be ended.
		return orFlush(x.us.WriteHead(x.req, false), x.us.Flush)
	}
	none := x.bodyDone && len(x.replay) == 0 && len(x.req.Trailer.Fields) == 0
	if err := x.us.WriteHead(x.req, none); err != nil || none {
		return orFlush(err, x.us.Flush)
	}
	if len(x.replay) > 0 {
		if err := x.us.WriteBody(x.replay, false); err != nil {
			return err
		}
	}
	if x.bodyDone {
		return x.endBody()
	}
	for x.ds.Buffered() {
		if err := x.moveBody(); err == io.EOF {
			x.startGlobal(time.Now())
			return x.us.Flush()
		} else if err != nil {
			return err
		}
	}
	if err := x.us.Flush(); err != nil {
		return err
	}
	x.uploading = true
	x.stopping.Store(false)
	go x.upload()
	return nil
}

func orFlush(err error, flush func() error) error {
	if err != nil {
		return err
	}
	return flush()
}

// endBody ends the request, with trailers where there are some.
func (x *exchange) endBody() error {
	if len(x.req.Trailer.Fields) > 0 {
		return orFlush(x.us.WriteTrailers(&x.req.Trailer), x.us.Flush)
	}
	return orFlush(x.us.WriteBody(nil, true), x.us.Flush)
}

// moveBody moves one piece of the body. io.EOF says that the body is done; a
// failure of the client's side goes to bodyErr.
func (x *exchange) moveBody() error {
	p, err := x.ds.ReadBody()
	if err == io.EOF {
		x.bodyDone = true
		x.requestRead.Store(int64(time.Since(x.start)))
		if err := x.endBody(); err != nil {
			return err
		}
		return io.EOF
	}
	if err != nil {
		x.bodyErr = err
		return err
	}
	x.keepBody(p)
	return x.us.WriteBody(p, false)
}

// keptAnyway is how much of a body is kept without a retry policy, on a pooled
// connection: what the codec may hold back with the head until it knows that the
// connection is still open.
const keptAnyway = 8 << 10

// keepBody keeps a piece for a retry, up to the cluster's buffer limit.
func (x *exchange) keepBody(p []byte) {
	if !x.keep {
		x.bodyLost = true
		return
	}
	limit := int(x.cl.BufferLimit)
	if !x.retry.Enabled() {
		if limit = min(limit, keptAnyway); !x.us.Reused {
			limit = 0
		}
	}
	if len(x.replay)+len(p) > limit {
		x.keep, x.bodyLost, x.replay = false, true, x.replay[:0]
		return
	}
	x.replay = append(x.replay, p...)
}

// uploadBody is the second goroutine: it sends the rest of the body.
func (x *exchange) uploadBody() {
	err := x.pump()
	if x.bodyErr != nil && !x.stopping.Load() {
		// The client broke off: nobody waits for the response any more.
		x.us.Cancel()
	}
	if err == io.EOF {
		if d := x.timeouts.Global; d > 0 {
			x.lateGlobal.Store(time.Now().Add(d).UnixNano())
			x.us.SetReadDeadline(earlier(x.globalEnd(), x.perTry))
		}
		x.ds.WatchPeer(x.onGone)
	}
	x.uploaded <- struct{}{}
}

func (x *exchange) pump() error {
	for {
		if !x.ds.Buffered() {
			if err := x.us.Flush(); err != nil {
				return err
			}
			x.progress.Store(time.Now().UnixNano())
			if x.idle > 0 && !x.stopping.Load() {
				x.ds.SetReadDeadline(x.requestEnd())
			}
		}
		if err := x.moveBody(); err != nil {
			return err
		}
	}
}

// requestEnd is when a wait for the client's next bytes ends.
func (x *exchange) requestEnd() time.Time {
	t := earlier(x.idleEnd(), x.maxEnd)
	if d := x.cfg.requestTimeout; d > 0 {
		t = earlier(t, x.start.Add(d))
	}
	return t
}

// globalEnd is the route timeout's end; the goroutine that sends the body may
// have set it.
func (x *exchange) globalEnd() time.Time {
	if n := x.lateGlobal.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return x.global
}

// lastProgress is the last moment known at which bytes moved.
func (x *exchange) lastProgress() time.Time {
	if n := x.progress.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return x.start
}

// stopUpload ends the second goroutine. A body that is not complete by then
// stays so for this attempt.
func (x *exchange) stopUpload() {
	if !x.uploading {
		return
	}
	x.uploading = false
	select {
	case <-x.uploaded:
	default:
		x.stopping.Store(true)
		x.us.Cancel()
		for stopped := false; !stopped; {
			// Again and again, because the goroutine may just have set one of its own.
			x.ds.SetReadDeadline(past)
			select {
			case <-x.uploaded:
				stopped = true
			case <-time.After(time.Millisecond):
			}
		}
		if errors.Is(x.bodyErr, os.ErrDeadlineExceeded) {
			x.bodyErr = nil // that was us
		}
		x.readDeadline()
	}
	x.ds.UnwatchPeer()
}

var past = time.Unix(1, 0)

// bodyFailed answers for a request whose body broke off.
func (x *exchange) bodyFailed() {
	var se *message.StreamError
	switch {
	case errors.Is(x.bodyErr, os.ErrDeadlineExceeded):
		now := time.Now()
		if d := x.cfg.requestTimeout; d > 0 && !now.Before(x.start.Add(d)) {
			x.m.stats.Inc(x.c.stripe, telemetry.HTTPRqTimeout)
			x.reply(408, "request timeout", 0, format.RequestOverallTimeout)
			return
		}
		x.timedOut(now)
	case errors.As(x.bodyErr, &se) && se.Reason == message.ProtocolError:
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPCxProtocolError)
		x.reply(400, "", format.DownstreamProtocolError, se.Detail)
	default:
		x.clientFailed()
	}
}

// relay sends the response downstream.
func (x *exchange) relay(resp *message.Response, now time.Time) {
	x.entry.Response, x.entry.Status = resp, resp.Status
	if !x.cfg.suppressHeaders {
		// Counted from the end of the request, as far as that is known.
		ms := (x.entry.UpstreamFirstRx - time.Duration(x.requestRead.Load())).Milliseconds()
		resp.Header.SetID(message.XEnvoyUpstreamServiceTime, x.number(max(ms, 0)))
	}
	if v := x.match.VirtualHost; v != nil && v.IncludeAttemptCountInResponse {
		resp.Header.SetID(message.XEnvoyAttemptCount, x.number(int64(x.attempts)))
	}
	x.match.RewriteResponse(&resp.Header, &x.entry, &x.arena)
	x.finishHead(resp)
	tunnel := x.mayStream(resp)
	end := !tunnel && x.us.ResponseComplete() && (resp.BodyLength == 0 || string(x.req.Method) == "HEAD" || resp.Status == 304)
	x.headSent = true
	if x.uploading && x.requestRead.Load() == 0 && x.req.Proto != message.HTTP2 && x.us.ResponseComplete() {
		x.ds.Drain() // the exchange ends before the request does
	}
	err := x.ds.WriteHead(resp, end)
	if err == nil && tunnel {
		err = x.ds.Flush()
	}
	if err != nil {
		x.writeFailed(err)
		return
	}
	x.entry.ResponseFirstTx = x.entry.UpstreamFirstRx
	switch {
	case end:
		x.ended = true
		if _, err := x.us.ReadBody(); err != io.EOF {
			x.us.Cancel()
		}
	case tunnel:
		x.pipe()
	default:
		x.relayBody(resp)
	}
}

// relayBody moves the response body as it comes.
func (x *exchange) relayBody(resp *message.Response) {
	for {
		if !x.us.Buffered() {
			if err := x.ds.Flush(); err != nil {
				x.writeFailed(err)
				return
			}
			x.us.SetReadDeadline(earlier(earlier(x.globalEnd(), x.idleEnd()), x.maxEnd))
			if !x.uploading {
				x.ds.WatchPeer(x.onGone)
			}
		}
		p, err := x.us.ReadBody()
		if !x.uploading {
			x.ds.UnwatchPeer()
		}
		if err == nil {
			if err = x.ds.WriteBody(p, false); err != nil {
				x.writeFailed(err)
				return
			}
			continue
		}
		if err != io.EOF {
			x.responseBroke(err)
			return
		}
		if len(resp.Trailer.Fields) > 0 {
			err = x.ds.WriteTrailers(&resp.Trailer)
		} else {
			err = x.ds.WriteBody(nil, true)
		}
		if err != nil {
			x.writeFailed(err)
			return
		}
		x.ended = true
		return
	}
}

// writeFailed ends an exchange whose response the client does not take.
func (x *exchange) writeFailed(err error) {
	x.stopUpload()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		x.timedOut(time.Now())
		return
	}
	x.clientFailed()
}

// responseBroke ends an exchange whose response broke off after its head: all
// that is left is to break off downstream.
func (x *exchange) responseBroke(err error) {
	if x.uploading {
		x.stopUpload()
	}
	switch {
	case x.left.Load() || x.bodyErr != nil:
		x.clientFailed()
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.timedOut(time.Now())
		return
	}
	var se *message.StreamError
	if errors.As(err, &se) {
		x.entry.Flags |= classify(se.Reason)
		x.entry.Details = resetDetails(se.Reason, "")
		x.entry.Details = format.UpstreamResetAfterResponse + x.entry.Details[len(format.UpstreamResetBeforeResponse):]
	}
	x.abort()
}
