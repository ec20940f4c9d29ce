// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lateen-mesh/lateen/internal/xds"
)

func TestDeltaOrderOfAdditionsAndRemovals(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{
		xds.ClusterType: "a=1", xds.EndpointType: "a=1", xds.ListenerType: "l=1", xds.RouteType: "r=1", xds.VirtualHostType: "r/x=1",
	}), Options{EndpointGrace: time.Hour}, Access{})
	d := f.delta("p.default")
	// Everything is asked for at once; listeners wait for clusters and endpoints.
	d.subscribe(xds.ListenerType)
	d.ack(d.expect(xds.ListenerType, "l", ""))
	d.subscribe(xds.ClusterType)
	cds := d.expect(xds.ClusterType, "a", "")
	d.subscribe(xds.EndpointType, "a")
	eds := d.expect(xds.EndpointType, "a", "")
	d.subscribe(xds.RouteType, "r")
	d.ack(d.expect(xds.RouteType, "r", "")) // just asked for: answered although clusters are not
	d.subscribe(xds.VirtualHostType, "r/*")
	d.ack(cds)
	d.ack(eds)
	d.ack(d.expect(xds.VirtualHostType, "r/x", ""))
	d.quiet(f)

	// a is replaced by b everywhere.
	f.source.feed.Publish(view(2, map[string]string{
		xds.ClusterType: "b=1", xds.EndpointType: "b=1", xds.ListenerType: "m=1", xds.RouteType: "r=2", xds.VirtualHostType: "r/y=1",
	}))
	cds = d.expect(xds.ClusterType, "b", "")
	d.ack(cds)
	d.subscribe(xds.EndpointType, "b")
	d.ack(d.expect(xds.EndpointType, "b", ""))
	d.ack(d.expect(xds.ListenerType, "m", "l"))
	d.ack(d.expect(xds.RouteType, "r", ""))
	d.ack(d.expect(xds.VirtualHostType, "r/y", "r/x"))
	d.ack(d.expect(xds.ClusterType, "", "a"))
	d.ack(d.expect(xds.EndpointType, "", "a"))
	d.quiet(f)
}

func TestDeltaWaitsForEndpointsOfNewClustersOnlySoLong(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ClusterType: "a=1", xds.EndpointType: "a=1", xds.ListenerType: "l=1"}),
		Options{EndpointGrace: 10 * time.Millisecond}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.ClusterType)
	cds := d.expect(xds.ClusterType, "a", "")
	d.subscribe(xds.ListenerType)
	d.ack(cds) // and never asks for endpoints
	d.ack(d.expect(xds.ListenerType, "l", ""))
	d.quiet(f)
}

func TestDeltaLatestWinsAfterAck(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ClusterType: "a=1"}), Options{}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.ClusterType)
	first := d.expect(xds.ClusterType, "a", "")
	for e := range uint64(5) {
		f.source.feed.Publish(view(2+e, map[string]string{xds.ClusterType: "a=1 b=" + string(rune('0'+e))}))
	}
	d.ack(first)
	d.ack(d.expect(xds.ClusterType, "b", ""))
	d.quiet(f)
	if got := d.state[xds.ClusterType]["b"]; got != "4" {
		t.Errorf("b is %q, want the latest", got)
	}
}

func TestDeltaReconnectWithSameVersionsIsSentNothing(t *testing.T) {
	v := view(1, map[string]string{xds.ClusterType: "a=1 b=1", xds.EndpointType: "a=1 b=1"})
	f := newFixture(t, v, Options{}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.ClusterType)
	d.ack(d.expect(xds.ClusterType, "a b", ""))
	d.subscribe(xds.EndpointType, "a", "b")
	d.ack(d.expect(xds.EndpointType, "a b", ""))

	e := f.delta("p.default")
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, InitialResourceVersions: d.vers[xds.ClusterType]})
	e.ack(e.expect(xds.ClusterType, "", "")) // the wildcard is confirmed
	e.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesSubscribe: []string{"a", "b"}, InitialResourceVersions: d.vers[xds.EndpointType]})
	e.quiet(f)

	// One that was away while b changed and c came.
	f.source.feed.Publish(view(2, map[string]string{xds.ClusterType: "b=2 c=1", xds.EndpointType: "b=2 c=1"}))
	g := f.delta("q.default")
	g.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, InitialResourceVersions: d.vers[xds.ClusterType]})
	g.ack(g.expect(xds.ClusterType, "b c", ""))
	g.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesSubscribe: []string{"a", "b", "c"}, InitialResourceVersions: d.vers[xds.EndpointType]})
	g.ack(g.expect(xds.EndpointType, "b c", ""))
	g.ack(g.expect(xds.ClusterType, "", "a"))
	g.ack(g.expect(xds.EndpointType, "", "a"))
}

func TestDeltaSubscriptions(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.EndpointType: "a=1 b=1", xds.VirtualHostType: "r/x=1 s/x=1"}), Options{}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.EndpointType, "a", "ghost")
	d.ack(d.expect(xds.EndpointType, "a", "ghost")) // asked for and absent
	f.source.feed.Publish(view(2, map[string]string{xds.EndpointType: "a=1 b=1 ghost=1", xds.VirtualHostType: "r/x=1 s/x=1"}))
	d.ack(d.expect(xds.EndpointType, "ghost", ""))
	// Unsubscribing is not answered, subscribing again is.
	d.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResourceNamesUnsubscribe: []string{"a"}})
	d.subscribe(xds.EndpointType, "a")
	d.ack(d.expect(xds.EndpointType, "a", ""))
	// All virtual hosts of a route configuration, and single ones.
	d.subscribe(xds.VirtualHostType, "r/*")
	d.ack(d.expect(xds.VirtualHostType, "r/x", ""))
	d.subscribe(xds.VirtualHostType, "s/x", "s/none")
	d.ack(d.expect(xds.VirtualHostType, "s/x", "s/none"))
	d.subscribe(xds.VirtualHostType, "q/*")
	d.ack(d.expect(xds.VirtualHostType, "", "q/*")) // none yet: confirmed
	d.subscribe(xds.VirtualHostType, "s/*")
	d.ack(d.expect(xds.VirtualHostType, "", "")) // has them
	f.source.feed.Publish(view(3, map[string]string{xds.EndpointType: "a=1 b=2 ghost=1", xds.VirtualHostType: "r/x=1 q/y=1"}))
	d.ack(d.expect(xds.VirtualHostType, "q/y", "s/x"))
	d.quiet(f)
	// A stale nonce is no answer.
	f.source.feed.Publish(view(4, map[string]string{xds.EndpointType: "a=3 b=2 ghost=1", xds.VirtualHostType: "r/x=1 q/y=1"}))
	r := d.expect(xds.EndpointType, "a", "")
	d.send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.EndpointType, ResponseNonce: "1"})
	d.subscribe(xds.EndpointType, "b")
	f.until("stale", func(s []ClientStatus) bool { return s[0].Types[0].State == StateStale })
	d.ack(r)
	d.ack(d.expect(xds.EndpointType, "b", ""))
}

func TestNackIsKeptUntilTheNextAck(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ListenerType: "l=1"}), Options{}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.ListenerType)
	d.nack(d.expect(xds.ListenerType, "l", ""), "port 80: permission denied")
	f.until("nack", func(s []ClientStatus) bool { return s[0].Types[0].State == StateNack })
	got := f.server.Status()[0]
	if n := got.Types[0].Nack; n.Message != "port 80: permission denied" || len(n.Resources) != 1 || n.Resources[0] != "l" || got.Proxy != "p.default" {
		t.Errorf("%+v", got)
	}
	f.source.feed.Publish(view(2, map[string]string{xds.ListenerType: "l=2"}))
	d.nack(d.expect(xds.ListenerType, "l", ""), "still")
	p, err := f.server.Await(t.Context(), 2)
	if err != nil || p.Affected != 1 || len(p.Rejected) != 1 {
		t.Errorf("%+v %v", p, err)
	}
	f.source.feed.Publish(view(3, map[string]string{xds.ListenerType: "l=3"}))
	d.ack(d.expect(xds.ListenerType, "l", ""))
	p, err = f.server.Await(t.Context(), 3)
	if err != nil || p.Affected != 1 || len(p.Rejected) != 0 {
		t.Errorf("%+v %v", p, err)
	}
	if m := f.server.Metrics(); m.Rejects["lds"] != 2 || m.Pushes["lds"] != 3 || m.Connected != 1 {
		t.Errorf("%+v", m)
	}
}

func TestNackStandsWhileOthersAreAccepted(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ListenerType: "0.0.0.0_80=1 0.0.0.0_8080=1"}), Options{}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.ListenerType)
	d.nack(d.expect(xds.ListenerType, "0.0.0.0_80 0.0.0.0_8080", ""), `0.0.0.0_80: bind: permission denied`)
	f.settled()
	state := func() (string, []string) {
		st := f.server.Status()[0].Types[0]
		if st.Nack == nil {
			return st.State, nil
		}
		return st.State, st.Nack.Resources
	}
	if s, r := state(); s != StateNack || len(r) != 1 || r[0] != "0.0.0.0_80" {
		t.Errorf("%s %v", s, r)
	}
	f.source.feed.Publish(view(2, map[string]string{xds.ListenerType: "0.0.0.0_80=1 0.0.0.0_8080=2"}))
	d.ack(d.expect(xds.ListenerType, "0.0.0.0_8080", ""))
	f.settled()
	if s, r := state(); s != StateNack || len(r) != 1 || r[0] != "0.0.0.0_80" {
		t.Errorf("another listener was accepted: %s %v", s, r)
	}
	if p, err := f.server.Await(t.Context(), 2); err != nil || len(p.Rejected) != 0 {
		t.Errorf("the refusal is not of epoch 2: %+v %v", p, err)
	}
	f.source.feed.Publish(view(3, map[string]string{xds.ListenerType: "0.0.0.0_8080=2"}))
	d.ack(d.expect(xds.ListenerType, "", "0.0.0.0_80"))
	f.settled()
	if s, r := state(); s != StateSynced || r != nil {
		t.Errorf("it was removed: %s %v", s, r)
	}
}

func TestMentions(t *testing.T) {
	for _, c := range []struct {
		text, name string
		want       bool
	}{
		{"0.0.0.0_8080: no", "0.0.0.0_80", false},
		{"0.0.0.0_8080: no\n0.0.0.0_80: no", "0.0.0.0_80", true},
		{`listener "a" refused`, "a", true},
		{"", "a", false},
		{"a", "a", true},
	} {
		if got := mentions(c.text, c.name); got != c.want {
			t.Errorf("mentions(%q, %q) = %v", c.text, c.name, got)
		}
	}
}

func TestAwaitNamesTheLate(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ClusterType: "a=1"}), Options{}, Access{})
	d, e := f.delta("p.default"), f.delta("q.default")
	for _, c := range []*deltaClient{d, e} {
		c.subscribe(xds.ClusterType)
		c.ack(c.expect(xds.ClusterType, "a", ""))
	}
	f.settled()
	f.source.feed.Publish(view(2, map[string]string{xds.ClusterType: "a=2"}))
	d.ack(d.expect(xds.ClusterType, "a", ""))
	late := e.expect(xds.ClusterType, "a", "")
	f.until("p has answered", func(s []ClientStatus) bool { return s[0].Synced })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p, err := f.server.Await(ctx, 2)
	if !errors.Is(err, context.Canceled) || p.Affected != 2 || len(p.Waiting) != 1 || p.Waiting[0].Proxy != "q.default" {
		t.Errorf("%+v %v", p, err)
	}
	done := make(chan Progress)
	go func() {
		p, _ := f.server.Await(t.Context(), 2)
		done <- p
	}()
	e.ack(late)
	if p := <-done; len(p.Waiting) != 0 {
		t.Errorf("%+v", p)
	}
	if p, err := f.server.Await(t.Context(), 3); err != nil || p.Affected != 0 {
		t.Errorf("an epoch that concerns nobody: %+v %v", p, err)
	}
}

func TestSlowClientIsDropped(t *testing.T) {
	big := strings.Repeat("x", 4<<20)
	f := newFixture(t, view(1, map[string]string{xds.ClusterType: "a=" + big, xds.EndpointType: "a=" + big, xds.ListenerType: "l=" + big}),
		Options{WriteTimeout: 50 * time.Millisecond, EndpointGrace: time.Hour}, Access{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	s, err := discovery.NewAggregatedDiscoveryServiceClient(f.conn()).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// It asks and never reads.
	for i, url := range []string{xds.ClusterType, xds.EndpointType} {
		r := &discovery.DeltaDiscoveryRequest{TypeUrl: url}
		if i == 0 {
			r.Node = node("slow.default")
		} else {
			r.ResourceNamesSubscribe = []string{"a"}
		}
		if err := s.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	f.until("dropped", func(all []ClientStatus) bool { return f.server.Metrics().Slow == 1 && len(all) == 0 })
}

func TestRefusals(t *testing.T) {
	access := Access{Authenticate: func(context.Context) (string, error) { return "spiffe://cluster.local/ns/default/sa/reviews", nil }}
	f := newFixture(t, view(1, nil), Options{MaxNames: 3}, access)
	for _, c := range []struct {
		id   string
		ask  []string
		code codes.Code
	}{
		{"p.other", nil, codes.PermissionDenied},
		{"p.default", []string{"1", "2", "3", "4"}, codes.InvalidArgument},
	} {
		d := f.delta(c.id)
		d.subscribe(xds.EndpointType, c.ask...)
		for range d.got {
		}
		if status.Code(d.end) != c.code {
			t.Errorf("%s %v: %v", c.id, c.ask, d.end)
		}
	}
	none := newFixture(t, view(1, nil), Options{}, Access{Authenticate: func(context.Context) (string, error) { return "", errors.New("no token") }})
	d := none.delta("p.default")
	for range d.got {
	}
	if status.Code(d.end) != codes.Unauthenticated {
		t.Error(d.end)
	}
}

func TestSecretsOnlyToTheAuthenticated(t *testing.T) {
	v := view(1, map[string]string{xds.SecretType: "cert=key"})
	plain := newFixture(t, v, Options{}, Access{})
	d := plain.delta("p.default")
	d.subscribe(xds.SecretType, "cert")
	d.expect(xds.SecretType, "", "cert")
	known := newFixture(t, v, Options{}, Access{Authenticate: func(context.Context) (string, error) {
		return "spiffe://cluster.local/ns/default/sa/reviews", nil
	}})
	e := known.delta("p.default")
	e.subscribe(xds.SecretType, "cert")
	e.expect(xds.SecretType, "cert", "")
}
