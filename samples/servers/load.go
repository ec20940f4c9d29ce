// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	loadTimeout = 10 * time.Second // until a request without an answer has failed
	loadBound   = 1000             // requests in flight; more wait their turn
	loadReasons = 20               // failures that are told in full
)

// Load sends GET requests at a steady rate, whatever the answers: what a user
// sees of a mesh while something in it fails.
type Load struct {
	URL    string
	Rate   int           // requests per second
	Report time.Duration // between two lines of report
	Out    io.Writer     // report lines, "sent N answered N failed N", and a line for each of the first failures

	mu       sync.Mutex
	sent     int
	failed   int
	inFlight map[int]struct{} // by number, from 0
}

// Run sends until ctx ends, waits for the answers that are due, and reports a
// last time. A request has failed unless its answer is 200 and complete within
// 10 s.
func (l *Load) Run(ctx context.Context) error {
	if l.Rate < 1 || l.Rate > 1000 {
		return errors.New("a load needs a rate of 1 to 1000 requests per second")
	}
	l.inFlight = map[int]struct{}{}
	transport := &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		Timeout:       loadTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	tick, report := time.NewTicker(time.Second/time.Duration(l.Rate)), time.NewTicker(l.Report)
	defer tick.Stop()
	defer report.Stop()
	var wait sync.WaitGroup
	slots := make(chan struct{}, loadBound)
	for {
		select {
		case <-ctx.Done():
			wait.Wait()
			l.report()
			return nil
		case <-report.C:
			l.report()
		case <-tick.C:
			slots <- struct{}{}
			n := l.begin()
			wait.Go(func() {
				l.end(n, ask(client, l.URL))
				<-slots
			})
		}
	}
}

// ask sends one request and answers why it failed, or "". Go's client sends a
// request again when a kept connection breaks; others do not, so that counts as
// a failure too.
func ask(c *http.Client, url string) string {
	var connections atomic.Int32
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connections.Add(1) }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	res, err := c.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	switch {
	case err != nil:
		return err.Error()
	case res.StatusCode != http.StatusOK:
		return fmt.Sprintf("%s: %.200q", res.Status, b)
	case connections.Load() > 1:
		return "the connection was closed without an answer"
	}
	return ""
}

func (l *Load) begin() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.sent
	l.sent++
	l.inFlight[n] = struct{}{}
	return n
}

func (l *Load) end(n int, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.inFlight, n)
	if reason == "" {
		return
	}
	if l.failed++; l.failed <= loadReasons {
		fmt.Fprintf(l.Out, "%s request %d: %s\n", time.Now().UTC().Format("15:04:05.000"), n, strings.TrimSpace(reason))
	}
}

// report tells how many requests were sent, up to which one all were answered
// or given up, and how many failed.
func (l *Load) report() {
	l.mu.Lock()
	defer l.mu.Unlock()
	answered := l.sent
	if len(l.inFlight) > 0 {
		answered = slices.Min(slices.Collect(maps.Keys(l.inFlight)))
	}
	fmt.Fprintf(l.Out, "sent %d answered %d failed %d\n", l.sent, answered, l.failed)
}
