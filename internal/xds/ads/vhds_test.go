// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lateen-mesh/lateen/internal/proxy/agent"
	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
	"github.com/lateen-mesh/lateen/internal/xds"
)

func TestGroupWithoutResourcesIsListedAsRemoved(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.VirtualHostType: "r/x=1 qq/x=1 q/a/x=1"}), Options{}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.VirtualHostType, "q/*", "r/*")
	d.ack(d.expect(xds.VirtualHostType, "r/x", "q/*"))
	// One more, and one that had none is not answered twice.
	d.subscribe(xds.VirtualHostType, "q/*", "s/*")
	d.ack(d.expect(xds.VirtualHostType, "", "s/*"))
	f.source.feed.Publish(view(2, map[string]string{xds.VirtualHostType: "s/x=1"}))
	d.ack(d.expect(xds.VirtualHostType, "s/x", "r/x"))
	d.quiet(f)
	// Let go and asked for again, it is answered again.
	d.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.VirtualHostType, ResourceNamesUnsubscribe: []string{"r/*"}})
	d.subscribe(xds.VirtualHostType, "r/*")
	d.ack(d.expect(xds.VirtualHostType, "", "r/*"))
	d.quiet(f)
	// So it is after a reconnect, whatever the proxy has of others.
	e := f.delta("p.default")
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.VirtualHostType, ResourceNamesSubscribe: []string{"q/*", "r/*", "s/*"},
		InitialResourceVersions: d.vers[xds.VirtualHostType]})
	e.ack(e.expect(xds.VirtualHostType, "", "q/* r/*"))
	e.quiet(f)
}

// What is asked for by name is answered although clusters are not; a group waits
// for them, and its answer is not forgotten.
func TestGroupIsAnsweredAfterTheNamesBesideIt(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ClusterType: "a=1", xds.VirtualHostType: "r/x=1 s/x=1"}), Options{}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.ClusterType)
	cds := d.expect(xds.ClusterType, "a", "")
	d.subscribe(xds.VirtualHostType, "s/x", "q/*", "r/*")
	d.ack(d.expect(xds.VirtualHostType, "s/x", ""))
	d.ack(cds)
	d.ack(d.expect(xds.VirtualHostType, "r/x", "q/*"))
	d.quiet(f)
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// gateway is a view with a listener for each address, whose routes come from the
// route configuration named as the address, and with these virtual hosts.
func gateway(t *testing.T, epoch uint64, addresses []string, hosts map[string]*routev3.VirtualHost) *xds.View {
	t.Helper()
	v := &xds.View{Epoch: epoch, Sets: map[string]xds.Set{}}
	put := func(url, name string, m proto.Message) {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		v.Sets[url] = append(v.Sets[url], xds.NewResource(url, name, b))
	}
	ads := &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}, InitialFetchTimeout: durationpb.New(0)}
	for _, a := range addresses {
		hcm := &hcmv3.HttpConnectionManager{
			StatPrefix:     "in",
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads, RouteConfigName: a}},
			HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(t, &routerv3.Router{})}}},
		}
		put(xds.ListenerType, a, &listenerv3.Listener{Name: a, Address: address(t, a), FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, hcm)}}}}}})
		put(xds.RouteType, a, &routev3.RouteConfiguration{Name: a, Vhds: &routev3.Vhds{ConfigSource: ads},
			VirtualHosts: []*routev3.VirtualHost{host("catch-all", "*", 404)}})
	}
	for _, n := range sortedKeys(hosts) {
		put(xds.VirtualHostType, n, hosts[n])
	}
	for url := range v.Sets {
		slices.SortFunc(v.Sets[url], byName)
	}
	return v
}

func host(name, domain string, status uint32) *routev3.VirtualHost {
	return &routev3.VirtualHost{Name: name, Domains: []string{domain}, Routes: []*routev3.Route{{
		Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: status}},
	}}}
}

func address(t *testing.T, hostPort string) *corev3.Address {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", hostPort)
	if err != nil {
		t.Fatal(err)
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: a.IP.String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port)}}}}
}

func freeAddresses(t *testing.T, n int) (out []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

// startProxy runs the proxy against the fixture's server.
func startProxy(t *testing.T, f *fixture) *agent.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(GRPCOptions(0)...)
	f.server.Register(g, Access{})
	go g.Serve(l)
	t.Cleanup(g.Stop)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	bs, err := bootstrap.Parse(fmt.Appendf(nil, `
node: {id: "router~127.0.0.1~gw.default~default.svc.cluster.local", cluster: gw}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}}
static_resources:
  clusters:
  - {name: xds-grpc, type: STATIC, load_assignment: {cluster_name: xds-grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}}
`, port), bootstrap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := agent.New(bs, agent.Options{Stdout: io.Discard, Stderr: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// answers waits until the listener answers with this status for a host.
func answers(t *testing.T, f *fixture, listener, authority string, status int) {
	t.Helper()
	c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	f.until(fmt.Sprintf("%s answers %s with %d", listener, authority, status), func([]ClientStatus) bool {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Host = authority
		r, err := c.Do(q)
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == status
	})
}

// A gateway whose one port has named hosts and whose other has none but the
// catch-all in its route configuration; then a third port, then no hosts at all.
func TestProxyServesAPortWithoutNamedHosts(t *testing.T) {
	a := freeAddresses(t, 3)
	named := map[string]*routev3.VirtualHost{a[0] + "/shop.example": host("shop", "shop.example", 418)}
	f := &fixture{t: t, source: &fakeSource{NewFeed(gateway(t, 1, a[:2], named))}}
	f.server = NewServer(f.source, Options{MaxWindow: time.Millisecond})
	p := startProxy(t, f)
	f.until("the proxy is ready", func([]ClientStatus) bool { return p.Ready() })
	answers(t, f, a[0], "shop.example", 418)
	answers(t, f, a[1], "shop.example", 404)

	f.source.feed.Publish(gateway(t, 2, a, named))
	answers(t, f, a[2], "shop.example", 404)
	answers(t, f, a[0], "shop.example", 418)

	f.source.feed.Publish(gateway(t, 3, a, nil))
	answers(t, f, a[0], "shop.example", 404)
	f.source.feed.Publish(gateway(t, 4, a, map[string]*routev3.VirtualHost{a[1] + "/shop.example": host("shop", "shop.example", 418)}))
	answers(t, f, a[1], "shop.example", 418)
}

// A port whose only virtual host cannot be decoded is served all the same.
func TestProxyServesAPortWhoseHostsItRefuses(t *testing.T) {
	a := freeAddresses(t, 2)
	v := gateway(t, 1, a, map[string]*routev3.VirtualHost{a[0] + "/shop.example": host("shop", "shop.example", 418)})
	v.Sets[xds.VirtualHostType] = append(v.Sets[xds.VirtualHostType], xds.NewResource(xds.VirtualHostType, a[1]+"/bad", []byte{0xff}))
	slices.SortFunc(v.Sets[xds.VirtualHostType], byName)
	f := &fixture{t: t, source: &fakeSource{NewFeed(v)}}
	f.server = NewServer(f.source, Options{MaxWindow: time.Millisecond})
	p := startProxy(t, f)
	f.until("the proxy is ready", func([]ClientStatus) bool { return p.Ready() })
	answers(t, f, a[0], "shop.example", 418)
	answers(t, f, a[1], "shop.example", 404)
	if n := f.server.Metrics().Rejects["vhds"]; n != 1 {
		t.Errorf("%d refusals, want 1", n)
	}
}
