// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lateen-mesh/lateen/internal/proxy/http2"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

const connectRoute = `{"match":{"connect_matcher":{}},"route":{"cluster":"a","upgrade_configs":[{"upgrade_type":"CONNECT"}]}},`

// TestNoTunnelNoNextRequest: what follows a CONNECT or Upgrade request that did
// not become a tunnel is tunnel payload and never a request.
func TestNoTunnelNoNextRequest(t *testing.T) {
	var smuggled atomic.Int32
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/smuggled" {
			smuggled.Add(1)
		}
		w.WriteHeader(405)
	})
	const next = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
	const websocket = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	for name, tc := range map[string]struct {
		fields, routes, raw string
		status              int
	}{
		"CONNECT not enabled":        {"", "", "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 403},
		"CONNECT without a route":    {`"upgrade_configs":[{"upgrade_type":"CONNECT"}],`, "", "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 404},
		"CONNECT refused upstream":   {`"upgrade_configs":[{"upgrade_type":"CONNECT"}],`, connectRoute, "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 405},
		"websocket not enabled":      {"", "", websocket, 403},
		"websocket refused upstream": {`"upgrade_configs":[{"upgrade_type":"websocket"}],`, "", websocket, 405},
		"upgrade with a body":        {"", "", "POST / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi", 405},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, tc.fields, "", tc.routes+toA, static("a", "", up))
			c := p.dial(t)
			resp, _ := c.do(t, tc.raw+next)
			if resp.StatusCode != tc.status || !resp.Close {
				t.Errorf("status %d, close %v; want %d and a close", resp.StatusCode, resp.Close, tc.status)
			}
			if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
				t.Errorf("afterwards: %q %v", rest, err)
			}
			if n := smuggled.Load(); n > 0 {
				t.Errorf("%d requests were read from the payload", n)
			}
		})
	}
}

// TestEarlyTunnelData: payload that an HTTP/2 client sends right after its
// request for a tunnel is held until the server has made one, and is never sent
// when it makes none.
func TestEarlyTunnelData(t *testing.T) {
	for name, tc := range map[string]struct {
		req    message.Request
		answer string
		status int
	}{
		"websocket": {message.Request{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/"), Authority: []byte("x:1"), Upgrade: []byte("websocket"), BodyLength: -1},
			"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200},
		"websocket with a length": {message.Request{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/"), Authority: []byte("x:1"), Upgrade: []byte("websocket"), BodyLength: 5},
			"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200},
		"websocket refused": {message.Request{Method: []byte("GET"), Scheme: []byte("http"), Path: []byte("/"), Authority: []byte("x:1"), Upgrade: []byte("websocket"), BodyLength: -1},
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 200},
		"CONNECT": {message.Request{Method: []byte("CONNECT"), Authority: []byte("x:1"), BodyLength: -1},
			"HTTP/1.1 200 OK\r\n\r\n", 200},
		"CONNECT refused": {message.Request{Method: []byte("CONNECT"), Authority: []byte("x:1"), BodyLength: -1},
			"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 403},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			arrived, answered, got := make(chan struct{}), make(chan struct{}), make(chan string, 1)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err != nil {
					got <- err.Error()
					return
				}
				close(arrived)
				<-answered
				early := r.Buffered()
				io.WriteString(c, tc.answer)
				b := make([]byte, 5)
				n, _ := io.ReadFull(r, b)
				if early > 0 {
					n = copy(b, "EARLY")
				}
				got <- string(b[:n])
			}()
			p := start(t, `"upgrade_configs":[{"upgrade_type":"websocket"},{"upgrade_type":"CONNECT"}],"http2_protocol_options":{"allow_connect":true},`, "",
				connectRoute+toA, static("a", "", ln.Addr().String()))
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			h2, err := http2.NewClientConn(conn, http2.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer h2.Close()
			st, err := h2.NewStream()
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			if err := st.WriteHead(&tc.req, false); err != nil {
				t.Fatal(err)
			}
			if err := st.WriteBody([]byte("hello"), false); err != nil {
				t.Fatal(err)
			}
			if err := st.Flush(); err != nil {
				t.Fatal(err)
			}
			<-arrived
			close(answered)
			resp, err := st.ReadHead()
			if err != nil || resp.Status != tc.status && resp.Status != 101 {
				t.Fatalf("%+v %v", resp, err)
			}
			want := "hello"
			if strings.HasSuffix(name, "refused") {
				want = ""
				st.Close()
			}
			if s := <-got; s != want {
				t.Errorf("the server got %q, want %q", s, want)
			}
		})
	}
}
