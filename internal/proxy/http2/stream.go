// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

const chunkSize = 16 << 10

// chunk is received body that nobody has read yet.
type chunk struct {
	n   int
	buf [chunkSize]byte
}

var chunkPool = sync.Pool{New: func() any { return new(chunk) }}

// stream is what both sides of a stream share. Fields are guarded by conn.mu
// unless said otherwise.
type stream struct {
	c      *conn
	id     uint32
	client *clientStream // the client side of this stream, nil on servers

	// dead is set before RST_STREAM is queued for either direction, so that
	// nothing of this stream is queued after it; checked under writer.mu.
	dead atomic.Bool

	recv          []*chunk
	recvEnd       bool
	recvErr       *message.StreamError
	trailer       *head
	recvWindow    int64
	consumed      int64 // read but not yet given back to the peer
	received      int64
	wantLength    int64 // declared content-length, or -1
	sendWindow    int64
	sentEnd       bool
	stopped       bool // the peer wants no more of our body
	readDeadline  time.Time
	writeDeadline time.Time

	rd, wr         chan struct{} // capacity 1: something changed for the reader, the writer
	rtimer, wtimer *time.Timer   // each belongs to its direction's goroutine

	current *chunk // given out by ReadBody; belongs to the reading side
	sent    uint64 // belongs to the writing side

	watchMu sync.Mutex
	gone    func()
}

func (s *stream) init(c *conn, id uint32) {
	s.c, s.id = c, id
	s.rd, s.wr = make(chan struct{}, 1), make(chan struct{}, 1)
	// Until the peer has our SETTINGS it may use the protocol's default.
	s.recvWindow = int64(max(c.opts.StreamWindow, defaultWindow))
	s.wantLength = -1
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (s *stream) wakeReader() { wake(s.rd) }
func (s *stream) wakeWriter() { wake(s.wr) }

// sleep waits for a wake-up or the deadline.
func sleep(ch <-chan struct{}, deadline time.Time, timer **time.Timer) error {
	if deadline.IsZero() {
		<-ch
		return nil
	}
	d := time.Until(deadline)
	if d <= 0 {
		return fmt.Errorf("http2: %w", os.ErrDeadlineExceeded)
	}
	if *timer == nil {
		*timer = time.NewTimer(d)
	} else {
		(*timer).Reset(d)
	}
	select {
	case <-ch:
		(*timer).Stop()
	case <-(*timer).C:
		// The caller looks again: the deadline may have been moved.
	}
	return nil
}

// push keeps received bytes for the reader. The caller holds mu.
func (s *stream) push(p []byte) {
	for len(p) > 0 {
		var last *chunk
		if n := len(s.recv); n > 0 && s.recv[n-1].n < chunkSize {
			last = s.recv[n-1]
		} else {
			last = chunkPool.Get().(*chunk)
			last.n = 0
			s.recv = append(s.recv, last)
		}
		n := copy(last.buf[last.n:], p)
		last.n += n
		p = p[n:]
	}
}

// endReceive notes END_STREAM. The caller holds mu.
func (s *stream) endReceive() {
	s.recvEnd = true
	s.c.retire(s)
}

// retire takes a stream that both sides have ended out of the table. The caller
// holds mu.
func (c *conn) retire(s *stream) {
	if s.recvEnd && s.sentEnd && c.streams[s.id] == s {
		delete(c.streams, s.id)
		c.closed.add(s.id, closedInOrder)
	}
}

// drop takes a stream that the peer reset out of the table.
func (s *stream) drop() {
	s.dead.Store(true)
	s.c.mu.Lock()
	if s.c.streams[s.id] == s {
		delete(s.c.streams, s.id)
	}
	s.c.closed.add(s.id, closedByReset)
	s.c.mu.Unlock()
	s.wakeWriter()
}

// reset sends RST_STREAM once and forgets the stream.
func (s *stream) reset(code http2.ErrCode) {
	if s.dead.Swap(true) {
		return
	}
	c := s.c
	c.mu.Lock()
	known := c.streams[s.id] == s
	delete(c.streams, s.id)
	c.closed.add(s.id, closedByUs)
	c.mu.Unlock()
	if known {
		_ = c.w.control(func(dst []byte) []byte { return appendRST(dst, s.id, code) })
	}
	s.wakeReader()
	s.wakeWriter()
}

// fail makes blocked and later calls return err, and tells the watcher: before
// a handler that has seen err can take it away.
func (s *stream) fail(err *message.StreamError) {
	s.watchMu.Lock()
	s.c.mu.Lock()
	if s.recvErr == nil {
		s.recvErr = err
	}
	s.c.mu.Unlock()
	if gone := s.gone; gone != nil {
		s.gone = nil
		gone()
	}
	s.watchMu.Unlock()
	s.wakeReader()
	s.wakeWriter()
}

// stopSending notes that the peer has answered in full and wants no more body.
func (s *stream) stopSending() {
	s.dead.Store(true)
	s.c.mu.Lock()
	s.stopped, s.sentEnd = true, true
	s.c.retire(s)
	s.c.mu.Unlock()
	s.wakeWriter()
}

func (s *stream) responseEnded() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recvEnd
}

// recycle gives the chunk that the reader had back to the pool and its bytes
// back to the peer's window.
func (s *stream) recycle() {
	k := s.current
	if k == nil {
		return
	}
	s.current = nil
	s.c.mu.Lock()
	s.c.giveBack(s, int64(k.n))
	s.c.mu.Unlock()
	chunkPool.Put(k)
}

// release drops what nobody will read. The exchange is over.
func (s *stream) release() {
	s.recycle()
	s.c.mu.Lock()
	var n int64
	for _, k := range s.recv {
		n += int64(k.n)
		chunkPool.Put(k)
	}
	s.recv = nil
	s.c.giveBack(nil, n)
	t := s.trailer
	s.trailer = nil
	s.c.mu.Unlock()
	if t != nil {
		t.release()
	}
	if s.rtimer != nil {
		s.rtimer.Stop()
	}
	if s.wtimer != nil {
		s.wtimer.Stop()
	}
}

// readBody implements ReadBody; at the end it fills trailer.
func (s *stream) readBody(trailer *message.Header) ([]byte, error) {
	s.recycle()
	c := s.c
	c.mu.Lock()
	for {
		if len(s.recv) > 0 {
			k := s.recv[0]
			s.recv = s.recv[:copy(s.recv, s.recv[1:])]
			s.current = k
			c.mu.Unlock()
			return k.buf[:k.n], nil
		}
		if s.recvEnd {
			if s.trailer != nil {
				trailer.Fields = append(trailer.Fields[:0], s.trailer.fields...)
			}
			c.mu.Unlock()
			return nil, io.EOF
		}
		if s.recvErr != nil {
			err := s.recvErr
			c.mu.Unlock()
			return nil, err
		}
		deadline := s.readDeadline
		c.mu.Unlock()
		if err := sleep(s.rd, deadline, &s.rtimer); err != nil {
			return nil, err
		}
		c.mu.Lock()
	}
}

func (s *stream) complete() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recvEnd
}

// Buffered says that ReadBody would return without waiting for the network.
func (s *stream) Buffered() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return len(s.recv) > 0 || s.recvEnd || s.recvErr != nil
}

// SetReadDeadline bounds blocked and later reads.
func (s *stream) SetReadDeadline(t time.Time) {
	s.c.mu.Lock()
	s.readDeadline = t
	s.c.mu.Unlock()
	s.wakeReader()
}

// SetWriteDeadline bounds waits for flow control. One write to the socket is
// bounded by Options.WriteTimeout.
func (s *stream) SetWriteDeadline(t time.Time) {
	s.c.mu.Lock()
	s.writeDeadline = t
	s.c.mu.Unlock()
	s.wakeWriter()
}

// WatchPeer asks for a call when the peer has reset the stream or left.
func (s *stream) WatchPeer(gone func()) {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	s.c.mu.Lock()
	failed := s.recvErr != nil
	s.c.mu.Unlock()
	if failed {
		gone()
		return
	}
	s.gone = gone
}

// UnwatchPeer ends WatchPeer.
func (s *stream) UnwatchPeer() {
	s.watchMu.Lock()
	s.gone = nil
	s.watchMu.Unlock()
}

// Flush pushes what is queued to the peer.
func (s *stream) Flush() error {
	if err := s.c.w.lock(); err != nil {
		return s.writeError(err)
	}
	return s.writeError(s.c.w.unlock(true))
}

func (s *stream) writeError(err error) error {
	if err == nil {
		return nil
	}
	var se *message.StreamError
	if errors.As(err, &se) {
		return se
	}
	return &message.StreamError{Reason: message.ConnectionTermination, Detail: "http2.write", Err: err}
}

// deadError is what writes return after a reset.
func (s *stream) deadError() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.recvErr != nil {
		return s.recvErr
	}
	if s.stopped {
		return &message.StreamError{Reason: message.NoReset, Detail: "http2.response_complete"}
	}
	return &message.StreamError{Reason: message.LocalReset}
}

// queue runs put, which appends frames, in the connection's frame order. end
// says that put ends our direction.
func (s *stream) queue(flush, end bool, put func(w *writer)) error {
	w := s.c.w
	if err := w.lock(); err != nil {
		return s.writeError(err)
	}
	if s.dead.Load() {
		_ = w.unlock(false)
		return s.deadError()
	}
	put(w)
	if end {
		s.c.mu.Lock()
		s.sentEnd = true
		s.c.retire(s)
		s.c.mu.Unlock()
	}
	return s.writeError(w.unlock(flush || end))
}

// writeBody queues p as DATA as flow control allows (RFC 9113 section 5.2).
func (s *stream) writeBody(p []byte, end bool) error {
	for {
		n, err := s.take(len(p))
		if err != nil {
			return err
		}
		last := end && n == len(p)
		if n > 0 || last {
			if err := s.queue(false, last, func(w *writer) { *w.out = appendData(*w.out, s.id, p[:n], last) }); err != nil {
				return err
			}
		}
		s.sent += uint64(n)
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// take reserves up to want bytes of both windows and one frame, and waits for
// at least one byte.
func (s *stream) take(want int) (int, error) {
	c := s.c
	flushed := false
	c.mu.Lock()
	for {
		if s.recvErr != nil {
			c.mu.Unlock()
			return 0, s.recvErr
		}
		if s.dead.Load() {
			c.mu.Unlock()
			return 0, s.deadError()
		}
		n := min(int64(want), s.sendWindow, c.sendWindow, int64(c.w.maxFrame.Load()))
		if n > 0 || want == 0 {
			n = max(n, 0)
			s.sendWindow -= n
			c.sendWindow -= n
			c.mu.Unlock()
			return int(n), nil
		}
		deadline := s.writeDeadline
		c.mu.Unlock()
		if !flushed {
			// The peer cannot open its window for bytes it has not seen.
			if err := s.Flush(); err != nil {
				return 0, err
			}
			flushed = true
		} else if err := sleep(s.wr, deadline, &s.wtimer); err != nil {
			return 0, err
		}
		c.mu.Lock()
	}
}
