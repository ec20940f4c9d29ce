// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
)

// ServerConfig is what a ServerConn is told once.
type ServerConfig struct {
	Limits
	TLS                bool // the client speaks TLS: the scheme is https
	Trailers           bool // pass trailers on (enable_trailers)
	NoAbsoluteURL      bool // refuse targets in absolute form (allow_absolute_url false)
	AllowChunkedLength bool // accept both length fields, forget Content-Length, close afterwards
	// LingerTimeout is how long a connection closed with unread request bytes
	// is read on, so that the response is not lost in a reset; 1 s when 0.
	LingerTimeout time.Duration
}

// ServerConn is a downstream connection. It is the message.ServerStream of the
// exchange in hand: HTTP/1.1 has one at a time.
type ServerConn struct {
	rd  reader
	wr  writer
	cfg ServerConfig
	req *message.Request // pooled, nil between exchanges

	headDone bool // the final head was queued
	tunnel   bool
	closing  bool // this exchange is the last
	aborted  atomic.Bool
	waiting  atomic.Bool // in Next, before the first byte

	// expect is 1 while a client waits for 100 Continue. The goroutine that
	// reads the body sends it, the one that writes the response cancels it; mu
	// keeps them from writing at once.
	expect atomic.Int32
	mu     sync.Mutex

	watch watcher
}

var requestPool = sync.Pool{New: func() any {
	return &message.Request{Header: message.Header{Fields: make([]message.Field, 0, 24)}}
}}

// NewServerConn makes a codec over conn; cfg.TLS says whether that is encrypted.
func NewServerConn(conn net.Conn, cfg ServerConfig) *ServerConn {
	c := &ServerConn{cfg: cfg}
	ctl, data := sockio.Split(conn)
	c.rd.init(ctl, data, cfg.Limits)
	c.rd.first = c.requestLine
	c.wr.init(ctl, data)
	if cfg.LingerTimeout == 0 {
		c.cfg.LingerTimeout = time.Second
	}
	c.watch.init(ctl)
	return c
}

func (c *ServerConn) requestLine(line []byte) *message.StreamError { return requestLine(line, c.req) }

// Next waits for the next request head. idle bounds the wait for its first byte
// (zero: none), headTimeout the time from there to its end. It returns io.EOF
// when the client left or stayed idle between requests; a *message.StreamError
// with a Status wants that answer, and the request parsed so far is there to be
// logged; the deadline error after the first byte wants 408.
func (c *ServerConn) Next(idle time.Time, headTimeout time.Duration) error {
	c.rd.ctl.SetReadDeadline(idle)
	c.waiting.Store(true)
	if c.rd.w == c.rd.r {
		if err := c.rd.firstFill(); err != nil {
			return io.EOF
		}
	}
	if !c.waiting.CompareAndSwap(true, false) {
		return io.EOF // CloseIdle came first
	}
	c.begin()
	armed := false
	for {
		done, perr := c.rd.lines(&c.req.Header)
		if perr != nil {
			c.closing = true
			return perr
		}
		if done {
			break
		}
		if !armed {
			armed = true
			c.rd.ctl.SetReadDeadline(deadline(headTimeout))
		}
		switch err := c.rd.fillHead(); {
		case err == errAgain:
			c.req.Reset()
		case errors.Is(err, io.EOF) && !c.rd.head.started:
			return io.EOF
		case err != nil:
			c.closing = true
			return asStreamError(err)
		}
	}
	return c.accept()
}

func deadline(d time.Duration) time.Time {
	if d <= 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

func (c *ServerConn) begin() {
	c.req = requestPool.Get().(*message.Request)
	c.req.Reset()
	c.headDone, c.tunnel, c.closing = false, false, false
	c.wr.begin()
	c.expect.Store(0)
}

// accept finishes a parsed head and begins its body.
func (c *ServerConn) accept() error {
	h := &c.rd.head
	if err := h.request(c.req, &c.cfg); err != nil {
		c.closing = true
		return err
	}
	// What follows a request that asks for a tunnel may be meant for the tunnel.
	// When none comes of it, those bytes must not be read as the next request.
	c.closing = h.close || c.req.Proto == message.HTTP10 && !h.keepAlive ||
		isConnect(c.req.Method) || len(c.req.Upgrade) > 0
	f := byLength
	if c.req.BodyLength < 0 {
		f = byChunks
	}
	c.rd.beginBody(f, max(c.req.BodyLength, 0))
	if h.expect && c.req.Proto == message.HTTP11 && !c.rd.complete {
		c.expect.Store(1)
	}
	return nil
}

// Request implements message.ServerStream.
func (c *ServerConn) Request() *message.Request { return c.req }

// ReadBody implements message.ServerStream.
func (c *ServerConn) ReadBody() ([]byte, error) {
	if c.expect.Load() == 1 && !c.rd.buffered() {
		if err := c.sendContinue(); err != nil {
			return nil, err
		}
	}
	p, err := c.rd.next(&c.req.Trailer)
	if err != nil && err != io.EOF && c.aborted.Load() {
		err = errAborted
	}
	return p, err
}

var continueLine = []byte("HTTP/1.1 100 Continue\r\n\r\n")

func (c *ServerConn) sendContinue() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.expect.CompareAndSwap(1, 0) {
		return nil
	}
	if _, err := c.wr.data.Write(continueLine); err != nil {
		return asStreamError(err)
	}
	return nil
}

// RequestComplete implements message.ServerStream.
func (c *ServerConn) RequestComplete() bool { return c.rd.received() }

// Buffered implements message.ServerStream.
func (c *ServerConn) Buffered() bool { return c.rd.buffered() }

// WriteInformational implements message.ServerStream.
func (c *ServerConn) WriteInformational(status int, h *message.Header) error {
	if c.req.Proto != message.HTTP11 || status < 100 || status > 199 || status == 101 || c.headDone {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if status == 100 {
		c.expect.Store(0)
	}
	c.wr.borrow()
	start := len(c.wr.out)
	c.wr.out = append(c.wr.out, statusLines[status]...)
	n := c.wr.fields(h)
	c.wr.out = append(c.wr.out, '\r', '\n')
	if err := c.wr.check(start, n+2); err != nil {
		return err
	}
	return c.wr.flush()
}

// WriteHead implements message.ServerStream.
func (c *ServerConn) WriteHead(r *message.Response, end bool) error {
	if c.expect.Load() != 0 {
		// The client was never told to send its body: it may or may not come, so
		// nothing can follow on this connection.
		c.mu.Lock()
		if c.expect.Swap(0) == 1 {
			c.closing = true
		}
		c.mu.Unlock()
	}
	if c.headDone || r.Status < 101 || r.Status > 599 {
		return c.wr.fail(errBadOutput)
	}
	c.headDone = true
	wr := &c.wr
	wr.borrow()
	start := len(wr.out)
	wr.out = append(wr.out, statusLines[r.Status]...)
	n := wr.fields(&r.Header) + 2
	n += c.frameHead(r, end)
	wr.out = append(wr.out, '\r', '\n')
	if err := wr.check(start, n); err != nil {
		return wr.fail(err)
	}
	if end && !c.tunnel {
		wr.done = true
		return wr.finish()
	}
	if c.tunnel {
		return wr.flush()
	}
	return nil
}

// frameHead queues framing and connection fields and returns their number.
func (c *ServerConn) frameHead(r *message.Response, end bool) int {
	wr, n := &c.wr, 0
	switch {
	case r.Status == 101:
		c.becomeTunnel()
		wr.out = append(wr.out, "connection: upgrade\r\nupgrade: "...)
		wr.out = append(wr.out, c.req.Upgrade...)
		wr.out = append(wr.out, '\r', '\n')
		return 2
	case isConnect(c.req.Method) && r.Status/100 == 2:
		c.becomeTunnel()
		return 0
	case isHead(c.req.Method) || bodyless(r.Status):
		wr.mute = true
		if r.BodyLength >= 0 && r.Status != 204 && r.Status >= 200 {
			wr.frame(byLength, r.BodyLength)
			n++
		}
		wr.framing, wr.left = byClose, 0
	case end:
		wr.frame(byLength, 0)
		n++
	case r.BodyLength >= 0:
		wr.frame(byLength, r.BodyLength)
		n++
	case c.req.Proto == message.HTTP11:
		wr.frame(byChunks, 0)
		n++
	default:
		wr.framing, c.closing = byClose, true
	}
	switch {
	case c.closing:
		wr.out = append(wr.out, "connection: close\r\n"...)
		n++
	case c.req.Proto == message.HTTP10:
		wr.out = append(wr.out, "connection: keep-alive\r\n"...)
		n++
	}
	return n
}

func (c *ServerConn) becomeTunnel() {
	c.tunnel, c.closing = true, true
	c.wr.framing = asTunnel
	c.rd.framing, c.rd.complete, c.rd.broken = asTunnel, false, nil
}

// WriteBody implements message.ServerStream.
func (c *ServerConn) WriteBody(p []byte, end bool) error {
	err := c.wr.body(p, end)
	if err == nil && c.tunnel {
		if err = c.wr.flush(); err == nil && end {
			err = closeWrite(c.wr.data)
		}
	}
	return err
}

func closeWrite(conn net.Conn) error {
	if h, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := h.CloseWrite(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return asStreamError(err)
		}
	}
	return nil
}

// WriteTrailers implements message.ServerStream.
func (c *ServerConn) WriteTrailers(h *message.Header) error {
	if !c.cfg.Trailers || c.wr.framing != byChunks || c.wr.mute || len(h.Fields) == 0 {
		return c.wr.body(nil, true)
	}
	return c.wr.trailers(h)
}

// Flush implements message.ServerStream.
func (c *ServerConn) Flush() error { return c.wr.flush() }

// Reset implements message.ServerStream.
func (c *ServerConn) Reset(message.ResetReason) {
	c.aborted.Store(true)
	c.rd.ctl.Interrupt()
}

// SetReadDeadline implements message.ServerStream.
func (c *ServerConn) SetReadDeadline(t time.Time) { _ = c.rd.ctl.SetReadDeadline(t) }

// SetWriteDeadline implements message.ServerStream.
func (c *ServerConn) SetWriteDeadline(t time.Time) { _ = c.rd.ctl.SetWriteDeadline(t) }

// Drain implements message.ServerStream.
func (c *ServerConn) Drain() { c.closing = true }

// Counters implements message.ServerStream.
func (c *ServerConn) Counters() (received, sent uint64) { return c.rd.counted, c.wr.counted }

// Finish ends the exchange and says whether another can follow. Both message
// ends must be proven: the request read to its end, the response written to its
// end.
func (c *ServerConn) Finish() (more bool) {
	c.watch.stop()
	if c.rd.framing == byLength && !c.rd.complete && c.rd.received() {
		// A body that nobody read but that is here already is passed over.
		c.rd.r += int(c.rd.left)
		c.rd.complete = true
	}
	more = !c.closing && !c.aborted.Load() && c.wr.failed == nil && c.wr.done && c.rd.complete && !c.tunnel
	if c.req != nil {
		requestPool.Put(c.req)
		c.req = nil
	}
	if more {
		c.wr.release()
		c.rd.release()
	}
	return more
}

// CloseIdle makes a Next that waits for its first byte return io.EOF. Any
// goroutine may call it; a request whose head has begun is not disturbed.
func (c *ServerConn) CloseIdle() {
	if c.waiting.CompareAndSwap(true, false) {
		c.rd.ctl.Interrupt()
	}
}

// Close ends the connection. After an unfinished request it says that no more
// is coming and reads on for a moment: closing at once would make the kernel
// send a reset that can overtake the response.
func (c *ServerConn) Close() {
	unread := !c.rd.complete || c.rd.r < c.rd.w
	linger := unread && c.wr.done && c.wr.failed == nil && !c.aborted.Load() && !c.tunnel
	c.wr.release()
	if linger && closeWrite(c.wr.data) == nil {
		c.linger()
	}
	c.rd.drop()
	if c.aborted.Load() || c.wr.failed == nil && c.headDone && !c.wr.done && !c.tunnel {
		// An unfinished response must not look like a finished one.
		c.rd.ctl.Abort()
		return
	}
	_ = c.rd.data.Close()
}

// maxLinger bounds what is read and thrown away at a connection's end.
const maxLinger = 1 << 20

func (c *ServerConn) linger() {
	c.rd.ctl.SetReadDeadline(time.Now().Add(c.cfg.LingerTimeout))
	for read := 0; read < maxLinger; {
		if err := c.rd.fillBody(); err != nil {
			return
		}
		read += c.rd.w
		c.rd.r = c.rd.w
	}
}

// WatchPeer implements message.ServerStream.
func (c *ServerConn) WatchPeer(gone func()) { c.watch.start(gone) }

// UnwatchPeer implements message.ServerStream.
func (c *ServerConn) UnwatchPeer() { c.watch.stop() }
