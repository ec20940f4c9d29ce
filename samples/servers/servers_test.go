// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

func get(t *testing.T, h http.Handler, target string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w.Code, w.Body.String()
}

func TestHTTP(t *testing.T) {
	hello, health := Helloworld("v2", "pod-1"), Health("8002")
	for _, c := range []struct {
		h      http.Handler
		path   string
		status int
		body   string
	}{
		{hello, "/hello", 200, "Hello version: v2, instance: pod-1\n"},
		{hello, "/health", 200, "Helloworld is healthy"},
		{hello, "/", 404, "404 page not found\n"},
		{health, "/foo", 200, "Listening on 8002: foo "},
		{health, "/bar", 200, "Listening on 8002: bar "},
		{health, "/baz", 404, "404 page not found\n"},
	} {
		if status, body := get(t, c.h, c.path); status != c.status || body != c.body {
			t.Errorf("GET %s: %d %q, want %d %q", c.path, status, body, c.status, c.body)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A request that is being answered when the server is told to stop is answered.
func TestServeFinishesRequests(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l := listen(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		_, _ = io.WriteString(w, "done")
	})
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, h) }()
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	<-entered
	stop()
	close(leave)
	if got := <-answer; got != "done" {
		t.Errorf("answer %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServeTellsOfABrokenListener(t *testing.T) {
	l := listen(t)
	l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := (Echo{}).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("echo: got %v", err)
	}
}

func TestEcho(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l := listen(t)
	ended := make(chan error, 1)
	go func() { ended <- Echo{Prefix: "hello"}.Serve(ctx, l) }()
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, bufio.NewReader(c)
	}
	c, r := dial()
	for _, line := range []string{"world\n", "\n", strings.Repeat("x", maxLine-1) + "\n"} {
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
		if got, err := r.ReadString('\n'); err != nil || got != "hello "+line {
			t.Fatalf("for a line of %d bytes: %d bytes, %v", len(line), len(got), err)
		}
	}
	// Half a line gets no answer, only the end.
	c2, r2 := dial()
	_, _ = io.WriteString(c2, "half")
	_ = c2.(*net.TCPConn).CloseWrite()
	if got, err := r2.ReadString('\n'); err != io.EOF {
		t.Errorf("half a line: %q, %v", got, err)
	}
	c3, r3 := dial()
	_, _ = io.WriteString(c3, strings.Repeat("x", maxLine+1))
	if got, err := r3.ReadString('\n'); err == nil {
		t.Errorf("a line that is too long: %d bytes", len(got))
	}
	stop()
	if got, err := r.ReadString('\n'); err != io.EOF {
		t.Errorf("after the end: %q, %v", got, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestHub(t *testing.T) {
	hub := NewHub()
	srv := httptest.NewServer(hub)
	defer srv.Close()
	dial := func() *websocket.Conn {
		ws, err := websocket.Dial("ws"+strings.TrimPrefix(srv.URL, "http")+"/ws", "", "http://elsewhere.example")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ws.Close() })
		return ws
	}
	receive := func(ws *websocket.Conn) string {
		t.Helper()
		var m string
		if err := websocket.Message.Receive(ws, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	a := dial()
	_ = websocket.Message.Send(a, "first")
	if got := receive(a); got != "first" {
		t.Errorf("echo %q", got)
	}
	b := dial()
	_ = websocket.Message.Send(b, "from b") // b is in the hub by the time this is sent on
	if x, y := receive(a), receive(b); x != "from b" || y != "from b" {
		t.Errorf("a got %q, b got %q", x, y)
	}
	if status, body := get(t, hub, "/api?id=1&value=on"); status != 200 || body != "" {
		t.Errorf("api: %d %q", status, body)
	}
	if x, y := receive(a), receive(b); x != `{"id":"1","value":"on"}` || y != x {
		t.Errorf("a got %q, b got %q", x, y)
	}
	if status, body := get(t, hub, "/api?id=1"); status != 400 || !strings.Contains(body, "value") {
		t.Errorf("api without a value: %d %q", status, body)
	}
	hub.Close()
	var m string
	if err := websocket.Message.Receive(a, &m); err != io.EOF {
		t.Errorf("after Close: %q, %v", m, err)
	}
	late := dial()
	if err := websocket.Message.Receive(late, &m); err != io.EOF {
		t.Errorf("a socket opened after Close: %q, %v", m, err)
	}
}

// One that does not read is dropped, and the others go on.
func TestHubDropsTheSlow(t *testing.T) {
	hub := NewHub()
	queue := make(chan string, 1)
	ws := new(websocket.Conn)
	hub.sockets[ws] = queue
	hub.broadcast("kept")
	hub.broadcast("too much")
	if len(hub.sockets) != 0 {
		t.Error("the slow socket is still there")
	}
	if m, ok := <-queue; m != "kept" || !ok {
		t.Errorf("got %q, %v", m, ok)
	}
	if _, ok := <-queue; ok {
		t.Error("the queue is not closed")
	}
}

func TestHubPage(t *testing.T) {
	hub := NewHub()
	for path, want := range map[string]string{"/": `<script src="app.js">`, "/app.js": "new WebSocket", "/style.css": "main {"} {
		if status, body := get(t, hub, path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, %q not in it", path, status, want)
		}
	}
	if status, _ := get(t, hub, "/web/index.html"); status != 404 {
		t.Errorf("a path that is none: %d", status)
	}
}
