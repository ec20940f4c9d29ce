// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const h2Cluster = `"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicit_http_config":{"http2_protocol_options":{}}}},`

// TestProtocols sends a body and trailers over each pair of codecs.
func TestProtocols(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "Grpc-Status")
		fmt.Fprintf(w, "%s %d", r.Proto, len(b))
		w.Header().Set("Grpc-Status", "0")
	})
	h1up := origin(t, handler)
	s := httptest.NewUnstartedServer(handler)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	p := start(t, `"http_protocol_options":{"enable_trailers":true},`, "", `{"match":{"prefix":"/1"},"route":{"cluster":"one"}},{"match":{"prefix":"/2"},"route":{"cluster":"two"}}`,
		static("one", "", h1up), static("two", h2Cluster, s.Listener.Addr().String()))
	prior := &http.Transport{Protocols: new(http.Protocols)}
	prior.Protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Client{Transport: prior}
	h1 := &http.Client{}
	defer h2.CloseIdleConnections()
	defer h1.CloseIdleConnections()
	for name, c := range map[string]*http.Client{"http1": h1, "http2": h2} {
		for path, proto := range map[string]string{"/1": "HTTP/1.1", "/2": "HTTP/2.0"} {
			for range 3 {
				resp, err := c.Post("http://"+p.addr+path, "text/plain", strings.NewReader(strings.Repeat("x", 300000)))
				if err != nil {
					t.Fatalf("%s %s: %v", name, path, err)
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := proto + " 300000"; err != nil || string(b) != want {
					t.Errorf("%s %s: %q %v, want %q", name, path, b, err, want)
				}
			}
		}
	}
}

// TestWebSocketOverHTTP2 carries an HTTP/1.1 upgrade over an HTTP/2 hop between
// two proxies (RFC 8441) and back to HTTP/1.1.
func TestWebSocketOverHTTP2(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(400)
			return
		}
		c, rw, _ := w.(http.Hijacker).Hijack()
		defer c.Close()
		rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.Flush()
		io.Copy(c, rw)
	})
	const upgrades = `"upgrade_configs":[{"upgrade_type":"websocket"}],"http2_protocol_options":{"allow_connect":true},`
	inner := start(t, upgrades, "", toA, static("a", "", up))
	outer := start(t, upgrades, "", toA, static("a", h2Cluster, inner.addr))
	c := outer.dial(t)
	// Extended CONNECT may be used once the peer's SETTINGS have come.
	if resp, _ := c.do(t, "GET /chat HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 400 {
		t.Fatalf("without an upgrade: %d", resp.StatusCode)
	}
	io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v %v", resp, err)
	}
	for range 3 {
		io.WriteString(c, "ping!")
		b := make([]byte, 5)
		if _, err := io.ReadFull(c.r, b); err != nil || string(b) != "ping!" {
			t.Fatalf("%q %v", b, err)
		}
	}
}
