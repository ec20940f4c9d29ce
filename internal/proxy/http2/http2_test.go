// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// testTimeout bounds what must happen; nothing here takes that long.
const testTimeout = 20 * time.Second

// pipe is a pair of connected loopback sockets.
func pipe(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		got <- c
	}()
	client, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server = <-got
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// serve runs a server connection until the test ends.
func serve(t testing.TB, nc net.Conn, opts Options, h message.Handler) *ServerConn {
	t.Helper()
	s := NewServerConn(context.Background(), nc, opts, h)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve() })
	t.Cleanup(func() { s.Close(); wg.Wait() })
	return s
}

func dial(t testing.TB, nc net.Conn, opts Options) *ClientConn {
	t.Helper()
	c, err := NewClientConn(nc, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-c.Done() })
	return c
}

func get(path string) *message.Request {
	return &message.Request{Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte("svc:80"), Path: []byte(path), Proto: message.HTTP2}
}

func readAll(read func() ([]byte, error)) ([]byte, error) {
	var out []byte
	for {
		p, err := read()
		out = append(out, p...)
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
}

// echo answers with the request's body, path and trailers.
func echo(_ context.Context, s message.ServerStream) {
	r := s.Request()
	resp := &message.Response{Status: 200, BodyLength: -1}
	resp.Header.Add([]byte("x-path"), r.Path)
	resp.Header.Add([]byte("x-authority"), r.Authority)
	for _, f := range r.Header.Fields {
		resp.Header.Add(append([]byte("got-"), f.Name...), f.Value)
	}
	if s.WriteHead(resp, false) != nil {
		return
	}
	for {
		p, err := s.ReadBody()
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
		if s.WriteBody(p, false) != nil || s.Flush() != nil {
			return
		}
	}
	_ = s.WriteTrailers(&r.Trailer)
}

func TestAgainstNetHTTP2Client(t *testing.T) {
	cnc, snc := pipe(t)
	serve(t, snc, Options{}, echo)
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &h2c, DialContext: func(context.Context, string, string) (net.Conn, error) { return cnc, nil }}
	defer tr.CloseIdleConnections()
	body := bytes.Repeat([]byte("0123456789abcdef"), 200<<10) // 3.2 MiB: past every window
	req, _ := http.NewRequest("POST", "http://svc/some/path?x=1", bytes.NewReader(body))
	req.Header.Set("Cookie", "a=1; b=2")
	req.Trailer = http.Header{"X-End": {"bye"}}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(body) {
		t.Errorf("body of %d bytes came back as %d other bytes", len(body), len(got))
	}
	if resp.Header.Get("X-Path") != "/some/path?x=1" || resp.Header.Get("Got-Cookie") != "a=1; b=2" {
		t.Errorf("headers: %v", resp.Header)
	}
	if resp.Trailer.Get("X-End") != "bye" {
		t.Errorf("trailers: %v", resp.Trailer)
	}
}

func TestAgainstNetHTTP2Server(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-End")
		w.Header().Set("X-Len", fmt.Sprint(r.ContentLength))
		n, _ := io.Copy(w, r.Body)
		w.Header().Set("X-End", fmt.Sprint(n))
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	nc, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, nc, Options{})
	body := bytes.Repeat([]byte("x"), 1<<20)
	for range 3 {
		st, err := c.NewStream()
		if err != nil {
			t.Fatal(err)
		}
		r := get("/")
		r.Method, r.BodyLength = []byte("POST"), int64(len(body))
		if err := st.WriteHead(r, false); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := st.WriteBody(body, true); err != nil {
				t.Error(err)
			}
		})
		resp, err := st.ReadHead()
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := resp.Header.GetName("x-len"); string(v) != fmt.Sprint(len(body)) {
			t.Errorf("content-length seen by the server: %s", v)
		}
		got, err := readAll(st.ReadBody)
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if v, _ := resp.Trailer.GetName("x-end"); string(v) != fmt.Sprint(len(body)) {
			t.Errorf("trailer %q", v)
		}
		wg.Wait()
		st.Close()
	}
	if n := c.Active(); n != 0 {
		t.Errorf("%d exchanges still counted", n)
	}
}

func TestManyStreamsShareAConnection(t *testing.T) {
	cnc, snc := pipe(t)
	serve(t, snc, Options{ConnWindow: 1 << 16, StreamWindow: 1 << 16}, echo)
	c := dial(t, cnc, Options{ConnWindow: 1 << 16, StreamWindow: 1 << 16})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			st, err := c.NewStream()
			if err != nil {
				t.Error(err)
				return
			}
			defer st.Close()
			body := bytes.Repeat([]byte{byte(i)}, 70_000+i)
			r := get(fmt.Sprintf("/%d", i))
			r.BodyLength = -1
			if err := st.WriteHead(r, false); err != nil {
				t.Error(err)
				return
			}
			var send sync.WaitGroup
			send.Go(func() { _ = st.WriteBody(body, true) })
			defer send.Wait()
			resp, err := st.ReadHead()
			if err != nil {
				t.Error(err)
				return
			}
			if p, _ := resp.Header.GetName("x-path"); string(p) != fmt.Sprintf("/%d", i) {
				t.Errorf("stream %d answered for %s", i, p)
			}
			if got, err := readAll(st.ReadBody); err != nil || !bytes.Equal(got, body) {
				t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestClientCancelReachesTheHandler(t *testing.T) {
	cnc, snc := pipe(t)
	gone := make(chan struct{})
	serve(t, snc, Options{}, func(_ context.Context, s message.ServerStream) {
		s.WatchPeer(func() { close(gone) })
		defer s.UnwatchPeer()
		if _, err := s.ReadBody(); err == nil {
			t.Error("read a body that was never sent")
		} else if se := new(message.StreamError); !errors.As(err, &se) || se.Reason != message.RemoteReset {
			t.Errorf("reason: %v", err)
		}
	})
	c := dial(t, cnc, Options{})
	st, _ := c.NewStream()
	if err := st.WriteHead(get("/"), false); err != nil {
		t.Fatal(err)
	}
	if err := st.Flush(); err != nil {
		t.Fatal(err)
	}
	st.Close()
	select {
	case <-gone:
	case <-time.After(testTimeout):
		t.Fatal("the handler was not told")
	}
}

func TestServerResetAndRefusal(t *testing.T) {
	for _, reason := range []message.ResetReason{message.LocalReset, message.RefusedStream} {
		cnc, snc := pipe(t)
		serve(t, snc, Options{}, func(_ context.Context, s message.ServerStream) { s.Reset(reason) })
		c := dial(t, cnc, Options{})
		st, _ := c.NewStream()
		if err := st.WriteHead(get("/"), true); err != nil {
			t.Fatal(err)
		}
		_, err := st.ReadHead()
		want := message.RemoteReset
		if reason == message.RefusedStream {
			want = message.RefusedStream
		}
		if se := new(message.StreamError); !errors.As(err, &se) || se.Reason != want {
			t.Errorf("after Reset(%v): %v", reason, err)
		}
		st.Close()
	}
}

func TestReadDeadlineLosesNothing(t *testing.T) {
	cnc, snc := pipe(t)
	proceed := make(chan struct{})
	serve(t, snc, Options{}, func(_ context.Context, s message.ServerStream) {
		<-proceed
		_ = s.WriteHead(&message.Response{Status: 204}, true)
	})
	c := dial(t, cnc, Options{})
	st, _ := c.NewStream()
	defer st.Close()
	if err := st.WriteHead(get("/"), true); err != nil {
		t.Fatal(err)
	}
	st.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := st.ReadHead(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	close(proceed)
	st.SetReadDeadline(time.Time{})
	if resp, err := st.ReadHead(); err != nil || resp.Status != 204 {
		t.Fatalf("got %v, %v", resp, err)
	}
}

func TestDrainFinishesRunningStreams(t *testing.T) {
	cnc, snc := pipe(t)
	proceed := make(chan struct{})
	s := serve(t, snc, Options{}, func(_ context.Context, s message.ServerStream) {
		<-proceed
		_ = s.WriteHead(&message.Response{Status: 200}, true)
	})
	c := dial(t, cnc, Options{})
	st, _ := c.NewStream()
	if err := st.WriteHead(get("/"), true); err != nil {
		t.Fatal(err)
	}
	s.Drain()
	deadline := time.Now().Add(testTimeout)
	for c.Usable() {
		if time.Now().After(deadline) {
			t.Fatal("the client did not hear of the drain")
		}
		time.Sleep(time.Millisecond)
	}
	close(proceed)
	if resp, err := st.ReadHead(); err != nil || resp.Status != 200 {
		t.Fatalf("got %v, %v", resp, err)
	}
	st.Close()
	select {
	case <-c.Done():
	case <-time.After(testTimeout):
		t.Fatal("the drained connection stays open")
	}
}

func TestExtendedConnect(t *testing.T) {
	cnc, snc := pipe(t)
	serve(t, snc, Options{AllowConnect: true}, func(_ context.Context, s message.ServerStream) {
		if r := s.Request(); string(r.Upgrade) != "websocket" || string(r.Method) != "GET" {
			t.Errorf("method %s, upgrade %s", r.Method, r.Upgrade)
		}
		_ = s.WriteHead(&message.Response{Status: 101, BodyLength: -1}, false)
		_ = s.Flush()
		for {
			p, err := s.ReadBody()
			if err != nil {
				break
			}
			_ = s.WriteBody(p, false)
			_ = s.Flush()
		}
		_ = s.WriteBody(nil, true)
	})
	c := dial(t, cnc, Options{})
	st, _ := c.NewStream()
	defer st.Close()
	r := get("/ws")
	r.Upgrade, r.BodyLength = []byte("websocket"), -1
	if err := st.WriteHead(r, false); err != nil {
		t.Fatal(err)
	}
	_ = st.Flush()
	resp, err := st.ReadHead()
	if err != nil || resp.Status != 101 {
		t.Fatalf("got %+v, %v", resp, err)
	}
	for _, msg := range []string{"ping", "pong"} {
		_ = st.WriteBody([]byte(msg), false)
		_ = st.Flush()
		if p, err := st.ReadBody(); err != nil || string(p) != msg {
			t.Errorf("got %q, %v", p, err)
		}
	}
	_ = st.WriteBody(nil, true)
	if _, err := st.ReadBody(); err != io.EOF {
		t.Errorf("got %v at the end", err)
	}
}

// TestHeadRules: what a request head may not be (RFC 9113 section 8).
func TestHeadRules(t *testing.T) {
	ok := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	with := func(extra ...string) []string { return append(append([]string(nil), ok...), extra...) }
	for _, c := range []struct {
		name  string
		block []string
		good  bool
	}{
		{"plain", ok, true},
		{"host only", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "a"}, true},
		{"host same as authority", with("host", "A"), true},
		{"host differs", with("host", "b"), false},
		{"two content-lengths", with("content-length", "1", "content-length", "2"), false},
		{"signed content-length", with("content-length", "+1"), false},
		{"content-length overflow", with("content-length", "99999999999999999999"), false},
		{"CR in value", with("x", "a\rb"), false},
		{"LF in value", with("x", "a\nb"), false},
		{"NUL in value", with("x", "a\x00b"), false},
		{"space before value", with("x", " a"), false},
		{"colon in name", with("x:y", "a"), false},
		{"space in name", with("x y", "a"), false},
		{"upper case", with("X", "a"), false},
		{"empty name", with("", "a"), false},
		{"transfer-encoding", with("transfer-encoding", "chunked"), false},
		{"te gzip", with("te", "gzip"), false},
		{"te trailers", with("te", "trailers"), true},
		{"upgrade", with("upgrade", "h2c"), false},
		{"pseudo after regular", append([]string{"x", "y"}, ok...), false},
		{"path with space", []string{":method", "GET", ":scheme", "http", ":path", "/a b", ":authority", "a"}, false},
		{"path without slash", []string{":method", "GET", ":scheme", "http", ":path", "a", ":authority", "a"}, false},
		{"port of letters", []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a:xyz"}, false},
		{"two ports", []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a:80:80"}, false},
		{"open bracket", []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "[::1"}, false},
		{"IPv6", []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "[::1]:80"}, true},
		{"userinfo", []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "u@a"}, false},
		{"method with space", []string{":method", "GE T", ":scheme", "http", ":path", "/", ":authority", "a"}, false},
		{"protocol without offer", with(":protocol", "websocket"), false},
		{"connect with path", []string{":method", "CONNECT", ":path", "/", ":authority", "a:1"}, false},
		{"connect", []string{":method", "CONNECT", ":authority", "a:1"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b block
			for i := 0; i < len(c.block); i += 2 {
				b.emit(hpackField(c.block[i], c.block[i+1]), 1<<16, 100)
			}
			var h head
			err := h.parse(&b, requestBlock)
			if err == nil {
				err = h.checkRequest(false)
			}
			if (err == nil) != c.good {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestHeaderLimits(t *testing.T) {
	for name, c := range map[string]struct {
		times int
		value string
	}{
		"bytes":  {1, strings.Repeat("v", 61<<10)},
		"fields": {101, "v"},
	} {
		t.Run(name, func(t *testing.T) {
			cnc, snc := pipe(t)
			serve(t, snc, Options{}, echo)
			st, err := dial(t, cnc, Options{}).NewStream()
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			r := get("/")
			for range c.times {
				r.Header.Add([]byte("x-a"), []byte(c.value))
			}
			// The server may end the connection while the head is still on its way.
			if err = st.WriteHead(r, true); err == nil {
				_, err = st.ReadHead()
			}
			if err == nil {
				t.Error("accepted")
			}
		})
	}
}

// TestHeadsInUseAreBounded is CVE-2026-47774: large decoded heads out of small
// indexed fields, on streams that never end.
func TestHeadsInUseAreBounded(t *testing.T) {
	cnc, snc := pipe(t)
	s := serve(t, snc, Options{}, func(_ context.Context, s message.ServerStream) { _, _ = s.ReadBody() })
	c := dial(t, cnc, Options{})
	value := []byte(strings.Repeat("v", 3900))
	var open []message.ClientStream
	for range 90 { // 54 KB each once decoded
		st, err := c.NewStream()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, st)
		r := get("/")
		for range 14 {
			r.Header.Add([]byte("x-a"), value)
		}
		if err := st.WriteHead(r, false); err != nil {
			t.Fatal(err)
		}
	}
	last := open[len(open)-1]
	if err := last.Flush(); err != nil {
		t.Fatal(err)
	}
	last.SetReadDeadline(time.Now().Add(testTimeout))
	var se *message.StreamError
	if _, err := last.ReadHead(); !errors.As(err, &se) || se.Reason != message.RefusedStream {
		t.Errorf("the last stream: %v", err)
	}
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held > maxHeldHeads {
		t.Errorf("%d bytes of heads are held, limit %d", held, maxHeldHeads)
	}
	for _, st := range open {
		st.Close()
	}
}

// TestRapidReset is CVE-2023-44487: open and reset, without end.
func TestRapidReset(t *testing.T) {
	cnc, snc := pipe(t)
	serve(t, snc, Options{}, func(_ context.Context, s message.ServerStream) { _, _ = s.ReadBody() })
	fr := http2.NewFramer(cnc, cnc)
	_, _ = io.WriteString(cnc, Preface)
	_ = fr.WriteSettings()
	w := newWriter(cnc, time.Second)
	done := make(chan http2.ErrCode, 1)
	go func() {
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				done <- 0
				return
			}
			if g, ok := f.(*http2.GoAwayFrame); ok {
				done <- g.ErrCode
				return
			}
		}
	}()
	for id := uint32(1); id < 20_000; id += 2 {
		w.mu.Lock()
		w.beginHeaders()
		w.encodeRequest(get("/"))
		block := append([]byte(nil), w.encBuf.Bytes()...)
		w.mu.Unlock()
		if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true}) != nil {
			break
		}
		if fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	select {
	case code := <-done:
		if code != http2.ErrCodeEnhanceYourCalm {
			t.Errorf("connection ended with %v", code)
		}
	case <-time.After(testTimeout):
		t.Fatal("the flood goes on")
	}
}
