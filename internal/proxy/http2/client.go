// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// maxInformational bounds the 1xx heads that nobody has read yet.
const maxInformational = 8

// ClientConn is the client side of one connection, shared by many exchanges.
type ClientConn struct {
	conn
	greeted chan struct{} // closed when the server's first SETTINGS are in force
}

// NewClientConn starts a client connection: it sends the preface and reads
// until the connection ends.
func NewClientConn(nc net.Conn, opts Options) (*ClientConn, error) {
	c := &ClientConn{greeted: make(chan struct{})}
	c.conn.setup(nc, opts.withDefaults(), false)
	c.headers = c.onBlock
	c.settled = sync.OnceFunc(func() { close(c.greeted) })
	if err := c.greet(); err != nil {
		nc.Close()
		return nil, err
	}
	go c.w.flusher(c.done)
	go func() { c.shut(c.read()) }()
	return c, nil
}

// NewStream reserves a stream. It fails with reason RefusedStream, Unsent, when
// the connection takes no more: the caller then picks or dials another.
func (c *ClientConn) NewStream() (message.ClientStream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goAway || c.err != nil || c.active >= int(min(c.peerMax, c.opts.MaxConcurrentStreams)) || c.nextID >= maxWindow-2*uint32(c.active) {
		return nil, &message.StreamError{Reason: message.RefusedStream, Detail: "http2.no_capacity", Unsent: true, Err: c.err}
	}
	st := &clientStream{cc: c}
	st.init(&c.conn, 0)
	c.begin()
	return st, nil
}

// Usable says whether NewStream may succeed now or once a stream ends.
func (c *ClientConn) Usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.goAway && c.err == nil
}

// HasRoom says whether NewStream would succeed now.
func (c *ClientConn) HasRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.goAway && c.err == nil && c.active < int(min(c.peerMax, c.opts.MaxConcurrentStreams))
}

// Active is the number of exchanges that are not closed.
func (c *ClientConn) Active() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active
}

// Done is closed when the connection has ended.
func (c *ClientConn) Done() <-chan struct{} { return c.done }

// Drain takes no new streams and closes the connection when the last has ended.
func (c *ClientConn) Drain() {
	c.mu.Lock()
	c.goAway = true
	c.mu.Unlock()
	c.maybeIdle()
}

// Close ends the connection at once.
func (c *ClientConn) Close() { c.nc.Close() }

// onBlock takes a response head, an informational one, or trailers.
func (c *ClientConn) onBlock(b *block) error {
	c.mu.Lock()
	base := c.streams[b.id]
	idle := c.isIdle(b.id)
	how := c.closed.how(b.id)
	c.mu.Unlock()
	if base == nil {
		switch {
		case idle || b.id%2 == 0:
			return http2.ConnectionError(http2.ErrCodeProtocol)
		case how == closedByUs:
			return c.flood.control()
		}
		return http2.StreamError{StreamID: b.id, Code: http2.ErrCodeStreamClosed}
	}
	st := base.client
	if st.final {
		return c.onTrailers(base, b)
	}
	bad := http2.StreamError{StreamID: b.id, Code: http2.ErrCodeProtocol}
	if b.tooLarge {
		bad.Cause = errTooLarge
		return bad
	}
	h := new(head)
	status, err := 0, h.parse(b, responseBlock)
	if err == nil {
		status, err = h.statusCode()
	}
	switch {
	case err != nil:
	case status == 101:
		err = malformed("status 101 in HTTP/2")
	case status < 200 && b.end:
		err = malformed("informational response ends the stream")
	}
	if err != nil {
		h.release()
		bad.Cause = err
		return bad
	}
	c.flood.stream()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(st.heads) >= maxInformational {
		return http2.StreamError{StreamID: b.id, Code: http2.ErrCodeEnhanceYourCalm}
	}
	if status >= 200 {
		st.final = true
		if !st.headRequest && status != 204 && status != 304 {
			st.wantLength = h.contentLength
		}
		if b.end {
			if st.wantLength > 0 {
				return bad
			}
			st.endReceive()
		}
	}
	st.heads = append(st.heads, responseHead{h, status, b.end})
	st.wakeReader()
	return nil
}

type responseHead struct {
	head   *head
	status int
	end    bool
}

// clientStream implements message.ClientStream.
type clientStream struct {
	stream
	cc          *ClientConn
	heads       []responseHead // guarded by conn.mu
	final       bool           // the final head has come; belongs to the reading goroutine
	headRequest bool
	upgrade     bool
	taken       []*head
	resp        message.Response
	closed      bool
}

func (st *clientStream) WriteHead(r *message.Request, end bool) error {
	c := &st.cc.conn
	if len(r.Upgrade) > 0 {
		// Whether extended CONNECT is offered is known only from the SETTINGS.
		if err := st.awaitGreeting(); err != nil {
			return err
		}
	}
	if err := c.w.lock(); err != nil {
		return &message.StreamError{Reason: message.ConnectionTermination, Detail: "http2.write", Unsent: true, Err: err}
	}
	st.headRequest = string(r.Method) == "HEAD"
	st.upgrade = len(r.Upgrade) > 0
	c.mu.Lock()
	if err := st.admit(); err != nil {
		c.mu.Unlock()
		_ = c.w.unlock(false)
		return err
	}
	c.mu.Unlock()
	c.w.beginHeaders()
	c.w.encodeRequest(r)
	c.w.endHeaders(st.id, end)
	if end {
		c.mu.Lock()
		st.sentEnd = true
		c.retire(&st.stream)
		c.mu.Unlock()
	}
	return st.writeError(c.w.unlock(end))
}

// awaitGreeting waits for the server's SETTINGS, which it must send first.
func (st *clientStream) awaitGreeting() error {
	c := st.cc
	select {
	case <-c.greeted:
		return nil
	default:
	}
	limit := prefaceTimeout
	c.mu.Lock()
	if d := st.writeDeadline; !d.IsZero() {
		limit = min(limit, time.Until(d))
	}
	c.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.greeted:
		return nil
	case <-c.done:
		return &message.StreamError{Reason: message.ConnectionTermination, Detail: "http2.connection_closed", Unsent: true, Err: c.Err()}
	case <-timer.C:
		return &message.StreamError{Reason: message.ConnectTimeout, Detail: "http2.no_settings", Unsent: true}
	}
}

// admit gives the stream its number: numbers must reach the wire in order, so
// writer.mu is held, and mu.
func (st *clientStream) admit() error {
	c := &st.cc.conn
	switch {
	case st.recvErr != nil:
		return st.recvErr
	case c.goAway || c.err != nil:
		return &message.StreamError{Reason: message.RefusedStream, Detail: "http2.goaway", Unsent: true, Err: c.err}
	case st.upgrade && !c.peerExtCon:
		return &message.StreamError{Reason: message.ProtocolError, Detail: "http2.extended_connect_not_offered", Unsent: true}
	}
	st.id = c.nextID
	c.nextID += 2
	st.sendWindow = c.peerWindow
	st.stream.client = st
	c.streams[st.id] = &st.stream
	return nil
}

func (st *clientStream) WriteBody(p []byte, end bool) error { return st.writeBody(p, end) }

func (st *clientStream) WriteTrailers(h *message.Header) error { return st.writeTrailers(h) }

func (st *clientStream) ReadHead() (*message.Response, error) {
	c := st.c
	c.mu.Lock()
	for {
		if len(st.heads) > 0 {
			rh := st.heads[0]
			st.heads = st.heads[:copy(st.heads, st.heads[1:])]
			c.mu.Unlock()
			st.fillResponse(rh)
			return &st.resp, nil
		}
		if st.recvErr != nil {
			err := st.recvErr
			c.mu.Unlock()
			return nil, err
		}
		deadline := st.readDeadline
		c.mu.Unlock()
		if err := sleep(st.rd, deadline, &st.rtimer); err != nil {
			return nil, err
		}
		c.mu.Lock()
	}
}

func (st *clientStream) fillResponse(rh responseHead) {
	st.taken = append(st.taken, rh.head)
	r := &st.resp
	r.Status, r.Proto = rh.status, message.HTTP2
	r.Header.Fields = rh.head.fields
	r.BodyLength = rh.head.contentLength
	if rh.end && !st.headRequest && rh.status != 304 {
		r.BodyLength = 0
	}
	if st.upgrade && rh.status == 200 {
		r.Status = 101 // the counterpart of encodeRequest
	}
}

func (st *clientStream) ReadBody() ([]byte, error) { return st.readBody(&st.resp.Trailer) }

func (st *clientStream) ResponseComplete() bool { return st.complete() }

func (st *clientStream) Cancel() {
	st.fail(&message.StreamError{Reason: message.LocalReset})
}

func (st *clientStream) Close() {
	if st.closed {
		return
	}
	st.closed = true
	c := st.c
	c.mu.Lock()
	done := st.recvEnd && st.sentEnd
	c.mu.Unlock()
	if st.id != 0 && !done {
		st.reset(http2.ErrCodeCancel)
	}
	st.release()
	c.mu.Lock()
	pending := st.heads
	st.heads = nil
	c.active--
	idle := c.active == 0
	c.mu.Unlock()
	for _, rh := range pending {
		rh.head.release()
	}
	for _, h := range st.taken {
		h.release()
	}
	if idle {
		st.cc.maybeIdle()
	}
}

// Err is why the connection ended, nil while it lives.
func (c *ClientConn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.err, io.EOF) {
		return io.EOF
	}
	return c.err
}
