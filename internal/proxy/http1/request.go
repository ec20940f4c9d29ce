// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"net/netip"
	"unsafe"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

var (
	slash       = []byte("/")
	asterisk    = []byte("*")
	httpScheme  = []byte("http")
	httpsScheme = []byte("https")
)

// requestLine parses "METHOD target HTTP/1.x".
func requestLine(line []byte, r *message.Request) *message.StreamError {
	i := 0
	for i < len(line) && tokens[line[i]] != 0 {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ' ' {
		return errCodec
	}
	r.Method = line[:i:i]
	rest := line[i+1:]
	sp := bytes.IndexByte(rest, ' ')
	if sp <= 0 {
		return errCodec
	}
	switch string(rest[sp+1:]) {
	case "HTTP/1.1":
		r.Proto = message.HTTP11
	case "HTTP/1.0":
		r.Proto = message.HTTP10
	default:
		return errCodec
	}
	r.Path = rest[:sp:sp]
	for _, c := range r.Path {
		// A fragment has no place on the wire: who strips it and who does not
		// would see different paths.
		if c <= 0x20 || c == 0x7f || c == '#' {
			return errInvalidURL
		}
	}
	return nil
}

// target turns the request target and the Host field into the canonical
// authority and path. RFC 9112 section 3.2: an absolute form wins over Host.
func (h *head) target(r *message.Request, tls, noAbsolute bool) *message.StreamError {
	r.Scheme = httpScheme
	if tls {
		r.Scheme = httpsScheme
	}
	if !h.hasHost && r.Proto == message.HTTP11 {
		return errNoHost
	}
	r.Authority = h.host
	t := r.Path
	switch {
	case isConnect(r.Method):
		if h.length > 0 {
			return errLength
		}
		if h.te {
			return errConnectTE
		}
		r.Authority, r.Path = t, nil
		if !hasPort(t) {
			return errInvalidURL
		}
	case t[0] == '/':
	case len(t) == 1 && t[0] == '*':
		if string(r.Method) != "OPTIONS" {
			return errInvalidURL
		}
	case noAbsolute:
		return errInvalidURL
	default:
		if err := absolute(r, t); err != nil {
			return err
		}
	}
	if !validAuthority(r.Authority) || !validAuthority(h.host) {
		return errInvalidURL
	}
	return nil
}

func absolute(r *message.Request, t []byte) *message.StreamError {
	i := bytes.Index(t, []byte("://"))
	if i < 0 {
		return errInvalidURL
	}
	switch scheme := t[:i]; {
	case foldEqual(scheme, "http"):
		r.Scheme = httpScheme
	case foldEqual(scheme, "https"):
		r.Scheme = httpsScheme
	default:
		return errInvalidURL
	}
	rest := t[i+3:]
	end := bytes.IndexAny(rest, "/?")
	switch {
	case end < 0 && string(r.Method) == "OPTIONS":
		r.Authority, r.Path = rest, asterisk
	case end < 0:
		r.Authority, r.Path = rest, slash
	case rest[end] == '/':
		r.Authority, r.Path = rest[:end:end], rest[end:]
	default:
		return errInvalidURL // "http://host?query": no path to match on
	}
	if len(r.Authority) == 0 {
		return errInvalidURL
	}
	return nil
}

// hostChars are the bytes of a registered name as RFC 3986 section 3.2.2 has
// them; userinfo's "@" and the port's ":" are not among them.
var hostChars = func() (t [256]bool) {
	for c := range 256 {
		t[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
	}
	for _, c := range []byte("-._~!$&'()*+,;=%") {
		t[c] = true
	}
	return t
}()

// validAuthority accepts a host and an optional port (RFC 3986 section 3.2), or
// nothing at all. Where the host ends must not be a matter of opinion: routing,
// policy and the next hop all read it.
func validAuthority(a []byte) bool {
	if len(a) == 0 {
		return true
	}
	if a[0] == '[' {
		i := bytes.IndexByte(a, ']')
		return i > 0 && isIPv6(a[1:i]) && validPort(a[i+1:])
	}
	i := 0
	for ; i < len(a) && hostChars[a[i]]; i++ {
		if a[i] == '%' && (i+2 >= len(a) || hex(a[i+1]) < 0 || hex(a[i+2]) < 0) {
			return false
		}
	}
	return i > 0 && validPort(a[i:])
}

// validPort accepts ":" and a number up to 65535, which may be absent, or
// nothing.
func validPort(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if p[0] != ':' || len(p) > len(":65535") {
		return false
	}
	n := 0
	for _, c := range p[1:] {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}

// isIPv6 accepts an address without a zone, which means nothing to another
// machine.
func isIPv6(b []byte) bool {
	if len(b) == 0 || bytes.IndexByte(b, '%') >= 0 {
		return false
	}
	// Neither the address nor the error keeps the string, so it need be no copy.
	a, err := netip.ParseAddr(unsafe.String(&b[0], len(b)))
	return err == nil && a.Is6()
}

// hasPort says that a valid authority ends in a port that is not empty.
func hasPort(a []byte) bool {
	i := bytes.LastIndexByte(a, ':')
	return i > bytes.LastIndexByte(a, ']') && i < len(a)-1
}

func isConnect(m []byte) bool { return string(m) == "CONNECT" }
func isHead(m []byte) bool    { return string(m) == "HEAD" }

// request finishes a head: target, framing, upgrade.
func (h *head) request(r *message.Request, cfg *ServerConfig) *message.StreamError {
	if err := h.target(r, cfg.TLS, cfg.NoAbsoluteURL); err != nil {
		return err
	}
	if h.te {
		if r.Proto == message.HTTP10 {
			return errTransferCoding
		}
		if h.length >= 0 {
			if !cfg.AllowChunkedLength {
				return errBothLengths
			}
			h.length, h.close = -1, true
		}
	}
	switch {
	case h.chunked:
		r.BodyLength = -1
	case h.length > 0:
		r.BodyLength = h.length
	}
	if h.upgradeOK && len(h.upgrade) > 0 && !isConnect(r.Method) && r.Proto == message.HTTP11 {
		if lowerInPlace(h.upgrade); string(h.upgrade) != "h2c" {
			r.Upgrade = h.upgrade
		}
	}
	h.finish(&r.Header)
	return nil
}

// statusLine parses "HTTP/1.x SSS reason".
func statusLine(line []byte, r *message.Response) *message.StreamError {
	if len(line) < 12 || line[8] != ' ' || (len(line) > 12 && line[12] != ' ') {
		return errCodec
	}
	switch string(line[:8]) {
	case "HTTP/1.1":
		r.Proto = message.HTTP11
	case "HTTP/1.0":
		r.Proto = message.HTTP10
	default:
		return errCodec
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return errCodec
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	for _, c := range line[12:] {
		if badValue[c] {
			return errInvalidChars
		}
	}
	if r.Status < 100 || r.Status > 599 {
		return errCodec
	}
	return nil
}
