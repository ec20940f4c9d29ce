// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
	"github.com/lateen-mesh/lateen/internal/xds"
)

// proxySink is a proxy that refers to the endpoints of all its clusters, to a
// route configuration of the name of each listener, and to all its hosts. It
// refuses what breaks: it never has a route to a cluster that is not there.
type proxySink struct {
	mu   sync.Mutex
	have map[xdsclient.Type]map[string]string // name -> serialized
	bad  []string
}

func (s *proxySink) Apply(t xdsclient.Type, changed []xdsclient.Resource, removed []string) map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have[t] == nil {
		s.have[t] = map[string]string{}
	}
	for _, r := range changed {
		b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(r.Message)
		s.have[t][r.Name] = string(b)
		if h, ok := r.Message.(*routev3.VirtualHost); ok {
			if cluster := h.GetDomains()[0]; s.have[xdsclient.Clusters][cluster] == "" || s.have[xdsclient.Endpoints][cluster] == "" {
				s.bad = append(s.bad, fmt.Sprintf("host %s came before cluster %s or its endpoints", r.Name, cluster))
			}
		}
	}
	for _, n := range removed {
		delete(s.have[t], n)
		if t != xdsclient.Clusters {
			continue
		}
		for _, host := range s.have[xdsclient.VirtualHosts] {
			if strings.Contains(host, n+"!") {
				s.bad = append(s.bad, fmt.Sprintf("cluster %s went before its host", n))
			}
		}
	}
	return nil
}

func (s *proxySink) Names(t xdsclient.Type) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch t {
	case xdsclient.Endpoints:
		return sortedKeys(s.have[xdsclient.Clusters])
	case xdsclient.Routes:
		return sortedKeys(s.have[xdsclient.Listeners])
	case xdsclient.VirtualHosts:
		var out []string
		for _, n := range sortedKeys(s.have[xdsclient.Routes]) {
			out = append(out, n+"/*")
		}
		return out
	}
	return nil
}

// proxyView is a consistent configuration: each host routes to one cluster (its
// domain), which has endpoints.
func proxyView(r *rand.Rand, epoch uint64) *xds.View {
	v := &xds.View{Epoch: epoch, Sets: map[string]xds.Set{}}
	put := func(url, name string, m proto.Message) {
		b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		v.Sets[url] = append(v.Sets[url], xds.NewResource(url, name, b))
	}
	for i := range 6 {
		if r.IntN(3) == 0 {
			continue
		}
		cluster := fmt.Sprintf("c%d!", i)
		put(xds.ClusterType, cluster, &clusterv3.Cluster{Name: cluster, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			ConnectTimeout: durationpb.New(time.Duration(r.IntN(2)+1) * time.Second)})
		put(xds.EndpointType, cluster, &endpointv3.ClusterLoadAssignment{ClusterName: cluster,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{Priority: uint32(r.IntN(2))}}})
		for _, rc := range []string{"80", "81"} {
			if r.IntN(2) == 0 {
				name := fmt.Sprintf("%s/h%d", rc, r.IntN(100)+100*i)
				put(xds.VirtualHostType, name, &routev3.VirtualHost{Name: name, Domains: []string{cluster}})
			}
		}
	}
	for _, rc := range []string{"80", "81"} {
		if rc == "80" || r.IntN(2) == 0 {
			put(xds.ListenerType, rc, &listenerv3.Listener{Name: rc})
			put(xds.RouteType, rc, &routev3.RouteConfiguration{Name: rc, Vhds: &routev3.Vhds{ConfigSource: &corev3.ConfigSource{}}})
		}
	}
	for _, s := range v.Sets {
		slices.SortFunc(s, byName)
	}
	return v
}

// TestProxyFollowsMakeBeforeBreak drives lateen-proxy's own client through
// random changes and lost connections.
func TestProxyFollowsMakeBeforeBreak(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	f := &fixture{t: t, source: &fakeSource{NewFeed(proxyView(r, 1))}}
	f.server = NewServer(f.source, Options{MaxWindow: time.Millisecond, EndpointGrace: time.Hour})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(GRPCOptions(0)...)
	f.server.Register(g, Access{})
	go g.Serve(l)
	t.Cleanup(g.Stop)

	sink := &proxySink{have: map[xdsclient.Type]map[string]string{}}
	dialer := &xdsclient.GRPC{Authority: "lateend", Address: func() (string, string, error) { return "tcp", l.Addr().String(), nil }}
	var mu sync.Mutex
	var current xdsclient.Stream
	client := xdsclient.New(xdsclient.Config{
		Node: node("p.default"), Sink: sink, CDS: true, LDS: true, Jitter: func() float64 { return 0 },
		Dial: func(ctx context.Context) (xdsclient.Stream, error) {
			s, err := dialer.Dial(ctx)
			mu.Lock()
			defer mu.Unlock()
			current = s
			return s, err
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { client.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	for step := range 60 {
		v := proxyView(r, uint64(step+2))
		f.source.feed.Publish(v)
		if r.IntN(10) == 0 {
			mu.Lock()
			if current != nil {
				current.Close()
			}
			mu.Unlock()
		}
		if r.IntN(3) > 0 {
			continue // the next change comes while this one is on its way
		}
		f.until("the proxy has followed", func(all []ClientStatus) bool {
			return len(all) == 1 && all[0].Synced && sink.equals(v) == ""
		})
	}
	v, _ := f.source.feed.View()
	f.until("the proxy has followed", func(all []ClientStatus) bool { return len(all) == 1 && all[0].Synced })
	if d := sink.equals(v); d != "" {
		t.Error(d)
	}
	for _, b := range sink.bad {
		t.Error(b)
	}
	if n := f.server.Metrics().Rejects; n["cds"]+n["eds"]+n["lds"]+n["rds"]+n["vhds"] > 0 {
		t.Errorf("refused: %v; %s", n, client.LastError())
	}
}

func (s *proxySink) equals(v *xds.View) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range []xdsclient.Type{xdsclient.Clusters, xdsclient.Endpoints, xdsclient.Listeners, xdsclient.Routes, xdsclient.VirtualHosts} {
		want := contents(v.Sets[t.URL()])
		if t == xdsclient.VirtualHosts { // only those of a route configuration that is there
			for n := range want {
				rc, _, _ := strings.Cut(n, "/")
				if v.Sets[xds.RouteType].Get(rc) == nil {
					delete(want, n)
				}
			}
		}
		got := s.have[t]
		if len(got)+len(want) == 0 {
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			return t.String() + " (-view +proxy):\n" + d
		}
	}
	return ""
}
