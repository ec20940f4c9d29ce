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

// ClientConfig is what a ClientConn is told once.
type ClientConfig struct {
	Limits
	Trailers bool // send trailers (enable_trailers)
	// Released is called by Close at the end of each exchange: reusable says
	// whether both message ends are proven, so that another exchange may begin.
	// When it is not, the connection has been closed.
	Released func(c *ClientConn, reusable bool)
}

// ClientConn is an upstream connection. It is the message.ClientStream of the
// exchange in hand.
type ClientConn struct {
	rd  reader
	wr  writer
	cfg ClientConfig

	resp     *message.Response // pooled, nil between exchanges
	inUse    bool
	held     bool // the request is queued whole, to be sent by ReadHead
	reused   bool // this is not the first exchange
	headDone bool // the final head was returned
	anyByte  bool // of this exchange's response
	closing  bool
	tunnel   bool
	connect  bool
	isHead   bool
	upgrade  []byte // what was offered, nil without an upgrade
	canceled atomic.Bool
	// informational counts the heads before the final one.
	informational int

	// Owner is for the pool that holds the connection.
	Owner any
	// Next links idle connections in their pool.
	Next *ClientConn
	// IdleSince is when the connection was last given back.
	IdleSince time.Time
	// Exchanges counts those begun on this connection.
	Exchanges int
}

var responsePool = sync.Pool{New: func() any {
	return &message.Response{Header: message.Header{Fields: make([]message.Field, 0, 24)}}
}}

// NewClientConn makes a codec over conn.
func NewClientConn(conn net.Conn, cfg ClientConfig) *ClientConn {
	c := &ClientConn{cfg: cfg}
	ctl, data := sockio.Split(conn)
	c.rd.init(ctl, data, cfg.Limits)
	c.rd.first = c.statusLine
	c.wr.init(ctl, data)
	return c
}

func (c *ClientConn) statusLine(line []byte) *message.StreamError { return statusLine(line, c.resp) }

// Begin starts an exchange. The connection must be idle.
func (c *ClientConn) Begin() message.ClientStream {
	c.resp = responsePool.Get().(*message.Response)
	c.resp.Reset()
	c.inUse, c.headDone, c.anyByte, c.closing, c.tunnel = true, false, false, false, false
	c.connect, c.isHead, c.upgrade, c.held = false, false, nil, false
	c.informational = 0
	c.reused = c.Exchanges > 0
	c.Exchanges++
	c.wr.begin()
	c.wr.hold = true
	c.rd.complete = false
	return c
}

// Conn is the connection below, for its addresses and TLS state.
func (c *ClientConn) Conn() net.Conn { return c.rd.data }

// WriteHead implements message.ClientStream. A head alone is held back and the
// read after it finds out whether the server has closed a reused connection; a
// body may be read and sent before that read, so the question is asked here.
func (c *ClientConn) WriteHead(r *message.Request, end bool) error {
	wr := &c.wr
	if !end && c.reused && !c.Alive() {
		return wr.fail(errStale)
	}
	wr.borrow()
	start := len(wr.out)
	out := wr.out
	c.connect, c.isHead, c.upgrade = isConnect(r.Method) && len(r.Upgrade) == 0, isHead(r.Method), r.Upgrade
	target := r.Path
	switch {
	case c.connect:
		target = r.Authority
		out = append(out, "CONNECT"...)
	case isConnect(r.Method): // RFC 8441: an upgrade that came over HTTP/2
		out = append(out, "GET"...)
	default:
		out = append(out, r.Method...)
	}
	out = append(out, ' ')
	out = append(out, target...)
	out = append(out, " HTTP/1.1\r\nhost: "...)
	out = append(out, r.Authority...)
	wr.out = append(out, '\r', '\n')
	n := wr.fields(&r.Header) + 3
	n += c.frameHead(r, end)
	wr.out = append(wr.out, '\r', '\n')
	if err := wr.check(start, n); err != nil || !cleanTarget(target) || !cleanTarget(r.Method) {
		return wr.fail(errBadOutput)
	}
	if end {
		wr.done = true
		c.noteHeld()
	}
	return nil
}

// noteHeld remembers that the whole request is queued and left for ReadHead.
// Once anything was sent it never is, so a second goroutine that sends the body
// does not write here.
func (c *ClientConn) noteHeld() {
	if c.wr.done && !c.wr.sent {
		c.held = true
	}
}

// cleanTarget makes sure that what stands in the request line cannot end it.
func cleanTarget(t []byte) bool {
	for _, c := range t {
		if c <= 0x20 || c == 0x7f {
			return false
		}
	}
	return len(t) > 0
}

func (c *ClientConn) frameHead(r *message.Request, end bool) int {
	wr := &c.wr
	switch {
	case c.connect:
		wr.framing, wr.left = byLength, 0
		return 0
	case len(c.upgrade) > 0: // what follows is for the tunnel: no body
		wr.out = append(wr.out, "connection: upgrade\r\nupgrade: "...)
		wr.out = append(wr.out, r.Upgrade...)
		wr.out = append(wr.out, '\r', '\n')
		return 2
	case end || r.BodyLength == 0:
		switch string(r.Method) {
		case "GET", "HEAD", "DELETE", "OPTIONS", "TRACE":
			wr.framing, wr.left = byLength, 0
			return 0
		}
		wr.frame(byLength, 0)
	case r.BodyLength > 0:
		wr.frame(byLength, r.BodyLength)
	default:
		wr.frame(byChunks, 0)
	}
	return 1
}

// WriteBody implements message.ClientStream.
func (c *ClientConn) WriteBody(p []byte, end bool) error {
	err := c.wr.body(p, end)
	c.noteHeld()
	if err == nil && c.tunnel {
		if err = c.wr.flush(); err == nil && end {
			err = closeWrite(c.wr.data)
		}
	}
	return c.canceledOr(err)
}

// WriteTrailers implements message.ClientStream.
func (c *ClientConn) WriteTrailers(h *message.Header) error {
	if !c.cfg.Trailers || c.wr.framing != byChunks || len(h.Fields) == 0 {
		return c.WriteBody(nil, true)
	}
	err := c.wr.trailers(h)
	c.noteHeld()
	return c.canceledOr(err)
}

// Flush implements message.ClientStream. A whole request that fits the write
// buffer is left for ReadHead, which finds out in the same step whether the
// server has closed a reused connection.
func (c *ClientConn) Flush() error {
	if c.wr.done {
		return c.canceledOr(c.wr.finish())
	}
	return c.canceledOr(c.wr.flush())
}

// ReadHead implements message.ClientStream.
func (c *ClientConn) ReadHead() (*message.Response, error) {
	if c.headDone {
		return nil, errCodec
	}
	if c.resp.Status != 0 { // after an informational head
		c.resp.Reset()
		pos := c.rd.head.pos
		c.rd.head.reset()
		c.rd.head.pos, c.rd.r = pos, pos
	}
	c.rd.head.blank = true // responses have no blank line before them
	for {
		if c.rd.buf != nil && c.rd.r < c.rd.w {
			done, perr := c.rd.lines(&c.resp.Header)
			if perr != nil {
				return nil, c.protocol(perr)
			}
			if done {
				return c.acceptHead()
			}
		}
		switch err := c.fill(); {
		case err == errAgain:
			c.resp.Reset()
		case err != nil:
			return nil, err
		}
	}
}

func (c *ClientConn) protocol(e *message.StreamError) error {
	c.closing = true
	return &message.StreamError{Reason: message.ProtocolError, Status: 502, Detail: e.Detail}
}

// fill reads head bytes, after the request if that is still held back.
func (c *ClientConn) fill() error {
	held := c.held
	c.held = false
	fresh := !c.anyByte
	if held {
		if err := c.hold(); err != nil {
			return c.canceledOr(err)
		}
	}
	err := c.rd.fillHead()
	if held {
		c.wr.release()
		c.wr.sent = true
	}
	if err == nil && held && c.rd.ctl.Early() {
		// The server spoke before it was asked: that is no answer to this request.
		return c.protocol(errUnasked)
	}
	if err == nil || err == errAgain {
		c.anyByte = true
		return err
	}
	c.closing = true
	switch {
	case errors.Is(err, sockio.ErrStale):
		return c.canceledOr(errStale)
	case errors.Is(err, io.EOF) && fresh && held && c.reused && c.rd.ctl.Early():
		return errStale
	}
	return c.canceledOr(asStreamError(err))
}

// hold hands the queued request to the read that follows.
func (c *ClientConn) hold() error {
	if c.wr.plain {
		c.rd.ctl.Defer(c.wr.out)
		return nil
	}
	c.rd.ctl.DeferWrites(true)
	_, err := c.wr.data.Write(c.wr.out)
	if err != nil {
		return c.wr.fail(err)
	}
	return nil
}

func (c *ClientConn) canceledOr(err error) error {
	if err != nil && c.canceled.Load() {
		return errAborted
	}
	return err
}

// maxInformational bounds the informational heads of one response, those that
// nobody passes on included: a server may have a few to say, and a flood of them
// is work for this side and its client without end.
const maxInformational = 100

// acceptHead decides what follows the head (RFC 9112 section 6.3).
func (c *ClientConn) acceptHead() (*message.Response, error) {
	r, h := c.resp, &c.rd.head
	if r.Status < 200 && r.Status != 101 {
		if c.informational++; c.informational > maxInformational {
			return nil, c.protocol(errInformational)
		}
		h.finish(&r.Header)
		c.rd.r = h.pos
		return r, nil
	}
	if h.te && (h.length >= 0 || r.Proto == message.HTTP10) {
		return nil, c.protocol(errBothLengths)
	}
	h.finish(&r.Header)
	c.headDone = true
	c.closing = h.close || r.Proto == message.HTTP10 && !h.keepAlive
	switch {
	case r.Status == 101:
		if !offered(c.upgrade, h.upgrade) {
			return nil, c.protocol(errUpgrade)
		}
		c.becomeTunnel()
	case c.connect && r.Status/100 == 2:
		c.becomeTunnel()
	case c.isHead || bodyless(r.Status):
		r.BodyLength = h.length
		c.rd.beginBody(byLength, 0)
		if r.Status == 204 {
			r.BodyLength = 0
		}
	case h.chunked:
		r.BodyLength = -1
		c.rd.beginBody(byChunks, 0)
	case h.length >= 0:
		r.BodyLength = h.length
		c.rd.beginBody(byLength, h.length)
	default:
		r.BodyLength = -1
		c.closing = true
		c.rd.beginBody(byClose, 0)
	}
	return r, nil
}

// offered says whether a 101 switches to what the request offered: its Upgrade
// field must name that and nothing else (RFC 9110 section 7.8).
func offered(offer, chosen []byte) bool {
	if len(offer) == 0 || len(chosen) == 0 {
		return false
	}
	lowerInPlace(chosen)
	for len(chosen) > 0 {
		var t []byte
		if t, chosen = nextToken(chosen); !hasToken(offer, string(t)) {
			return false
		}
	}
	return true
}

func (c *ClientConn) becomeTunnel() {
	c.resp.BodyLength = -1
	c.tunnel, c.closing = true, true
	c.rd.beginBody(asTunnel, 0)
	c.wr.framing, c.wr.done = asTunnel, false
}

// ReadBody implements message.ClientStream.
func (c *ClientConn) ReadBody() ([]byte, error) {
	if !c.headDone {
		return nil, errCodec
	}
	p, err := c.rd.next(&c.resp.Trailer)
	if err != nil && err != io.EOF {
		c.closing = true
		err = c.canceledOr(err)
	}
	return p, err
}

// ResponseComplete implements message.ClientStream.
func (c *ClientConn) ResponseComplete() bool { return c.headDone && c.rd.received() }

// Buffered implements message.ClientStream.
func (c *ClientConn) Buffered() bool { return c.rd.buffered() }

// SetReadDeadline implements message.ClientStream.
func (c *ClientConn) SetReadDeadline(t time.Time) { _ = c.rd.ctl.SetReadDeadline(t) }

// SetWriteDeadline implements message.ClientStream.
func (c *ClientConn) SetWriteDeadline(t time.Time) { _ = c.rd.ctl.SetWriteDeadline(t) }

// Cancel implements message.ClientStream.
func (c *ClientConn) Cancel() {
	c.canceled.Store(true)
	c.rd.ctl.Interrupt()
}

// Close implements message.ClientStream.
func (c *ClientConn) Close() {
	if !c.inUse {
		return
	}
	c.inUse = false
	reusable := c.headDone && c.rd.complete && c.wr.done && c.wr.failed == nil && !c.closing &&
		!c.canceled.Load() && c.rd.r == c.rd.w && len(c.wr.out) == 0
	responsePool.Put(c.resp)
	c.resp = nil
	c.wr.release()
	if reusable {
		c.rd.release()
	} else {
		c.Shut()
	}
	if c.cfg.Released != nil {
		c.cfg.Released(c, reusable)
	}
}

// Shut closes an idle connection.
func (c *ClientConn) Shut() {
	c.rd.drop()
	_ = c.rd.data.Close()
}

// Alive says whether an idle connection can still be used, as far as one can
// tell without writing.
func (c *ClientConn) Alive() bool { return c.rd.ctl.Alive(!c.rd.plain) }
