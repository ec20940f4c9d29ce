// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"slices"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/lateen-mesh/lateen/internal/xds"
)

// worldClient speaks state-of-the-world xDS. Responses of this type hold no
// names, so a resource's content begins with its name in these tests.
type worldClient struct {
	t   *testing.T
	s   grpc.BidiStreamingClient[discovery.DiscoveryRequest, discovery.DiscoveryResponse]
	got chan *discovery.DiscoveryResponse
}

func (f *fixture) world() *worldClient {
	f.t.Helper()
	s, err := discovery.NewAggregatedDiscoveryServiceClient(f.conn()).StreamAggregatedResources(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	w := &worldClient{f.t, s, make(chan *discovery.DiscoveryResponse, 100)}
	go func() {
		defer close(w.got)
		for {
			r, err := s.Recv()
			if err != nil {
				return
			}
			w.got <- r
		}
	}()
	return w
}

// ask subscribes to names, answering r when it is not nil.
func (w *worldClient) ask(url string, r *discovery.DiscoveryResponse, refusal string, names ...string) {
	w.t.Helper()
	q := &discovery.DiscoveryRequest{Node: node("p.default"), TypeUrl: url, ResourceNames: names}
	if r != nil {
		q.ResponseNonce, q.VersionInfo = r.Nonce, r.VersionInfo
	}
	if refusal != "" {
		q.ErrorDetail = &rpcstatus.Status{Message: refusal}
	}
	if err := w.s.Send(q); err != nil {
		w.t.Fatal(err)
	}
}

func (w *worldClient) expect(url string, contents ...string) *discovery.DiscoveryResponse {
	w.t.Helper()
	select {
	case r, ok := <-w.got:
		if !ok {
			w.t.Fatal("stream ended")
		}
		var got []string
		for _, a := range r.Resources {
			if a.TypeUrl != url {
				w.t.Errorf("%s in %s", a.TypeUrl, url)
			}
			got = append(got, string(a.Value))
		}
		if r.TypeUrl != url || !slices.Equal(got, contents) || r.Nonce == "" || r.VersionInfo == "" {
			w.t.Fatalf("got %s %v, want %s %v", short(r.TypeUrl), got, short(url), contents)
		}
		return r
	case <-time.After(patience):
		w.t.Fatal("no response")
		return nil
	}
}

func (w *worldClient) quiet(f *fixture) {
	w.t.Helper()
	f.settled()
	select {
	case r := <-w.got:
		w.t.Fatalf("unexpected response %v", r)
	default:
	}
}

func TestWorldWildcard(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ClusterType: "a=a1 b=b1", xds.ListenerType: "l=l1"}), Options{}, Access{})
	w := f.world()
	w.ask(xds.ClusterType, nil, "")
	r := w.expect(xds.ClusterType, "a1", "b1")
	w.ask(xds.ClusterType, r, "")
	w.ask(xds.ListenerType, nil, "")
	l := w.expect(xds.ListenerType, "l1")
	w.ask(xds.ListenerType, l, "")
	w.quiet(f)
	// The removed cluster stays until the listener has moved on.
	f.source.feed.Publish(view(2, map[string]string{xds.ClusterType: "b=b1 c=c1", xds.ListenerType: "l=l2"}))
	r2 := w.expect(xds.ClusterType, "a1", "b1", "c1")
	w.ask(xds.ClusterType, r2, "")
	l = w.expect(xds.ListenerType, "l2")
	w.ask(xds.ListenerType, l, "")
	r3 := w.expect(xds.ClusterType, "b1", "c1")
	w.ask(xds.ClusterType, r3, "")
	w.quiet(f)
	// A content hash is the version: the same set again has the same one.
	f.source.feed.Publish(view(3, map[string]string{xds.ClusterType: "a=a1 b=b1", xds.ListenerType: "l=l2"}))
	r4 := w.expect(xds.ClusterType, "a1", "b1", "c1")
	w.ask(xds.ClusterType, r4, "no")
	r5 := w.expect(xds.ClusterType, "a1", "b1")
	w.ask(xds.ClusterType, r5, "")
	if r5.VersionInfo != r.VersionInfo || r5.Nonce == r.Nonce || r2.VersionInfo == r.VersionInfo {
		t.Errorf("versions %s %s %s", r.VersionInfo, r2.VersionInfo, r5.VersionInfo)
	}
	w.quiet(f)
}

func TestWorldNames(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ListenerType: "x:80=x1 y:80=y1", xds.EndpointType: "a=a1 b=b1"}), Options{}, Access{})
	w := f.world()
	w.ask(xds.ListenerType, nil, "", "x:80", "ghost:80")
	r := w.expect(xds.ListenerType, "x1") // the other one does not exist
	w.ask(xds.ListenerType, r, "", "x:80", "ghost:80")
	w.ask(xds.EndpointType, nil, "", "a")
	e := w.expect(xds.EndpointType, "a1")
	w.ask(xds.EndpointType, e, "", "a")
	w.ask(xds.EndpointType, e, "", "a", "nowhere") // nothing to say yet
	w.quiet(f)
	f.source.feed.Publish(view(2, map[string]string{xds.ListenerType: "x:80=x1 y:80=y1", xds.EndpointType: "a=a1 b=b2 nowhere=n1"}))
	e = w.expect(xds.EndpointType, "n1") // only what changed, of what is subscribed
	w.ask(xds.EndpointType, e, "", "a", "nowhere")
	// Unsubscribed and subscribed again: sent again.
	w.ask(xds.EndpointType, e, "", "nowhere")
	w.ask(xds.EndpointType, e, "", "a", "nowhere")
	e = w.expect(xds.EndpointType, "a1")
	w.ask(xds.EndpointType, e, "", "a", "nowhere")
	// No name at all ends the subscription of a client that named some.
	w.ask(xds.ListenerType, r, "")
	f.source.feed.Publish(view(3, map[string]string{xds.ListenerType: "x:80=x2 y:80=y1", xds.EndpointType: "a=a1"}))
	w.quiet(f)
	// A request that crossed a response is ignored.
	f.source.feed.Publish(view(4, map[string]string{xds.ListenerType: "x:80=x2", xds.EndpointType: "a=a2 b=b2"}))
	e2 := w.expect(xds.EndpointType, "a2")
	w.ask(xds.EndpointType, e, "", "a", "b")
	w.ask(xds.EndpointType, e2, "", "a")
	w.quiet(f)
}
