// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// ServerConn is the server side of one connection.
type ServerConn struct {
	conn
	handler  message.Handler
	ctx      context.Context
	cancel   context.CancelFunc
	handlers sync.WaitGroup
	held     uint32 // bytes of request heads in use; guarded by conn.mu
}

// NewServerConn makes a server connection; Serve runs it. nc must not have been
// read from, the client preface comes first.
func NewServerConn(ctx context.Context, nc net.Conn, opts Options, handler message.Handler) *ServerConn {
	s := &ServerConn{handler: handler}
	s.conn.setup(nc, opts.withDefaults(), true)
	s.headers = s.onBlock
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// Serve reads the connection until it ends, runs a handler for each stream and
// returns when the last has returned. The error says why it ended; nil when the
// client closed it, or it drained, in order.
func (s *ServerConn) Serve() error {
	_ = s.nc.SetReadDeadline(time.Now().Add(prefaceTimeout))
	go s.w.flusher(s.done)
	err := s.greet()
	if err == nil {
		err = s.preface()
	}
	if err == nil {
		_ = s.nc.SetReadDeadline(time.Time{})
		s.maybeIdle()
		err = s.read()
	}
	s.mu.Lock()
	if s.draining && s.active == 0 {
		err = io.EOF // closeSoon
	}
	s.mu.Unlock()
	s.cancel()
	s.shut(err)
	s.handlers.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *ServerConn) preface() error {
	var buf [len(Preface)]byte
	if _, err := io.ReadFull(s.br, buf[:]); err != nil {
		return fmt.Errorf("http2: preface: %w", err)
	}
	if string(buf[:]) != Preface {
		return s.connectionError(http2.ErrCodeProtocol, errors.New("bad connection preface"))
	}
	return nil
}

// Drain begins a graceful end: new streams are taken until the client has heard
// of it (RFC 9113 section 6.8), running ones finish, then the connection closes.
func (s *ServerConn) Drain() { s.drain() }

// Close ends the connection at once.
func (s *ServerConn) Close() { s.nc.Close() }

var drainPing = [8]byte{'l', 'a', 't', 'e', 'e', 'n', 'd', 'r'}

func (c *conn) drain() {
	c.mu.Lock()
	if c.goAway || c.err != nil {
		c.mu.Unlock()
		return
	}
	c.goAway = true
	c.mu.Unlock()
	_ = c.w.control(func(dst []byte) []byte {
		return appendPing(appendGoAway(dst, maxWindow, http2.ErrCodeNo), false, drainPing)
	})
	time.AfterFunc(c.opts.DrainTimeout, c.finishDrain)
}

// finishDrain sends the GOAWAY that says which streams are the last.
func (c *conn) finishDrain() {
	c.mu.Lock()
	if !c.goAway || c.draining || c.err != nil {
		c.mu.Unlock()
		return
	}
	c.draining = true
	last := c.lastPeerID
	c.mu.Unlock()
	_ = c.w.control(func(dst []byte) []byte { return appendGoAway(dst, last, http2.ErrCodeNo) })
	c.maybeIdle()
}

// onBlock starts a stream, or ends one with trailers.
func (s *ServerConn) onBlock(b *block) error {
	s.mu.Lock()
	st := s.streams[b.id]
	last := s.lastPeerID
	how := s.closed.how(b.id)
	s.mu.Unlock()
	switch {
	case b.id%2 == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case st != nil:
		return s.onTrailers(st, b)
	case b.id <= last && how == closedByUs:
		return s.flood.control() // in flight when we reset it
	case b.id <= last && how == neverOpened:
		return http2.ConnectionError(http2.ErrCodeProtocol) // RFC 9113 section 5.1.1
	case b.id <= last:
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	}
	s.flood.stream()
	return s.open(b)
}

func (c *conn) onTrailers(st *stream, b *block) error {
	c.mu.Lock()
	ended := st.recvEnd
	c.mu.Unlock()
	if ended {
		return http2.StreamError{StreamID: b.id, Code: http2.ErrCodeStreamClosed}
	}
	bad := http2.StreamError{StreamID: b.id, Code: http2.ErrCodeProtocol}
	if !b.end || b.tooLarge {
		return bad
	}
	t := new(head)
	if err := t.parse(b, trailerBlock); err != nil {
		bad.Cause = err
		return bad
	}
	c.mu.Lock()
	if st.wantLength >= 0 && st.received != st.wantLength {
		c.mu.Unlock()
		return bad
	}
	st.trailer = t
	st.endReceive()
	c.mu.Unlock()
	st.wakeReader()
	return nil
}

// open checks a request head and runs its handler.
func (s *ServerConn) open(b *block) error {
	s.mu.Lock()
	s.lastPeerID = b.id
	refuse := s.draining || s.active >= int(s.opts.MaxConcurrentStreams) || s.held+b.size > maxHeldHeads && s.active > 0
	s.mu.Unlock()
	if refuse {
		return http2.StreamError{StreamID: b.id, Code: http2.ErrCodeRefusedStream}
	}
	bad := http2.StreamError{StreamID: b.id, Code: http2.ErrCodeProtocol}
	if b.tooLarge {
		bad.Cause = errTooLarge
		return bad
	}
	st := &serverStream{s: s, size: b.size}
	err := st.head.parse(b, requestBlock)
	if err == nil {
		err = st.head.checkRequest(s.opts.AllowConnect)
	}
	if err == nil && b.end && st.head.contentLength > 0 {
		err = malformed("content-length without a body")
	}
	if err != nil {
		st.head.release()
		bad.Cause = err
		return bad
	}
	st.init(&s.conn, b.id)
	st.recvEnd = b.end
	st.wantLength = st.head.contentLength
	st.fillRequest(b.end)
	s.mu.Lock()
	st.sendWindow = s.peerWindow
	s.streams[b.id] = &st.stream
	s.held += st.size
	s.begin()
	s.mu.Unlock()
	s.handlers.Add(1)
	go st.run()
	return nil
}

// serverStream implements message.ServerStream.
type serverStream struct {
	stream
	s      *ServerConn
	head   head
	size   uint32 // of the head, as maxHeldHeads counts it
	req    message.Request
	status int
	noBody bool // HEAD, 204, 304
}

func (st *serverStream) fillRequest(end bool) {
	h, r := &st.head, &st.req
	r.Method, r.Scheme, r.Authority, r.Path = h.method, h.scheme, h.authority, h.path
	r.Proto = message.HTTP2
	if h.protocol != nil {
		r.Method, r.Upgrade = getMethod, h.protocol
	}
	r.Header.Fields = h.fields
	switch {
	case end:
		r.BodyLength = 0
	default:
		r.BodyLength = h.contentLength
	}
}

var getMethod = []byte("GET")

func (st *serverStream) run() {
	defer st.s.handlers.Done()
	st.s.handler(st.s.ctx, st)
	st.UnwatchPeer()
	st.s.mu.Lock()
	sentEnd, recvEnd := st.sentEnd, st.recvEnd
	st.s.mu.Unlock()
	switch {
	case !sentEnd:
		st.reset(http2.ErrCodeInternal)
	case !recvEnd:
		st.reset(http2.ErrCodeNo) // RFC 9113 section 8.1
	}
	st.release()
	st.head.release()
	st.s.mu.Lock()
	st.s.active--
	st.s.held -= st.size
	last := st.s.active == 0
	st.s.mu.Unlock()
	if last {
		st.s.maybeIdle()
	}
}

func (st *serverStream) Request() *message.Request { return &st.req }

func (st *serverStream) ReadBody() ([]byte, error) { return st.readBody(&st.req.Trailer) }

func (st *serverStream) RequestComplete() bool { return st.complete() }

func (st *serverStream) WriteInformational(status int, h *message.Header) error {
	return st.queue(true, false, func(w *writer) {
		w.beginHeaders()
		r := message.Response{Header: *h}
		w.encodeResponse(&r, status, -1)
		w.endHeaders(st.id, false)
	})
}

func (st *serverStream) WriteHead(r *message.Response, end bool) error {
	status := r.Status
	if status == 101 {
		status = 200 // RFC 8441 section 4
	}
	st.status = status
	head := string(st.req.Method) == "HEAD"
	st.noBody = head || status == 204 || status == 304
	length := r.BodyLength
	if _, grpc := r.Header.Get(message.GRPCStatus); grpc || status < 200 || status == 204 || length == 0 && st.noBody || len(st.req.Upgrade) > 0 {
		length = -1
	}
	return st.queue(false, end, func(w *writer) {
		w.beginHeaders()
		w.encodeResponse(r, status, length)
		w.endHeaders(st.id, end)
	})
}

func (st *serverStream) WriteBody(p []byte, end bool) error {
	if st.noBody {
		p = nil
		if !end {
			return nil
		}
	}
	return st.writeBody(p, end)
}

func (st *serverStream) WriteTrailers(h *message.Header) error { return st.writeTrailers(h) }

func (s *stream) writeTrailers(h *message.Header) error {
	if len(h.Fields) == 0 {
		return s.writeBody(nil, true)
	}
	return s.queue(true, true, func(w *writer) {
		w.beginHeaders()
		w.encodeFields(h)
		if w.encBuf.Len() == 0 { // every field was connection-specific
			*w.out = appendData(*w.out, s.id, nil, true)
			return
		}
		w.endHeaders(s.id, true)
	})
}

func (st *serverStream) Reset(reason message.ResetReason) {
	st.fail(&message.StreamError{Reason: message.LocalReset})
	st.reset(code(reason, true))
}

func (st *serverStream) Drain() { st.s.drain() }

func (st *serverStream) Counters() (received, sent uint64) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	return uint64(st.received), st.sent
}
