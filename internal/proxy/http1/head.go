// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// Limits bounds a message head. Zero fields mean the defaults.
type Limits struct {
	HeadBytes int // of the start line and all field lines; 60 KiB
	Fields    int // number of field lines; 100
}

func (l Limits) orDefaults() Limits {
	if l.HeadBytes <= 0 {
		l.HeadBytes = 60 << 10
	}
	if l.Fields <= 0 {
		l.Fields = 100
	}
	return l
}

// head gathers what the field lines say about framing and the connection while
// they are parsed. Only what is end-to-end goes to the message's own header.
type head struct {
	pos, scan int // first byte of the line in hand; where to look for its end
	lines     int // field lines seen
	started   bool
	blank     bool // one empty line before the request line was skipped

	host      []byte
	upgrade   []byte
	length    int64 // declared Content-Length, -1 for none
	chunked   bool
	te        bool // any Transfer-Encoding
	close     bool
	keepAlive bool
	upgradeOK bool // Connection: upgrade
	expect    bool
	hasHost   bool
	trailers  bool // TE: trailers
	settings  bool // HTTP2-Settings
	nominated [8][]byte
	nominees  int
}

func (h *head) reset() { *h = head{length: -1} }

// tokens maps a byte to itself in lower case when it may stand in a token (RFC
// 9110 section 5.6.2) and to 0 otherwise.
var tokens = func() (t [256]byte) {
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = byte(c), byte(c)
	}
	for c := '0'; c <= '9'; c++ {
		t[c] = byte(c)
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		t[c] = c
	}
	return t
}()

// badValue marks the bytes that may not stand in a field value (RFC 9110
// section 5.5).
var badValue = func() (t [256]bool) {
	for c := range 0x20 {
		t[c] = c != '\t'
	}
	t[0x7f] = true
	return t
}()

// field parses one field line without its CRLF. A leading space (obs-fold) and
// a space before the colon fall out as an empty or broken name.
func (h *head) field(line []byte, out *message.Header) *message.StreamError {
	i := 0
	for i < len(line) {
		c := tokens[line[i]]
		if c == 0 {
			break
		}
		line[i] = c
		i++
	}
	if i == 0 || i == len(line) || line[i] != ':' {
		return errCodec
	}
	name, v := line[:i:i], trim(line[i+1:])
	for _, c := range v {
		if badValue[c] {
			return errInvalidChars
		}
	}
	id := message.Lookup(name)
	if id != message.Unknown && id <= message.Upgrade {
		return h.framing(id, v)
	}
	out.Fields = append(out.Fields, message.Field{Name: name, Value: v, ID: id})
	return nil
}

// framing handles the fields that are about this connection and not about the
// message: they are recorded here and never forwarded.
func (h *head) framing(id message.ID, v []byte) *message.StreamError {
	switch id {
	case message.Host:
		if h.hasHost {
			return errCodec
		}
		h.host, h.hasHost = v, true
	case message.ContentLength:
		n, ok := decimal(v)
		if !ok || h.length >= 0 {
			return errCodec
		}
		h.length = n
	case message.TransferEncoding:
		// Only the one coding that frames a message, said once: everything else
		// is read differently by somebody.
		if h.te || !foldEqual(v, "chunked") {
			return errTransferCoding
		}
		h.te, h.chunked = true, true
	case message.Connection:
		return h.connection(v)
	case message.Upgrade:
		if h.upgrade != nil {
			return errCodec
		}
		h.upgrade = v
	case message.Expect:
		h.expect = foldEqual(v, "100-continue")
	case message.TE:
		h.trailers = h.trailers || hasToken(v, "trailers")
	case message.HTTP2Settings:
		h.settings = true
	}
	return nil
}

func (h *head) connection(v []byte) *message.StreamError {
	for len(v) > 0 {
		var t []byte
		t, v = nextToken(v)
		switch {
		case len(t) == 0:
		case foldEqual(t, "close"):
			h.close = true
		case foldEqual(t, "keep-alive"):
			h.keepAlive = true
		case foldEqual(t, "upgrade"):
			h.upgradeOK = true
		default:
			if h.nominees == len(h.nominated) {
				return errConnection
			}
			for i := range t {
				if t[i] = tokens[t[i]]; t[i] == 0 {
					return errConnection
				}
			}
			h.nominated[h.nominees] = t
			h.nominees++
		}
	}
	return nil
}

// finish drops the fields that Connection names. What identifies or locates the
// client cannot be dropped that way, or a client could hide it from the next
// hop.
func (h *head) finish(out *message.Header) {
	for _, name := range h.nominated[:h.nominees] {
		if !protected(name) {
			out.Remove(name)
		}
	}
	if h.trailers {
		out.AddID(message.TE, trailersValue)
	}
}

var trailersValue = []byte("trailers")

func protected(name []byte) bool {
	switch message.Lookup(name) {
	case message.Authorization, message.Cookie, message.XRequestID, message.TE:
		return true
	}
	return bytes.HasPrefix(name, []byte("x-forwarded-")) || bytes.HasPrefix(name, []byte("x-envoy-"))
}

// decimal parses a Content-Length: digits only, and few enough not to overflow.
func decimal(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// trim removes optional white space around v.
func trim(v []byte) []byte {
	for len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for len(v) > 0 && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	return v
}

func nextToken(v []byte) (token, rest []byte) {
	if i := bytes.IndexByte(v, ','); i >= 0 {
		return trim(v[:i]), v[i+1:]
	}
	return trim(v), nil
}

func hasToken(v []byte, want string) bool {
	for len(v) > 0 {
		var t []byte
		if t, v = nextToken(v); foldEqual(t, want) {
			return true
		}
	}
	return false
}

// foldEqual compares with a lower-case string, ignoring the case of b.
func foldEqual(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

func lowerInPlace(b []byte) {
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
}
