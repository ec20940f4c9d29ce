// SPDX-License-Identifier: Apache-2.0

package todo

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func do(t *testing.T, h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestBackend(t *testing.T) {
	b := Backend()
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/todos/", "", 200, "[]\n"},
		{"POST", "/todos/milk", "", 201, `{"item":"milk","done":false}` + "\n"},
		{"POST", "/todos/milk", "", 200, `{"item":"milk","done":false}` + "\n"},
		{"POST", "/todos/bread%2Fbutter%20%3F", "", 201, `{"item":"bread/butter ?","done":false}` + "\n"},
		{"PUT", "/todos/milk", `{"done":true}`, 200, `{"item":"milk","done":true}` + "\n"},
		{"POST", "/todos/milk", "", 200, `{"item":"milk","done":true}` + "\n"},
		{"PUT", "/todos/milk", `{}`, 400, ""},
		{"PUT", "/todos/milk", `{"done":true` + strings.Repeat(" ", maxBody) + `}`, 400, ""},
		{"PUT", "/todos/tea", `{"done":true}`, 404, `{"error":"no item \"tea\""}` + "\n"},
		{"GET", "/todos/", "", 200, `[{"item":"milk","done":true},{"item":"bread/butter ?","done":false}]` + "\n"},
		{"DELETE", "/todos/milk", "", 204, ""},
		{"DELETE", "/todos/milk", "", 404, ""},
		{"GET", "/todos/", "", 200, `[{"item":"bread/butter ?","done":false}]` + "\n"},
		{"POST", "/todos/%20", "", 400, `{"error":"an item needs a text"}` + "\n"},
		{"POST", "/todos/%2E%2E", "", 400, ""},
		{"POST", "/todos/a%0Ab", "", 400, ""},
		{"POST", "/todos/" + strings.Repeat("x", maxItemLen+1), "", 400, ""},
		{"GET", "/health", "", 200, `{"status":"UP"}` + "\n"},
	} {
		w := do(t, b, c.method, c.path, c.body)
		if w.Code != c.status || c.want != "" && w.Body.String() != c.want {
			t.Errorf("%s %s %.40s: %d %q, want %d %q", c.method, c.path, c.body, w.Code, w.Body, c.status, c.want)
		}
	}
}

func TestBackendIsBounded(t *testing.T) {
	b := Backend()
	for i := range maxItems {
		if w := do(t, b, "POST", fmt.Sprintf("/todos/%d", i), ""); w.Code != 201 {
			t.Fatalf("item %d: %d", i, w.Code)
		}
	}
	if w := do(t, b, "POST", "/todos/more", ""); w.Code != 507 {
		t.Errorf("one more than the list takes: %d", w.Code)
	}
	if w := do(t, b, "POST", "/todos/0", ""); w.Code != 200 {
		t.Errorf("one that is there already: %d", w.Code)
	}
}

func newUI(t *testing.T, c Config) http.Handler {
	t.Helper()
	h, err := UI(c)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestUI(t *testing.T) {
	backend := Backend()
	var seen []http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Clone())
		backend.ServeHTTP(w, r)
	}))
	defer srv.Close()
	h := newUI(t, Config{Backend: srv.URL, Version: "v0.2", Instance: "todoui-1", Client: srv.Client()})

	post := func(path string, form url.Values) int {
		t.Helper()
		w := do(t, h, "POST", path, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
		if w.Code == http.StatusSeeOther && w.Header().Get("Location") != "/" {
			t.Errorf("%s leads to %q", path, w.Header().Get("Location"))
		}
		return w.Code
	}
	contains := func(body string, want ...string) {
		t.Helper()
		for _, s := range want {
			if !strings.Contains(body, s) {
				t.Errorf("%q is not in the page:\n%s", s, body)
			}
		}
	}

	contains(do(t, h, "GET", "/", "").Body.String(), "Nothing to do", "<code>todoui-1</code>")
	for _, item := range []string{"milk", "  bread/butter <b> "} {
		if code := post("/add", url.Values{"item": {item}}); code != 303 {
			t.Errorf("add %q: %d", item, code)
		}
	}
	if code := post("/done", url.Values{"item": {"milk"}, "done": {"true"}}); code != 303 {
		t.Errorf("done: %d", code)
	}
	page := do(t, h, "GET", "/", "", "Traceparent", "00-1-2-01", "End-User", "jason", "X-Secret", "no").Body.String()
	contains(page, "<span>milk</span>", "<span>bread/butter &lt;b&gt;</span>", `<li class="done">`, "1 of 2 done")
	last := seen[len(seen)-1]
	if last.Get("Traceparent") != "00-1-2-01" || last.Get("End-User") != "jason" || last.Get("X-Secret") != "" {
		t.Errorf("forwarded headers: %v", last)
	}
	if code := post("/done", url.Values{"item": {"milk"}, "done": {"false"}}); code != 303 {
		t.Errorf("not done: %d", code)
	}
	contains(do(t, h, "GET", "/", "").Body.String(), "0 of 2 done")
	for range 2 { // the second time it is gone already
		if code := post("/delete", url.Values{"item": {"milk"}}); code != 303 {
			t.Errorf("delete: %d", code)
		}
	}
	if page := do(t, h, "GET", "/", "").Body.String(); strings.Contains(page, "milk") {
		t.Errorf("milk is still there:\n%s", page)
	}
	for _, item := range []string{"", "..", strings.Repeat("x", maxItemLen+1)} {
		if code := post("/add", url.Values{"item": {item}}); code != 400 {
			t.Errorf("add %.10q: %d", item, code)
		}
	}
	if w := do(t, h, "GET", "/health", ""); w.Code != 200 {
		t.Errorf("health: %d", w.Code)
	}
}

// The two versions differ in what `curl | head -n 4` shows.
func TestVersionsDiffer(t *testing.T) {
	srv := httptest.NewServer(Backend())
	defer srv.Close()
	head := map[string]string{}
	for _, v := range []string{"v0.1", "0.2"} {
		w := do(t, newUI(t, Config{Backend: srv.URL, Version: v}), "GET", "/", "")
		head[v] = strings.Join(strings.SplitN(w.Body.String(), "\n", 5)[:4], "\n")
		if want := "(version " + strings.TrimPrefix(v, "v") + ")"; !strings.Contains(head[v], want) {
			t.Errorf("%s: %q is not in %q", v, want, head[v])
		}
	}
	if head["v0.1"] == head["0.2"] {
		t.Errorf("both begin with %q", head["0.2"])
	}
}

// What stands in the page is what the policy allows, byte for byte.
func TestStyleIsAllowed(t *testing.T) {
	srv := httptest.NewServer(Backend())
	defer srv.Close()
	w := do(t, newUI(t, Config{Backend: srv.URL, Version: "0.1"}), "GET", "/", "")
	_, rest, _ := strings.Cut(w.Body.String(), "<style>")
	style, _, ok := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	if want := "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !ok || !strings.Contains(w.Header().Get("Content-Security-Policy"), want) {
		t.Errorf("%s is not in %q", want, w.Header().Get("Content-Security-Policy"))
	}
}

func TestUIWithoutBackend(t *testing.T) {
	answer := func(status int, body string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return s
	}
	gone := answer(200, "")
	gone.Close()
	for name, url := range map[string]string{"gone": gone.URL, "503": answer(503, "no").URL, "no JSON": answer(200, "<html>").URL} {
		w := do(t, newUI(t, Config{Backend: url, Version: "0.1"}), "GET", "/", "")
		if w.Code != 502 || !strings.Contains(w.Body.String(), "cannot be reached") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	if w := do(t, newUI(t, Config{Backend: gone.URL, Version: "0.1"}), "POST", "/add", "item=a", form...); w.Code != 502 {
		t.Errorf("add: %d", w.Code)
	}
	if w := do(t, newUI(t, Config{Backend: answer(507, "").URL, Version: "0.1"}), "POST", "/add", "item=a", form...); w.Code != 507 {
		t.Errorf("add to a full list: %d", w.Code)
	}
}

func TestUIRefusesWhatItCannotBe(t *testing.T) {
	var got []string
	for _, c := range []Config{{Version: "v0.3", Backend: "http://b"}, {Version: "v0.1", Backend: "todobackend:8080"}, {Version: "v0.1", Backend: "ftp://b"}} {
		_, err := UI(c)
		got = append(got, fmt.Sprint(err))
	}
	want := []string{`todo ui has no version "v0.3": have v0.1, v0.2`, `backend "todobackend:8080" is no http:// URL`, `backend "ftp://b" is no http:// URL`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A request that is being answered when the server is told to stop is answered.
func TestServe(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-leave
		}))
	}()
	status := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			status <- err.Error()
			return
		}
		res.Body.Close()
		status <- res.Status
	}()
	<-entered
	stop()
	close(leave)
	if got := <-status; got != "200 OK" {
		t.Errorf("got %s", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := Serve(t.Context(), l, http.NotFoundHandler()); err == nil {
		t.Error("no error from a closed listener")
	}
}
