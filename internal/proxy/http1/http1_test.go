// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// pair is two ends of a TCP connection.
func pair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// parse gives input to a server in one piece and returns what it makes of it.
func parse(t testing.TB, input string) (*ServerConn, string, error) {
	t.Helper()
	client, server := pair(t)
	if _, err := io.WriteString(client, input); err != nil {
		t.Fatal(err)
	}
	client.(*net.TCPConn).CloseWrite()
	c := NewServerConn(server, ServerConfig{Trailers: true})
	if err := c.Next(time.Time{}, 0); err != nil {
		return c, "", err
	}
	body, err := readAll(c)
	return c, body, err
}

func readAll(s interface{ ReadBody() ([]byte, error) }) (string, error) {
	var b strings.Builder
	for {
		p, err := s.ReadBody()
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
		b.Write(p)
	}
}

func fields(h *message.Header) string {
	var b strings.Builder
	for _, f := range h.Fields {
		b.WriteString(string(f.Name) + "=" + string(f.Value) + ";")
	}
	return b.String()
}

func TestRequestForms(t *testing.T) {
	for _, tc := range []struct {
		name, in, method, authority, path, header, body, upgrade string
		length                                                   int64
	}{
		{name: "origin form", in: "GET /a?b HTTP/1.1\r\nHost: X:80\r\nFoo:  bar \r\n\r\n", method: "GET", authority: "X:80", path: "/a?b", header: "foo=bar;"},
		{name: "one blank line before it", in: "\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", method: "GET", authority: "x", path: "/"},
		{name: "absolute form wins over Host", in: "GET http://y/p HTTP/1.1\r\nHost: x\r\n\r\n", method: "GET", authority: "y", path: "/p"},
		{name: "absolute form without path", in: "GET http://y HTTP/1.1\r\nHost: x\r\n\r\n", method: "GET", authority: "y", path: "/"},
		{name: "asterisk", in: "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", method: "OPTIONS", authority: "x", path: "*"},
		{name: "connect", in: "CONNECT x:9080 HTTP/1.1\r\nHost: x:9080\r\n\r\n", method: "CONNECT", authority: "x:9080"},
		{name: "length body", in: "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", method: "POST", authority: "x", path: "/", body: "abc", length: 3},
		{name: "chunked body", in: "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", method: "POST", authority: "x", path: "/", body: "abc0123456789", length: -1},
		{name: "hop by hop", in: "GET / HTTP/1.1\r\nHost: x\r\nConnection: Foo, keep-alive, X-Forwarded-For\r\nFoo: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers, gzip\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n", method: "GET", authority: "x", path: "/", header: "x-forwarded-for=1.2.3.4;te=trailers;"},
		{name: "websocket", in: "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n", method: "GET", authority: "x", path: "/", upgrade: "websocket"},
		{name: "h2c is never an upgrade", in: "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n", method: "GET", authority: "x", path: "/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, body, err := parse(t, tc.in)
			if err != nil {
				t.Fatal(err)
			}
			r := c.Request()
			got := []string{string(r.Method), string(r.Authority), string(r.Path), fields(&r.Header), body, string(r.Upgrade)}
			want := []string{tc.method, tc.authority, tc.path, tc.header, tc.body, tc.upgrade}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("part %d: got %q, want %q", i, got[i], want[i])
				}
			}
			if r.BodyLength != tc.length {
				t.Errorf("length %d, want %d", r.BodyLength, tc.length)
			}
		})
	}
}

// TestRefused is the record of what has led implementations to disagree about a
// message's end, its names or its target.
func TestRefused(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: x\r\n"
	chunked := post + "Transfer-Encoding: chunked\r\n\r\n"
	for name, in := range map[string]string{
		"both lengths":                     post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"both lengths, other order":        post + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"duplicate length":                 post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"list of lengths":                  post + "Content-Length: 3, 3\r\n\r\nabc",
		"signed length":                    post + "Content-Length: +3\r\n\r\nabc",
		"negative length":                  post + "Content-Length: -3\r\n\r\nabc",
		"hexadecimal length":               post + "Content-Length: 0x3\r\n\r\nabc",
		"empty length CVE-2023-40225":      post + "Content-Length:\r\n\r\nabc",
		"overflowing length":               post + "Content-Length: 18446744073709551619\r\n\r\nabc",
		"length with space inside":         post + "Content-Length: 1 2\r\n\r\nabc",
		"xchunked":                         post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"chunked, identity":                post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"identity, chunked":                post + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
		"chunked twice":                    post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"vertical tab CVE-2022-1705":       post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"empty transfer coding":            post + "Transfer-Encoding:\r\n\r\n",
		"chunked in HTTP/1.0":              "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"bare LF":                          "GET / HTTP/1.1\nHost: x\n\n",
		"bare LF after a field":            "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
		"bare LF at the end":               "GET / HTTP/1.1\r\nHost: x\r\n\n",
		"bare CR":                          "GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
		"obs-fold":                         "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
		"space before colon":               "GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
		"space before the first name":      "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
		"empty name CVE-2023-25725":        "GET / HTTP/1.1\r\nHost: x\r\n: b\r\n\r\n",
		"no colon":                         "GET / HTTP/1.1\r\nHost: x\r\nA\r\n\r\n",
		"NUL in a value":                   "GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
		"NUL in a name":                    "GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n",
		"control character":                "GET / HTTP/1.1\r\nHost: x\r\nA: b\x01\r\n\r\n",
		"no Host":                          "GET / HTTP/1.1\r\nA: b\r\n\r\n",
		"two Hosts":                        "GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
		"userinfo in Host":                 "GET / HTTP/1.1\r\nHost: a@x\r\n\r\n",
		"path in Host":                     "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n",
		"userinfo in the target":           "GET http://a@x/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"fragment":                         "GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n",
		"two spaces":                       "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
		"tab in the request line":          "GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"trailing space":                   "GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
		"lower-case version":               "GET / http/1.1\r\nHost: x\r\n\r\n",
		"HTTP/1.2":                         "GET / HTTP/1.2\r\nHost: x\r\n\r\n",
		"HTTP/2 preface":                   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"HTTP/0.9":                         "GET /\r\n\r\n",
		"relative target":                  "GET a HTTP/1.1\r\nHost: x\r\n\r\n",
		"asterisk with GET":                "GET * HTTP/1.1\r\nHost: x\r\n\r\n",
		"other scheme":                     "GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT with a path":              "CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT with a length":            "CONNECT x:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"CONNECT with chunks":              "CONNECT x:1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two blank lines before":           "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"chunk size 0x":                    chunked + "0x3\r\nabc\r\n0\r\n\r\n",
		"chunk size signed":                chunked + "+3\r\nabc\r\n0\r\n\r\n",
		"chunk size empty":                 chunked + "\r\nabc\r\n0\r\n\r\n",
		"chunk size too long":              chunked + "0000000000000003\r\nabc\r\n0\r\n\r\n",
		"chunk size with space":            chunked + "3 \r\nabc\r\n0\r\n\r\n",
		"bare LF in size CVE-2025-22871":   chunked + "3\nabc\r\n0\r\n\r\n",
		"bare LF in extension":             chunked + "3;a\nb\r\nabc\r\n0\r\n\r\n",
		"bare CR in extension":             chunked + "3;a\rb\r\nabc\r\n0\r\n\r\n",
		"endless extension CVE-2023-39326": chunked + strings.Repeat("1;"+strings.Repeat("a", 500)+"\r\na\r\n", 20) + "0\r\n\r\n",
		"chunk longer than its size":       chunked + "3\r\nabcd\r\n0\r\n\r\n",
		"no CRLF after data":               chunked + "3\r\nabc0\r\n\r\n",
		"length in trailers":               chunked + "0\r\nContent-Length: 3\r\n\r\n",
		"coding in trailers":               chunked + "0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"bare LF in trailers":              chunked + "0\r\nA: b\n\r\n",
		"truncated body":                   post + "Content-Length: 4\r\n\r\nabc",
		"truncated chunks":                 chunked + "3\r\nabc\r\n",
		"too many fields":                  "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("A: b\r\n", 100) + "\r\n",
		"too large":                        "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 61<<10) + "\r\n\r\n",
		"too large without end":            "GET /" + strings.Repeat("a", 61<<10),
	} {
		t.Run(name, func(t *testing.T) {
			c, body, err := parse(t, in)
			if err == nil {
				t.Fatalf("accepted: %s %q, body %q", c.Request().Path, fields(&c.Request().Header), body)
			}
			var se *message.StreamError
			if !errors.As(err, &se) {
				t.Fatalf("error %v is no StreamError", err)
			}
			if strings.HasPrefix(name, "too ") && se.Status != 431 {
				t.Errorf("status %d, want 431", se.Status)
			}
			if c.Finish() {
				t.Error("the connection is kept")
			}
		})
	}
}

func TestLongHead(t *testing.T) {
	long := strings.Repeat("v", 20<<10)
	c, _, err := parse(t, "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\nLong: "+long+"\r\nC: d\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := fields(&c.Request().Header); got != "a=b;long="+long+";c=d;" {
		t.Errorf("got %.40s... (%d bytes)", got, len(got))
	}
}

func TestByteByByte(t *testing.T) {
	client, server := pair(t)
	in := "POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\nGET /2 HTTP/1.1\r\nHost: y\r\n\r\n"
	go func() {
		for i := range in {
			io.WriteString(client, in[i:i+1])
		}
	}()
	c := NewServerConn(server, ServerConfig{})
	if err := c.Next(time.Time{}, 0); err != nil {
		t.Fatal(err)
	}
	body, err := readAll(c)
	if err != nil || body != "abcde" || fields(&c.Request().Trailer) != "t=v;" {
		t.Fatalf("body %q, trailers %q, error %v", body, fields(&c.Request().Trailer), err)
	}
	if err := c.WriteHead(&message.Response{Status: 200}, true); err != nil {
		t.Fatal(err)
	}
	if !c.Finish() {
		t.Fatal("the connection is not kept")
	}
	if err := c.Next(time.Time{}, 0); err != nil || string(c.Request().Path) != "/2" {
		t.Fatalf("second request: %v", err)
	}
}

// exchange runs one request through a client and a server codec on one socket.
func TestExchange(t *testing.T) {
	a, b := pair(t)
	client := NewClientConn(a, ClientConfig{Trailers: true})
	server := NewServerConn(b, ServerConfig{Trailers: true})
	for i := range 3 {
		cs := client.Begin()
		req := &message.Request{Method: []byte("POST"), Path: []byte("/x"), Authority: []byte("h"), BodyLength: -1}
		req.Header.Add([]byte("k"), []byte("v"))
		if err := cs.WriteHead(req, false); err != nil {
			t.Fatal(err)
		}
		if err := cs.WriteBody([]byte("hello "), false); err != nil {
			t.Fatal(err)
		}
		if err := cs.WriteBody([]byte("there"), true); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			err := server.Next(time.Time{}, 0)
			if err == nil {
				var body string
				if body, err = readAll(server); err == nil && body != "hello there" {
					err = errors.New("body " + body)
				}
			}
			if err == nil {
				resp := &message.Response{Status: 200, BodyLength: -1}
				resp.Header.Add([]byte("r"), []byte("1"))
				server.WriteInformational(103, &message.Header{})
				server.WriteHead(resp, false)
				server.WriteBody([]byte(strings.Repeat("z", 100000)), false)
				tr := &message.Header{}
				tr.Add([]byte("grpc-status"), []byte("0"))
				err = server.WriteTrailers(tr)
			}
			if err == nil && !server.Finish() {
				err = errors.New("server connection not kept")
			}
			done <- err
		}()
		resp, err := cs.ReadHead()
		if err != nil || resp.Status != 103 {
			t.Fatalf("round %d: %v %v", i, resp, err)
		}
		resp, err = cs.ReadHead()
		if err != nil || resp.Status != 200 || fields(&resp.Header) != "r=1;" {
			t.Fatalf("round %d: %v %v", i, resp, err)
		}
		body, err := readAll(cs)
		if err != nil || len(body) != 100000 || fields(&resp.Trailer) != "grpc-status=0;" {
			t.Fatalf("round %d: %d bytes, %v, %q", i, len(body), err, fields(&resp.Trailer))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		cs.Close()
	}
}

// TestStale: a pooled connection that the server has closed, or spoken on out of
// turn, is found out before the request is sent.
func TestStale(t *testing.T) {
	for name, spoil := range map[string]func(net.Conn){
		"closed":      func(c net.Conn) { c.Close() },
		"unsolicited": func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			client := NewClientConn(a, ClientConfig{})
			req := &message.Request{Method: []byte("GET"), Path: []byte("/x"), Authority: []byte("h")}
			cs := client.Begin()
			cs.WriteHead(req, true)
			go func() {
				b.Read(make([]byte, 1000))
				io.WriteString(b, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
			}()
			if _, err := cs.ReadHead(); err != nil {
				t.Fatal(err)
			}
			if _, err := cs.ReadBody(); err != io.EOF {
				t.Fatal(err)
			}
			cs.Close()
			spoil(b)
			for client.Alive() { // until the kernel has delivered it
			}
			cs = client.Begin()
			cs.WriteHead(req, true)
			_, err := cs.ReadHead()
			var se *message.StreamError
			if !errors.As(err, &se) || !se.Unsent {
				t.Fatalf("got %v, want an unsent request", err)
			}
			cs.Close()
		})
	}
}

func TestWatchPeer(t *testing.T) {
	client, server := pair(t)
	io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	c := NewServerConn(server, ServerConfig{})
	if err := c.Next(time.Time{}, 0); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	c.WatchPeer(func() { close(gone) })
	c.UnwatchPeer()
	c.WatchPeer(func() { close(gone) })
	client.Close()
	<-gone
	c.UnwatchPeer()
	c.Finish()
	c.Close()
}

func TestInvalidOutput(t *testing.T) {
	a, _ := pair(t)
	client := NewClientConn(a, ClientConfig{})
	for name, req := range map[string]*message.Request{
		"line break in a value": {Method: []byte("GET"), Path: []byte("/"), Authority: []byte("h"), Header: message.Header{Fields: []message.Field{{Name: []byte("a"), Value: []byte("b\r\nc: d")}}}},
		"space in the path":     {Method: []byte("GET"), Path: []byte("/ HTTP/1.1"), Authority: []byte("h")},
		"line break in Host":    {Method: []byte("GET"), Path: []byte("/"), Authority: []byte("h\r\nc: d")},
	} {
		cs := client.Begin()
		if err := cs.WriteHead(req, true); err == nil {
			t.Errorf("%s: accepted", name)
		}
		client.wr.failed = nil
		client.wr.release()
	}
}
