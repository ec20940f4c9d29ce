// SPDX-License-Identifier: Apache-2.0

package bookinfo

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// results counts how the calls to neighbours ended. Istio's manifests mark
// productpage for scraping on /metrics, where this is what it shows.
type results struct {
	mu sync.Mutex
	n  map[result]uint64
}

type result struct {
	app    string
	status int
}

func newResults() *results { return &results{n: map[result]uint64{}} }

func (r *results) add(app string, status int) {
	r.mu.Lock()
	r.n[result{app, status}]++
	r.mu.Unlock()
}

// ServeHTTP writes the counters in Prometheus' text format, version 0.0.4.
func (r *results) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	var lines []string
	r.mu.Lock()
	keys := make([]result, 0, len(r.n))
	for k := range r.n {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b result) int {
		return cmp.Or(strings.Compare(a.app, b.app), cmp.Compare(a.status, b.status))
	})
	for _, k := range keys {
		lines = append(lines, fmt.Sprintf("request_result_total{destination_app=%q,response_code=\"%d\"} %d\n", k.app, k.status, r.n[k]))
	}
	r.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	fmt.Fprint(w, "# HELP request_result_total Results of requests\n# TYPE request_result_total counter\n", strings.Join(lines, ""))
}
