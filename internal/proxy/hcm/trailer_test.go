// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestBrokenTrailers: broken trailers are the client's error, or break the
// response off, however they are cut into packets.
func TestBrokenTrailers(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/response" {
			c, rw, _ := w.(http.Hijacker).Hijack()
			rw.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx: a\rb\r\n\r\n")
			rw.Flush()
			c.Close()
		}
	})
	p := start(t, `"http_protocol_options":{"enable_trailers":true},`, "", toA, static("a", "", up))
	const head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, parts := range [][]string{
		{head + "5\r\nhello\r\n0\r\nabc\r\n\r\n"},
		{head, "5\r\nhello\r\n0\r\nabc\r\n\r\n"},
		{head + "5\r\nhello\r\n", "0\r\nabc\r\n\r\n"},
		{head + "5\r\nhello\r\n0\r\nab", "c\r\n\r\n"},
	} {
		c := p.dial(t)
		for _, s := range parts[:len(parts)-1] {
			io.WriteString(c, s)
		}
		resp, _ := c.do(t, parts[len(parts)-1])
		if resp.StatusCode != 400 || !resp.Close {
			t.Errorf("%q: status %d, close %v", parts, resp.StatusCode, resp.Close)
		}
	}
	c := p.dial(t)
	io.WriteString(c, "GET /response HTTP/1.1\r\nHost: h\r\n\r\n")
	b, _ := io.ReadAll(c.r)
	if strings.HasSuffix(string(b), "0\r\n\r\n") {
		t.Errorf("the broken response looks whole: %q", b)
	}
}
