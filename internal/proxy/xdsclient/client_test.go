// SPDX-License-Identifier: Apache-2.0

package xdsclient

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// server is the control plane's side of one fake stream.
type server struct {
	toClient chan *discoveryv3.DeltaDiscoveryResponse
	requests chan *discoveryv3.DeltaDiscoveryRequest
	done     chan struct{}
}

func newServer() *server {
	return &server{make(chan *discoveryv3.DeltaDiscoveryResponse), make(chan *discoveryv3.DeltaDiscoveryRequest, 100), make(chan struct{})}
}

func (s *server) Send(r *discoveryv3.DeltaDiscoveryRequest) error {
	s.requests <- proto.Clone(r).(*discoveryv3.DeltaDiscoveryRequest)
	return nil
}

func (s *server) Recv() (*discoveryv3.DeltaDiscoveryResponse, error) {
	select {
	case r, ok := <-s.toClient:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-s.done:
		return nil, errors.New("closed")
	}
}

func (s *server) Close() { close(s.done) }

func (s *server) next(t *testing.T) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-s.requests:
		return r
	default:
		t.Fatal("the client sent nothing")
		return nil
	}
}

func (s *server) quiet(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-s.requests:
		t.Fatalf("unexpected request %v", r)
	default:
	}
}

// sink remembers what it was given and asks for what it is told to.
type sink struct {
	have  [numTypes]map[string]string // name to version
	names [numTypes][]string
	bad   map[string]error
}

func (s *sink) Apply(t Type, changed []Resource, removed []string) map[string]error {
	if s.have[t] == nil {
		s.have[t] = map[string]string{}
	}
	bad := map[string]error{}
	for _, r := range changed {
		if err := s.bad[r.Name]; err != nil {
			bad[r.Name] = err
			continue
		}
		s.have[t][r.Name] = r.Version
		if c, ok := r.Message.(*clusterv3.Cluster); ok && c.GetEdsClusterConfig() != nil {
			s.names[Endpoints] = append(s.names[Endpoints], c.GetEdsClusterConfig().GetServiceName())
		}
	}
	for _, n := range removed {
		delete(s.have[t], n)
	}
	return bad
}

func (s *sink) Names(t Type) []string { return s.names[t] }

func resource(t *testing.T, name, version string, m proto.Message) *discoveryv3.Resource {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &discoveryv3.Resource{Name: name, Version: version, Resource: a}
}

func eds(service string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: service, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{ServiceName: service},
	}
}

// world is a client whose streams the test serves one after another.
type world struct {
	sink    *sink
	client  *Client
	streams chan *server
}

func start(t *testing.T) *world {
	w := &world{sink: &sink{bad: map[string]error{}}, streams: make(chan *server, 10)}
	w.client = New(Config{
		Node: &corev3.Node{Id: "sidecar~1"}, Sink: w.sink, CDS: true, LDS: true,
		Jitter: func() float64 { return 1 },
		Dial: func(context.Context) (Stream, error) {
			select {
			case s := <-w.streams:
				return s, nil
			default:
				return nil, errors.New("refused")
			}
		},
	})
	return w
}

// accept lets the client connect and reads the two wildcard requests.
func (w *world) accept(t *testing.T) *server {
	t.Helper()
	s := newServer()
	w.streams <- s
	time.Sleep(maxBackoff)
	return s
}

func run(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { w.client.Run(ctx); close(done) }()
		f(t, w)
		cancel()
		<-done
	})
}

func TestSubscribesAndAcknowledges(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		s := w.accept(t)
		first := s.next(t)
		if first.GetTypeUrl() != Clusters.URL() || first.GetNode().GetId() != "sidecar~1" || !slices.Equal(first.GetResourceNamesSubscribe(), []string{"*"}) {
			t.Errorf("first request %v", first)
		}
		if second := s.next(t); second.GetTypeUrl() != Listeners.URL() || second.GetNode() != nil {
			t.Errorf("second request %v", second)
		}
		s.toClient <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: Clusters.URL(), Nonce: "n1", Resources: []*discoveryv3.Resource{
			resource(t, "a", "1", eds("a")), resource(t, "b", "1", eds("b")),
		}}
		if sub := s.next(t); sub.GetTypeUrl() != Endpoints.URL() || !slices.Equal(sub.GetResourceNamesSubscribe(), []string{"a", "b"}) {
			t.Errorf("endpoint request %v", sub)
		}
		if ack := s.next(t); ack.GetTypeUrl() != Clusters.URL() || ack.GetResponseNonce() != "n1" || ack.GetErrorDetail() != nil {
			t.Errorf("answer %v", ack)
		}
		w.sink.names[Endpoints] = []string{"b", "c"}
		w.client.NamesChanged()
		sub := s.next(t)
		if !slices.Equal(sub.GetResourceNamesSubscribe(), []string{"c"}) || !slices.Equal(sub.GetResourceNamesUnsubscribe(), []string{"a"}) {
			t.Errorf("changed names sent as %v", sub)
		}
		s.quiet(t)
		if !w.client.Received(Clusters) || w.client.Received(Listeners) {
			t.Error("Received is wrong")
		}
	})
}

func TestRefusalNamesEachResourceAndKeepsTheRest(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		s := w.accept(t)
		s.next(t)
		s.next(t)
		w.sink.bad["b"] = errors.New("no such policy")
		unsupported := &clusterv3.Cluster{Name: "c", LbSubsetConfig: &clusterv3.Cluster_LbSubsetConfig{}}
		broken := resource(t, "d", "1", &clusterv3.Cluster{Name: "d"})
		broken.Resource.Value = []byte{0xff}
		s.toClient <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: Clusters.URL(), Nonce: "n1", Resources: []*discoveryv3.Resource{
			resource(t, "a", "1", &clusterv3.Cluster{Name: "a"}), resource(t, "b", "1", &clusterv3.Cluster{Name: "b"}),
			resource(t, "c", "1", unsupported), broken, resource(t, "e", "1", &clusterv3.Cluster{Name: "other"}),
		}}
		nack := s.next(t)
		for _, want := range []string{"b: no such policy", "c: lb_subset_config: field is not supported", "d: decode", `e: the message calls itself "other"`} {
			if !strings.Contains(nack.GetErrorDetail().GetMessage(), want) {
				t.Errorf("NACK %q lacks %q", nack.GetErrorDetail().GetMessage(), want)
			}
		}
		if diff := cmp.Diff(map[string]string{"a": "1"}, w.sink.have[Clusters]); diff != "" {
			t.Error(diff)
		}
		if e, _ := w.client.Cache().Get(Clusters, "b"); e.Body != nil || e.RejectedVersion != "1" {
			t.Errorf("cache has %+v", e)
		}
	})
}

func TestLastGoodVersionIsToldOnReconnect(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		s := w.accept(t)
		s.next(t)
		s.next(t)
		s.toClient <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: Clusters.URL(), Nonce: "n1", Resources: []*discoveryv3.Resource{resource(t, "a", "1", eds("a"))}}
		s.next(t) // endpoints
		s.next(t) // ACK
		s.toClient <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: Endpoints.URL(), Nonce: "n2", Resources: []*discoveryv3.Resource{
			resource(t, "a", "7", &endpointv3.ClusterLoadAssignment{ClusterName: "a"})}}
		s.next(t)
		w.sink.bad["a"] = errors.New("no")
		s.toClient <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: Clusters.URL(), Nonce: "n3", Resources: []*discoveryv3.Resource{resource(t, "a", "2", eds("a"))}}
		if nack := s.next(t); nack.GetErrorDetail() == nil {
			t.Error("accepted")
		}
		close(s.toClient)

		s = w.accept(t)
		cds := s.next(t)
		if diff := cmp.Diff(map[string]string{"a": "1"}, cds.GetInitialResourceVersions()); diff != "" || cds.GetNode() == nil {
			t.Errorf("first request %v: %s", cds, diff)
		}
		s.next(t) // listeners
		eds := s.next(t)
		if eds.GetTypeUrl() != Endpoints.URL() || !slices.Equal(eds.GetResourceNamesSubscribe(), []string{"a"}) || eds.GetInitialResourceVersions()["a"] != "7" {
			t.Errorf("endpoint request %v", eds)
		}
	})
}

func TestVirtualHostsFollowTheirRouteConfiguration(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		s := w.accept(t)
		s.next(t)
		s.next(t)
		w.sink.names[VirtualHosts] = []string{"80/*", "9080/*"}
		w.client.NamesChanged()
		if sub := s.next(t); !slices.Equal(sub.GetResourceNamesSubscribe(), []string{"80/*", "9080/*"}) {
			t.Errorf("request %v", sub)
		}
		vh := func(name string) *discoveryv3.Resource {
			return resource(t, name, "1", &routev3.VirtualHost{Name: name, Domains: []string{name}})
		}
		s.toClient <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: VirtualHosts.URL(), Nonce: "n", Resources: []*discoveryv3.Resource{vh("80/a"), vh("80/b"), vh("9080/a")}}
		s.next(t)
		s.toClient <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: VirtualHosts.URL(), Nonce: "m", RemovedResources: []string{"80/a"}}
		s.next(t)
		if diff := cmp.Diff(map[string]string{"80/b": "1", "9080/a": "1"}, w.sink.have[VirtualHosts]); diff != "" {
			t.Error(diff)
		}
		w.sink.names[VirtualHosts] = []string{"80/*"}
		w.client.NamesChanged()
		if sub := s.next(t); !slices.Equal(sub.GetResourceNamesUnsubscribe(), []string{"9080/*"}) {
			t.Errorf("request %v", sub)
		}
		if diff := cmp.Diff(map[string]string{"80/b": "1"}, w.sink.have[VirtualHosts]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBackoffDoublesAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		New(Config{Sink: &sink{}, Jitter: func() float64 { return 1 }, Dial: func(context.Context) (Stream, error) {
			at = append(at, time.Since(begin))
			return nil, errors.New("refused")
		}}).Run(ctx)
		s := time.Second
		want := []time.Duration{0, s / 2, s/2 + 1*s, s/2 + 3*s, s/2 + 7*s, s/2 + 12*s, s/2 + 17*s}
		if diff := cmp.Diff(want, at); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOverGRPC(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer()
	gs.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.discovery.v3.AggregatedDiscoveryService", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true, Handler: func(_ any, st grpc.ServerStream) error {
			a, _ := anypb.New(&clusterv3.Cluster{Name: "a"})
			if err := st.SendMsg(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: Clusters.URL(), Nonce: "n", Resources: []*discoveryv3.Resource{{Name: "a", Version: "1", Resource: a}}}); err != nil {
				return err
			}
			<-st.Context().Done()
			return nil
		}}},
	}, struct{}{})
	go func() { _ = gs.Serve(lis) }()
	defer gs.Stop()

	settled := make(chan Type, 1)
	g := &GRPC{Address: func() (string, string, error) { return "tcp", lis.Addr().String(), nil }, Authority: "istiod.istio-system.svc"}
	c := New(Config{Node: &corev3.Node{Id: "x"}, Sink: &sink{}, CDS: true, Dial: g.Dial, Settled: func(tt Type) { settled <- tt }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	select {
	case <-settled:
	case <-time.After(30 * time.Second):
		t.Fatal("nothing arrived: " + c.LastError())
	}
	if e := c.Cache().Entries(Clusters); len(e) != 1 || e[0].Name != "a" || !c.Connected() {
		t.Errorf("got %+v", e)
	}
	cancel()
	<-done
}

func FuzzDecode(f *testing.F) {
	f.Add(uint8(0), "a", []byte{})
	f.Fuzz(func(t *testing.T, typ uint8, name string, body []byte) {
		tt := Type(typ % uint8(numTypes))
		c := New(Config{Sink: &sink{}})
		c.decode(tt, &discoveryv3.DeltaDiscoveryResponse{Resources: []*discoveryv3.Resource{{Name: name, Resource: &anypb.Any{TypeUrl: tt.URL(), Value: body}}}})
	})
}
