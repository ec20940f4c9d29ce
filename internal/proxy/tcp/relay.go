// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// relay carries bytes between two connections until both directions have ended,
// one has failed, or nothing has moved for the idle timeout.
type relay struct {
	a, b       net.Conn
	idle       time.Duration
	toUpstream direction // a to b
	toClient   direction // b to a
	idledOut   atomic.Bool
	lastMove   atomic.Int64 // Unix nanoseconds, either direction
	once       sync.Once
}

// direction counts what it has carried, in bytes.
type direction struct{ bytes atomic.Int64 }

func newRelay(a, b net.Conn, idle time.Duration) *relay {
	r := &relay{a: a, b: b, idle: idle}
	r.lastMove.Store(time.Now().UnixNano())
	return r
}

// abort ends both directions from any goroutine.
func (r *relay) abort() {
	r.once.Do(func() {
		_ = r.a.Close()
		_ = r.b.Close()
	})
}

// run carries bytes and returns with both connections closed.
func (r *relay) run() {
	defer r.watch()()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.oneWay(r.b, r.a, &r.toUpstream)
	}()
	r.oneWay(r.a, r.b, &r.toClient)
	<-done
	r.abort()
}

// oneWay carries src to dst until src ends, which half-closes dst; a failure
// ends both directions.
func (r *relay) oneWay(dst, src net.Conn, d *direction) {
	err := r.copy(dst, src, d)
	if err == nil {
		err = closeWrite(dst)
	}
	if err != nil {
		r.abort()
	}
}

func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}

// The ladder of copy buffers: a quiet connection holds little, a busy one is
// copied in few system calls, and plain TCP moves into the kernel. Sizes and
// thresholds in bytes.
const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
	growAfter   = 64 << 10 // carried so far
	// spliceChunk bounds what moves between two looks at the counters.
	spliceChunk = 256 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallBuffer); return &b }}
	largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}
)

func (r *relay) copy(dst, src net.Conn, d *direction) error {
	for {
		var err error
		switch {
		case d.bytes.Load() < growAfter:
			err = r.buffered(dst, src, d, &smallBuffers, growAfter)
		case canSplice(dst, src):
			err = r.splice(dst.(*net.TCPConn), src.(*net.TCPConn), d)
		default:
			err = r.buffered(dst, src, d, &largeBuffers, 1<<62)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func canSplice(dst, src net.Conn) bool {
	_, a := dst.(*net.TCPConn)
	_, b := src.(*net.TCPConn)
	return a && b
}

// buffered copies until the direction has carried upTo bytes.
func (r *relay) buffered(dst, src net.Conn, d *direction, pool *sync.Pool, upTo int64) error {
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	for d.bytes.Load() < upTo {
		n, err := src.Read(*buf)
		if n > 0 {
			if _, werr := dst.Write((*buf)[:n]); werr != nil {
				return werr
			}
			d.bytes.Add(int64(n))
			r.lastMove.Store(time.Now().UnixNano())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// splice lets the kernel move bytes through a pipe (splice(2)).
func (r *relay) splice(dst, src *net.TCPConn, d *direction) error {
	limited := &io.LimitedReader{R: src}
	for {
		limited.N = spliceChunk
		n, err := dst.ReadFrom(limited)
		d.bytes.Add(n)
		r.lastMove.Store(time.Now().UnixNano())
		if err != nil {
			return err
		}
		if limited.N > 0 {
			return io.EOF
		}
	}
}

// watch ends the relay when nothing has moved for the idle timeout, in either
// direction. One timer looks after both, so that no read sets a deadline.
func (r *relay) watch() (stop func() bool) {
	if r.idle <= 0 {
		return func() bool { return true }
	}
	var t *time.Timer
	var mu sync.Mutex // t is assigned before the timer's function reads it
	mu.Lock()
	defer mu.Unlock()
	t = time.AfterFunc(r.idle, func() {
		mu.Lock()
		defer mu.Unlock()
		quiet := time.Since(time.Unix(0, r.lastMove.Load()))
		quiet = min(quiet, kernelQuiet(r.a), kernelQuiet(r.b))
		if quiet >= r.idle {
			r.idledOut.Store(true)
			r.abort()
			return
		}
		t.Reset(r.idle - quiet)
	})
	return t.Stop
}

// kernelQuiet is for how long a TCP socket has neither sent nor received, as
// the kernel knows it: bytes that trickle through splice pass no counter of
// ours. For other connections it is for ever.
func kernelQuiet(c net.Conn) time.Duration {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return 1<<63 - 1
	}
	quiet := time.Duration(1<<63 - 1)
	raw, err := t.SyscallConn()
	if err != nil {
		return quiet
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
			quiet = time.Duration(min(info.Last_data_recv, info.Last_data_sent)) * time.Millisecond
		}
	})
	return quiet
}
