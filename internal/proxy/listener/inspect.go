// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// inspected is what the first bytes of a connection say.
type inspected struct {
	tls        bool
	serverName string   // lower case
	alpn       []string // of the ClientHello, or what the HTTP inspector saw
}

// verdict is an inspector's view of the bytes so far.
type verdict uint8

const (
	needMore verdict = iota
	matched
	other // the bytes are of another protocol
	broken
)

// Bounds of what inspectors look at, in bytes: one ClientHello may be 16 KiB
// (Envoy's limit), a request line 64 KiB.
const (
	firstPeek  = 4 << 10
	maxHello   = 16<<10 + 5*4
	maxReqLine = 64 << 10
)

var peekBuffers = sync.Pool{New: func() any { b := make([]byte, firstPeek); return &b }}

var errBadHello = errors.New("malformed TLS ClientHello")

// inspect looks at the first bytes of a connection without taking them, as
// often as more arrive, until the wanted inspectors have decided. Deadlines are
// the caller's. io.EOF says that the peer closed before.
func inspect(conn syscall.Conn, wantTLS, wantHTTP bool) (inspected, error) {
	var in inspected
	raw, err := conn.SyscallConn()
	if err != nil {
		return in, err
	}
	pooled := peekBuffers.Get().(*[]byte)
	defer peekBuffers.Put(pooled)
	buf := *pooled
	seen := 0
	for wantTLS || wantHTTP {
		n, err := peekMore(raw, &buf, seen)
		if err != nil {
			return in, err
		}
		seen = n
		b := buf[:n]
		if wantTLS {
			switch v := parseHello(b, &in); v {
			case needMore:
				continue
			case matched:
				in.tls = true
				return in, nil
			case broken:
				return in, errBadHello
			}
			wantTLS = false
		}
		if wantHTTP {
			proto, v := parseRequestLine(b)
			if v == needMore {
				continue
			}
			if v == matched {
				in.alpn = []string{proto}
			}
			wantHTTP = false
		}
	}
	return in, nil
}

// peekMore waits until more than seen bytes wait to be read and copies them to
// buf, which grows as far as an inspector may ask.
func peekMore(raw syscall.RawConn, buf *[]byte, seen int) (int, error) {
	if seen == len(*buf) {
		if seen >= maxReqLine {
			return 0, errors.New("first line is too long to inspect")
		}
		*buf = make([]byte, min(4*seen, maxReqLine))
	}
	var n int
	var perr error
	err := raw.Read(func(fd uintptr) bool {
		for {
			n, _, perr = unix.Recvfrom(int(fd), *buf, unix.MSG_PEEK)
			if perr != unix.EINTR {
				break
			}
		}
		switch {
		case perr == unix.EAGAIN:
			perr = nil
			return false
		case perr != nil || n == 0 || n > seen:
			return true
		}
		// Nothing new: a wake-up for older bytes, or the peer is done.
		if peerDone(fd) {
			perr = io.EOF
			return true
		}
		return false
	})
	if err == nil {
		err = perr
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

// peerDone says whether the peer has closed its side.
func peerDone(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// methods are those the HTTP inspector takes for HTTP/1 (RFC 9110, 5789, 4918,
// 3253, 5323), as Envoy's does.
var methods = []string{
	"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
	"COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL",
	"REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "MSEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE", "MKCALENDAR", "LINK", "UNLINK", "SOURCE",
}

// parseRequestLine decides whether b begins HTTP and which: "h2c", "http/1.1"
// or "http/1.0" (Envoy's http_inspector).
func parseRequestLine(b []byte) (string, verdict) {
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] && n > 3 || len(b) <= 3 && strings.HasPrefix(preface, string(b)) {
		if len(b) >= len(preface) {
			return "h2c", matched
		}
		return "", needMore
	}
	for len(b) >= 2 && b[0] == '\r' && b[1] == '\n' { // RFC 9112 2.2: empty lines before a request line
		b = b[2:]
	}
	method, rest, ok := bytes.Cut(b, []byte{' '})
	if !ok {
		for _, m := range methods {
			if strings.HasPrefix(m, string(b)) {
				return "", needMore
			}
		}
		if len(b) == 1 && b[0] == '\r' {
			return "", needMore
		}
		return "", other
	}
	known := false
	for _, m := range methods {
		known = known || m == string(method)
	}
	if !known {
		return "", other
	}
	line, _, ok := bytes.Cut(rest, []byte{'\n'})
	if !ok {
		if len(b) >= maxReqLine {
			return "", other
		}
		return "", needMore
	}
	line = bytes.TrimSuffix(line, []byte{'\r'})
	switch {
	case bytes.HasSuffix(line, []byte(" HTTP/1.1")):
		return "http/1.1", matched
	case bytes.HasSuffix(line, []byte(" HTTP/1.0")):
		return "http/1.0", matched
	}
	return "", other
}
