// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flushSize is how many queued bytes are written without waiting for a flush.
const flushSize = 32 << 10

// maxControl bounds the unsent answers to the peer. A peer that makes us queue
// more (ping, settings or reset floods: CVE-2019-9512, 9514, 9515) is cut off.
const maxControl = 32 << 10

var outPool = sync.Pool{New: func() any { b := make([]byte, 0, flushSize+frameHeaderLen+defaultMaxFrame); return &b }}

// writer serialises frames onto a connection.
type writer struct {
	nc      net.Conn
	timeout time.Duration
	waiting atomic.Int32 // goroutines waiting for mu

	mu        sync.Mutex // guards what follows, and the order of frames
	out       *[]byte    // frames not yet written; nil when there are none
	wantFlush bool
	err       error // first write error
	deadline  time.Time
	enc       *hpack.Encoder
	encBuf    bytes.Buffer
	interned  map[string]string

	maxFrame  atomic.Uint32 // peer's SETTINGS_MAX_FRAME_SIZE
	tableSize atomic.Int64  // peer's SETTINGS_HEADER_TABLE_SIZE to apply, or -1

	ctlMu sync.Mutex
	ctl   []byte // frames queued by those who must not wait
	kick  chan struct{}
}

func newWriter(nc net.Conn, timeout time.Duration) *writer {
	w := &writer{nc: nc, timeout: timeout, kick: make(chan struct{}, 1)}
	w.enc = hpack.NewEncoder(&w.encBuf)
	w.maxFrame.Store(defaultMaxFrame)
	w.tableSize.Store(-1)
	return w
}

func (w *writer) lock() error {
	w.waiting.Add(1)
	w.mu.Lock()
	w.waiting.Add(-1)
	if w.err != nil {
		w.mu.Unlock()
		return w.err
	}
	if w.out == nil {
		w.out = outPool.Get().(*[]byte)
	}
	return nil
}

// unlock queues pending control frames and writes everything if asked to and
// nobody else is about to write: then they flush for us.
func (w *writer) unlock(flush bool) error {
	w.takeControl()
	w.wantFlush = w.wantFlush || flush
	if len(*w.out) >= flushSize || w.wantFlush && w.waiting.Load() == 0 {
		w.write()
	}
	err := w.err
	w.mu.Unlock()
	return err
}

func (w *writer) takeControl() {
	w.ctlMu.Lock()
	if len(w.ctl) > 0 {
		*w.out = append(*w.out, w.ctl...)
		w.ctl = w.ctl[:0]
		w.wantFlush = true
	}
	w.ctlMu.Unlock()
}

// write sends what is queued. The caller holds mu.
func (w *writer) write() {
	w.wantFlush = false
	if now := time.Now(); w.deadline.Sub(now) < w.timeout*3/4 {
		w.deadline = now.Add(w.timeout)
		if err := w.nc.SetWriteDeadline(w.deadline); err != nil && w.err == nil {
			w.err = err
		}
	}
	if len(*w.out) > 0 && w.err == nil {
		_, w.err = w.nc.Write(*w.out)
	}
	*w.out = (*w.out)[:0]
	outPool.Put(w.out)
	w.out = nil
	if w.err != nil {
		// The reader is woken, ends, and fails every stream.
		w.nc.Close()
	}
}

var errControlFlood = errors.New("too many unsent control frames")

// control queues a frame without waiting. It reports a flood.
func (w *writer) control(build func(dst []byte) []byte) error {
	w.ctlMu.Lock()
	w.ctl = build(w.ctl)
	full := len(w.ctl) > maxControl
	w.ctlMu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
	if full {
		return errControlFlood
	}
	return nil
}

// flusher writes control frames that no stream took along, until done closes.
func (w *writer) flusher(done <-chan struct{}) {
	for {
		select {
		case <-w.kick:
		case <-done:
			return
		}
		if w.lock() != nil || w.unlock(false) != nil {
			return
		}
	}
}

func appendFrameHeader(dst []byte, length int, typ http2.FrameType, flags http2.Flags, id uint32) []byte {
	return append(dst, byte(length>>16), byte(length>>8), byte(length), byte(typ), byte(flags),
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendData(dst []byte, id uint32, p []byte, end bool) []byte {
	var flags http2.Flags
	if end {
		flags = http2.FlagDataEndStream
	}
	return append(appendFrameHeader(dst, len(p), http2.FrameData, flags, id), p...)
}

func appendRST(dst []byte, id uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(dst, 4, http2.FrameRSTStream, 0, id), uint32(code))
}

func appendWindowUpdate(dst []byte, id, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(dst, 4, http2.FrameWindowUpdate, 0, id), n)
}

func appendPing(dst []byte, ack bool, data [8]byte) []byte {
	var flags http2.Flags
	if ack {
		flags = http2.FlagPingAck
	}
	return append(appendFrameHeader(dst, 8, http2.FramePing, flags, 0), data[:]...)
}

func appendSettingsAck(dst []byte) []byte {
	return appendFrameHeader(dst, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
}

func appendSettings(dst []byte, settings ...http2.Setting) []byte {
	dst = appendFrameHeader(dst, 6*len(settings), http2.FrameSettings, 0, 0)
	for _, s := range settings {
		dst = binary.BigEndian.AppendUint16(dst, uint16(s.ID))
		dst = binary.BigEndian.AppendUint32(dst, s.Val)
	}
	return dst
}

func appendGoAway(dst []byte, last uint32, code http2.ErrCode) []byte {
	dst = appendFrameHeader(dst, 8, http2.FrameGoAway, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, last)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

// beginHeaders readies the encoder for one header block. The caller holds mu.
func (w *writer) beginHeaders() {
	if n := w.tableSize.Swap(-1); n >= 0 {
		// A larger table than the default buys little and costs memory per
		// connection.
		w.enc.SetMaxDynamicTableSize(uint32(min(n, 4096)))
	}
	w.encBuf.Reset()
}

// endHeaders queues the block as HEADERS and CONTINUATION. The caller holds mu.
func (w *writer) endHeaders(id uint32, end bool) {
	block := w.encBuf.Bytes()
	typ, flags := http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	for {
		n := min(len(block), int(w.maxFrame.Load()))
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		*w.out = append(appendFrameHeader(*w.out, n, typ, flags, id), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return
		}
		typ, flags = http2.FrameContinuation, 0
	}
}
