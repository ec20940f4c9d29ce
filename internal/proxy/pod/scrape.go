// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Scrape is where the application's own metrics are, from the prometheus.io
// annotations that injection replaced.
type Scrape struct {
	Path string
	Port Port
}

// ParseScrape reads ISTIO_PROMETHEUS_ANNOTATIONS, {"scrape":"true","path":...,
// "port":...}; nil when there is nothing to scrape.
func ParseScrape(text string) (*Scrape, error) {
	if text == "" {
		return nil, nil
	}
	var a struct{ Scrape, Path, Port string }
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return nil, err
	}
	if a.Scrape != "" && a.Scrape != "true" {
		return nil, nil
	}
	if a.Path == "" {
		a.Path = "/metrics"
	}
	if a.Port == "" {
		a.Port = "80"
	}
	n, err := strconv.ParseUint(a.Port, 10, 16)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("port %q is not a number from 1 to 65535", a.Port)
	}
	if !strings.HasPrefix(a.Path, "/") {
		a.Path = "/" + a.Path
	}
	return &Scrape{Path: a.Path, Port: Port(n)}, nil
}

// Bounds of one look at the application's metrics. Prometheus' default scrape
// timeout is 10 s, and ours must still be sent.
const (
	scrapeTimeout = 5 * time.Second
	maxScrape     = 64 << 20
	// scrapeBuffer is held back before anything is sent: an application that
	// answers with an error is then left out without a trace.
	scrapeBuffer = 32 << 10
)

// merged serves the proxy's metrics and after them the application's.
type merged struct {
	own    http.Handler
	scrape *Scrape // nil: the proxy's alone
	self   uint16  // a scrape of this port would come back here
	client *http.Client
	failed func() // counts
	log    *slog.Logger
}

func newMerged(own http.Handler, c *Config, failed func(), log *slog.Logger) *merged {
	m := &merged{own: own, scrape: c.Scrape, failed: failed, log: log}
	_, p, _ := net.SplitHostPort(c.Status)
	n, _ := strconv.ParseUint(p, 10, 16)
	m.self = uint16(n)
	m.client = &http.Client{
		Transport: &http.Transport{
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
			DialContext: (&net.Dialer{}).DialContext,
		},
		// An application must not send the proxy elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirects are not followed") },
	}
	return m
}

const openMetrics = "application/openmetrics-text"

func (m *merged) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	if m.scrape == nil || uint16(m.scrape.Port) == m.self {
		m.own.ServeHTTP(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeoutOf(r))
	defer cancel()
	body, contentType, err := m.ask(ctx, r)
	if err != nil {
		m.failed()
		m.log.Warn("application metrics not merged", "port", m.scrape.Port, "path", m.scrape.Path, "error", err)
		m.own.ServeHTTP(w, r)
		return
	}
	defer body.Close()
	// The proxy's own handler would say that all is plain text.
	m.own.ServeHTTP(&typed{ResponseWriter: w, contentType: contentType}, r)
	n, err := io.Copy(w, io.LimitReader(body, maxScrape))
	if err != nil || n == maxScrape {
		m.failed()
		m.log.Warn("application metrics cut off", "port", m.scrape.Port, "bytes", n, "error", err)
	}
}

// typed fixes the content type of an answer.
type typed struct {
	http.ResponseWriter
	contentType string
}

func (t *typed) WriteHeader(code int) {
	t.Header().Set("Content-Type", t.contentType)
	t.ResponseWriter.WriteHeader(code)
}

func (t *typed) Write(b []byte) (int, error) {
	t.Header().Set("Content-Type", t.contentType)
	return t.ResponseWriter.Write(b)
}

// timeoutOf leaves the proxy's own metrics half of what the scraper waits.
func timeoutOf(r *http.Request) time.Duration {
	s, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64)
	if err != nil || s <= 0 {
		return scrapeTimeout
	}
	return min(time.Duration(s*float64(time.Second))/2, scrapeTimeout)
}

// ask begins to read the application's metrics, in the text format if it has
// it: that is what the proxy's are in.
func (m *merged) ask(ctx context.Context, from *http.Request) (io.ReadCloser, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address("localhost", m.scrape.Port)+m.scrape.Path, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4;q=1,"+openMetrics+";version=1.0.0;q=0.5,*/*;q=0.1")
	if ua := from.UserAgent(); ua != "" {
		req.Header.Set("User-Agent", ua)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, "", err
	}
	fail := func(err error) (io.ReadCloser, string, error) {
		resp.Body.Close()
		return nil, "", err
	}
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("status %s", resp.Status))
	}
	contentType := "text/plain; version=0.0.4; charset=utf-8"
	if t, p, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && t == openMetrics {
		version := "1.0.0"
		if p["version"] == "0.0.1" {
			version = "0.0.1"
		}
		contentType = openMetrics + "; version=" + version + "; charset=utf-8"
	}
	// The first bytes tell an application that hangs from one that answers.
	head := make([]byte, scrapeBuffer)
	n, err := io.ReadFull(resp.Body, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(err)
	}
	return readCloser{io.MultiReader(bytes.NewReader(head[:n]), resp.Body), resp.Body}, contentType, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}
