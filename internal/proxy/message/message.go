// SPDX-License-Identifier: Apache-2.0

// Package message holds the one canonical HTTP request and response that codecs
// produce and that routing, policy, logging and forwarding all share.
//
// Lifetime: every byte slice in a message aliases a buffer owned by its codec
// or by the exchange's Arena and is valid until the exchange ends. Whoever
// keeps a value longer copies it.
package message

// Proto is the protocol version a message arrived with.
type Proto uint8

// The protocol versions lateen-proxy speaks.
const (
	HTTP10 Proto = iota
	HTTP11
	HTTP2
)

// String is the version as access logs print it (%PROTOCOL%).
func (p Proto) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	default:
		return "HTTP/2"
	}
}

// Request is one canonical request head. The pseudo-header fields live in their
// own fields on every protocol: there is no host field in Header.
type Request struct {
	Method    []byte
	Scheme    []byte // "http" or "https"
	Authority []byte // Host or :authority, as sent; route matching ignores its case
	Path      []byte // path and query; normalized before the first matcher reads it
	Upgrade   []byte // lower-case Upgrade token (HTTP/1.1) or :protocol (RFC 8441); empty when none
	Header    Header
	Trailer   Header // complete once the body has been read to its end
	Proto     Proto
	// BodyLength is the declared length in bytes, 0 when there is no body and -1
	// when it ends by framing (chunked, END_STREAM).
	BodyLength int64
}

// Reset empties r for the next exchange and keeps its memory.
func (r *Request) Reset() {
	h, t := r.Header, r.Trailer
	h.Reset()
	t.Reset()
	*r = Request{Header: h, Trailer: t}
}

// Response is one canonical response head.
type Response struct {
	Status  int
	Header  Header
	Trailer Header // complete once the body has been read to its end
	Proto   Proto
	// BodyLength is as in Request.
	BodyLength int64
}

// Reset empties r for the next exchange and keeps its memory.
func (r *Response) Reset() {
	h, t := r.Header, r.Trailer
	h.Reset()
	t.Reset()
	*r = Response{Header: h, Trailer: t}
}
