// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestStaleConnectionWithBody: a request with a body is not lost either on a
// pooled connection that the server has closed, whatever its length and however
// it is framed, without any retry policy.
func TestStaleConnectionWithBody(t *testing.T) {
	closed := make(chan struct{}, 1)
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		c, rw, _ := w.(http.Hijacker).Hijack()
		fmt.Fprintf(rw, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n%06d", len(b))
		rw.Flush()
		c.Close() // without having said so
		closed <- struct{}{}
	})
	p := start(t, "", "", toA, static("a", "", up))
	c := p.dial(t)
	for i, n := range []int{5, 5, 5, 9000, 100000, 5, 20000} {
		body := strings.Repeat("x", n)
		raw := fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", n, body)
		if i%2 == 1 {
			raw = fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", n, body)
		}
		resp, got := c.do(t, raw)
		if resp.StatusCode != 200 || got != fmt.Sprintf("%06d", n) {
			t.Fatalf("request %d: %d %q", i, resp.StatusCode, got)
		}
		<-closed
		time.Sleep(20 * time.Millisecond) // for the FIN's way
	}
}
