// SPDX-License-Identifier: Apache-2.0

package http1

import "github.com/lateen-mesh/lateen/internal/proxy/message"

// chunkState is where the decoder stands in a chunked body (RFC 9112 section
// 7.1). It goes byte by byte through everything but data, so that a line split
// over reads needs no buffer.
type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExt
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
)

const (
	maxDigits   = 15       // of a chunk size: below 2^60, so no overflow
	maxChunkExt = 4 << 10  // bytes of extensions in one body: they mean nothing to us
	maxTrailers = 16 << 10 // bytes of trailer fields
)

// advance consumes framing bytes until data, the body's end or the end of what
// is buffered.
func (rd *reader) advance(out *message.Header) error {
	if rd.broken == nil {
		rd.broken = rd.decode(out)
	}
	if rd.broken != nil {
		return rd.broken
	}
	return nil
}

func (rd *reader) decode(out *message.Header) *message.StreamError {
	for rd.r < rd.w && rd.chunk != chunkData {
		c := rd.cur[rd.r]
		rd.r++
		switch rd.chunk {
		case chunkSize:
			if v := hex(c); v >= 0 {
				if rd.digits == maxDigits {
					return errCodec
				}
				rd.left = rd.left<<4 | int64(v)
				rd.digits++
				continue
			}
			switch {
			case rd.digits == 0:
				return errCodec
			case c == '\r':
				rd.chunk = chunkSizeLF
			case c == ';':
				rd.chunk = chunkExt
			default:
				return errCodec
			}
		case chunkExt:
			rd.extra++
			switch {
			case c == '\r':
				rd.chunk = chunkSizeLF
			case badValue[c] || rd.extra > maxChunkExt:
				return errCodec
			}
		case chunkSizeLF:
			if c != '\n' {
				return errCodec
			}
			rd.digits = 0
			if rd.chunk = chunkData; rd.left == 0 {
				rd.chunk, rd.extra = chunkTrailer, 0
			}
		case chunkDataCR:
			if c != '\r' {
				return errCodec
			}
			rd.chunk = chunkDataLF
		case chunkDataLF:
			if c != '\n' {
				return errCodec
			}
			rd.chunk = chunkSize
		case chunkTrailer:
			if done, err := rd.trailerByte(c, out); err != nil || done {
				return err
			}
		}
	}
	return nil
}

// trailerByte collects trailer lines; the empty line ends the body.
func (rd *reader) trailerByte(c byte, out *message.Header) (done bool, err *message.StreamError) {
	rd.trailer = append(rd.trailer, c)
	if rd.extra++; rd.extra > maxTrailers {
		return false, errTooLarge
	}
	n := len(rd.trailer)
	if c != '\n' {
		return false, nil
	}
	if n < 2 || rd.trailer[n-2] != '\r' {
		return false, errCodec
	}
	start := 0 // of the line that ends here
	for i := n - 2; i > 0; i-- {
		if rd.trailer[i-1] == '\n' {
			start = i
			break
		}
	}
	if start < n-2 {
		return false, nil
	}
	// Only good trailers end the body.
	err = rd.parseTrailers(out)
	rd.complete = err == nil
	return true, err
}

// parseTrailers gives out the fields that may stand in a trailer: nothing about
// framing, routing or identity (RFC 9110 section 6.5.1).
func (rd *reader) parseTrailers(out *message.Header) *message.StreamError {
	b, lines := rd.trailer, 0
	var h head
	h.reset()
	var all message.Header
	all.Fields = out.Fields
	for len(b) > 2 {
		end := 0
		for b[end] != '\n' {
			end++
		}
		if end == 0 || b[end-1] != '\r' {
			return errCodec
		}
		if lines++; lines > rd.limits.Fields {
			return errTooMany
		}
		if err := h.field(b[:end-1], &all); err != nil {
			return err
		}
		b = b[end+1:]
	}
	if h.te || h.length >= 0 || h.hasHost {
		return errCodec
	}
	out.Fields = out.Fields[:0]
	for _, f := range all.Fields {
		switch f.ID {
		case message.Authorization, message.Cookie, message.SetCookie, message.CacheControl,
			message.ContentType, message.ContentEncoding, message.Range, message.XForwardedClientCert,
			message.XForwardedFor, message.XForwardedProto, message.XForwardedHost:
		default:
			out.Fields = append(out.Fields, f)
		}
	}
	return nil
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
