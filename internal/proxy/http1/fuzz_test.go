// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// script is a connection that reads from memory, in pieces, and swallows what is
// written.
type script struct {
	data  []byte
	piece int
	out   bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(s.data), s.piece)
	copy(p, s.data[:n])
	s.data = s.data[n:]
	return n, nil
}
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// parsed is one request as the codec understood it.
type parsed struct {
	method, authority, path, body string
	fields, trailers              string
}

// parseAll reads requests until the codec stops.
func parseAll(data []byte, piece int) (all []parsed, err error) {
	c := NewServerConn(&script{data: data, piece: piece}, ServerConfig{Trailers: true})
	for {
		if err := c.Next(time.Time{}, 0); err != nil {
			return all, err
		}
		body, err := readAll(c)
		if err != nil {
			return all, err
		}
		r := c.Request()
		all = append(all, parsed{string(r.Method), string(r.Authority), string(r.Path), body, fields(&r.Header), fields(&r.Trailer)})
		if err := c.WriteHead(&message.Response{Status: 200}, true); err != nil {
			return all, err
		}
		if !c.Finish() {
			return all, nil
		}
	}
}

// FuzzRequests holds the request parser to three properties: how the bytes are
// cut into reads makes no difference; whatever it accepts net/http's parser
// accepts with the same meaning; and what it understood, written again by the
// client codec, is understood the same.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://y/a?b HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: v\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, upgrade\r\nUpgrade: websocket\r\nFoo: 1\r\n\r\n",
		"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\nrest",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		whole, wholeErr := parseAll(bytes.Clone(data), 1<<20)
		bits, bitsErr := parseAll(bytes.Clone(data), 1)
		if len(whole) != len(bits) || (wholeErr == io.EOF) != (bitsErr == io.EOF) {
			t.Fatalf("in one read %v %v, byte by byte %v %v", whole, wholeErr, bits, bitsErr)
		}
		for i := range whole {
			if whole[i] != bits[i] {
				t.Fatalf("in one read %q, byte by byte %q", whole[i], bits[i])
			}
		}
		compare(t, data, whole)
		for _, p := range whole {
			again(t, p)
		}
	})
}

// compare parses with net/http what the codec accepted.
func compare(t *testing.T, data []byte, all []parsed) {
	r := bufio.NewReader(bytes.NewReader(data))
	for _, p := range all {
		req, err := http.ReadRequest(r)
		if err != nil {
			if stricter(err, p) {
				return
			}
			t.Fatalf("net/http refuses %q: %v", p, err)
		}
		if req.Method != p.method || p.method != "CONNECT" && req.Host != p.authority {
			t.Fatalf("net/http reads %s %s, we %q", req.Method, req.Host, p)
		}
		if p.method == "CONNECT" || strings.Contains(p.fields, "upgrade") {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatalf("net/http's body of %q: %v", p, err)
		}
		if string(body) != p.body {
			t.Fatalf("net/http's body is %q, ours %q", body, p.body)
		}
	}
}

// stricter lists what net/http refuses and this codec may pass on: targets that
// net/url cannot split, hosts it does not like, and one blank line before a
// request (RFC 9112 section 2.2).
func stricter(err error, p parsed) bool {
	s := err.Error()
	return s == `malformed HTTP request ""` || strings.Contains(s, "invalid URI") || strings.Contains(s, "parse ") || strings.Contains(s, "malformed Host") || strings.Contains(s, "invalid method") && p.method != ""
}

// again writes a request and reads it back.
func again(t *testing.T, p parsed) {
	if p.method == "CONNECT" || p.authority == "" {
		return
	}
	req := &message.Request{Method: []byte(p.method), Authority: []byte(p.authority), Path: []byte(p.path), BodyLength: int64(len(p.body))}
	for l := range strings.SplitSeq(strings.TrimSuffix(p.fields, ";"), ";") {
		if k, v, ok := strings.Cut(l, "="); ok && !strings.ContainsAny(p.fields, ",;=\t ") {
			req.Header.Add([]byte(k), []byte(v))
		}
	}
	s := &script{}
	c := NewClientConn(s, ClientConfig{})
	cs := c.Begin()
	if err := cs.WriteHead(req, p.body == ""); err != nil {
		t.Fatalf("cannot write %q: %v", p, err)
	}
	if p.body != "" {
		if err := cs.WriteBody([]byte(p.body), true); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = cs.ReadHead() // sends what is held back
	got, err := parseAll(s.out.Bytes(), 1<<20)
	if !errors.Is(err, io.EOF) || len(got) != 1 || got[0].method != p.method || got[0].path != p.path || got[0].authority != p.authority || got[0].body != p.body {
		t.Fatalf("wrote %q, read back %q, %v", p, got, err)
	}
}

// FuzzResponses holds the response parser to the first property of
// FuzzRequests: how the bytes are cut makes no difference.
func FuzzResponses(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\nextra",
		"HTTP/1.0 200 OK\r\n\r\nuntil the end",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		one := func(piece int) (status int, header, body string, failed bool) {
			c := NewClientConn(&script{data: bytes.Clone(data), piece: piece}, ClientConfig{})
			cs := c.Begin()
			defer cs.Close()
			if err := cs.WriteHead(&message.Request{Method: []byte("GET"), Path: slash, Authority: []byte("h")}, true); err != nil {
				t.Fatal(err)
			}
			for {
				r, err := cs.ReadHead()
				if err != nil {
					return 0, "", "", true
				}
				if r.Status < 200 {
					continue
				}
				status, header = r.Status, fields(&r.Header)
				body, err = readAll(cs)
				return status, header, body, err != nil
			}
		}
		s1, h1, b1, f1 := one(1 << 20)
		s2, h2, b2, f2 := one(1)
		if s1 != s2 || h1 != h2 || b1 != b2 || f1 != f2 {
			t.Fatalf("in one read %d %q %q %v, byte by byte %d %q %q %v", s1, h1, b1, f1, s2, h2, b2, f2)
		}
	})
}
