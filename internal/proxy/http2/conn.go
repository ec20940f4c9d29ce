// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// conn is what both sides of a connection share: reading, settings, flow
// control, the table of streams.
type conn struct {
	opts   Options
	server bool
	nc     net.Conn
	w      *writer
	br     *bufio.Reader
	fr     *http2.Framer
	dec    *hpack.Decoder
	block  block
	flood  floodGuard

	// headers handles a complete block; it runs on the reading goroutine.
	headers func(b *block) error
	settled func() // tells that the peer's SETTINGS are in force; may be nil

	done chan struct{} // closed when the reader has ended

	mu         sync.Mutex // guards what follows and the flow-control state of streams
	streams    map[uint32]*stream
	lastPeerID uint32 // highest stream the peer opened
	nextID     uint32 // next stream we open (client)
	sendWindow int64
	peerWindow int64 // peer's SETTINGS_INITIAL_WINDOW_SIZE
	peerMax    uint32
	peerExtCon bool  // peer's SETTINGS_ENABLE_CONNECT_PROTOCOL
	recvWindow int64 // what the peer may still send
	consumed   int64 // read by streams, not yet given back to the peer
	closed     closedStreams
	err        error // why the connection ended
	goAway     bool  // no new streams: sent (server) or received (client)
	draining   bool  // the second GOAWAY is out
	idle       *time.Timer
	active     int // exchanges not yet finished
}

func (c *conn) setup(nc net.Conn, opts Options, server bool) {
	c.opts, c.server, c.nc = opts, server, nc
	c.w = newWriter(nc, opts.WriteTimeout)
	c.done = make(chan struct{})
	c.streams = make(map[uint32]*stream)
	c.nextID = 1
	c.sendWindow, c.peerWindow = defaultWindow, defaultWindow
	c.peerMax = 100 // until SETTINGS says otherwise
	c.recvWindow = int64(max(opts.ConnWindow, defaultWindow))
	c.br = bufio.NewReaderSize(nc, 8<<10)
	c.fr = http2.NewFramer(io.Discard, c.br)
	c.fr.SetReuseFrames()
	c.fr.SetMaxReadFrameSize(defaultMaxFrame)
	c.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) { c.block.emit(f, opts.MaxHeaderBytes, opts.MaxHeaderFields) })
	c.dec.SetMaxStringLength(int(opts.MaxHeaderBytes))
}

// greet queues our SETTINGS and the connection window.
func (c *conn) greet() error {
	settings := []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: c.opts.StreamWindow},
		{ID: http2.SettingMaxHeaderListSize, Val: c.opts.MaxHeaderBytes},
	}
	if c.server {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.opts.MaxConcurrentStreams})
		if c.opts.AllowConnect {
			settings = append(settings, http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
		}
	} else {
		settings = append(settings, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	}
	if err := c.w.lock(); err != nil {
		return err
	}
	if !c.server {
		*c.w.out = append(*c.w.out, Preface...)
	}
	*c.w.out = appendSettings(*c.w.out, settings...)
	if c.opts.ConnWindow > defaultWindow {
		*c.w.out = appendWindowUpdate(*c.w.out, 0, c.opts.ConnWindow-defaultWindow)
	}
	return c.w.unlock(true)
}

// read handles frames until the connection ends and returns why; io.EOF when
// the peer closed it between streams.
func (c *conn) read() error {
	first := true
	for {
		f, err := c.fr.ReadFrame()
		if err == nil {
			if _, ok := f.(*http2.SettingsFrame); first && !ok {
				err = http2.ConnectionError(http2.ErrCodeProtocol) // RFC 9113 section 3.4
			} else {
				err = c.handle(f)
			}
			first = false
		}
		if err == nil {
			continue
		}
		var se http2.StreamError
		if errors.As(err, &se) {
			if err := c.streamError(se); err != nil {
				return err
			}
			continue
		}
		var ce http2.ConnectionError
		switch {
		case errors.As(err, &ce):
			return c.connectionError(http2.ErrCode(ce), err)
		case errors.Is(err, http2.ErrFrameTooLarge):
			return c.connectionError(http2.ErrCodeFrameSize, err)
		case errors.Is(err, errControlFlood) || errors.Is(err, errFlood):
			return c.connectionError(http2.ErrCodeEnhanceYourCalm, err)
		}
		return err
	}
}

// streamError resets one stream for what the peer did on it.
func (c *conn) streamError(se http2.StreamError) error {
	if c.block.id != 0 {
		// Between HEADERS and its end nothing else may come.
		return c.connectionError(http2.ErrCodeProtocol, se)
	}
	c.mu.Lock()
	st := c.streams[se.StreamID]
	c.mu.Unlock()
	if err := c.flood.reset(); err != nil {
		return c.connectionError(http2.ErrCodeEnhanceYourCalm, err)
	}
	if st != nil {
		st.fail(&message.StreamError{Reason: message.ProtocolError, Detail: "http2.violation.of.messaging.rule", Err: se})
		st.reset(se.Code)
		return nil
	}
	c.mu.Lock()
	c.closed.add(se.StreamID, closedByUs)
	c.mu.Unlock()
	return c.w.control(func(dst []byte) []byte { return appendRST(dst, se.StreamID, se.Code) })
}

// connectionError tells the peer why the connection ends (RFC 9113 section
// 5.4.1). It is the reader's last act.
func (c *conn) connectionError(code http2.ErrCode, err error) error {
	c.mu.Lock()
	last := c.lastPeerID
	c.mu.Unlock()
	_ = c.w.control(func(dst []byte) []byte { return appendGoAway(dst, last, code) })
	return fmt.Errorf("http2: %s: %w", code, err)
}

func (c *conn) handle(f http2.Frame) error {
	if c.block.id != 0 {
		if _, ok := f.(*http2.ContinuationFrame); !ok {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
	}
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.onData(f)
	case *http2.HeadersFrame:
		return c.onHeaders(f)
	case *http2.ContinuationFrame:
		return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.WindowUpdateFrame:
		return c.onWindowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.onReset(f)
	case *http2.SettingsFrame:
		return c.onSettings(f)
	case *http2.PingFrame:
		return c.onPing(f)
	case *http2.GoAwayFrame:
		return c.onGoAway(f)
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
		return c.flood.control()
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol) // never enabled
	}
	return c.flood.control() // unknown types are ignored (RFC 9113 section 4.1)
}

// isIdle says whether a stream was never opened. The caller holds mu.
func (c *conn) isIdle(id uint32) bool {
	if peers := id%2 == 1; peers == c.server {
		return id > c.lastPeerID
	}
	return c.server || id >= c.nextID
}

func (c *conn) onHeaders(f *http2.HeadersFrame) error {
	if f.HasPriority() && f.Priority.StreamDep == f.StreamID {
		// The block must still pass through the decoder, so this cannot be a mere
		// stream error without reading it; the peer is broken either way.
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.block = block{fields: c.block.fields[:0], id: f.StreamID, end: f.StreamEnded()}
	c.dec.SetEmitEnabled(true)
	return c.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
}

func (c *conn) fragment(p []byte, last bool) error {
	b := &c.block
	b.encoded += uint32(len(p))
	b.continuations++
	// CVE-2024-27316 and its kin: a header block without end.
	if b.encoded > 2*c.opts.MaxHeaderBytes || b.continuations > maxContinuations {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	if _, err := c.dec.Write(p); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if !last {
		return nil
	}
	if err := c.dec.Close(); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	defer func() { c.block.id = 0 }()
	return c.headers(b)
}

func (c *conn) onData(f *http2.DataFrame) error {
	c.mu.Lock()
	st := c.streams[f.StreamID]
	n := int64(f.Length)
	if st == nil && c.isIdle(f.StreamID) {
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if n > c.recvWindow {
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.recvWindow -= n
	if st == nil || st.recvEnd || st.dead.Load() {
		// Nobody will read it: the connection gets its window back now.
		how := c.closed.how(f.StreamID)
		c.giveBack(nil, n)
		half := st != nil && st.recvEnd
		c.mu.Unlock()
		if how == closedByUs || st != nil && !half {
			return c.flood.control() // in flight when we reset it
		}
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	if st.client != nil && !st.client.final {
		// RFC 9113 section 8.1: a response begins with HEADERS.
		c.giveBack(nil, n)
		c.mu.Unlock()
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
	}
	if n > st.recvWindow {
		c.mu.Unlock()
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	st.recvWindow -= n
	data := f.Data()
	st.received += int64(len(data))
	bad := st.wantLength >= 0 && (st.received > st.wantLength || f.StreamEnded() && st.received != st.wantLength)
	if pad := n - int64(len(data)); pad > 0 {
		c.giveBack(st, pad)
	}
	if !bad {
		st.push(data)
		if f.StreamEnded() {
			st.endReceive()
		}
	} else {
		c.giveBack(nil, int64(len(data)))
	}
	c.mu.Unlock()
	if bad { // RFC 9113 section 8.1.1: content-length and DATA disagree
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
	}
	st.wakeReader()
	if len(data) == 0 && !f.StreamEnded() {
		return c.flood.empty()
	}
	c.flood.data()
	return nil
}

// giveBack returns received bytes to the peer's windows, in pieces worth a
// frame. st may be nil. The caller holds mu.
func (c *conn) giveBack(st *stream, n int64) {
	c.consumed += n
	if c.consumed >= int64(c.opts.ConnWindow)/2 {
		c.recvWindow += c.consumed
		c.windowUpdate(0, c.consumed)
		c.consumed = 0
	}
	if st == nil || st.recvEnd || st.dead.Load() {
		return
	}
	st.consumed += n
	if st.consumed >= int64(c.opts.StreamWindow)/2 {
		st.recvWindow += st.consumed
		c.windowUpdate(st.id, st.consumed)
		st.consumed = 0
	}
}

func (c *conn) windowUpdate(id uint32, n int64) {
	// A full control queue ends the connection when the peer makes us answer
	// next; here it only delays the window.
	_ = c.w.control(func(dst []byte) []byte { return appendWindowUpdate(dst, id, uint32(n)) })
}

func (c *conn) onWindowUpdate(f *http2.WindowUpdateFrame) error {
	if err := c.flood.window(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		if c.sendWindow += int64(f.Increment); c.sendWindow > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		for _, st := range c.streams {
			st.wakeWriter()
		}
		return nil
	}
	st := c.streams[f.StreamID]
	if st == nil {
		if c.isIdle(f.StreamID) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil
	}
	if st.sendWindow += int64(f.Increment); st.sendWindow > maxWindow {
		return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
	}
	st.wakeWriter()
	return nil
}

func (c *conn) onReset(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	st := c.streams[f.StreamID]
	if st == nil && c.isIdle(f.StreamID) {
		c.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.closed.add(f.StreamID, closedByReset)
	c.mu.Unlock()
	if st == nil {
		return c.flood.control()
	}
	reason := message.RemoteReset
	if f.ErrCode == http2.ErrCodeRefusedStream {
		reason = message.RefusedStream
	}
	// RFC 9113 section 8.1: after a complete response NO_ERROR only asks the
	// client to stop sending; what was received stays readable.
	if f.ErrCode == http2.ErrCodeNo && !c.server && st.responseEnded() {
		st.stopSending()
		return c.flood.reset()
	}
	st.fail(&message.StreamError{Reason: reason, Detail: "http2.remote_reset", Err: http2.StreamError{StreamID: f.StreamID, Code: f.ErrCode}})
	st.drop()
	return c.flood.reset()
}

func (c *conn) onSettings(f *http2.SettingsFrame) error {
	if err := c.flood.control(); err != nil {
		return err
	}
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	err := f.ForeachSetting(c.setting)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if c.settled != nil {
		c.settled()
	}
	return c.w.control(appendSettingsAck)
}

// setting applies one of the peer's settings. The caller holds mu.
func (c *conn) setting(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	switch s.ID {
	case http2.SettingHeaderTableSize:
		c.w.tableSize.Store(int64(s.Val))
	case http2.SettingEnablePush:
		if !c.server && s.Val != 0 {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
	case http2.SettingMaxConcurrentStreams:
		c.peerMax = s.Val
	case http2.SettingInitialWindowSize:
		delta := int64(s.Val) - c.peerWindow
		c.peerWindow = int64(s.Val)
		for _, st := range c.streams {
			if st.sendWindow += delta; st.sendWindow > maxWindow {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
			st.wakeWriter()
		}
	case http2.SettingMaxFrameSize:
		c.w.maxFrame.Store(s.Val)
	case http2.SettingEnableConnectProtocol:
		c.peerExtCon = s.Val == 1
	}
	return nil
}

func (c *conn) onPing(f *http2.PingFrame) error {
	if f.IsAck() {
		if f.Data == drainPing {
			c.finishDrain()
		}
		return c.flood.control()
	}
	if err := c.flood.control(); err != nil {
		return err
	}
	data := f.Data
	return c.w.control(func(dst []byte) []byte { return appendPing(dst, true, data) })
}

func (c *conn) onGoAway(f *http2.GoAwayFrame) error {
	c.mu.Lock()
	c.goAway = true
	var refused []*stream
	if !c.server {
		for id, st := range c.streams {
			if id > f.LastStreamID {
				refused = append(refused, st)
			}
		}
	}
	c.mu.Unlock()
	for _, st := range refused {
		st.fail(&message.StreamError{Reason: message.RefusedStream, Detail: "http2.goaway"})
		st.drop()
	}
	c.maybeIdle()
	return nil
}

// shut ends every stream and closes the socket. The reader calls it last.
func (c *conn) shut(cause error) {
	c.mu.Lock()
	c.err = cause
	c.goAway = true
	streams := make([]*stream, 0, len(c.streams))
	for _, st := range c.streams {
		streams = append(streams, st)
	}
	clear(c.streams)
	if c.idle != nil {
		c.idle.Stop()
	}
	c.mu.Unlock()
	for _, st := range streams {
		st.fail(&message.StreamError{Reason: message.ConnectionTermination, Detail: "http2.connection_closed", Err: cause})
	}
	close(c.done)
	// Let a GOAWAY leave, then half-close: closing at once would turn unread
	// input into a TCP reset that can overtake it. The deadline frees whoever
	// holds the lock in a blocked write.
	_ = c.nc.SetWriteDeadline(time.Now().Add(closeGrace))
	c.w.mu.Lock()
	c.w.deadline = time.Now().Add(c.w.timeout) // keep the shorter one just set
	if c.w.err == nil {
		if c.w.out == nil {
			c.w.out = outPool.Get().(*[]byte)
		}
		c.w.takeControl()
		c.w.write()
	}
	c.w.mu.Unlock()
	if cw, ok := c.nc.(interface{ CloseWrite() error }); ok && !errors.Is(cause, io.EOF) && cw.CloseWrite() == nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(closeGrace))
		_, _ = io.Copy(io.Discard, io.LimitReader(c.nc, 1<<20))
	}
	c.nc.Close()
}

// begin counts a new exchange and stops the idle clock. The caller holds mu.
func (c *conn) begin() {
	c.active++
	if c.idle != nil {
		c.idle.Stop()
	}
}

// maybeIdle starts the idle clock, or closes a drained connection, when nothing
// is going on.
func (c *conn) maybeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active > 0 || c.err != nil {
		return
	}
	if c.draining || c.goAway && !c.server {
		c.closeSoon()
		return
	}
	if c.opts.IdleTimeout <= 0 {
		return
	}
	if c.idle == nil {
		c.idle = time.AfterFunc(c.opts.IdleTimeout, c.idleExpired)
	} else {
		c.idle.Reset(c.opts.IdleTimeout)
	}
}

func (c *conn) idleExpired() {
	c.mu.Lock()
	busy := c.active > 0
	c.mu.Unlock()
	if busy {
		return
	}
	if c.server {
		c.drain()
	} else {
		c.nc.Close()
	}
}

// closeSoon wakes the reader with an expired deadline; it then ends the
// connection in order. The caller holds mu.
func (c *conn) closeSoon() {
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}
