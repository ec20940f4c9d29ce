// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"strings"
)

// TLS numbers (RFC 8446 4, 5.1; RFC 6066 3; RFC 7301 3.1).
const (
	recordHandshake  = 22
	typeClientHello  = 1
	extServerName    = 0
	extALPN          = 16
	maxServerNameLen = 255
)

// reader takes fields off a TLS structure; ok turns false when it is too short.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) take(n int) []byte {
	if !r.ok || len(r.b) < n {
		r.ok = false
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) number(bytes int) int {
	n := 0
	for _, c := range r.take(bytes) {
		n = n<<8 | int(c)
	}
	return n
}

// vector takes a length of that many bytes and what it counts.
func (r *reader) vector(lengthBytes int) reader {
	n := r.number(lengthBytes)
	b := r.take(n)
	return reader{b, r.ok}
}

// parseHello decides whether b begins with a TLS ClientHello and takes server
// name and ALPN from it (Envoy's tls_inspector).
func parseHello(b []byte, in *inspected) verdict {
	hello, v := handshakeBytes(b)
	if v != matched {
		return v
	}
	r := reader{hello, true}
	r.take(2 + 32) // legacy_version, random
	r.vector(1)    // legacy_session_id
	r.vector(2)    // cipher_suites
	r.vector(1)    // legacy_compression_methods
	if !r.ok {
		return broken
	}
	if len(r.b) == 0 { // RFC 5246 7.4.1.2: extensions may be absent
		return matched
	}
	exts := r.vector(2)
	if !exts.ok || len(r.b) != 0 {
		return broken
	}
	for len(exts.b) > 0 {
		kind := exts.number(2)
		data := exts.vector(2)
		if !exts.ok {
			return broken
		}
		switch kind {
		case extServerName:
			if !serverName(data, in) {
				return broken
			}
		case extALPN:
			if !protocols(data, in) {
				return broken
			}
		}
	}
	return matched
}

// handshakeBytes joins the records that carry the ClientHello and returns its
// body. The first bytes decide whether it is TLS at all.
func handshakeBytes(b []byte) ([]byte, verdict) {
	var msg []byte
	rest := b
	for {
		if len(rest) > 0 && rest[0] != recordHandshake || len(rest) > 1 && rest[1] != 3 {
			if len(rest) == len(b) {
				return nil, other
			}
			return nil, broken
		}
		if len(rest) < 5 {
			return nil, needMore
		}
		n := int(rest[3])<<8 | int(rest[4])
		if n == 0 || n > 1<<14 {
			if len(rest) == len(b) {
				return nil, other
			}
			return nil, broken
		}
		part := rest[5:min(len(rest), 5+n)]
		whole := len(rest) >= 5+n
		if msg == nil {
			msg = part[:len(part):len(part)]
		} else {
			msg = append(msg, part...)
		}
		if len(msg) > 0 && msg[0] != typeClientHello {
			return nil, other
		}
		if len(msg) >= 4 {
			size := int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3])
			if size > maxHello {
				return nil, broken
			}
			if len(msg) >= 4+size {
				return msg[4 : 4+size], matched
			}
		}
		if !whole {
			return nil, needMore
		}
		rest = rest[5+n:]
		if len(rest) == 0 {
			return nil, needMore
		}
	}
}

func serverName(data reader, in *inspected) bool {
	list := data.vector(2)
	for list.ok && len(list.b) > 0 {
		kind := list.number(1)
		name := list.vector(2)
		if !list.ok {
			return false
		}
		if kind != 0 {
			continue
		}
		// A DNS name has at most 255 bytes (CVE-2024-32475 is what happens to
		// who believes otherwise).
		if len(name.b) == 0 || len(name.b) > maxServerNameLen || in.serverName != "" {
			return false
		}
		for _, c := range name.b {
			if c <= ' ' || c >= 0x7f {
				return false
			}
		}
		in.serverName = strings.ToLower(string(name.b))
	}
	return list.ok && data.ok && len(data.b) == 0
}

func protocols(data reader, in *inspected) bool {
	list := data.vector(2)
	for list.ok && len(list.b) > 0 {
		p := list.vector(1)
		if !list.ok || len(p.b) == 0 {
			return false
		}
		in.alpn = append(in.alpn, string(p.b))
	}
	return list.ok && data.ok && len(data.b) == 0
}
