// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// answer gives raw bytes to a client that has sent req and returns the final
// head as it sees it.
func answer(t *testing.T, req *message.Request, raw string) (message.ClientStream, *message.Response, error) {
	t.Helper()
	a, b := pair(t)
	cs := NewClientConn(a, ClientConfig{}).Begin()
	if err := cs.WriteHead(req, len(req.Upgrade) == 0); err != nil {
		t.Fatal(err)
	}
	if err := cs.Flush(); err != nil {
		t.Fatal(err)
	}
	go func() {
		b.Read(make([]byte, 1000))
		io.WriteString(b, raw)
		b.Close()
	}()
	for {
		resp, err := cs.ReadHead()
		if err != nil || resp.Status >= 200 || resp.Status == 101 {
			return cs, resp, err
		}
	}
}

func get(upgrade string) *message.Request {
	return &message.Request{Method: []byte("GET"), Path: []byte("/"), Authority: []byte("h"), Upgrade: []byte(upgrade)}
}

// TestSwitchingProtocols: a 101 must name what was offered (RFC 9110 section
// 7.8), or two sides would speak different protocols over the tunnel.
func TestSwitchingProtocols(t *testing.T) {
	for _, tc := range []struct {
		offer, fields string
		ok            bool
	}{
		{"websocket", "Connection: Upgrade\r\nUpgrade: websocket\r\n", true},
		{"websocket", "Connection: Upgrade\r\nUpgrade: WebSocket\r\n", true},
		{"websocket, foo", "Connection: Upgrade\r\nUpgrade: foo\r\n", true},
		{"websocket", "", false},
		{"websocket", "Connection: Upgrade\r\nUpgrade:\r\n", false},
		{"websocket", "Connection: Upgrade\r\nUpgrade: h2c\r\n", false},
		{"websocket", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", false},
		{"websocket", "Connection: Upgrade\r\nUpgrade: ,\r\n", false},
		{"", "Connection: Upgrade\r\nUpgrade: websocket\r\n", false},
	} {
		_, resp, err := answer(t, get(tc.offer), "HTTP/1.1 101 Switching Protocols\r\n"+tc.fields+"\r\n")
		var se *message.StreamError
		switch {
		case tc.ok && (err != nil || resp.Status != 101):
			t.Errorf("offer %q, answer %q: %v", tc.offer, tc.fields, err)
		case !tc.ok && (!errors.As(err, &se) || se.Reason != message.ProtocolError || se.Status != 502):
			t.Errorf("offer %q, answer %q: got %v, want a protocol error", tc.offer, tc.fields, err)
		}
	}
}

// badTrailers are trailer sections that must not pass.
var badTrailers = map[string]string{
	"no colon":           "abc\r\n",
	"space before colon": "a : b\r\n",
	"folded":             "a: b\r\n c: d\r\n",
	"bare CR":            "a: b\rc: d\r\n",
	"NUL":                "a: b\x00\r\n",
	"pseudo-header":      ":path: /x\r\n",
	"a request":          "GET /x HTTP/1.1\r\nHost: x\r\n",
	"length":             "Content-Length: 3\r\n",
	"coding":             "Transfer-Encoding: chunked\r\n",
}

// TestBadTrailersInOnePiece: broken trailers break the message also when they
// are here with the last chunk already.
func TestBadTrailersInOnePiece(t *testing.T) {
	for name, tr := range badTrailers {
		body := "3\r\nabc\r\n0\r\n" + tr + "\r\n"
		c, got, err := parse(t, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
		var se *message.StreamError
		if !errors.As(err, &se) || se.Status != 400 {
			t.Errorf("%s, request: body %q, error %v", name, got, err)
		}
		if c.RequestComplete() || !c.Buffered() {
			t.Errorf("%s, request: complete %v, buffered %v", name, c.RequestComplete(), c.Buffered())
		}
		if c.Finish() {
			t.Errorf("%s, request: the connection is kept", name)
		}
		cs, _, err := answer(t, get(""), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+body)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := readAll(cs); err == nil {
			t.Errorf("%s, response: accepted, body %q", name, got)
		}
	}
}

// TestInformationalFlood: informational heads are bounded, one kind or another.
func TestInformationalFlood(t *testing.T) {
	const final = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, head := range []string{"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"} {
		if _, resp, err := answer(t, get(""), strings.Repeat(head, maxInformational)+final); err != nil || resp.Status != 200 {
			t.Errorf("%d of %.12q: %v", maxInformational, head, err)
		}
		_, _, err := answer(t, get(""), strings.Repeat(head, maxInformational+1)+final)
		var se *message.StreamError
		if !errors.As(err, &se) || se.Reason != message.ProtocolError {
			t.Errorf("%d of %.12q: got %v, want a protocol error", maxInformational+1, head, err)
		}
	}
}

func TestAuthority(t *testing.T) {
	for a, want := range map[string]bool{
		"": true, "a": true, "a:80": true, "a:": true, "A.b-c_d~": true, "1.2.3.4:5": true, "[::1]": true, "[::1]:80": true,
		"[2001:db8::1.2.3.4]": true, "a%20b": true, "a!$&'()*+,;=b": true,
		"a:xyz": false, "a:80:80": false, "a:65536": false, "a:000080": false, "a:-1": false, ":80": false, ":": false,
		"[::1": false, "::1": false, "[::1]x": false, "[::1]80": false, "[]": false, "[a]": false, "[1.2.3.4]": false,
		"[fe80::1%25eth0]": false, "[::1]]": false, "a]": false, "a[": false, "a%2": false, "a%zz": false, "a@b": false, "a b": false, "a/b": false, "a\x80": false,
	} {
		if got := validAuthority([]byte(a)); got != want {
			t.Errorf("validAuthority(%q) = %v", a, got)
		}
	}
	for _, in := range []string{
		"GET / HTTP/1.1\r\nHost: a:xyz\r\n\r\n", "GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
		"GET http://a:xyz/ HTTP/1.1\r\nHost: a\r\n\r\n", "GET http://a/ HTTP/1.1\r\nHost: a:xyz\r\n\r\n",
		"CONNECT a:xyz HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT [::1] HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		_, _, err := parse(t, in)
		var se *message.StreamError
		if !errors.As(err, &se) || se.Status != 400 {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// TestEmptyLineBetweenRequests: some clients end a body with a line break that
// is not part of it (RFC 9112 section 2.2).
func TestEmptyLineBetweenRequests(t *testing.T) {
	client, server := pair(t)
	io.WriteString(client, "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
	c := NewServerConn(server, ServerConfig{})
	for _, path := range []string{"/1", "/2"} {
		if err := c.Next(time.Time{}, 0); err != nil || string(c.Request().Path) != path {
			t.Fatalf("%s: %v", path, err)
		}
		if err := c.WriteHead(&message.Response{Status: 200}, true); err != nil {
			t.Fatal(err)
		}
		if !c.Finish() {
			t.Fatalf("%s: the connection is not kept", path)
		}
	}
}
