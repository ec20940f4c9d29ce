// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestMergeMetrics(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/text":
			io.WriteString(w, "app_requests 7\n")
		case "/open":
			w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
			io.WriteString(w, "app_requests 7\n# EOF\n")
		case "/fails":
			http.Error(w, "broken", http.StatusInternalServerError)
		case "/moved":
			http.Redirect(w, r, "http://other.example/", http.StatusFound)
		case "/hangs":
			<-r.Context().Done()
		}
	}))
	t.Cleanup(app.Close)
	port := portOf(app.Listener.Addr().String())
	const text, open = "text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text; version=1.0.0; charset=utf-8"
	for _, tc := range []struct {
		annotations, body, contentType string
		failed                         int32
	}{
		{`{"scrape":"true","path":"/text","port":"` + port + `"}`, "own 1\napp_requests 7\n", text, 0},
		{`{"scrape":"true","path":"open","port":"` + port + `"}`, "own 1\napp_requests 7\n# EOF\n", open, 0},
		{`{"scrape":"false","path":"/text","port":"` + port + `"}`, "own 1\n", text, 0},
		{``, "own 1\n", text, 0},
		{`{"scrape":"true","path":"/fails","port":"` + port + `"}`, "own 1\n", text, 1},
		{`{"scrape":"true","path":"/moved","port":"` + port + `"}`, "own 1\n", text, 1},
		{`{"scrape":"true","path":"/hangs","port":"` + port + `"}`, "own 1\n", text, 1},
		{`{"scrape":"true","port":"` + portOf(free(t)) + `"}`, "own 1\n", text, 1},
	} {
		s, err := ParseScrape(tc.annotations)
		if err != nil {
			t.Fatal(err)
		}
		var failed atomic.Int32
		own := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", text)
			io.WriteString(w, "own 1\n")
		})
		m := newMerged(own, &Config{Scrape: s, Status: ":15020"}, func() { failed.Add(1) }, slog.New(slog.DiscardHandler))
		r := httptest.NewRequest(http.MethodGet, "/stats/prometheus", nil)
		r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", "0.5")
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r)
		if w.Code != 200 || w.Body.String() != tc.body || w.Header().Get("Content-Type") != tc.contentType || failed.Load() != tc.failed {
			t.Errorf("%s: %d %q %q, %d failed", tc.annotations, w.Code, w.Body, w.Header().Get("Content-Type"), failed.Load())
		}
	}
}

// Metrics without end are cut off, not held in memory.
func TestMergeBoundsTheApplication(t *testing.T) {
	line := strings.Repeat("x", 1<<20)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
		}
	}))
	t.Cleanup(app.Close)
	s, err := ParseScrape(fmt.Sprintf(`{"scrape":"true","port":%q}`, portOf(app.Listener.Addr().String())))
	if err != nil {
		t.Fatal(err)
	}
	var failed atomic.Int32
	m := newMerged(http.NotFoundHandler(), &Config{Scrape: s, Status: ":15020"}, func() { failed.Add(1) }, slog.New(slog.DiscardHandler))
	w := &counting{header: http.Header{}}
	m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.n > maxScrape+1<<10 || failed.Load() != 1 {
		t.Errorf("%d bytes, %d failed", w.n, failed.Load())
	}
}

type counting struct {
	header http.Header
	n      int
}

func (c *counting) Header() http.Header { return c.header }
func (c *counting) WriteHeader(int)     {}
func (c *counting) Write(b []byte) (int, error) {
	c.n += len(b)
	return len(b), nil
}

// The pod's network reaches the status port: changes are for loopback alone.
func TestChangesAreForLoopback(t *testing.T) {
	for _, tc := range []struct {
		from, method, origin string
		code                 int
	}{
		{"127.0.0.1:5", "POST", "", 200}, {"[::1]:5", "POST", "", 200}, {"10.0.0.9:5", "POST", "", 403},
		{"127.0.0.1:5", "GET", "", 405}, {"127.0.0.1:5", "POST", "http://evil.example", 403},
	} {
		called := 0
		r := httptest.NewRequest(tc.method, "/quitquitquit", nil)
		r.RemoteAddr = tc.from
		if tc.origin != "" {
			r.Header.Set("Origin", tc.origin)
		}
		w := httptest.NewRecorder()
		fromLoopback(func() { called++ }).ServeHTTP(w, r)
		if w.Code != tc.code || (called == 1) != (tc.code == 200) {
			t.Errorf("%+v: %d, called %d times", tc, w.Code, called)
		}
	}
}
