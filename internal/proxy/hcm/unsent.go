// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// unsentField says on a local 503 that no upstream has seen anything of the
// request, or that it is a safe one (RFC 9110 section 9.2.1). An application that ends refuses connections at once, while its
// clients hear later that its pod is gone: their proxy may then send the request
// to another pod as if it had been refused itself, whatever the method is. Envoy
// has no such mark, so that Istio once retried every 503 and had to stop.
// It passes between proxies only.
const unsentField = "x-lateen-unsent"

var unsentName = []byte(unsentField)

// markUnsent marks a local answer to a peer of the mesh where that is true.
func (x *exchange) markUnsent(r *message.Response, reset message.ResetReason) {
	unsent := !x.reached && (reset == message.ConnectionFailure || reset == message.ConnectTimeout)
	// An application that ends may take a connection and close it unread.
	ending := x.m.draining.Load() && brokeOff(reset) && x.safe()
	if !unsent && !ending {
		return
	}
	if len(x.c.info.PeerCertificates) == 0 {
		return // not a proxy of the mesh
	}
	if format.IsGRPC(x.req) {
		return // grpc-status UNAVAILABLE is retried as it is
	}
	r.Header.Add(unsentName, trueValue)
}

// drainNotice is how long after its application ended a proxy may hear that its
// pod does.
const drainNotice = time.Second

// awaitDrain waits for the proxy to drain where that would let the request go
// elsewhere and seems near: with a native sidecar Kubernetes ends the
// application first, and tells the proxy some 100 ms later. An application that
// ended a connection and takes new ones is not ending; one that crashed makes
// its client wait in vain. It returns false when the client left meanwhile.
func (x *exchange) awaitDrain(h *cluster.Host, reset message.ResetReason) bool {
	if x.m.draining.Load() || !brokeOff(reset) || len(x.c.info.PeerCertificates) == 0 || !x.safe() || !x.m.deps.Pools.Refuses(x.ctx, h) {
		return true
	}
	d := drainNotice
	if end := x.globalEnd(); !end.IsZero() {
		d = min(d, time.Until(end))
	}
	return x.pause(d, x.m.drain)
}

// brokeOff says that a connection ended while its request waited for an answer.
func brokeOff(r message.ResetReason) bool {
	return r == message.ConnectionTermination || r == message.RemoteReset
}

// takeUnsent says whether a response carries the mark, and takes it off: the
// client is no proxy, or would take it for ours.
func takeUnsent(resp *message.Response) bool {
	if resp.Status != 503 {
		return false
	}
	if _, ok := resp.Header.GetName(unsentField); !ok {
		return false
	}
	resp.Header.Remove(unsentName)
	return true
}

// lostOnReuse says whether a safe request may be sent once more because the
// connection it was given had been used before and ended without an answer: the
// server closed it as idle at that moment (RFC 9112 section 9.3.1, RFC 9110
// section 9.2.2).
func (x *exchange) lostOnReuse(se *message.StreamError) bool {
	if x.replayed || x.us.Proto == message.HTTP2 || !brokeOff(se.Reason) {
		return false
	}
	return x.safe()
}

// safe says that the request may be made twice: it asks for nothing to change
// and has no body (RFC 9110 section 9.2.1).
func (x *exchange) safe() bool {
	switch string(x.req.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return x.bodyDone && x.req.BodyLength == 0 && len(x.req.Upgrade) == 0
	}
	return false
}
