// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"net"
	"strconv"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
)

// writer is the sending half of a codec. It writes a message from its parsed
// parts only, computes the framing itself, and puts head and small body into
// one write.
type writer struct {
	ctl   *sockio.Conn
	data  net.Conn
	plain bool

	box  *outBuffer // pooled backing of out
	out  []byte     // queued bytes
	hold bool       // leave a message queued as a whole for the read that follows

	framing framing
	left    int64 // still to come of a length-framed body
	mute    bool  // the message has no body on the wire (HEAD, 204, 304)
	done    bool  // the whole message was queued
	sent    bool  // some of it left
	failed  error // the first write error: nothing can follow
	counted uint64
}

func (wr *writer) init(ctl *sockio.Conn, data net.Conn) {
	wr.ctl, wr.data = ctl, data
	wr.plain = data == net.Conn(ctl)
}

// begin readies the writer for the next message.
func (wr *writer) begin() {
	wr.framing, wr.left, wr.mute, wr.done, wr.sent, wr.counted = byLength, 0, false, false, false, 0
}

func (wr *writer) borrow() {
	if wr.out == nil {
		wr.box = outPool.Get().(*outBuffer)
		wr.out = wr.box.b[:0]
	}
}

// release gives the write buffer back; queued bytes are lost.
func (wr *writer) release() {
	if wr.box != nil {
		outPool.Put(wr.box)
		wr.box = nil
	}
	wr.out = nil
}

// fields queues the field lines and returns their number.
func (wr *writer) fields(h *message.Header) int {
	out, n := wr.out, 0
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.ID != message.Unknown && f.ID <= message.Upgrade {
			// Framing and hop-by-hop fields are written by the codec alone, but for
			// TE: trailers, which a gRPC server asks for.
			if f.ID != message.TE || string(f.Value) != "trailers" {
				continue
			}
		}
		n++
		out = append(out, f.Name...)
		out = append(out, ':', ' ')
		out = append(out, f.Value...)
		out = append(out, '\r', '\n')
	}
	wr.out = out
	return n
}

// check makes sure that what was queued from start has exactly that many lines:
// a line break in a value, from whatever rewriting, would make two fields of one
// or end the head early.
func (wr *writer) check(start, lines int) error {
	b := wr.out[start:]
	if bytes.Count(b, lf) != lines || bytes.Count(b, cr) != lines || bytes.IndexByte(b, 0) >= 0 {
		wr.out = wr.out[:start]
		return errBadOutput
	}
	return nil
}

var (
	cr   = []byte("\r")
	lf   = []byte("\n")
	crlf = []byte("\r\n")
)

// frame queues the framing field and the head's end.
func (wr *writer) frame(f framing, length int64) {
	wr.framing, wr.left = f, length
	switch f {
	case byLength:
		wr.out = append(wr.out, "content-length: "...)
		wr.out = strconv.AppendInt(wr.out, length, 10)
		wr.out = append(wr.out, '\r', '\n')
	case byChunks:
		wr.out = append(wr.out, "transfer-encoding: chunked\r\n"...)
	}
}

// body queues or sends a piece of the body.
func (wr *writer) body(p []byte, end bool) error {
	if wr.failed != nil {
		return wr.failed
	}
	if wr.done && wr.framing != asTunnel {
		if len(p) > 0 && !wr.mute {
			return wr.fail(errBadOutput)
		}
		return nil
	}
	if wr.mute {
		p = nil
	}
	wr.counted += uint64(len(p))
	var err error
	switch wr.framing {
	case byLength:
		if int64(len(p)) > wr.left {
			return wr.fail(errBadOutput)
		}
		wr.left -= int64(len(p))
		err = wr.push(p, nil)
		if end && wr.left > 0 && !wr.mute {
			return wr.fail(errBadOutput)
		}
	case byChunks:
		err = wr.pushChunk(p, end)
	default:
		err = wr.push(p, nil)
	}
	if err != nil {
		return wr.fail(err)
	}
	if end {
		wr.done = true
		return wr.finish()
	}
	return nil
}

var lastChunk = []byte("\r\n0\r\n\r\n")

func (wr *writer) pushChunk(p []byte, end bool) error {
	if len(p) == 0 {
		if end {
			return wr.push(lastChunk[2:], nil)
		}
		return nil
	}
	wr.borrow()
	wr.out = strconv.AppendInt(wr.out, int64(len(p)), 16)
	wr.out = append(wr.out, '\r', '\n')
	if end {
		return wr.push(p, lastChunk)
	}
	return wr.push(p, crlf)
}

// push queues p and tail when they fit, and otherwise sends all there is in one
// system call.
func (wr *writer) push(p, tail []byte) error {
	if len(p) == 0 && len(tail) == 0 {
		return nil
	}
	wr.borrow()
	if len(wr.out)+len(p)+len(tail) <= cap(wr.out) {
		wr.out = append(append(wr.out, p...), tail...)
		return nil
	}
	out := wr.out
	wr.out, wr.sent = wr.out[:0], true
	if wr.plain {
		return wr.ctl.Writev(out, p, tail)
	}
	// One TLS record costs more than copying a few kilobytes into it, but a
	// large body goes out from where it is.
	if len(out) > 0 {
		if _, err := wr.data.Write(out); err != nil {
			return err
		}
	}
	if _, err := wr.data.Write(p); err != nil {
		return err
	}
	wr.out = append(wr.out, tail...)
	return nil
}

// finish sends a finished message, or leaves one that is queued as a whole for
// the read that follows.
func (wr *writer) finish() error {
	if wr.hold && !wr.sent {
		return nil
	}
	return wr.flush()
}

func (wr *writer) flush() error {
	if wr.failed != nil {
		return wr.failed
	}
	if len(wr.out) == 0 {
		return nil
	}
	wr.sent = true
	_, err := wr.data.Write(wr.out)
	wr.out = wr.out[:0]
	if wr.done {
		wr.release()
	}
	if err != nil {
		return wr.fail(err)
	}
	return nil
}

// fail remembers that nothing can follow.
func (wr *writer) fail(err error) error {
	wr.failed = asStreamError(err)
	return wr.failed
}

// trailers ends a chunked body with trailer fields.
func (wr *writer) trailers(h *message.Header) error {
	if wr.failed != nil {
		return wr.failed
	}
	wr.borrow()
	start := len(wr.out)
	wr.out = append(wr.out, "0\r\n"...)
	n := wr.fields(h)
	wr.out = append(wr.out, '\r', '\n')
	if err := wr.check(start, n+2); err != nil {
		return wr.fail(err)
	}
	wr.done = true
	return wr.finish()
}
