// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// maxInFlight bounds the requests waiting for an answer; what is due beyond it
// is counted as skipped, so that a slow mesh shows instead of piling up.
const maxInFlight = 256

// traffic sends requests at a steady rate, as a visitor would.
type traffic struct {
	url     string
	perSec  int
	sent    atomic.Int64
	failed  atomic.Int64
	skipped atomic.Int64
}

// run sends until ctx ends and then waits for what is in flight.
func (t *traffic) run(ctx context.Context) {
	client := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: maxInFlight}}
	defer client.CloseIdleConnections()
	slots := make(chan struct{}, maxInFlight)
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second / time.Duration(t.perSec))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			t.skipped.Add(1)
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			t.one(ctx, client)
		})
	}
}

func (t *traffic) one(ctx context.Context, client *http.Client) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		t.failed.Add(1)
		return
	}
	res, err := client.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if ctx.Err() != nil {
		return // we ended it
	}
	t.sent.Add(1)
	if err != nil || res.StatusCode >= http.StatusInternalServerError {
		t.failed.Add(1)
	}
}

func (t *traffic) String() string {
	s := fmt.Sprintf("%d requests sent, %d failed", t.sent.Load(), t.failed.Load())
	if n := t.skipped.Load(); n > 0 {
		s += fmt.Sprintf(", %d skipped because %d were in flight", n, maxInFlight)
	}
	return s
}
