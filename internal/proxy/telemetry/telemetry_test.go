// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func text(t *testing.T, r *Registry, f Filter) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteText(&b, f); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestNamesAreComplete(t *testing.T) {
	for _, list := range [][]string{httpNames[:], httpTimeNames[:], clusterNames[:], clusterTimeNames[:], listenerNames[:], tcpNames[:]} {
		seen := map[string]bool{}
		for i, n := range list {
			if n == "" || seen[n] {
				t.Errorf("name %d of %q is empty or given twice: %q", i, list[0], n)
			}
			seen[n] = true
		}
	}
	if httpNames[HTTPFaultActive] != "~fault.active_faults" || clusterNames[ClusterRq5xx] != "upstream_rq_5xx" ||
		clusterNames[ClusterSSLFailVerifyError] != "ssl.fail_verify_error" || listenerNames[ListenerSSLHandshake] != "ssl.handshake" ||
		httpNames[HTTPRq1xx] != "downstream_rq_1xx" || tcpNames[TCPUpstreamFlushActive] != "~upstream_flush_active" ||
		clusterNames[ClusterRqRetry] != "upstream_rq_retry" || httpNames[HTTPRouterTotal] != "rq_total" {
		t.Error("constants and names are out of step")
	}
}

func TestTextExposition(t *testing.T) {
	r := NewRegistry()
	c := r.Cluster("outbound|9080||reviews.default.svc.cluster.local")
	s := NextStripe()
	c.Inc(s, ClusterRqTotal)
	c.Completed(s, 200)
	c.Completed(NextStripe(), 503)
	c.SetMembership(3, 2)
	r.Cluster("idle")
	h := r.HTTP("inbound_0.0.0.0_9080")
	h.Inc(1, HTTPRqActive)
	h.Dec(2, HTTPRqActive)
	r.Server.SetState(StateLive)
	r.Counter("cluster_manager.cds.update_success").Add(2)
	r.Gauge("listener_manager.workers_started").Set(1)
	r.GaugeFunc("server.memory_allocated", func() int64 { return 42 })

	got := text(t, r, Filter{UsedOnly: true, Match: regexp.MustCompile("reviews|downstream_rq_active|^server|_manager")})
	want := `cluster.outbound|9080||reviews.default.svc.cluster.local.membership_change: 1
cluster.outbound|9080||reviews.default.svc.cluster.local.membership_healthy: 2
cluster.outbound|9080||reviews.default.svc.cluster.local.membership_total: 3
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_cx_active: 0
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_200: 1
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_2xx: 1
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_503: 1
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_5xx: 1
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_active: 0
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_completed: 2
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_pending_active: 0
cluster.outbound|9080||reviews.default.svc.cluster.local.upstream_rq_total: 1
cluster_manager.cds.update_success: 2
http.inbound_0.0.0.0_9080.downstream_rq_active: 0
listener_manager.workers_started: 1
server.live: 1
server.memory_allocated: 42
server.state: 0
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if strings.Contains(text(t, r, Filter{UsedOnly: true}), "cluster.idle") {
		t.Error("an idle cluster is listed as used")
	}
}

func TestHistogramExposition(t *testing.T) {
	r := NewRegistry()
	c := r.Cluster("a:b")
	for _, d := range []time.Duration{300 * time.Microsecond, 3 * time.Millisecond, 3 * time.Millisecond, 2 * time.Hour} {
		c.Observe(NextStripe(), ClusterRqTime, d)
	}
	if got, want := text(t, r, Filter{UsedOnly: true}), "cluster.a_b.upstream_rq_time: P0(nan,0) P25(nan,0.5) P50(nan,3) P75(nan,5) "; !strings.Contains(got, want) {
		t.Errorf("got %q, want it to hold %q", got, want)
	}
	var b strings.Builder
	if err := r.WritePrometheus(&b, Filter{UsedOnly: true}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# TYPE envoy_cluster_upstream_rq_time histogram\n",
		`envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a_b",le="0.5"} 1` + "\n",
		`envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a_b",le="5"} 3` + "\n",
		`envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a_b",le="3600000"} 3` + "\n",
		`envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="a_b",le="+Inf"} 4` + "\n",
		`envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="a_b"} 7200006.3` + "\n",
		`envoy_cluster_upstream_rq_time_count{envoy_cluster_name="a_b"} 4` + "\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestPrometheusCodesAreLabels(t *testing.T) {
	r := NewRegistry()
	r.Cluster(`x"y`).Completed(0, 404)
	r.HTTP("p").Completed(0, 200)
	r.Server.SetState(StateLive)
	var b strings.Builder
	if err := r.WritePrometheus(&b, Filter{UsedOnly: true, Match: regexp.MustCompile("_rq_[0-9]|server.live")}); err != nil {
		t.Fatal(err)
	}
	want := `# TYPE envoy_cluster_upstream_rq counter
envoy_cluster_upstream_rq{envoy_response_code="404",envoy_cluster_name="x\"y"} 1
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_response_code_class="4",envoy_cluster_name="x\"y"} 1
# TYPE envoy_http_downstream_rq_xx counter
envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="p"} 1
# TYPE envoy_server_live gauge
envoy_server_live{} 1
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestRegistryKeepsValuesAcrossUpdates(t *testing.T) {
	r := NewRegistry()
	r.Listener("0.0.0.0:9080").Inc(0, ListenerCxTotal)
	if got := r.Listener("0.0.0.0:9080").Value(ListenerCxTotal); got != 1 {
		t.Errorf("second look-up sees %d, want 1", got)
	}
	r.RemoveListener("0.0.0.0:9080")
	if got := r.Listener("0.0.0.0:9080").Value(ListenerCxTotal); got != 0 {
		t.Errorf("after removal %d, want 0", got)
	}
}

func TestConcurrentCountsAreExact(t *testing.T) {
	r := NewRegistry()
	c := r.Cluster("c")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s := NextStripe()
			for range 1000 {
				c.Inc(s, ClusterRqTotal)
				c.Inc(s, ClusterRqActive)
				c.Completed(s, 200)
				c.Dec(s+1, ClusterRqActive)
				c.Observe(s, ClusterRqTime, time.Millisecond)
			}
		})
	}
	wg.Wait()
	if c.Value(ClusterRqTotal) != 8000 || c.Value(ClusterRqActive) != 0 || c.Code(200) != 8000 || c.Value(ClusterRq2xx) != 8000 {
		t.Errorf("total %d active %d 200s %d", c.Value(ClusterRqTotal), c.Value(ClusterRqActive), c.Code(200))
	}
	if h := c.times.snapshot(int(ClusterRqTime), int(clusterTimes)); h.count != 8000 {
		t.Errorf("histogram holds %d", h.count)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	r := NewRegistry()
	c, h := r.Cluster("c"), r.HTTP("h")
	run := func() {
		h.Inc(1, HTTPRqTotal)
		h.Completed(1, 404)
		h.Observe(1, HTTPRqTime, time.Millisecond)
		c.Completed(1, 404)
		c.Completed(1, 200)
		c.Observe(1, ClusterRqTime, time.Millisecond)
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestIdleClustersAreSmall holds the memory of clusters that never saw traffic.
func TestIdleClustersAreSmall(t *testing.T) {
	r := NewRegistry()
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint("outbound|80||svc-", i)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, n := range names {
		r.Cluster(n).SetMembership(10, 10)
	}
	runtime.ReadMemStats(&after)
	if per := (after.TotalAlloc - before.TotalAlloc) / 1000; per > 400 {
		t.Errorf("%d bytes per idle cluster, want at most 400", per)
	}
}

func BenchmarkClusterCompleted(b *testing.B) {
	c := NewRegistry().Cluster("c")
	b.RunParallel(func(pb *testing.PB) {
		s := NextStripe()
		for pb.Next() {
			c.Inc(s, ClusterRqTotal)
			c.Completed(s, 200)
		}
	})
}

func BenchmarkObserve(b *testing.B) {
	c := NewRegistry().Cluster("c")
	for b.Loop() {
		c.Observe(0, ClusterRqTime, 3*time.Millisecond)
	}
}
