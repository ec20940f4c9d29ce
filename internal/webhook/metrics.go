// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// metrics are Istio's: sidecar_injection_* and galley_validation_*.
type metrics struct {
	injectRequests, injectSuccess, injectFailure, injectSkip atomic.Uint64

	injectTime                   histogram
	injectErrors, validateErrors byStatus

	mu           sync.Mutex
	validated    map[metav1.GroupVersionResource]uint64
	notValidated map[failure]uint64
}

type failure struct {
	metav1.GroupVersionResource
	reason string
}

func (m *metrics) passed(r metav1.GroupVersionResource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.validated == nil {
		m.validated = map[metav1.GroupVersionResource]uint64{}
	}
	m.validated[r]++
}

func (m *metrics) failed(r metav1.GroupVersionResource, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.notValidated == nil {
		m.notValidated = map[failure]uint64{}
	}
	m.notValidated[failure{r, reason}]++
}

// byStatus counts HTTP errors by their status.
type byStatus struct {
	mu sync.Mutex
	n  map[int]uint64
}

func (b *byStatus) add(code int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n == nil {
		b.n = map[int]uint64{}
	}
	b.n[code]++
}

func (b *byStatus) counts() map[int]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.n)
}

// buckets are upper bounds in seconds.
var buckets = [...]float64{.001, .005, .01, .05, .1, .5, 1, 5}

// histogram is Prometheus' kind, in seconds.
type histogram struct {
	mu    sync.Mutex
	n     [len(buckets) + 1]uint64 // the last is +Inf
	sum   float64
	count uint64
}

func (h *histogram) observe(d time.Duration) {
	s := d.Seconds()
	k, _ := slices.BinarySearch(buckets[:], s)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n[k]++
	h.sum += s
	h.count++
}

func (h *histogram) write(w io.Writer, name string) {
	h.mu.Lock()
	n, sum, count := h.n, h.sum, h.count
	h.mu.Unlock()
	var total uint64
	for k, le := range buckets {
		total += n[k]
		fmt.Fprintf(w, "%s_bucket{le=%q} %d\n", name, strconv.FormatFloat(le, 'g', -1, 64), total)
	}
	fmt.Fprintf(w, "%s_bucket{le=\"+Inf\"} %d\n%s_sum %g\n%s_count %d\n", name, count, name, sum, name, count)
}

// WriteMetrics writes the counters in Prometheus' text format.
func (s *Server) WriteMetrics(w io.Writer) {
	m := &s.metrics
	head := func(name, kind, help string) { fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	for _, c := range []struct {
		name, help string
		n          *atomic.Uint64
	}{
		{"sidecar_injection_requests_total", "Total number of sidecar injection requests.", &m.injectRequests},
		{"sidecar_injection_success_total", "Total number of successful sidecar injection requests.", &m.injectSuccess},
		{"sidecar_injection_failure_total", "Total number of failed sidecar injection requests.", &m.injectFailure},
		{"sidecar_injection_skip_total", "Total number of skipped sidecar injection requests.", &m.injectSkip},
	} {
		head(c.name, "counter", c.help)
		fmt.Fprintf(w, "%s %d\n", c.name, c.n.Load())
	}
	head("sidecar_injection_time_seconds", "histogram", "Total time taken for injection in seconds.")
	m.injectTime.write(w, "sidecar_injection_time_seconds")
	for _, e := range []struct {
		name, help string
		of         *byStatus
	}{
		{"sidecar_injection_http_error", "Injection requests that could not be read.", &m.injectErrors},
		{"galley_validation_http_error", "Resource validation http serve errors", &m.validateErrors},
	} {
		head(e.name, "counter", e.help)
		counts := e.of.counts()
		for _, code := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(w, "%s{status=\"%d\"} %d\n", e.name, code, counts[code])
		}
	}
	m.writeValidation(w, head)
}

func (m *metrics) writeValidation(w io.Writer, head func(name, kind, help string)) {
	m.mu.Lock()
	passed, failed := maps.Clone(m.validated), maps.Clone(m.notValidated)
	m.mu.Unlock()
	label := func(r metav1.GroupVersionResource) string {
		return fmt.Sprintf("group=%q,version=%q,resource=%q", r.Group, r.Version, r.Resource)
	}
	head("galley_validation_passed", "counter", "Resource is valid")
	for _, r := range slices.SortedFunc(maps.Keys(passed), func(a, b metav1.GroupVersionResource) int { return cmp.Compare(label(a), label(b)) }) {
		fmt.Fprintf(w, "galley_validation_passed{%s} %d\n", label(r), passed[r])
	}
	head("galley_validation_failed", "counter", "Resource validation failed")
	for _, f := range slices.SortedFunc(maps.Keys(failed), func(a, b failure) int {
		return cmp.Or(cmp.Compare(label(a.GroupVersionResource), label(b.GroupVersionResource)), cmp.Compare(a.reason, b.reason))
	}) {
		fmt.Fprintf(w, "galley_validation_failed{%s,reason=%q} %d\n", label(f.GroupVersionResource), f.reason, failed[f])
	}
}
