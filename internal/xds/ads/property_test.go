// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/lateen-mesh/lateen/internal/xds"
)

// TestClientStateEqualsView changes views and subscriptions at random, with a
// client that answers, refuses and reconnects at random, and then holds what the
// client has against the view.
func TestClientStateEqualsView(t *testing.T) {
	for i := range 20 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d,%d", seed, i), func(t *testing.T) {
			randomRun(t, rand.New(rand.NewPCG(seed, uint64(i))))
		})
	}
}

func randomView(r *rand.Rand, epoch uint64) *xds.View {
	items := map[string]string{}
	for _, url := range pushOrder {
		var b strings.Builder
		for n := range 8 {
			if r.IntN(3) > 0 {
				fmt.Fprintf(&b, "rc%d/n%d=%d ", n%2, n, r.IntN(3))
			}
		}
		items[url] = b.String()
	}
	return view(epoch, items)
}

func randomRun(t *testing.T, r *rand.Rand) {
	f := newFixture(t, randomView(r, 1), Options{EndpointGrace: 5 * time.Millisecond, MaxWindow: 5 * time.Millisecond}, Access{})
	d := f.delta("p.default")
	subs := map[string]map[string]bool{} // of the client
	wants := func(url, name string) bool {
		prefix, _, _ := strings.Cut(name, "/")
		return whole(url) || subs[url][name] || subs[url][prefix+"/*"]
	}
	d.wants = wants
	var held []*discovery.DeltaDiscoveryResponse
	answer := func(resp *discovery.DeltaDiscoveryResponse) {
		if r.IntN(8) == 0 {
			d.nack(resp, "no") // and takes it nevertheless: the server does not send it again
		} else {
			d.ack(resp)
		}
	}
	begin := func() {
		for _, url := range pushOrder {
			req := &discovery.DeltaDiscoveryRequest{TypeUrl: url, InitialResourceVersions: d.vers[url]}
			if !whole(url) {
				if subs[url] == nil {
					subs[url] = map[string]bool{}
				}
				req.ResourceNamesSubscribe = sortedKeys(subs[url])
			}
			d.send(req)
		}
	}
	begin()
	for step := range 80 {
		switch r.IntN(6) {
		case 0, 1:
			f.source.feed.Publish(randomView(r, uint64(step+2)))
		case 2:
			url := pushOrder[r.IntN(len(pushOrder))]
			if name := fmt.Sprintf("rc%d/n%d", r.IntN(2), r.IntN(8)); !whole(url) {
				if url == xds.VirtualHostType && r.IntN(3) == 0 {
					name = "rc1/*"
				}
				toggle(d, subs, url, name)
			}
		case 3:
			for _, resp := range held {
				answer(resp)
			}
			held = nil
		case 4:
			select {
			case resp := <-d.got:
				d.take(resp)
				held = append(held, resp)
			case <-time.After(time.Duration(r.IntN(3)) * time.Millisecond):
			}
		case 5:
			if r.IntN(4) == 0 { // reconnects with what it has
				_ = d.s.CloseSend()
				old := d
				d = f.delta("p.default")
				d.state, d.vers, d.wants = old.state, old.vers, wants
				held = nil
				begin()
			}
		}
	}
	drain(t, f, d, held)
	v, _ := f.source.feed.View()
	for _, url := range pushOrder {
		want := contents(v.Sets[url])
		for n := range want {
			if !wants(url, n) || url == xds.SecretType {
				delete(want, n)
			}
		}
		got := d.state[url]
		if got == nil {
			got = map[string]string{}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-view +client):\n%s", short(url), diff)
		}
	}
}

// toggle subscribes or unsubscribes; a client forgets what it unsubscribes from,
// unless it is still covered.
func toggle(d *deltaClient, subs map[string]map[string]bool, url, name string) {
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: url}
	if subs[url][name] {
		delete(subs[url], name)
		req.ResourceNamesUnsubscribe = []string{name}
		for n := range d.state[url] {
			if !d.wants(url, n) {
				delete(d.state[url], n)
				delete(d.vers[url], n)
			}
		}
	} else {
		subs[url][name] = true
		req.ResourceNamesSubscribe = []string{name}
	}
	d.send(req)
}

// drain answers everything until the server has nothing more to say.
func drain(t *testing.T, f *fixture, d *deltaClient, held []*discovery.DeltaDiscoveryResponse) {
	for _, resp := range held {
		d.ack(resp)
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case resp, ok := <-d.got:
			if !ok {
				t.Fatal(d.end)
			}
			d.take(resp)
			d.ack(resp)
		case <-time.After(20 * time.Millisecond):
			all := f.server.Status()
			if len(all) == 1 && !slices.ContainsFunc(all, func(s ClientStatus) bool { return !s.Synced }) && len(d.got) == 0 {
				return
			}
		}
	}
	t.Fatalf("does not settle: %+v", f.server.Status())
}
