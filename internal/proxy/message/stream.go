// SPDX-License-Identifier: Apache-2.0

package message

import (
	"context"
	"time"
)

// ServerStream is one exchange as its server side sees it: the downstream half
// of a proxied request. A codec makes it once the request head is complete; one
// goroutine (the exchange's) drives it. HTTP/1.1 and HTTP/2 implement it.
//
// Calling rules:
//
//   - Reads (ReadBody) and writes (WriteInformational, WriteHead, WriteBody,
//     WriteTrailers, Flush) each come from one goroutine at a time, which need
//     not be the same one: a second goroutine may read the request body while
//     the first writes the response. Reset, WatchPeer's callback and the
//     deadline setters may be used from any goroutine.
//   - Reads and writes block, subject to flow control and to the deadlines.
//   - An error from any of them is a *StreamError and ends that direction, but
//     for a passed deadline: that error wraps os.ErrDeadlineExceeded, loses
//     nothing that was to be read, and reading may go on once the deadline was
//     moved. After Reset every call returns a *StreamError.
//   - The exchange is over when the handler returns. A codec then drains or
//     resets whatever the handler left unread or unwritten: HTTP/1.1 closes the
//     connection unless both message ends are proven; HTTP/2 sends
//     RST_STREAM(NO_ERROR) after a complete response to an incomplete request,
//     and RST_STREAM(INTERNAL_ERROR) when the response is incomplete.
type ServerStream interface {
	// Request is the head, filled by the codec and validated: Method, Scheme,
	// Authority, Path are set (Path is empty for CONNECT without :protocol),
	// hop-by-hop fields (Connection and what it names, Keep-Alive,
	// Proxy-Connection, Transfer-Encoding, Upgrade, HTTP2-Settings, TE other than
	// trailers, Host) and Content-Length are removed from Header and live in
	// Upgrade and BodyLength. Cookie crumbs of HTTP/2 are joined with "; ".
	// The handler may change the request; its bytes live until it returns.
	Request() *Request

	// ReadBody returns the next piece of the request body, at least one byte,
	// valid until the next ReadBody call or the handler's return. At the end it
	// returns io.EOF, after Request().Trailer was filled. For an HTTP/1.1
	// request with Expect: 100-continue the codec leaves the Expect field out of
	// Header and sends 100 Continue before the first wait for body bytes.
	ReadBody() ([]byte, error)

	// RequestComplete says whether the whole request, trailers included, has
	// been received, so that ReadBody will not block any more.
	RequestComplete() bool

	// Buffered says that ReadBody would return without waiting for the network.
	Buffered() bool

	// WriteInformational sends a 1xx head other than 101 at once. HTTP/1.0
	// clients get nothing.
	WriteInformational(status int, h *Header) error

	// WriteHead queues the final response head (status 200..599, or 101 in
	// answer to Request().Upgrade). The codec adds framing (Content-Length from
	// BodyLength, Transfer-Encoding, Connection) and drops hop-by-hop fields; it
	// adds no other field. end says that there is neither body nor trailers.
	// The head is copied or sent before WriteHead returns.
	//
	// Status 101 with Request().Upgrade set, and 2xx in answer to CONNECT, turn
	// the stream into a tunnel: ReadBody and WriteBody then carry raw bytes
	// (HTTP/1.1) or DATA (HTTP/2), WriteBody(nil, true) half-closes, ReadBody's
	// io.EOF is the peer's half-close. HTTP/2 sends 101 as 200. Bytes that the
	// client sent before the head are not given out before it.
	WriteHead(r *Response, end bool) error

	// WriteBody sends or queues p, which the caller may reuse on return. HEAD
	// requests and 204/304 responses: the codec discards p. end as in WriteHead.
	WriteBody(p []byte, end bool) error

	// WriteTrailers ends the response with trailers. A codec that cannot carry
	// them (HTTP/1.1 without enable_trailers, or Content-Length framing) ends the
	// body without them.
	WriteTrailers(h *Header) error

	// Flush pushes what is queued to the peer. Writers call it when they are
	// about to wait for more to write; an ended message is flushed by the codec.
	Flush() error

	// Reset aborts the exchange: RST_STREAM on HTTP/2 (the code follows from the
	// reason), closing the connection on HTTP/1.1.
	Reset(reason ResetReason)

	// SetReadDeadline and SetWriteDeadline bound blocked and later calls of that
	// direction; zero means none. Moving a deadline is cheap: codecs do not
	// touch a timer for each call. Errors wrap os.ErrDeadlineExceeded.
	SetReadDeadline(t time.Time)
	SetWriteDeadline(t time.Time)

	// WatchPeer asks that gone be called, once and on any goroutine, when the
	// client has reset the stream or left, until UnwatchPeer returns. gone must
	// not block. HTTP/1.1 begins to look after 100 ms, so that short waits cost
	// nothing; it is not called while another goroutine is in ReadBody (that
	// call returns the error instead).
	WatchPeer(gone func())
	UnwatchPeer()

	// Drain says that this response is to be the connection's last: Connection:
	// close in HTTP/1.1 (call it before WriteHead), graceful GOAWAY in HTTP/2.
	Drain()

	// Counters are the bytes of this exchange on the wire, as the access log's
	// BYTES_RECEIVED and BYTES_SENT count them: body bytes only.
	Counters() (received, sent uint64)
}

// Handler serves one exchange. It returns when the exchange is over and keeps
// nothing of s.
type Handler func(ctx context.Context, s ServerStream)

// ClientStream is one exchange as its client side sees it: the upstream half of
// a proxied request, taken from a connection for one request. The calling rules
// are ServerStream's; Cancel may be called from any goroutine at any time
// before Close.
type ClientStream interface {
	// WriteHead queues the request head. The codec writes Authority as Host or
	// :authority, adds framing from BodyLength (-1: chunked or DATA) and
	// Upgrade, and drops hop-by-hop fields; it adds no other field. end says
	// that there is neither body nor trailers.
	WriteHead(r *Request, end bool) error
	WriteBody(p []byte, end bool) error
	WriteTrailers(h *Header) error
	// Flush pushes what is queued to the peer.
	Flush() error

	// ReadHead waits for the next response head. Informational heads (100..199
	// but 101) are returned one by one; the call after each goes on waiting.
	// The response is the codec's and lives until Close. A 101, or 2xx to
	// CONNECT, turns the stream into a tunnel as in ServerStream; a 101 that
	// was not asked for is a protocol error.
	ReadHead() (*Response, error)
	// ReadBody is as in ServerStream; it fills the response's Trailer before it
	// returns io.EOF. Before ReadHead returned a final head it may not be used.
	ReadBody() ([]byte, error)
	// ResponseComplete says whether the whole response, trailers included, has
	// been received, so that ReadBody will not block any more.
	ResponseComplete() bool
	// Buffered says that ReadBody would return without waiting for the network.
	Buffered() bool

	SetReadDeadline(t time.Time)
	SetWriteDeadline(t time.Time)

	// Cancel makes blocked and later calls return a *StreamError with reason
	// LocalReset. It sends nothing by itself.
	Cancel()

	// Close ends the exchange and gives the connection back, or resets the
	// stream (HTTP/2: CANCEL) or closes the connection (HTTP/1.1) when either
	// message end is not proven. After Close nothing of the stream may be used.
	Close()
}

// ResetReason says why a stream ended early, in Envoy's words.
type ResetReason uint8

// The reasons. Their text is what Envoy puts in the body of a local reply
// ("reset reason: ...") and, with underscores, in response-code details.
const (
	NoReset               ResetReason = iota
	LocalReset                        // this side gave up
	RemoteReset                       // the peer reset the stream
	RefusedStream                     // the peer refused it before processing (retry is safe)
	ConnectionFailure                 // no connection could be made
	ConnectTimeout                    // nor in time
	ConnectionTermination             // the connection ended
	Overflow                          // a circuit breaker is open
	ProtocolError                     // the peer broke the protocol
)

var reasonText = [...]string{
	NoReset:               "",
	LocalReset:            "local reset",
	RemoteReset:           "remote reset",
	RefusedStream:         "remote refused stream reset",
	ConnectionFailure:     "remote connection failure",
	ConnectTimeout:        "connection timeout",
	ConnectionTermination: "connection termination",
	Overflow:              "overflow",
	ProtocolError:         "protocol error",
}

// String is Envoy's text for the reason.
func (r ResetReason) String() string { return reasonText[r] }

// StreamError is why a stream cannot go on.
type StreamError struct {
	Reason ResetReason
	// Status is the response a server side should give for a broken request
	// (400, 413, 426, 431...), 0 when none.
	Status int
	// Detail is Envoy's response-code detail ("http1.codec_error"), or the cause
	// for the log ("TLS_error: ...").
	Detail string
	// Unsent says that no byte of the request left for the peer (a pooled
	// connection turned out to be closed, a GOAWAY below the stream), so that it
	// may be sent again whatever the retry policy says.
	Unsent bool
	Err    error
}

// Error describes the failure for the log.
func (e *StreamError) Error() string {
	s := e.Reason.String()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *StreamError) Unwrap() error { return e.Err }
