// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

func rule(version string, subsets ...string) config.Event {
	spec := &networking.DestinationRule{Host: "reviews"}
	for _, s := range subsets {
		spec.Subsets = append(spec.Subsets, &networking.Subset{Name: s, Labels: map[string]string{"version": s}})
	}
	return event(config.DestinationRule, version, spec)
}

func routeTo(version string, subsets ...string) config.Event {
	r := &networking.HTTPRoute{}
	for _, s := range subsets {
		r.Route = append(r.Route, &networking.HTTPRouteDestination{Destination: &networking.Destination{Host: "reviews", Subset: s}, Weight: 1})
	}
	return event(config.VirtualService, version, &networking.VirtualService{Hosts: []string{"reviews"}, Http: []*networking.HTTPRoute{r}})
}

func event(k *config.Kind, version string, spec any) config.Event {
	key := config.Key{Kind: k, Namespace: "default", Name: "reviews"}
	return config.Event{Key: key, Object: &config.Object{Key: key, ResourceVersion: version, Spec: spec}}
}

func gone(k *config.Kind) config.Event {
	return config.Event{Key: config.Key{Kind: k, Namespace: "default", Name: "reviews"}}
}

// inForce follows what the gate lets through.
type inForce map[config.Key]*config.Object

func (f inForce) pass(g *Gate, batch ...config.Event) {
	for _, e := range g.Pass(batch) {
		if e.Object == nil {
			delete(f, e.Key)
		} else {
			f[e.Key] = e.Object
		}
	}
}

func (f inForce) subsets() string {
	o := f[gone(config.DestinationRule).Key]
	if o == nil {
		return "-"
	}
	var names []string
	for _, s := range o.Spec.(*networking.DestinationRule).Subsets {
		names = append(names, s.Name)
	}
	return strings.Join(names, ",")
}

func (f inForce) route() string {
	if o := f[gone(config.VirtualService).Key]; o != nil {
		return o.ResourceVersion
	}
	return "-"
}

func TestGate(t *testing.T) {
	steps := []struct {
		what    string
		batch   []config.Event
		subsets string
		route   string
		held    int
	}{
		{"at the start everything passes", []config.Event{rule("1", "v1", "v2"), routeTo("1", "v1")}, "v1,v2", "1", 0},
		{"a route to a missing subset keeps the last good one", []config.Event{routeTo("2", "v1", "v9")}, "v1,v2", "1", 1},
		{"the subset comes: the route comes into force", []config.Event{rule("3", "v1", "v2", "v9")}, "v1,v2,v9", "2", 0},
		{"a subset in use goes: it is held", []config.Event{rule("4", "v1", "v2")}, "v1,v2,v9", "2", 1},
		{"and held through another change", []config.Event{rule("5", "v1")}, "v1,v9", "2", 1},
		{"the rule is deleted: only what is in use stays", []config.Event{gone(config.DestinationRule)}, "v1,v9", "2", 2},
		{"the route moves: nothing is held any more", []config.Event{routeTo("6")}, "-", "6", 0},
		{"a route to a missing subset again keeps the last", []config.Event{routeTo("7", "v1")}, "-", "6", 1},
		{"the route is deleted", []config.Event{gone(config.VirtualService)}, "-", "-", 0},
		{"a new route has no last good version", []config.Event{routeTo("8", "v1")}, "-", "8", 0},
	}
	g, f := NewGate(), inForce{}
	for _, s := range steps {
		f.pass(g, s.batch...)
		if f.subsets() != s.subsets || f.route() != s.route || len(g.Held()) != s.held {
			t.Errorf("%s: subsets %s, route %s, held %v; want %s, %s, %d", s.what, f.subsets(), f.route(), g.Held(), s.subsets, s.route, s.held)
		}
	}
	if d := g.Dangling(); len(d) != 1 || !strings.Contains(d[0].Reason, `subset "v1"`) {
		t.Errorf("dangling: %v", d)
	}
}

// TestGateKeepsGoodSecret: a Secret that breaks keeps its last good version,
// and one that goes away is gone.
func TestGateKeepsGoodSecret(t *testing.T) {
	k := config.Key{Kind: config.Secret, Namespace: "istio-system", Name: "cert"}
	of := func(key, value string) []config.Event {
		return []config.Event{{Key: k, Object: &config.Object{Key: k, Spec: &k8s.Secret{Data: map[string][]byte{key: []byte(value)}}}}}
	}
	g := NewGate()
	if got := g.Pass(of("password", "x")); len(got) != 1 {
		t.Fatalf("a Secret of another kind gives %v", got)
	}
	if got := g.Pass(of("ca.crt", "not PEM")); len(got) != 0 || len(g.Held()) != 1 || !strings.Contains(g.Held()[0].Reason, "ca.crt") {
		t.Errorf("a broken one gives %v, held %v", got, g.Held())
	}
	if got := g.Pass([]config.Event{{Key: k}}); len(got) != 1 || len(g.Held()) != 0 {
		t.Errorf("a deleted one gives %v, held %v", got, g.Held())
	}
	if got := g.Pass(of("ca.crt", "not PEM")); len(got) != 1 || len(g.Held()) != 0 {
		t.Errorf("a broken one that was never good gives %v, held %v", got, g.Held())
	}
}
