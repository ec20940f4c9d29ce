// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"strconv"
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// maxInterned bounds the values a connection remembers as strings for its
// encoder's dynamic table, which keeps what it is given.
const maxInterned = 256

// perRequest are the fields whose value differs with each message. They are
// sent as literals: indexing them would only push useful entries out of the
// table, and secrets must not be in it at all (RFC 7541 section 7.1.3).
var perRequest = func() (t [256]bool) {
	for _, id := range []message.ID{
		message.Authorization, message.Cookie, message.SetCookie,
		message.ContentLength, message.Date, message.ETag, message.GRPCMessage, message.GRPCTimeout,
		message.XRequestID, message.XEnvoyUpstreamServiceTime, message.XEnvoyExpectedRqTimeoutMs,
		message.B3, message.Traceparent, message.Tracestate, message.XB3TraceID, message.XB3SpanID, message.XB3ParentSpanID,
	} {
		t[id] = true
	}
	return t
}()

// encodeFields queues regular fields in the encoder, leaving out those that
// HTTP/2 forbids. The caller holds w.mu.
func (w *writer) encodeFields(h *message.Header) {
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.ID {
		case message.Connection, message.KeepAlive, message.ProxyConnection, message.TransferEncoding,
			message.Upgrade, message.HTTP2Settings, message.Host, message.ContentLength:
			continue
		case message.TE:
			if !bytes.EqualFold(f.Value, trailersToken) {
				continue
			}
		}
		if perRequest[f.ID] {
			w.literal(alias(f.ID.Bytes()), f.Value)
		} else if f.ID != message.Unknown {
			w.indexed(alias(f.ID.Bytes()), f.Value)
		} else {
			w.indexed(w.intern(f.Name), f.Value)
		}
	}
}

func (w *writer) encodeRequest(r *message.Request) {
	connect := string(r.Method) == "CONNECT"
	if len(r.Upgrade) > 0 {
		// RFC 8441: what HTTP/1.1 says with GET and Upgrade is extended CONNECT.
		w.indexed(":method", connectMethod)
	} else {
		w.indexed(":method", r.Method)
	}
	if !connect || len(r.Upgrade) > 0 {
		scheme := r.Scheme
		if len(scheme) == 0 {
			scheme = httpScheme
		}
		w.indexed(":scheme", scheme)
		w.indexed(":path", r.Path)
	}
	w.indexed(":authority", r.Authority)
	if len(r.Upgrade) > 0 {
		w.indexed(":protocol", r.Upgrade)
	}
	w.encodeFields(&r.Header)
	if r.BodyLength > 0 {
		w.length(r.BodyLength)
	}
}

var (
	connectMethod = []byte("CONNECT")
	httpScheme    = []byte("http")
)

func (w *writer) encodeResponse(r *message.Response, status int, length int64) {
	var digits [3]byte
	w.indexed(":status", strconv.AppendInt(digits[:0], int64(status), 10))
	w.encodeFields(&r.Header)
	if length >= 0 {
		w.length(length)
	}
}

func (w *writer) length(n int64) {
	var digits [20]byte
	w.literal("content-length", strconv.AppendInt(digits[:0], n, 10))
}

// indexed writes a field that the dynamic table may keep.
func (w *writer) indexed(name string, value []byte) {
	_ = w.enc.WriteField(hpack.HeaderField{Name: name, Value: w.intern(value)}) // a bytes.Buffer cannot fail
}

// literal writes a field that the encoder does not keep, so that value may
// alias a buffer.
func (w *writer) literal(name string, value []byte) {
	_ = w.enc.WriteField(hpack.HeaderField{Name: name, Value: alias(value), Sensitive: true})
}

func (w *writer) intern(b []byte) string {
	if s, ok := w.interned[string(b)]; ok {
		return s
	}
	if len(w.interned) >= maxInterned {
		clear(w.interned)
	}
	if w.interned == nil {
		w.interned = make(map[string]string)
	}
	s := string(b)
	w.interned[s] = s
	return s
}

// alias views bytes as a string; it lives no longer than they do.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
