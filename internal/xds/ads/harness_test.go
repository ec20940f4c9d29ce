// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lateen-mesh/lateen/internal/xds"
)

const patience = 20 * time.Second // nothing that works takes as long

// fakeSource has one class for everybody.
type fakeSource struct {
	feed *Feed
}

func (s *fakeSource) Connect(_ context.Context, c *Client) (Subscription, error) {
	if strings.HasPrefix(c.Node.GetId(), "bad") {
		return nil, fmt.Errorf("no such workload")
	}
	return fakeSubscription{s.feed}, nil
}

type fakeSubscription struct{ *Feed }

func (fakeSubscription) Class() string { return "everybody" }
func (fakeSubscription) Close()        {}

// view makes a view of "name=content" items by type.
func view(epoch uint64, items map[string]string) *xds.View {
	v := &xds.View{Epoch: epoch, Sets: map[string]xds.Set{}}
	for url, text := range items {
		var set xds.Set
		for _, item := range strings.Fields(text) {
			name, content, _ := strings.Cut(item, "=")
			set = append(set, interned(url, name, content))
		}
		slices.SortFunc(set, byName)
		v.Sets[url] = set
	}
	return v
}

func interned(url, name, content string) *xds.Resource {
	return xds.NewResource(url, name, []byte(content))
}

// fixture is a server on an in-memory network.
type fixture struct {
	t      *testing.T
	server *Server
	source *fakeSource
	lis    *bufconn.Listener
}

func newFixture(t *testing.T, v *xds.View, opts Options, access Access) *fixture {
	f := &fixture{t: t, source: &fakeSource{NewFeed(v)}, lis: bufconn.Listen(64 << 10)}
	f.server = NewServer(f.source, opts)
	g := grpc.NewServer(GRPCOptions(0)...)
	f.server.Register(g, access)
	go g.Serve(f.lis)
	t.Cleanup(g.Stop)
	return f
}

func (f *fixture) conn() *grpc.ClientConn {
	f.t.Helper()
	cc, err := grpc.NewClient("passthrough:bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return f.lis.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { cc.Close() })
	return cc
}

func node(id string) *corev3.Node {
	md, _ := structpb.NewStruct(map[string]any{"CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31"})
	return &corev3.Node{Id: "sidecar~127.0.1.1~" + id + "~default.svc.cluster.local", Metadata: md}
}

// deltaClient is a delta xDS client that keeps what it was given.
type deltaClient struct {
	t     *testing.T
	s     grpc.BidiStreamingClient[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]
	node  *corev3.Node
	state map[string]map[string]string // type -> name -> content
	vers  map[string]map[string]string
	nonce map[string]string
	wants func(url, name string) bool // whether still subscribed; nil: yes
	got   chan *discovery.DeltaDiscoveryResponse
	end   error
}

func (f *fixture) delta(id string) *deltaClient {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*patience)
	f.t.Cleanup(cancel)
	s, err := discovery.NewAggregatedDiscoveryServiceClient(f.conn()).DeltaAggregatedResources(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	d := &deltaClient{t: f.t, s: s, node: node(id), state: map[string]map[string]string{}, vers: map[string]map[string]string{},
		nonce: map[string]string{}, got: make(chan *discovery.DeltaDiscoveryResponse, 100)}
	go func() {
		defer close(d.got)
		for {
			r, err := s.Recv()
			if err != nil {
				d.end = err
				return
			}
			d.got <- r
		}
	}()
	return d
}

func (d *deltaClient) send(r *discovery.DeltaDiscoveryRequest) {
	d.t.Helper()
	r.Node, d.node = d.node, nil
	if err := d.s.Send(r); err != nil {
		d.t.Fatal(err)
	}
}

func (d *deltaClient) subscribe(url string, names ...string) {
	d.t.Helper()
	d.send(&discovery.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: names})
}

// next returns the next response after taking it in.
func (d *deltaClient) next() *discovery.DeltaDiscoveryResponse {
	d.t.Helper()
	select {
	case r, ok := <-d.got:
		if !ok {
			d.t.Fatalf("stream ended: %v", d.end)
		}
		d.take(r)
		return r
	case <-time.After(patience):
		d.t.Fatal("no response")
		return nil
	}
}

func (d *deltaClient) take(r *discovery.DeltaDiscoveryResponse) {
	d.t.Helper()
	if d.state[r.TypeUrl] == nil {
		d.state[r.TypeUrl], d.vers[r.TypeUrl] = map[string]string{}, map[string]string{}
	}
	for _, x := range r.Resources {
		if x.Resource.TypeUrl != r.TypeUrl {
			d.t.Errorf("%s in a response of %s", x.Resource.TypeUrl, r.TypeUrl)
		}
		if d.wants != nil && !d.wants(r.TypeUrl, x.Name) {
			continue // unsubscribed while it was on its way
		}
		d.state[r.TypeUrl][x.Name] = string(x.Resource.Value)
		d.vers[r.TypeUrl][x.Name] = x.Version
	}
	for _, n := range r.RemovedResources {
		delete(d.state[r.TypeUrl], n)
		delete(d.vers[r.TypeUrl], n)
	}
	d.nonce[r.TypeUrl] = r.Nonce
}

func (d *deltaClient) ack(r *discovery.DeltaDiscoveryResponse) {
	d.t.Helper()
	d.send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
}

func (d *deltaClient) nack(r *discovery.DeltaDiscoveryResponse, message string) {
	d.t.Helper()
	d.send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce, ErrorDetail: &rpcstatus.Status{Code: 13, Message: message}})
}

// expect takes the next response, which must be of that type with these names.
func (d *deltaClient) expect(url, put, gone string) *discovery.DeltaDiscoveryResponse {
	d.t.Helper()
	r := d.next()
	var names []string
	for _, x := range r.Resources {
		names = append(names, x.Name)
	}
	got := fmt.Sprintf("%s put %s gone %s", short(r.TypeUrl), strings.Join(names, " "), strings.Join(r.RemovedResources, " "))
	if want := fmt.Sprintf("%s put %s gone %s", short(url), put, gone); got != want {
		d.t.Fatalf("got  %s\nwant %s", got, want)
	}
	return r
}

// quiet fails when there is a response although the server has settled.
func (d *deltaClient) quiet(f *fixture) {
	d.t.Helper()
	f.settled()
	select {
	case r := <-d.got:
		d.t.Fatalf("unexpected response %v", r)
	default:
	}
}

func short(url string) string { return url[strings.LastIndexByte(url, '.')+1:] }

// until waits for a condition of the server.
func (f *fixture) until(what string, ok func([]ClientStatus) bool) {
	f.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if ok(f.server.Status()) {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("not within %v: %s; status %+v", patience, what, f.server.Status())
		}
	}
}

// settled waits until everybody has answered everything.
func (f *fixture) settled() {
	f.t.Helper()
	f.until("settled", func(all []ClientStatus) bool {
		return !slices.ContainsFunc(all, func(s ClientStatus) bool { return !s.Synced })
	})
}

func contents(s xds.Set) map[string]string {
	out := map[string]string{}
	for _, r := range s {
		out[r.Name] = string(r.Body)
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
