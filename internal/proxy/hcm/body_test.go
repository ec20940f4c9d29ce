// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestStreaming: request and response flow at the same time, piece by piece.
func TestStreaming(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				w.Write(b[:n])
				rc.Flush()
			}
			if err != nil {
				return
			}
		}
	})
	p := start(t, "", "", toA, static("a", "", up))
	c := p.dial(t)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
	var resp *http.Response
	for i := range 5 {
		fmt.Fprintf(c, "5\r\nping%d\r\n", i)
		if resp == nil {
			var err error
			if resp, err = http.ReadResponse(c.r, &http.Request{Method: "POST"}); err != nil {
				t.Fatal(err)
			}
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != fmt.Sprintf("ping%d", i) {
			t.Fatalf("round %d: %q %v", i, b, err)
		}
	}
	io.WriteString(c, "0\r\n\r\n")
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) != 0 {
		t.Errorf("end: %q %v", b, err)
	}
	if resp, body := c.do(t, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"); resp.StatusCode != 200 || body != "hi" {
		t.Errorf("next request: %d %q", resp.StatusCode, body)
	}
}

// TestEarlyResponse: a response that comes before the request's end reaches the
// client whole; both connections end with it.
func TestEarlyResponse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	closed := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\r\nbig")
		_, err = io.Copy(io.Discard, r)
		closed <- err
	}()
	p := start(t, "", "", toA, static("a", "", ln.Addr().String()))
	c := p.dial(t)
	resp, body := c.do(t, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nsome of it")
	if resp.StatusCode != 413 || body != "big" || !resp.Close {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	<-closed
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("the connection goes on in the middle of a request")
	}
}

// TestBrokenBody: a client whose body breaks the protocol gets 400; one that
// leaves in the middle of it cancels upstream.
func TestBrokenBody(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	p := start(t, "", "", toA, static("a", "", up))
	c := p.dial(t)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
	time.Sleep(20 * time.Millisecond)
	if resp, _ := c.do(t, "5;\n"); resp.StatusCode != 400 {
		t.Errorf("status %d", resp.StatusCode)
	}
	c = p.dial(t)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhello")
	time.Sleep(20 * time.Millisecond)
	c.Close()
	log := p.log(t, 2)
	if log[0] != "400 DPE http1.codec_error" || log[1] != "0 DC downstream_remote_disconnect" {
		t.Errorf("log %q", log)
	}
}

// TestResponseBreaks: a response that breaks off after its head must not look
// complete downstream.
func TestResponseBreaks(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, _ := w.(http.Hijacker).Hijack()
		rw.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		rw.Flush()
		time.Sleep(10 * time.Millisecond)
		c.Close()
	})
	p := start(t, "", "", toA, static("a", "", up))
	c := p.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("body %q looks complete", b)
	}
	if got := p.log(t, 1)[0]; got != "200 UC upstream_reset_after_response_started{connection_termination}" {
		t.Errorf("log %q", got)
	}
}

// TestIdleTimeouts: a silent client in the middle of its request gets 408, a
// silent server 504.
func TestIdleTimeouts(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	p := start(t, `"stream_idle_timeout":"0.1s",`, "", toA, static("a", "", up))
	if resp, body := p.dial(t).do(t, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello"); resp.StatusCode != 408 || body != "stream timeout" {
		t.Errorf("silent client: %d %q", resp.StatusCode, body)
	}
	if resp, body := p.dial(t).do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 504 || body != "stream timeout" {
		t.Errorf("silent server: %d %q", resp.StatusCode, body)
	}
	if resp, _ := p.dial(t).do(t, "GET / HTTP/1.1\r\nHos"); resp.StatusCode != 408 {
		t.Errorf("slow head: %d", resp.StatusCode)
	}
	for i, l := range p.log(t, 3) {
		if want := [...]string{"408 SI stream_idle_timeout", "504 SI stream_idle_timeout", "408 - request_header_timeout"}[i]; l != want {
			t.Errorf("log %q, want %q", l, want)
		}
	}
}

// TestBodyless: HEAD, 204 and 304 keep their framing and their connections.
func TestBodyless(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", "x")
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "hello")
		}
	})
	p := start(t, "", "", toA, static("a", "", up))
	c := p.dial(t)
	for range 2 {
		if resp, body := c.do(t, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 200 || resp.ContentLength != 5 || body != "" {
			t.Errorf("HEAD: %d %d %q", resp.StatusCode, resp.ContentLength, body)
		}
		if resp, _ := c.do(t, "GET /204 HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 204 || len(resp.TransferEncoding) > 0 || resp.Header.Get("Content-Length") != "" {
			t.Errorf("204: %d %v", resp.StatusCode, resp.Header)
		}
		if resp, _ := c.do(t, "GET /304 HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 304 || resp.Header.Get("Etag") != "x" {
			t.Errorf("304: %d %v", resp.StatusCode, resp.Header)
		}
		if resp, body := c.do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); body != "hello" || len(resp.TransferEncoding) > 0 {
			t.Errorf("GET: %q %v", body, resp.TransferEncoding)
		}
	}
	if n := p.registry.Cluster("a").Value(0); n != 1 {
		t.Errorf("%d upstream connections, want 1", n)
	}
}

// TestPipelining: requests that come before the answers to earlier ones are
// served in order.
func TestPipelining(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) })
	p := start(t, "", "", toA, static("a", "", up))
	c := p.dial(t)
	var b strings.Builder
	for i := range 10 {
		fmt.Fprintf(&b, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", i)
	}
	io.WriteString(c, b.String())
	for i := range 10 {
		if _, body := c.read(t, "POST"); body != fmt.Sprintf("/%d", i) {
			t.Fatalf("answer %d is %q", i, body)
		}
	}
}
