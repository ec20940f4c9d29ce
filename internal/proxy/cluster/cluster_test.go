// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func parse[T proto.Message](t testing.TB, m T, text string) T {
	t.Helper()
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func clusterOf(t testing.TB, text string) *clusterv3.Cluster {
	return parse(t, new(clusterv3.Cluster), text)
}

func edsCluster(t testing.TB, name, more string) *clusterv3.Cluster {
	return clusterOf(t, `{"name":"`+name+`","type":"EDS","edsClusterConfig":{"edsConfig":{"ads":{},"initialFetchTimeout":"0s"}},"lbPolicy":"LEAST_REQUEST"`+more+`}`)
}

// cla makes an assignment of one locality.
func cla(t testing.TB, name string, addresses ...string) *endpointv3.ClusterLoadAssignment {
	var eps []string
	for _, a := range addresses {
		ap := netip.MustParseAddrPort(a)
		eps = append(eps, fmt.Sprintf(`{"endpoint":{"address":{"socketAddress":{"address":"%s","portValue":%d}}},
			"metadata":{"filterMetadata":{"envoy.transport_socket_match":{"tlsMode":"istio"},"istio":{"workload":"reviews-v1;default;reviews;v1;Kubernetes"}}}}`, ap.Addr(), ap.Port()))
	}
	return parse(t, new(endpointv3.ClusterLoadAssignment), `{"clusterName":"`+name+`","endpoints":[{"lbEndpoints":[`+strings.Join(eps, ",")+`]}]}`)
}

func seeded() func() uint64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(1, 2))
	return func() uint64 { mu.Lock(); defer mu.Unlock(); return r.Uint64() }
}

func newManager(t testing.TB, o Options) *Manager {
	if o.Rand == nil {
		o.Rand = seeded()
	}
	m := NewManager(o)
	t.Cleanup(m.Close)
	return m
}

type fakePool struct{ closed atomic.Int32 }

func (p *fakePool) Close() { p.closed.Add(1) }

func mustUpdate(t testing.TB, m *Manager, c *clusterv3.Cluster) {
	t.Helper()
	if err := m.Update(c); err != nil {
		t.Fatal(err)
	}
}

func mustEndpoints(t testing.TB, m *Manager, a *endpointv3.ClusterLoadAssignment) {
	t.Helper()
	if err := m.UpdateEndpoints(a); err != nil {
		t.Fatal(err)
	}
}

func TestEndpointChangeKeepsHostsThatStay(t *testing.T) {
	m := newManager(t, Options{})
	mustUpdate(t, m, edsCluster(t, "c", ""))
	mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80", "10.0.0.2:80"))
	c := m.Get("c")
	before := c.Hosts()
	pools := []*fakePool{{}, {}}
	for i, h := range before {
		h.Pool(func(*Host) Pool { return pools[i] })
	}
	before[0].Begin()
	mustEndpoints(t, m, cla(t, "c", "10.0.0.3:80", "10.0.0.1:80"))
	if m.Get("c") != c {
		t.Error("an endpoint change replaced the cluster")
	}
	after := c.Hosts()
	if after[1] != before[0] || after[1].Active() != 1 || after[1].Removed() {
		t.Error("the host that stayed was not kept")
	}
	if pools[0].closed.Load() != 0 || pools[1].closed.Load() != 1 || !before[1].Removed() {
		t.Error("want the pool of the removed host closed once, the other open")
	}
	late := new(fakePool)
	before[1] = &Host{cluster: c}
	before[1].close()
	before[1].Pool(func(*Host) Pool { return late })
	if late.closed.Load() != 1 {
		t.Error("a pool made on a removed host must come closed")
	}
}

func TestWarming(t *testing.T) {
	var active []string
	m := newManager(t, Options{OnActive: func(n string) { active = append(active, n) }})
	mustUpdate(t, m, edsCluster(t, "c", ""))
	if m.Get("c") != nil || len(m.Warming()) != 1 {
		t.Fatal("a cluster without endpoints serves already")
	}
	if d := m.Services(); len(d) != 1 || d[0] != "c" {
		t.Fatalf("services %v", d)
	}
	mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80"))
	first := m.Get("c")
	if first == nil || len(m.Warming()) != 0 {
		t.Fatal("the cluster does not serve with its endpoints there")
	}
	pool := new(fakePool)
	first.Hosts()[0].Pool(func(*Host) Pool { return pool })

	// A changed resource takes the endpoints over and serves at once.
	mustUpdate(t, m, edsCluster(t, "c", `,"connectTimeout":"3s"`))
	second := m.Get("c")
	if second == first || len(second.Hosts()) != 1 || second.ConnectTimeout != 3*time.Second {
		t.Fatal("the changed cluster does not serve with the old endpoints")
	}
	if pool.closed.Load() != 1 {
		t.Error("the old cluster's pool is not closed")
	}
	// The same resource again changes nothing.
	mustUpdate(t, m, edsCluster(t, "c", `,"connectTimeout":"3s"`))
	if m.Get("c") != second {
		t.Error("an unchanged resource replaced the cluster")
	}
	// A refused one neither.
	if err := m.Update(edsCluster(t, "c", `,"healthChecks":[{}]`)); err == nil || !strings.Contains(err.Error(), "health_checks") {
		t.Errorf("error %v does not name health_checks", err)
	}
	if m.Get("c") != second {
		t.Error("a refused resource replaced the cluster")
	}
	m.Remove("c")
	if m.Get("c") != nil {
		t.Error("removed cluster is still there")
	}
	if fmt.Sprint(active) != "[c c]" {
		t.Errorf("activations %v", active)
	}
}

func TestEndpointsBeforeTheirCluster(t *testing.T) {
	m := newManager(t, Options{})
	mustEndpoints(t, m, cla(t, "svc", "10.0.0.1:80"))
	mustUpdate(t, m, clusterOf(t, `{"name":"c","type":"EDS","edsClusterConfig":{"serviceName":"svc","edsConfig":{"ads":{}}}}`))
	if c := m.Get("c"); c == nil || len(c.Hosts()) != 1 {
		t.Fatal("endpoints that came first were lost")
	}
	m.RemoveEndpoints("svc")
	if c := m.Get("c"); len(c.Hosts()) != 0 || c.Pick(nil) != nil {
		t.Error("removed endpoints are still there")
	}
}

func TestInitialFetchTimeoutEndsWarming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, Options{})
		mustUpdate(t, m, clusterOf(t, `{"name":"c","type":"EDS","edsClusterConfig":{"edsConfig":{"ads":{}}}}`))
		time.Sleep(14 * time.Second)
		if m.Get("c") != nil {
			t.Fatal("serves before its timeout")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if c := m.Get("c"); c == nil || c.Pick(nil) != nil {
			t.Fatal("want a cluster without hosts after 15 s")
		}
	})
}

func TestPickSkipsTriedHosts(t *testing.T) {
	m := newManager(t, Options{})
	mustUpdate(t, m, edsCluster(t, "c", ""))
	mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"))
	c := m.Get("c")
	hs := c.Hosts()
	same := 0
	for range 1000 {
		if c.Pick(&PickContext{Tried: hs[:1], Attempts: 5}) == hs[0] {
			same++
		}
	}
	if same > 20 { // (1/3)^6 of 1000 is about 1
		t.Errorf("the tried host came %d times of 1000", same)
	}
	mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80"))
	if c.Pick(&PickContext{Tried: hs[:1], Attempts: 5}) != hs[0] {
		t.Error("the only host must be used again")
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	m := newManager(t, Options{})
	mustUpdate(t, m, edsCluster(t, "c", ""))
	mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80", "10.0.0.2:80"))
	pc := &PickContext{Tried: m.Get("c").Hosts()[:1], Attempts: 5}
	if n := testing.AllocsPerRun(1000, func() { m.Get("c").Pick(pc) }); n != 0 {
		t.Errorf("%v allocations per pick", n)
	}
}

func TestPrioritiesAndPanic(t *testing.T) {
	m := newManager(t, Options{})
	mustUpdate(t, m, edsCluster(t, "c", ""))
	ep := func(ip, health string) string {
		return `{"healthStatus":"` + health + `","endpoint":{"address":{"socketAddress":{"address":"` + ip + `","portValue":80}}}}`
	}
	mustEndpoints(t, m, parse(t, new(endpointv3.ClusterLoadAssignment), `{"clusterName":"c","endpoints":[
		{"priority":0,"lbEndpoints":[`+ep("10.0.0.1", "HEALTHY")+`,`+ep("10.0.0.2", "UNHEALTHY")+`]},
		{"priority":1,"lbEndpoints":[`+ep("10.0.1.1", "HEALTHY")+`]}]}`))
	c := m.Get("c")
	got := make(map[string]int)
	for range 10000 {
		got[c.Pick(nil).Address()]++
	}
	if n := got["10.0.0.1:80"]; n < 6700 || n > 7300 || got["10.0.0.2:80"] != 0 {
		t.Errorf("picks %v, want 70 %% on 10.0.0.1 and the rest on 10.0.1.1", got)
	}
	mustEndpoints(t, m, parse(t, new(endpointv3.ClusterLoadAssignment), `{"clusterName":"c","endpoints":[
		{"lbEndpoints":[`+ep("10.0.0.1", "UNHEALTHY")+`]}]}`))
	if c.Pick(nil) == nil || c.Panics() != 1 {
		t.Error("want the unhealthy host in panic")
	}
	mustUpdate(t, m, edsCluster(t, "c", `,"commonLbConfig":{"healthyPanicThreshold":{}}`))
	if m.Get("c").Pick(nil) != nil {
		t.Error("with a panic threshold of 0 an unhealthy host must not be picked")
	}
}

func TestLocalityWeights(t *testing.T) {
	for _, tt := range []struct {
		healthyX int // of 100
		want     float64
	}{{100, 1.0 / 3}, {69, 0.32}, {50, 0.26}, {25, 0.15}} {
		m := newManager(t, Options{})
		mustUpdate(t, m, edsCluster(t, "c", `,"commonLbConfig":{"localityWeightedLbConfig":{}}`))
		locality := func(zone string, net, weight, healthy int) string {
			var eps []string
			for i := range 100 {
				h := "HEALTHY"
				if i >= healthy {
					h = "UNHEALTHY"
				}
				eps = append(eps, fmt.Sprintf(`{"healthStatus":"%s","endpoint":{"address":{"socketAddress":{"address":"10.0.%d.%d","portValue":80}}}}`, h, net, i))
			}
			return fmt.Sprintf(`{"locality":{"zone":"%s"},"loadBalancingWeight":%d,"lbEndpoints":[%s]}`, zone, weight, strings.Join(eps, ","))
		}
		mustEndpoints(t, m, parse(t, new(endpointv3.ClusterLoadAssignment),
			`{"clusterName":"c","endpoints":[`+locality("x", 1, 1, tt.healthyX)+`,`+locality("y", 2, 2, 100)+`]}`))
		x := 0
		for range 10000 {
			if strings.HasPrefix(m.Get("c").Pick(nil).Address(), "10.0.1.") {
				x++
			}
		}
		if got := float64(x) / 10000; math.Abs(got-tt.want) > 0.01 {
			t.Errorf("%d %% healthy: x got %.3f, want %.2f", tt.healthyX, got, tt.want)
		}
	}
}

const tlsMatches = `,"transportSocketMatches":[
	{"name":"tlsMode-istio","match":{"tlsMode":"istio"},"transportSocket":{"name":"envoy.transport_sockets.tls","typedConfig":{
		"@type":"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext","sni":"outbound_.9080_._.x",
		"commonTlsContext":{"alpnProtocols":["istio-peer-exchange","istio"],"tlsParams":{"tlsMaximumProtocolVersion":"TLSv1_3"},
			"tlsCertificateSdsSecretConfigs":[{"name":"default","sdsConfig":{"apiConfigSource":{"apiType":"GRPC","grpcServices":[{"envoyGrpc":{"clusterName":"sds-grpc"}}]}}}],
			"combinedValidationContext":{"defaultValidationContext":{"matchTypedSubjectAltNames":[{"sanType":"URI","matcher":{"exact":"spiffe://cluster.local/ns/default/sa/x"}}]},
				"validationContextSdsSecretConfig":{"name":"ROOTCA","sdsConfig":{"apiConfigSource":{"apiType":"GRPC","grpcServices":[{"envoyGrpc":{"clusterName":"sds-grpc"}}]}}}}}}}},
	{"name":"tlsMode-disabled","match":{},"transportSocket":{"name":"envoy.transport_sockets.raw_buffer","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}]`

func TestTransportSocketMatch(t *testing.T) {
	m := newManager(t, Options{})
	mustUpdate(t, m, edsCluster(t, "c", tlsMatches))
	a := cla(t, "c", "10.0.0.1:80")
	a.Endpoints[0].LbEndpoints = append(a.Endpoints[0].LbEndpoints, parse(t, new(endpointv3.LbEndpoint), `{"endpoint":{"address":{"socketAddress":{"address":"10.0.0.2","portValue":80}}}}`))
	mustEndpoints(t, m, a)
	hs := m.Get("c").Hosts()
	if tr := hs[0].Transport(); tr.Name != "tlsMode-istio" || tr.TLS == nil || tr.TLS.SNI() != "outbound_.9080_._.x" {
		t.Errorf("host with tlsMode=istio has transport %+v", tr)
	}
	if tr := hs[1].Transport(); tr.Name != "tlsMode-disabled" || tr.TLS != nil {
		t.Errorf("host without metadata has transport %+v", tr)
	}
	if hs[0].Workload() != "reviews-v1;default;reviews;v1;Kubernetes" {
		t.Errorf("workload %q", hs[0].Workload())
	}
	// A host that turns mutual TLS on is a new host: no old connection is used.
	b := cla(t, "c", "10.0.0.1:80", "10.0.0.2:80")
	mustEndpoints(t, m, b)
	after := m.Get("c").Hosts()
	if after[0] != hs[0] || after[1] == hs[1] || after[1].Transport().TLS == nil || !hs[1].Removed() {
		t.Error("want host 1 kept and host 2 replaced")
	}
}

func TestOriginalDst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, Options{})
		mustUpdate(t, m, clusterOf(t, `{"name":"PassthroughCluster","type":"ORIGINAL_DST","lbPolicy":"CLUSTER_PROVIDED"}`))
		c := m.Get("PassthroughCluster")
		dst := netip.MustParseAddrPort("10.1.2.3:443")
		if c.Pick(nil) != nil {
			t.Error("picked a host without a destination")
		}
		h := c.Pick(&PickContext{OriginalDst: dst})
		if h.Address() != "10.1.2.3:443" || c.Pick(&PickContext{OriginalDst: dst}) != h {
			t.Fatal("want one host per destination")
		}
		h.Begin()
		time.Sleep(time.Minute)
		if len(c.Hosts()) != 1 || h.Removed() {
			t.Error("a host in use was swept")
		}
		h.End()
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if len(c.Hosts()) != 0 || !h.Removed() {
			t.Error("an idle host was not swept after two intervals")
		}
	})
}

func TestDecodeOfWhatIstiodSends(t *testing.T) {
	m := newManager(t, Options{})
	mustUpdate(t, m, clusterOf(t, `{"name":"outbound|9080|v1|reviews.default.svc.cluster.local","altStatName":"x;","type":"STATIC","connectTimeout":"10s","lbPolicy":"RING_HASH",
		"circuitBreakers":{"thresholds":[{"maxConnections":10,"maxPendingRequests":4294967295,"maxRequests":4294967295,"maxRetries":4294967295,"trackRemaining":true}]},
		"ringHashLbConfig":{"minimumRingSize":"1024"},"commonLbConfig":{"healthyPanicThreshold":{}},
		"upstreamBindConfig":{"sourceAddress":{"address":"127.0.0.6","portValue":0}},
		"typedExtensionProtocolOptions":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"commonHttpProtocolOptions":{"idleTimeout":"300s"},"useDownstreamProtocolConfig":{"httpProtocolOptions":{},"http2ProtocolOptions":{}}}},
		"metadata":{"filterMetadata":{"istio":{"config":"/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews","subset":"v1",
			"services":[{"host":"reviews.default.svc.cluster.local","name":"reviews","namespace":"default"}]}}}}`))
	c := m.Get("outbound|9080|v1|reviews.default.svc.cluster.local")
	if c.Service != (Service{"reviews.default.svc.cluster.local", "reviews", "default"}) || c.Subset != "v1" || !strings.HasSuffix(c.Provenance, "destination-rule/reviews") {
		t.Errorf("metadata: %+v %q %q", c.Service, c.Subset, c.Provenance)
	}
	if c.HTTP.Protocol != UseDownstream || c.HTTP.IdleTimeout != 5*time.Minute || c.ConnectTimeout != 10*time.Second || len(c.BindSources) != 1 || c.BindSources[0].String() != "127.0.0.6" || c.Panic != 0 {
		t.Errorf("config: %+v", c.Config)
	}
	l := c.Limits(false)
	for range 10 {
		if !l.AcquireConnection() {
			t.Fatal("refused below the limit")
		}
	}
	if l.AcquireConnection() || !l.AcquireRetry() {
		t.Error("want connections at their limit and retries unlimited")
	}
}

func TestRetryBudget(t *testing.T) {
	m := newManager(t, Options{})
	mustUpdate(t, m, clusterOf(t, `{"name":"c","type":"STATIC","circuitBreakers":{"thresholds":[{"retryBudget":{"budgetPercent":{"value":25}}}]}}`))
	l := m.Get("c").Limits(false)
	for range 20 {
		l.AcquireRequest()
	}
	n := 0
	for l.AcquireRetry() {
		n++
	}
	if n != 5 {
		t.Errorf("%d retries of 20 requests at 25 %%, want 5", n)
	}
}

func TestRefusalsNameTheField(t *testing.T) {
	for field, text := range map[string]string{
		"name":                   `{}`,
		"lb_subset_config":       `{"name":"c","lbSubsetConfig":{}}`,
		"load_balancing_policy":  `{"name":"c","loadBalancingPolicy":{}}`,
		"connect_timeout":        `{"name":"c","connectTimeout":"0s"}`,
		"eds_config":             `{"name":"c","type":"EDS"}`,
		"lb_policy":              `{"name":"c","lbPolicy":"CLUSTER_PROVIDED"}`,
		"is no IP address":       `{"name":"c","loadAssignment":{"clusterName":"c","endpoints":[{"lbEndpoints":[{"endpoint":{"address":{"socketAddress":{"address":"host","portValue":1}}}}]}]}}`,
		"transport_socket":       `{"name":"c","transportSocket":{"name":"x"}}`,
		"overprovisioning":       `{"name":"c","loadAssignment":{"clusterName":"c","policy":{"overprovisioningFactor":0}}}`,
		"healthy_panic_thresh":   `{"name":"c","commonLbConfig":{"healthyPanicThreshold":{"value":101}}}`,
		"LOGICAL_DNS":            `{"name":"c","type":"LOGICAL_DNS"}`,
		"table_size 4":           `{"name":"c","lbPolicy":"MAGLEV","maglevLbConfig":{"tableSize":4}}`,
		"http3_protocol_options": `{"name":"c","typedExtensionProtocolOptions":{"x":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","explicitHttpConfig":{"http3ProtocolOptions":{}}}}}`,
	} {
		m := newManager(t, Options{})
		if err := m.Update(clusterOf(t, text)); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: error %v does not name %q", text, err, field)
		}
	}
}

func TestRingHashKeepsAKeyOnItsHost(t *testing.T) {
	m := newManager(t, Options{})
	c := edsCluster(t, "c", "")
	c.LbPolicy = clusterv3.Cluster_RING_HASH
	mustUpdate(t, m, c)
	mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"))
	owner := make(map[uint64]*Host)
	for k := range uint64(1000) {
		owner[k] = m.Get("c").Pick(&PickContext{HasHash: true, Hash: k * 0x9e3779b97f4a7c15})
	}
	mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80", "10.0.0.2:80"))
	// Hosts that stay get more points (the ring keeps its least size), so some
	// of their keys move, but not many.
	moved, stayed := 0, 0
	for k, h := range owner {
		if h.Removed() {
			continue
		}
		stayed++
		if m.Get("c").Pick(&PickContext{HasHash: true, Hash: k * 0x9e3779b97f4a7c15}) != h {
			moved++
		}
	}
	if moved*3 > stayed {
		t.Errorf("%d of %d keys moved off hosts that stayed", moved, stayed)
	}
}

// TestMemoryPerCluster holds the promise that a thousand idle services with ten
// endpoints each are cheap.
func TestMemoryPerCluster(t *testing.T) {
	const n = 1000
	m := newManager(t, Options{})
	heap := func() uint64 {
		var ms runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&ms)
		return ms.HeapAlloc
	}
	before := heap()
	for i := range n {
		name := fmt.Sprintf("outbound|9080||svc-%d.default.svc.cluster.local", i)
		mustUpdate(t, m, edsCluster(t, name, tlsMatches))
		var addrs []string
		for e := range 10 {
			addrs = append(addrs, fmt.Sprintf("10.%d.%d.%d:9080", i/256, i%256, e))
		}
		mustEndpoints(t, m, cla(t, name, addrs...))
	}
	per := (heap() - before) / n
	t.Logf("%d bytes per cluster of 10 endpoints", per)
	if per > 4608 {
		t.Errorf("%d bytes per cluster of 10 endpoints, want at most 4608", per)
	}
	runtime.KeepAlive(m)
}

func TestRingHashWeighsLocalities(t *testing.T) {
	m := newManager(t, Options{})
	c := edsCluster(t, "c", `,"commonLbConfig":{"localityWeightedLbConfig":{}}`)
	c.LbPolicy = clusterv3.Cluster_RING_HASH
	mustUpdate(t, m, c)
	a := cla(t, "c", "10.0.0.1:80", "10.0.0.2:80")
	b := cla(t, "c", "10.0.0.3:80")
	a.Endpoints[0].LoadBalancingWeight = wrapperspb.UInt32(1)
	b.Endpoints[0].LoadBalancingWeight = wrapperspb.UInt32(3)
	b.Endpoints[0].Locality = &corev3.Locality{Zone: "b"}
	a.Endpoints = append(a.Endpoints, b.Endpoints...)
	mustEndpoints(t, m, a)
	got := make(map[string]int)
	r := seeded()
	for range 10000 {
		got[m.Get("c").Pick(&PickContext{HasHash: true, Hash: r()}).Address()]++
	}
	if n := got["10.0.0.3:80"]; n < 7000 || n > 8000 {
		t.Errorf("picks %v, want about 7500 on 10.0.0.3", got)
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewManager(Options{Rand: seeded()})
		defer m.Close()
		slow := `,"leastRequestLbConfig":{"slowStartConfig":{"slowStartWindow":"60s","minWeightPercent":{"value":25}}}`
		mustUpdate(t, m, edsCluster(t, "c", slow))
		mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80"))
		time.Sleep(2 * time.Minute)
		mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80", "10.0.0.2:80"))
		young := func() int {
			n := 0
			for range 1000 {
				if m.Get("c").Pick(nil).Address() == "10.0.0.2:80" {
					n++
				}
			}
			return n
		}
		if n := young(); n < 195 || n > 205 { // 0.25 against 1
			t.Errorf("a new host got %d of 1000, want 200", n)
		}
		time.Sleep(30 * time.Second)
		if n := young(); n < 325 || n > 340 { // 0.5 against 1
			t.Errorf("half warm, it got %d of 1000, want 333", n)
		}
		// A changed cluster goes on warming where it was.
		mustUpdate(t, m, edsCluster(t, "c", slow+`,"connectTimeout":"9s"`))
		if n := young(); n < 325 || n > 340 {
			t.Errorf("after a change of the cluster it got %d of 1000, want 333", n)
		}
		time.Sleep(31 * time.Second)
		if n := young(); n < 450 || n > 550 {
			t.Errorf("warm, it got %d of 1000, want about 500", n)
		}
	})
}
