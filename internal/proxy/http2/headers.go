// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// A malformed message is a stream error of type PROTOCOL_ERROR (RFC 9113
// section 8.1.1).
var errMalformed = errors.New("malformed message")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errMalformed, fmt.Sprintf(format, args...))
}

// errTooLarge is a header block past its limits.
var errTooLarge = errors.New("header block too large")

// block collects one decoded header block. It belongs to the reading goroutine.
type block struct {
	fields   []hpack.HeaderField
	size     uint32 // RFC 9113 section 6.5.2: name + value + 32 for each field
	tooLarge bool

	id            uint32
	end           bool
	encoded       uint32
	continuations int
}

// emit is called by the decoder for each field. Past the limits the block is
// still decoded, to keep the table in step, but nothing is kept: small indexed
// fields cannot grow into memory (CVE-2016-6581 and its successors).
func (b *block) emit(f hpack.HeaderField, maxBytes uint32, maxFields int) {
	b.size += f.Size()
	if b.size > maxBytes || len(b.fields) >= maxFields {
		b.tooLarge = true
		return
	}
	b.fields = append(b.fields, f)
}

// head is a decoded message head: pseudo-header fields apart, the rest as
// message fields that alias buf.
type head struct {
	method, scheme, authority, path, protocol, status []byte
	fields                                            []message.Field
	contentLength                                     int64 // -1 when absent
	buf                                               *[]byte
}

var headPool = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

func (h *head) release() {
	if h.buf == nil {
		return
	}
	if cap(*h.buf) <= 16<<10 {
		headPool.Put(h.buf)
	}
	h.buf = nil
	h.fields = h.fields[:0]
}

type blockKind uint8

const (
	requestBlock blockKind = iota
	responseBlock
	trailerBlock
)

// parse validates a block (RFC 9113 section 8.2 and 8.3) and copies it out of
// the decoder's strings, which other messages share.
func (h *head) parse(b *block, kind blockKind) error {
	*h = head{fields: h.fields[:0], contentLength: -1, buf: h.buf}
	if h.buf == nil {
		h.buf = headPool.Get().(*[]byte)
	}
	buf := (*h.buf)[:0]
	if cap(buf) < int(b.size) {
		buf = make([]byte, 0, b.size)
	}
	keep := func(s string) []byte {
		n := len(buf)
		buf = append(buf, s...)
		return buf[n:len(buf):len(buf)]
	}
	var cookies [][]byte
	regular := false
	for i := range b.fields {
		f := &b.fields[i]
		if err := checkValue(f.Name, f.Value); err != nil {
			return err
		}
		if f.IsPseudo() {
			if regular || kind == trailerBlock {
				return malformed("pseudo-header field %q out of place", f.Name)
			}
			if err := h.pseudo(kind, f.Name, keep(f.Value)); err != nil {
				return err
			}
			continue
		}
		regular = true
		if err := checkName(f.Name); err != nil {
			return err
		}
		field := message.Field{Value: keep(f.Value)}
		if field.ID = message.Lookup(bytesOf(f.Name)); field.ID != message.Unknown {
			field.Name = field.ID.Bytes()
		} else {
			field.Name = keep(f.Name)
		}
		drop, err := h.special(field, kind)
		if err != nil {
			return err
		}
		if field.ID == message.Cookie {
			if len(field.Value) > 0 {
				cookies = append(cookies, field.Value)
			}
			drop = true
		}
		if !drop {
			h.fields = append(h.fields, field)
		}
	}
	// RFC 9113 section 8.2.3: crumbs are one cookie for whoever reads them.
	switch {
	case len(cookies) == 1:
		h.fields = append(h.fields, message.Field{Name: message.Cookie.Bytes(), ID: message.Cookie, Value: cookies[0]})
	case len(cookies) > 1:
		h.fields = append(h.fields, message.Field{Name: message.Cookie.Bytes(), ID: message.Cookie, Value: bytes.Join(cookies, []byte("; "))})
	}
	*h.buf = buf
	return nil
}

func (h *head) pseudo(kind blockKind, name string, value []byte) error {
	var dst *[]byte
	if kind == requestBlock {
		switch name {
		case ":method":
			dst = &h.method
		case ":scheme":
			dst = &h.scheme
		case ":authority":
			dst = &h.authority
		case ":path":
			dst = &h.path
		case ":protocol":
			dst = &h.protocol
		}
	} else if name == ":status" {
		dst = &h.status
	}
	if dst == nil {
		return malformed("pseudo-header field %q", name)
	}
	if *dst != nil {
		return malformed("pseudo-header field %q twice", name)
	}
	*dst = value
	return nil
}

// special handles the fields that frame a message or belong to a connection.
func (h *head) special(f message.Field, kind blockKind) (drop bool, err error) {
	switch f.ID {
	case message.Connection, message.KeepAlive, message.ProxyConnection, message.TransferEncoding, message.Upgrade, message.HTTP2Settings:
		return false, malformed("connection-specific field %q", f.Name)
	case message.TE:
		if kind != requestBlock || !bytes.EqualFold(f.Value, trailersToken) {
			return false, malformed("te field other than trailers")
		}
	case message.Host:
		if kind != requestBlock {
			return true, nil
		}
		if h.authority == nil {
			h.authority = f.Value
		} else if !bytes.EqualFold(h.authority, f.Value) {
			return false, malformed("host field differs from :authority")
		}
		return true, nil
	case message.ContentLength:
		if kind == trailerBlock {
			return true, nil
		}
		n, ok := parseLength(f.Value)
		if !ok || h.contentLength >= 0 && h.contentLength != n {
			return false, malformed("content-length %q", f.Value)
		}
		h.contentLength = n
		return true, nil
	case message.Authorization, message.Cookie, message.SetCookie, message.Trailer:
		return kind == trailerBlock, nil
	}
	return false, nil
}

var trailersToken = []byte("trailers")

// checkRequest applies RFC 9113 section 8.3.1, 8.5 and RFC 8441 section 4.
func (h *head) checkRequest(allowConnect bool) error {
	if len(h.method) == 0 || !isToken(h.method) {
		return malformed(":method %q", h.method)
	}
	connect := string(h.method) == "CONNECT"
	if h.protocol != nil && (!connect || !allowConnect || !isToken(h.protocol)) {
		return malformed(":protocol %q", h.protocol)
	}
	if !validAuthority(h.authority) {
		return malformed(":authority %q", h.authority)
	}
	if connect && h.protocol == nil {
		if h.scheme != nil || h.path != nil || len(h.authority) == 0 {
			return malformed("CONNECT with :scheme or :path, or without :authority")
		}
		return nil
	}
	if s := string(h.scheme); s != "http" && s != "https" {
		return malformed(":scheme %q", h.scheme)
	}
	if len(h.path) == 0 || h.path[0] != '/' && !(string(h.path) == "*" && string(h.method) == "OPTIONS") {
		return malformed(":path %q", h.path)
	}
	for _, c := range h.path {
		if c <= ' ' || c == 0x7f {
			return malformed(":path %q", h.path)
		}
	}
	return nil
}

func (h *head) statusCode() (int, error) {
	if len(h.status) != 3 {
		return 0, malformed(":status %q", h.status)
	}
	n, err := strconv.Atoi(string(h.status))
	if err != nil || n < 100 || n > 999 {
		return 0, malformed(":status %q", h.status)
	}
	return n, nil
}

// checkName: a field name is a lower-case token (RFC 9113 section 8.2.1).
func checkName(s string) error {
	if s == "" {
		return malformed("empty field name")
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !tokenTable[c] || 'A' <= c && c <= 'Z' {
			return malformed("field name %q", s)
		}
	}
	return nil
}

// checkValue: no NUL, CR or LF, no surrounding white space (section 8.2.1).
func checkValue(name, v string) error {
	for i := 0; i < len(v); i++ {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return malformed("value of field %q", name)
		}
	}
	if v != "" && (isSpace(v[0]) || isSpace(v[len(v)-1])) {
		return malformed("white space around the value of field %q", name)
	}
	return nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenTable[c] {
			return false
		}
	}
	return len(b) > 0
}

// tokenTable is RFC 9110 section 5.6.2.
var tokenTable = func() (t [256]bool) {
	for c := 0; c < 256; c++ {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
	}
	return t
}()

// validAuthority accepts what can be a Host field (RFC 3986 section 3.2): no
// user info, a port of digits, brackets around an IPv6 address only.
func validAuthority(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || bytes.IndexByte([]byte("@/?#\\,\"<>"), c) >= 0 {
			return false
		}
	}
	rest := b
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || bytes.IndexByte(b[:end], ':') < 0 {
			return false
		}
		rest = b[end+1:]
		if len(rest) > 0 && rest[0] != ':' {
			return false
		}
	}
	if bytes.ContainsAny(rest, "[]") {
		return false
	}
	if i := bytes.IndexByte(rest, ':'); i >= 0 {
		for _, c := range rest[i+1:] {
			if c < '0' || c > '9' {
				return false
			}
		}
	}
	return true
}

func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// bytesOf views a string; nobody writes through it.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// code is the error code that tells the peer why we reset.
func code(r message.ResetReason, server bool) http2.ErrCode {
	switch r {
	case message.RefusedStream:
		return http2.ErrCodeRefusedStream
	case message.ProtocolError:
		return http2.ErrCodeProtocol
	case message.Overflow:
		return http2.ErrCodeEnhanceYourCalm
	case message.NoReset:
		return http2.ErrCodeNo
	}
	if server {
		return http2.ErrCodeInternal
	}
	return http2.ErrCodeCancel
}
