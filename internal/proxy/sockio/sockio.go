// SPDX-License-Identifier: Apache-2.0

// Package sockio is a connection made for proxying: it waits for readiness
// without holding a buffer, moves deadlines without touching a timer, and can
// check a pooled connection and write to it in one step.
package sockio

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// ErrInterrupted is what a blocked or later read or write returns after
// Interrupt.
var ErrInterrupted = errors.New("interrupted")

// ErrStale is what a read returns when the peer had closed the connection, or
// had sent something unasked, before the deferred bytes were written: nothing of
// them was sent.
var ErrStale = errors.New("connection closed by the peer while idle")

// Conn is a net.Conn. Reads come from one goroutine at a time, writes from one
// at a time; Interrupt, Close and the deadline setters from any.
//
// Over a *net.TCPConn it makes its own system calls through the runtime's
// poller; over anything else it forwards and only the deadlines are its own.
type Conn struct {
	nc  net.Conn
	tcp *net.TCPConn // nil over anything but TCP
	raw syscall.RawConn

	in  half
	out half
	// The connection's own setters: a method value taken once, not per call.
	setRead, setWrite func(time.Time) error
	// stop is set by Interrupt.
	stop atomic.Bool

	unread []byte // bytes to give out before the socket's

	// State of the call in progress, here so that the callbacks need no closure.
	readFn, writeFn, peekFn func(fd uintptr) bool
	rbuf                    []byte
	rn                      int
	rerr                    error
	rget                    func() []byte
	rput                    func([]byte)
	wbuf                    [3][]byte
	iov                     [3]syscall.Iovec
	werr                    error
	deferred                []byte // to be written before the next blocking read
	own                     []byte // memory of DeferWrites
	deferOn                 bool
	early                   bool
	gone                    bool
	aliveFn                 func(fd uintptr)
	tlsData, alive          bool
}

// half is the deadline of one direction. The armed deadline may lie before the
// wanted one: when it fires early it is moved then, so that a deadline which
// moves with each request costs one timer operation per period. Times are
// nanoseconds since the Unix epoch, zero for none.
type half struct {
	want    atomic.Int64
	armed   atomic.Int64
	waiting atomic.Bool // a call may be blocked: a new deadline is armed at once
}

// New makes a Conn of nc, or returns nc itself when it is one.
func New(nc net.Conn) *Conn {
	if c, ok := nc.(*Conn); ok {
		return c
	}
	c := &Conn{nc: nc, setRead: nc.SetReadDeadline, setWrite: nc.SetWriteDeadline}
	if t, ok := nc.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			c.tcp, c.raw = t, raw
			c.readFn, c.writeFn = c.tryRead, c.tryWrite
		}
	}
	return c
}

// Split finds the control and the data side of a connection: of TLS over a
// Conn, the Conn below and the TLS connection above; of anything else, one Conn
// for both. A TLS connection over something else is wrapped as a whole.
func Split(nc net.Conn) (ctl *Conn, data net.Conn) {
	if t, ok := nc.(*tls.Conn); ok {
		if c, ok := t.NetConn().(*Conn); ok {
			return c, t
		}
	}
	c := New(nc)
	return c, c
}

// NetConn is the connection below.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Unread makes b the next bytes to be read (what an inspector has looked at).
// It must be called before the first Read after the bytes were taken.
func (c *Conn) Unread(b []byte) {
	c.unread = append(append([]byte(nil), b...), c.unread...)
}

// TakeUnread returns the bytes given to Unread that were not read yet and
// forgets them, for a reader that goes on with the connection below.
func (c *Conn) TakeUnread() []byte {
	b := c.unread
	c.unread = nil
	return b
}

func (c *Conn) LocalAddr() net.Addr  { return c.nc.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }
func (c *Conn) Close() error         { return c.nc.Close() }

// CloseWrite half-closes, where the connection below can.
func (c *Conn) CloseWrite() error {
	if h, ok := c.nc.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Abort closes so that the peer sees a reset.
func (c *Conn) Abort() {
	if c.tcp != nil {
		_ = c.tcp.SetLinger(0)
	}
	_ = c.nc.Close()
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline says when blocked and later reads give up with an error that
// wraps os.ErrDeadlineExceeded.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.want.Store(nanos(t))
	if c.in.waiting.Load() {
		c.arm(&c.in, c.setRead)
	}
	return nil
}

// SetWriteDeadline is SetReadDeadline for writes.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.want.Store(nanos(t))
	if c.out.waiting.Load() {
		c.arm(&c.out, c.setWrite)
	}
	return nil
}

// Interrupt ends blocked reads and writes, and all later ones until Resume,
// with ErrInterrupted. Any goroutine may call it.
func (c *Conn) Interrupt() {
	c.stop.Store(true)
	_ = c.nc.SetDeadline(past)
}

// Resume undoes Interrupt. No other call may be in progress.
func (c *Conn) Resume() {
	c.stop.Store(false)
	c.in.armed.Store(0)
	c.out.armed.Store(0)
	_ = c.nc.SetDeadline(time.Time{})
}

var past = time.Unix(1, 0)

// arm makes sure that a wait which is on or begins now ends no later than
// wanted. Two goroutines may be here at once, the waiter and one that moves the
// deadline: both go round until they see what they armed still wanted.
func (c *Conn) arm(h *half, set func(time.Time) error) {
	for {
		want, armed := h.want.Load(), h.armed.Load()
		if want == 0 || armed != 0 && armed <= want {
			return
		}
		h.armed.Store(want)
		_ = set(time.Unix(0, want))
		if c.stop.Load() { // Interrupt may have come between: its deadline wins
			_ = c.nc.SetDeadline(past)
		}
	}
}

// fired decides what a deadline error means: nil says that it came early and
// the call goes on.
func (c *Conn) fired(h *half, set func(time.Time) error, err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if c.stop.Load() {
		return ErrInterrupted
	}
	want := h.want.Load()
	if want != 0 && time.Now().UnixNano() >= want {
		h.armed.Store(want)
		return err
	}
	h.armed.Store(want)
	t := time.Time{}
	if want != 0 {
		t = time.Unix(0, want)
	}
	_ = set(t)
	if c.stop.Load() {
		_ = c.nc.SetDeadline(past)
	}
	return nil
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		if c.unread = c.unread[n:]; len(c.unread) == 0 {
			c.unread = nil
		}
		return n, nil
	}
	if c.tcp == nil {
		return c.readGeneric(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	c.rbuf, c.rget, c.rput = p, nil, nil
	n, err := c.readRaw()
	c.rbuf = nil
	return n, err
}

// ReadBuffer waits until there is something to read and only then borrows a
// buffer: get gives one (its length is how much to read), put takes back one
// that was not used. It returns the buffer with the bytes read. Bytes given to
// Defer are written before the wait, but only if the peer has not closed yet.
func (c *Conn) ReadBuffer(get func() []byte, put func([]byte)) (buf []byte, n int, err error) {
	if len(c.unread) > 0 || c.tcp == nil {
		buf = get()
		n, err = c.Read(buf)
		if err != nil && n == 0 {
			put(buf)
			buf = nil
		}
		return buf, n, err
	}
	c.rbuf, c.rget, c.rput = nil, get, put
	n, err = c.readRaw()
	buf, c.rbuf = c.rbuf, nil
	if n == 0 && buf != nil {
		put(buf)
		buf = nil
	}
	return buf, n, err
}

func (c *Conn) readGeneric(p []byte) (int, error) {
	if len(c.deferred) > 0 {
		d := c.deferred
		c.deferred = nil
		if _, err := c.Write(d); err != nil {
			return 0, err
		}
	}
	for {
		if c.stop.Load() {
			return 0, ErrInterrupted
		}
		c.in.waiting.Store(true)
		c.arm(&c.in, c.setRead)
		n, err := c.nc.Read(p)
		c.in.waiting.Store(false)
		if n > 0 || err == nil {
			return n, nil
		}
		if err = c.fired(&c.in, c.nc.SetReadDeadline, err); err != nil {
			return 0, err
		}
	}
}

func (c *Conn) readRaw() (int, error) {
	for {
		c.rn, c.rerr = 0, nil
		err := c.raw.Read(c.readFn)
		c.in.waiting.Store(false)
		if err == nil {
			err = c.rerr
		}
		if err == nil {
			return c.rn, nil
		}
		if err = c.fired(&c.in, c.tcp.SetReadDeadline, err); err != nil {
			return 0, err
		}
	}
}

// tryRead is the poller's callback: false means wait for readiness and call
// again. The first call of a wait must try, because the poller is edge
// triggered.
func (c *Conn) tryRead(fd uintptr) bool {
	if c.stop.Load() {
		c.rerr = ErrInterrupted
		return true
	}
	buf := c.rbuf
	if buf == nil {
		buf = c.rget()
	}
	n, errno := recv(fd, buf, 0)
	for errno == syscall.EINTR {
		n, errno = recv(fd, buf, 0)
	}
	if len(c.deferred) > 0 {
		if errno != 0 && errno != syscall.EAGAIN || errno == 0 && (n == 0 || !c.deferOn) {
			c.rerr = ErrStale
			c.keep(buf)
			return true
		}
		// Bytes that came before the request was sent can be TLS's own business;
		// Early tells the codec, which knows whether they were a response.
		c.early = errno == 0
		if !c.writeDeferred(fd) {
			c.keep(buf)
			return true
		}
	} else if errno == 0 {
		c.early = false
	}
	switch {
	case errno == 0 && n > 0:
		c.rn = n
		c.rbuf = buf
		return true
	case errno == 0:
		c.rerr = io.EOF
	case errno == syscall.EAGAIN:
		if c.rbuf == nil {
			c.rput(buf)
		}
		c.in.waiting.Store(true)
		c.arm(&c.in, c.setRead)
		return false
	default:
		c.rerr = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("recv", errno)}
	}
	c.keep(buf)
	return true
}

// keep makes ReadBuffer return an unused buffer to its pool.
func (c *Conn) keep(buf []byte) {
	if c.rbuf == nil {
		c.rbuf = buf
	}
}

// Defer holds b back until the next read has found the connection alive. b must
// stay unchanged until that read returns. Over TLS use DeferWrites.
func (c *Conn) Defer(b []byte) { c.deferred = b }

// DeferWrites makes Write keep small writes as Defer does, in memory of its own,
// so that a TLS record written above is sent by the read that follows.
func (c *Conn) DeferWrites(on bool) { c.deferOn = on }

// Early says that the last bytes read had arrived before the deferred bytes
// were written.
func (c *Conn) Early() bool { return c.early }

// writeDeferred writes the deferred bytes from inside the read callback. False
// says that rerr is set. A full socket buffer is left to the ordinary writer.
func (c *Conn) writeDeferred(fd uintptr) bool {
	d := c.deferred
	c.deferred, c.deferOn = nil, false
	for len(d) > 0 {
		n, errno := send(fd, d)
		switch errno {
		case 0:
			d = d[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			if _, err := c.Write(d); err != nil {
				c.rerr = err
				return false
			}
			d = nil
		default:
			c.rerr = &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("send", errno)}
			return false
		}
	}
	return true
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.deferOn && c.tcp != nil && len(p) <= maxDeferred {
		c.own = append(c.own[:len(c.deferred)], p...)
		c.deferred = c.own
		return len(p), nil
	}
	if c.tcp == nil {
		return c.writeGeneric(p)
	}
	if len(c.deferred) > 0 {
		d := c.deferred
		c.deferred, c.deferOn = nil, false
		c.wbuf[0], c.wbuf[1], c.wbuf[2] = d, p, nil
	} else {
		c.wbuf[0], c.wbuf[1], c.wbuf[2] = p, nil, nil
	}
	if err := c.writeRaw(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// maxDeferred bounds what DeferWrites keeps.
const maxDeferred = 4 << 10

// Writev writes the parts in order, in one system call where it can.
func (c *Conn) Writev(a, b, d []byte) error {
	if c.tcp == nil {
		for _, p := range [...][]byte{a, b, d} {
			if len(p) > 0 {
				if _, err := c.writeGeneric(p); err != nil {
					return err
				}
			}
		}
		return nil
	}
	c.wbuf[0], c.wbuf[1], c.wbuf[2] = a, b, d
	return c.writeRaw()
}

func (c *Conn) writeGeneric(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if c.stop.Load() {
			return done, ErrInterrupted
		}
		c.out.waiting.Store(true)
		c.arm(&c.out, c.setWrite)
		n, err := c.nc.Write(p[done:])
		c.out.waiting.Store(false)
		done += n
		if err == nil {
			continue
		}
		if err = c.fired(&c.out, c.nc.SetWriteDeadline, err); err != nil {
			return done, err
		}
	}
	return done, nil
}

func (c *Conn) writeRaw() error {
	defer c.dropWbuf()
	for {
		c.werr = nil
		err := c.raw.Write(c.writeFn)
		c.out.waiting.Store(false)
		if err == nil {
			err = c.werr
		}
		if err == nil {
			return nil
		}
		if err = c.fired(&c.out, c.tcp.SetWriteDeadline, err); err != nil {
			return err
		}
	}
}

func (c *Conn) dropWbuf() { c.wbuf = [3][]byte{} }

// tryWrite is the poller's callback for writes.
func (c *Conn) tryWrite(fd uintptr) bool {
	for {
		if c.stop.Load() {
			c.werr = ErrInterrupted
			return true
		}
		n, errno := c.sendOnce(fd)
		switch errno {
		case 0:
			if c.advance(n) {
				return true
			}
		case syscall.EINTR:
		case syscall.EAGAIN:
			c.out.waiting.Store(true)
			c.arm(&c.out, c.setWrite)
			return false
		default:
			c.werr = &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("send", errno)}
			return true
		}
	}
}

// advance forgets n written bytes and says whether all are written.
func (c *Conn) advance(n int) bool {
	for i := range c.wbuf {
		if n < len(c.wbuf[i]) {
			c.wbuf[i] = c.wbuf[i][n:]
			return false
		}
		n -= len(c.wbuf[i])
		c.wbuf[i] = nil
	}
	return true
}

func (c *Conn) sendOnce(fd uintptr) (int, syscall.Errno) {
	k, last := 0, 0
	for i := range c.wbuf {
		if p := c.wbuf[i]; len(p) > 0 {
			c.iov[k].Base = &p[0]
			c.iov[k].SetLen(len(p))
			last = i
			k++
		}
	}
	if k == 0 {
		return 0, 0
	}
	var n int
	var errno syscall.Errno
	if k == 1 {
		n, errno = send(fd, c.wbuf[last])
	} else {
		r, _, e := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&c.iov[0])), uintptr(k))
		n, errno = int(r), e
	}
	c.iov = [3]syscall.Iovec{}
	return n, errno
}

// The sockets are non-blocking, so the calls return at once and need not tell
// the scheduler: RawSyscall saves its book-keeping.

func recv(fd uintptr, p []byte, flags int) (int, syscall.Errno) {
	r, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), uintptr(flags), 0, 0)
	return int(r), e
}

func send(fd uintptr, p []byte) (int, syscall.Errno) {
	r, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), syscall.MSG_NOSIGNAL, 0, 0)
	return int(r), e
}
