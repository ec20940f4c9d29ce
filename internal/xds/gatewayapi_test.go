// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// TestGatewayAPIIncremental makes random edits to the Gateway API's objects and
// holds the views, after each, to those of a pipeline made from scratch.
func TestGatewayAPIIncremental(t *testing.T) {
	classes := []Class{
		{Mode: compile.ModeGateway, Namespace: "a", Address: "10.0.0.1", Labels: "gateway.networking.k8s.io/gateway-name=g"},
		{Mode: compile.ModeRedirect, Namespace: "a", Address: "10.0.0.2", OnDemand: true},
		{Mode: compile.ModeRedirect, Namespace: "b", Address: "10.0.0.3"},
	}
	served := 0 // views in which the gateway listened
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 11))
			objects := map[config.Key]*config.Object{}
			p := NewPipeline(nil)
			for _, c := range classes {
				p.Hold(c, func(*View) {})
			}
			for step := range 60 {
				o := randomGatewayObject(t, r)
				o.CreationTimestamp, o.ResourceVersion = time.Unix(int64(step), 0).UTC(), fmt.Sprint(step)
				e := config.Event{Key: o.Key, Object: o}
				if old := objects[o.Key]; old != nil {
					o.CreationTimestamp = old.CreationTimestamp
				}
				if objects[o.Key] = o; r.IntN(4) == 0 {
					e.Object = nil
					delete(objects, o.Key)
				}
				p.Apply([]config.Event{e})
				var all []config.Event
				for _, k := range slices.SortedFunc(maps.Keys(objects), config.Key.Compare) {
					all = append(all, config.Event{Key: k, Object: objects[k]})
				}
				served += len(p.View(classes[0]).Sets[ListenerType])
				fresh := NewPipeline(nil)
				fresh.Apply(all)
				for _, c := range classes {
					fresh.Hold(c, func(*View) {})
					got, want := p.View(c), fresh.View(c)
					for typ := range want.Sets {
						if !sameContent(got.Sets[typ], want.Sets[typ]) {
							t.Fatalf("step %d, %s, after %s: %s differs from scratch", step, c, o.Key, typ)
						}
					}
				}
			}
		})
	}
	if served == 0 {
		t.Error("the gateway never listened: the edits show nothing")
	}
}

func sameContent(a, b Set) bool {
	return slices.EqualFunc(a, b, func(x, y *Resource) bool { return x.Name == y.Name && x.Version == y.Version })
}

func randomGatewayObject(t *testing.T, r *rand.Rand) *config.Object {
	t.Helper()
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	ns := pick("a", "a", "b")
	head := func(kind, name string) string {
		version := "v1"
		return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/%s\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec:\n", version, kind, name, ns)
	}
	object := func(k *config.Kind, ns, name string, labels map[string]string, spec any) *config.Object {
		return &config.Object{Key: config.Key{Kind: k, Namespace: ns, Name: name}, Labels: labels, Spec: spec}
	}
	var text string
	switch r.IntN(10) {
	case 0:
		return object(config.Service, ns, pick("s0", "s1"), nil, &k8s.Service{ClusterIPs: []string{"10.1.0.1"}, Ports: []k8s.ServicePort{{Name: "http", Number: 80, Protocol: "TCP"}, {Name: "http-x", Number: 81, Protocol: "TCP"}}})
	case 1:
		return object(config.Namespace, "", ns, map[string]string{"team": pick("x", "y")}, &k8s.Namespace{})
	case 2:
		text = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: istio}\nspec: {controllerName: " + pick("istio.io/gateway-controller", "istio.io/gateway-controller", "istio.io/gateway-controller", "example.com/other") + "}\n"
	case 3, 4:
		ns = "a"
		text = head("Gateway", "g") + fmt.Sprintf(`
  gatewayClassName: istio
  listeners:
  - {name: one, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: %s}}}
  - {name: two, port: %s, protocol: HTTP, hostname: %q, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: x}}}}}
`, pick("All", "Same"), pick("80", "8080"), pick("*.example.com", "x.example.com"))
	case 5:
		text = head("ReferenceGrant", "r") + "  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: " + pick("a", "b") + "}]\n  to: [{group: \"\", kind: Service}]\n"
	case 6:
		text = head("GRPCRoute", "grpc") + "  parentRefs: [{name: g, namespace: a}]\n  rules: [{matches: [{method: {service: x.Y}}], backendRefs: [{name: s0, port: 80}]}]\n"
	default:
		parent := pick("{name: g, namespace: a}", "{name: g, namespace: a, sectionName: two}", `{group: "", kind: Service, name: s0, namespace: a, port: 80}`, `{group: "", kind: Service, name: s0}`)
		text = head("HTTPRoute", pick("h0", "h1", "h2")) + fmt.Sprintf(`
  parentRefs: [%s]
  hostnames: [%s]
  rules:
  - matches: [{path: {value: %s}}]
    backendRefs: [{name: %s, namespace: %s, port: 80, weight: 3}, {name: s1, port: 81}]
`, parent, pick("", "x.example.com", `"*.example.com", other.test`), pick("/", "/a", "/a/b"), pick("s0", "s1"), pick("a", "b"))
	}
	res := config.Decode([]byte(text), "random.yaml", "default")
	if err := config.Errors(res.Problems); err != nil {
		t.Fatal(err, text)
	}
	return res.Objects[0].Clone()
}
