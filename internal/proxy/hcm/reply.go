// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"strconv"
	"sync/atomic"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

var (
	textPlain   = []byte("text/plain")
	grpcContent = []byte("application/grpc")
	trueValue   = []byte("true")
)

// reply answers in the proxy's own name with Envoy's texts. Once the response
// head is on its way, all that is left is to break the stream off.
func (x *exchange) reply(status int, body string, flags format.Flags, details string) {
	x.replyWith(status, body, flags, details, -1)
}

// replyWith is reply with a gRPC status of its own for gRPC requests, -1 for
// the one that the HTTP status maps to.
func (x *exchange) replyWith(status int, body string, flags format.Flags, details string, grpc int) {
	x.entry.Flags |= flags
	x.entry.Details = details
	if x.headSent {
		x.abort()
		return
	}
	r := &x.local
	r.Status, r.BodyLength = status, int64(len(body))
	if flags&format.UpstreamOverflow != 0 {
		r.Header.AddID(message.XEnvoyOverloaded, trueValue)
	}
	if format.IsGRPC(x.req) {
		// gRPC clients read the outcome from trailers: the answer is a head alone
		// (Envoy: Utility::sendLocalReply).
		if grpc < 0 {
			grpc = format.HTTPToGRPC(status)
		}
		r.Status, r.BodyLength = 200, 0
		r.Header.AddID(message.ContentType, grpcContent)
		r.Header.AddID(message.GRPCStatus, x.number(int64(grpc)))
		if body != "" {
			r.Header.AddID(message.GRPCMessage, x.arena.Commit(appendPercent(x.arena.Tail(), body)))
		}
		body = ""
	} else if body != "" {
		r.Header.AddID(message.ContentType, textPlain)
	}
	x.sendLocal([]byte(body))
}

// sendLocal sends the head in x.local and a body.
func (x *exchange) sendLocal(body []byte) {
	r := &x.local
	x.finishHead(r)
	x.entry.Response, x.entry.Status = r, r.Status
	x.headSent = true
	if x.req.Proto != message.HTTP2 && !x.ds.RequestComplete() {
		x.ds.Drain() // nobody will read the rest: say so
	}
	err := x.ds.WriteHead(r, len(body) == 0)
	if err == nil && len(body) > 0 {
		err = x.ds.WriteBody(body, true)
	}
	if err != nil {
		x.clientFailed()
		return
	}
	x.ended = true
}

// number formats n in the arena.
func (x *exchange) number(n int64) []byte {
	return x.arena.Commit(strconv.AppendInt(x.arena.Tail(), n, 10))
}

// appendPercent encodes grpc-message (gRPC over HTTP/2: "Percent-Encoded").
func appendPercent(dst []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// redirect answers with the route's redirect.
func (x *exchange) redirect() {
	x.m.stats.Inc(x.c.stripe, telemetry.HTTPRedirect)
	r := &x.local
	r.Status = x.match.Route.Redirect.Status
	r.Header.AddID(message.Location, x.match.Location(x.req, &x.arena))
	x.entry.Details = format.DirectResponseDetails
	x.match.RewriteResponse(&r.Header, &x.entry, &x.arena)
	x.sendLocal(nil)
}

// direct answers with the route's direct response.
func (x *exchange) direct() {
	x.m.stats.Inc(x.c.stripe, telemetry.HTTPDirectResponse)
	d := x.match.Route.Direct
	r := &x.local
	r.Status, r.BodyLength = d.Status, int64(len(d.Body))
	if len(d.Body) > 0 {
		r.Header.AddID(message.ContentType, textPlain)
	}
	x.entry.Details = format.DirectResponseDetails
	x.match.RewriteResponse(&r.Header, &x.entry, &x.arena)
	x.sendLocal(d.Body)
}

// fault delays or aborts the request as the fault filter draws. It says whether
// the request ends here.
func (x *exchange) fault() bool {
	per := x.match.Filter(x.cfg.faultName)
	if per != nil && per.Disabled {
		return false
	}
	own := x.cfg.fault
	if per != nil && per.Fault != nil {
		own = per.Fault
	}
	d := x.m.fault.Decide(own, x.req, x.match.Cluster)
	if d.Overflow {
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPFaultOverflow)
	}
	if !d.Active() {
		return false
	}
	defer x.m.fault.End()
	x.m.stats.Inc(x.c.stripe, telemetry.HTTPFaultActive)
	defer x.m.stats.Dec(x.c.stripe, telemetry.HTTPFaultActive)
	if d.Delay > 0 {
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPFaultDelays)
		x.entry.Flags |= format.DelayInjected
		if !x.sleep(d.Delay) {
			x.clientFailed()
			return true
		}
	}
	if !d.Abort {
		return false
	}
	x.m.stats.Inc(x.c.stripe, telemetry.HTTPFaultAborts)
	x.replyWith(d.Status, "fault filter abort", format.FaultInjected, format.FaultAbort, d.GRPCStatus)
	return true
}

// abort breaks the stream off.
func (x *exchange) abort() {
	if !x.ended {
		x.ended = true
		x.ds.Reset(message.LocalReset)
	}
}

// clientFailed ends an exchange whose client is gone or does not take its
// response.
func (x *exchange) clientFailed() {
	x.entry.Flags |= format.DownstreamConnectionTermination
	x.entry.Details = format.DownstreamRemoteDisconnect
	x.abort()
}

// finishHead gives a response head what every response gets.
func (x *exchange) finishHead(r *message.Response) {
	h := &r.Header
	if _, ok := h.Get(message.Date); !ok {
		h.AddID(message.Date, x.date())
	}
	switch x.cfg.serverAction {
	case hcmv3.HttpConnectionManager_OVERWRITE:
		h.SetID(message.Server, x.cfg.serverName)
	case hcmv3.HttpConnectionManager_APPEND_IF_ABSENT:
		if _, ok := h.Get(message.Server); !ok {
			h.AddID(message.Server, x.cfg.serverName)
		}
	}
	if len(x.cfg.via) > 0 {
		x.appendList(h, message.Via, x.cfg.via)
	}
	if x.cfg.idInResponse {
		if id, ok := x.req.Header.Get(message.XRequestID); ok {
			h.SetID(message.XRequestID, id)
		}
	}
	if x.cookie != nil {
		h.AddID(message.SetCookie, x.setCookie())
	}
	if x.c.last() {
		x.ds.Drain()
	}
}

// dateText is one second's Date value.
type dateText struct {
	second int64
	text   [len(dateForm)]byte
}

const dateForm = "Mon, 02 Jan 2006 15:04:05 GMT"

var lastDate atomic.Pointer[dateText]

// date is the time in the form of RFC 9110 section 5.6.7, formatted once a
// second. It is that of the request's start, which is known already.
func (x *exchange) date() []byte {
	second := x.start.Unix()
	d := lastDate.Load()
	if d == nil || d.second != second {
		d = &dateText{second: second}
		x.start.UTC().AppendFormat(d.text[:0], dateForm)
		lastDate.Store(d)
	}
	return d.text[:]
}

// appendList adds a value to a comma-separated field and makes one line of its
// lines, in their order (RFC 9110 section 5.3).
func (x *exchange) appendList(h *message.Header, id message.ID, v []byte) {
	b := x.lines(h, id)
	if len(b) == 0 {
		h.SetID(id, v)
		return
	}
	b = append(b, ',')
	h.SetID(id, x.arena.Commit(append(b, v...)))
}

// joinLines makes one line of a field's several.
func (x *exchange) joinLines(h *message.Header, id message.ID) {
	h.SetID(id, x.arena.Commit(x.lines(h, id)))
}

// lines puts the values of a field's lines at the arena's end.
func (x *exchange) lines(h *message.Header, id message.ID) []byte {
	b := x.arena.Tail()
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.ID != id || len(f.Value) == 0 {
			continue
		}
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, f.Value...)
	}
	return b
}
