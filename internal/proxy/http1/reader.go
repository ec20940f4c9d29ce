// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
)

// reader is the receiving half of a codec: it finds message heads and the
// pieces of a body in the byte stream.
//
// The head stays in its buffer while the exchange lasts, because the message's
// fields alias it; the part of the body that came with it is given out from
// there, the rest from body buffers that are held only while they have bytes.
type reader struct {
	ctl    *sockio.Conn // deadlines, interrupts
	data   net.Conn     // where bytes come from: ctl itself or TLS above it
	plain  bool         // data is ctl
	limits Limits
	head   head
	first  func(line []byte) *message.StreamError // parses the start line

	headBuf *[headSize]byte // pooled backing of buf, nil when buf was grown
	buf     []byte          // head buffer
	bodyBuf *[bodySize]byte // pooled, while cur aliases it
	cur     []byte          // where unread bytes are: buf or bodyBuf
	r, w    int             // unread bytes are cur[r:w]
	one     [1]byte

	framing  framing
	left     int64 // of a length-framed body or of the chunk
	chunk    chunkState
	digits   int
	extra    int // bytes of chunk extension and trailers seen
	trailer  []byte
	broken   *message.StreamError // what the chunk decoder found, for good
	complete bool
	counted  uint64

	getHead, getBody func() []byte
	putHead, putBody func([]byte)
}

type framing uint8

const (
	byLength framing = iota
	byChunks
	byClose
	asTunnel
)

func (rd *reader) init(ctl *sockio.Conn, data net.Conn, limits Limits) {
	rd.ctl, rd.data, rd.limits = ctl, data, limits.orDefaults()
	rd.plain = data == net.Conn(ctl)
	rd.getHead, rd.putHead = rd.borrowHead, rd.returnHead
	rd.getBody, rd.putBody = rd.borrowBody, rd.returnBody
	rd.head.reset()
}

func (rd *reader) borrowHead() []byte {
	rd.headBuf = headPool.Get().(*[headSize]byte)
	return rd.headBuf[:]
}

func (rd *reader) returnHead([]byte) {
	headPool.Put(rd.headBuf)
	rd.headBuf = nil
}

func (rd *reader) borrowBody() []byte {
	rd.bodyBuf = bodyPool.Get().(*[bodySize]byte)
	return rd.bodyBuf[:]
}

func (rd *reader) returnBody([]byte) {
	bodyPool.Put(rd.bodyBuf)
	rd.bodyBuf = nil
}

// fillHead reads more of a head. Without unread bytes no buffer is held while
// waiting.
func (rd *reader) fillHead() error {
	if rd.buf == nil {
		return rd.firstFill()
	}
	if rd.w == len(rd.buf) {
		if err := rd.growHead(); err != nil {
			return err
		}
	}
	n, err := rd.data.Read(rd.buf[rd.w:])
	rd.w += n
	if n > 0 {
		return nil
	}
	return err
}

func (rd *reader) firstFill() error {
	if rd.plain {
		b, n, err := rd.ctl.ReadBuffer(rd.getHead, rd.putHead)
		if err != nil {
			return err
		}
		rd.buf, rd.cur, rd.r, rd.w = b, b, 0, n
		return nil
	}
	// TLS has no way to wait without a buffer, so one byte is read first; the
	// rest of its record then costs no system call.
	n, err := rd.data.Read(rd.one[:])
	if n == 0 {
		return err
	}
	b := rd.borrowHead()
	b[0] = rd.one[0]
	rd.buf, rd.cur, rd.r, rd.w = b, b, 0, 1
	n, err = rd.data.Read(b[1:])
	rd.w += n
	if err != nil && n == 0 && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// growHead makes room for a long head. The lines parsed so far alias the old
// buffer, so parsing begins anew; doubling keeps that linear.
func (rd *reader) growHead() error {
	if rd.w-rd.r > rd.limits.HeadBytes {
		return errTooLarge
	}
	if rd.r > 0 { // never with fields parsed: see takeHead
		copy(rd.buf, rd.buf[rd.r:rd.w])
	} else {
		b := make([]byte, 2*len(rd.buf))
		copy(b, rd.buf[:rd.w])
		rd.dropHeadBuf()
		rd.buf = b
	}
	rd.w -= rd.r
	rd.r, rd.cur = 0, rd.buf
	rd.head.reset()
	return errAgain
}

var errAgain = errors.New("parse again")

func (rd *reader) dropHeadBuf() {
	if rd.headBuf != nil {
		headPool.Put(rd.headBuf)
		rd.headBuf = nil
	}
	rd.buf = nil
}

// lines parses as many whole lines as are buffered. done says that the empty
// line was seen.
func (rd *reader) lines(out *message.Header) (done bool, err *message.StreamError) {
	h := &rd.head
	for {
		if h.scan < h.pos {
			h.scan = h.pos
		}
		i := bytes.IndexByte(rd.buf[h.scan:rd.w], '\n')
		if i < 0 {
			h.scan = rd.w
			if rd.w-rd.r > rd.limits.HeadBytes {
				return false, errTooLarge
			}
			return false, nil
		}
		end := h.scan + i
		if end-rd.r > rd.limits.HeadBytes {
			return false, errTooLarge
		}
		if end == h.pos || rd.buf[end-1] != '\r' {
			return false, errCodec // a bare LF ends a line for some and not for others
		}
		line := rd.buf[h.pos : end-1]
		h.pos, h.scan = end+1, end+1
		switch {
		case h.started && len(line) == 0:
			return true, nil
		case h.started:
			if h.lines++; h.lines > rd.limits.Fields {
				return false, errTooMany
			}
			if err := h.field(line, out); err != nil {
				return false, err
			}
		case len(line) == 0 && !h.blank:
			h.blank = true
		default:
			h.started = true
			if err := rd.first(line); err != nil {
				return false, err
			}
		}
	}
}

// beginBody sets the framing of the message whose head was just parsed.
func (rd *reader) beginBody(f framing, length int64) {
	rd.r = rd.head.pos
	rd.framing, rd.left = f, length
	rd.chunk, rd.digits, rd.extra, rd.broken = chunkSize, 0, 0, nil
	rd.complete = f == byLength && length == 0
	rd.counted = 0
}

// received says whether the whole message is here.
func (rd *reader) received() bool {
	return rd.complete || rd.framing == byLength && rd.left <= int64(rd.w-rd.r)
}

// buffered counts an error that is known already, so that it is met before
// anything else is waited for.
func (rd *reader) buffered() bool { return rd.r < rd.w || rd.complete || rd.broken != nil }

// next returns the next piece of the body, io.EOF at its end. trailers takes the
// fields after a chunked body.
func (rd *reader) next(trailers *message.Header) ([]byte, error) {
	for {
		if rd.complete {
			return nil, io.EOF
		}
		if rd.framing == byChunks {
			if err := rd.advance(trailers); err != nil {
				return nil, err
			}
			if rd.complete {
				continue
			}
		}
		if n := rd.w - rd.r; n > 0 && (rd.framing != byChunks || rd.chunk == chunkData) {
			return rd.take(n, trailers)
		}
		if err := rd.fillBody(); err != nil {
			return nil, rd.bodyError(err)
		}
	}
}

func (rd *reader) take(n int, trailers *message.Header) ([]byte, error) {
	if rd.framing == byLength || rd.framing == byChunks {
		if int64(n) > rd.left {
			n = int(rd.left)
		}
		rd.left -= int64(n)
	}
	p := rd.cur[rd.r : rd.r+n]
	rd.r += n
	rd.counted += uint64(n)
	switch {
	case rd.framing == byLength:
		rd.complete = rd.left == 0
	case rd.framing == byChunks && rd.left == 0:
		rd.chunk = chunkDataCR
		// Look at what is buffered already, so that a body that ends here is
		// known to end here. An error is kept for the next call.
		_ = rd.advance(trailers)
	}
	return p, nil
}

func (rd *reader) bodyError(err error) error {
	if errors.Is(err, io.EOF) {
		if rd.framing == byClose || rd.framing == asTunnel {
			rd.complete = true
			return io.EOF
		}
		return errTruncated
	}
	return asStreamError(err)
}

// fillBody reads more of a body. The consumed buffer goes back first: a body
// that dribbles in holds no memory.
func (rd *reader) fillBody() error {
	rd.dropBodyBuf()
	if rd.plain {
		b, n, err := rd.ctl.ReadBuffer(rd.getBody, rd.putBody)
		if err != nil {
			return err
		}
		rd.cur, rd.r, rd.w = b, 0, n
		return nil
	}
	b := rd.borrowBody()
	n, err := rd.data.Read(b)
	if n == 0 {
		rd.returnBody(nil)
		return err
	}
	rd.cur, rd.r, rd.w = b, 0, n
	return nil
}

func (rd *reader) dropBodyBuf() {
	if rd.bodyBuf != nil {
		rd.returnBody(nil)
	}
	rd.cur, rd.r, rd.w = nil, 0, 0
}

// release ends the exchange: bytes of the next message move to the start of a
// head buffer, otherwise every buffer goes back.
func (rd *reader) release() {
	rest := rd.cur[rd.r:rd.w]
	switch {
	case len(rest) == 0:
		rd.dropHeadBuf()
		rd.dropBodyBuf()
	case len(rest) <= len(rd.buf):
		copy(rd.buf, rest)
		n := len(rest)
		rd.dropBodyBuf()
		rd.cur, rd.r, rd.w = rd.buf, 0, n
	default:
		b := make([]byte, len(rest))
		copy(b, rest)
		rd.dropHeadBuf()
		rd.dropBodyBuf()
		rd.buf, rd.cur, rd.r, rd.w = b, b, 0, len(b)
	}
	rd.trailer = rd.trailer[:0]
	if cap(rd.trailer) > 1024 {
		rd.trailer = nil
	}
	rd.head.reset()
}

// drop gives every buffer back: the connection is done for.
func (rd *reader) drop() {
	rd.dropHeadBuf()
	rd.dropBodyBuf()
}

// asStreamError says what a failed read or write means for the stream.
func asStreamError(err error) error {
	var se *message.StreamError
	switch {
	case errors.As(err, &se):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case errors.Is(err, sockio.ErrInterrupted):
		return errAborted
	case errors.Is(err, io.EOF):
		return errTruncated
	}
	var alert tls.AlertError
	if errors.As(err, &alert) {
		return &message.StreamError{Reason: message.ConnectionTermination, Detail: "TLS_error", Err: err}
	}
	return &message.StreamError{Reason: message.ConnectionTermination, Err: err}
}
