// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// TestIncrementalEqualsScratch makes random edits over real objects and holds
// every view, after every batch, to one built from scratch from the same
// effective objects.
func TestIncrementalEqualsScratch(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := &world{r: rand.New(rand.NewPCG(seed, 7)), objects: map[config.Key]*config.Object{}, effective: map[config.Key]*config.Object{}}
			w.cert, w.key = keyPair(t)
			gate := compile.NewGate()
			p := NewPipeline(nil)
			held := map[Class]bool{}
			for step := range 40 {
				batch := w.edit(t)
				batch = gate.Pass(batch)
				for _, e := range batch {
					if e.Object == nil {
						delete(w.effective, e.Key)
					} else {
						w.effective[e.Key] = e.Object
					}
				}
				p.Apply(batch)
				for _, c := range classes {
					switch n := w.r.IntN(4); {
					case n == 0 && held[c]:
						p.Release(c, func() {})
						delete(held, c)
					case n < 2 && !held[c]:
						p.Hold(c, func(*View) {})
						held[c] = true
					}
				}
				w.compare(t, step, p, slices.Collect(maps.Keys(held)))
				if t.Failed() {
					return
				}
			}
		})
	}
}

var classes = []Class{
	{Mode: compile.ModeNone, Namespace: "a", Address: "127.0.1.1", Labels: "app=s0,version=v1", OnDemand: true},
	{Mode: compile.ModeNone, Namespace: "b", Address: "127.0.1.2", Labels: "app=s1,version=v2"},
	{Mode: compile.ModeRedirect, Namespace: "a", Address: "10.0.0.1", Labels: "app=s2", OnDemand: true},
	{Mode: compile.ModeRedirect, Namespace: "c", Address: "10.0.0.9"},
	{Mode: compile.ModeRedirect, Namespace: "a", Address: "10.0.1.1", Pod: "p1", Labels: "app=claimed"},
	{Mode: compile.ModeRedirect, Namespace: "b", Address: "10.0.1.2", Pod: "p2", OnDemand: true, DNS: true},
	{Mode: compile.ModeProxyless, Namespace: "b"},
	{Mode: compile.ModeGateway, Namespace: "istio-system", Address: "127.0.1.9", Labels: "istio=gw", OnDemand: true},
	{Mode: compile.ModeGateway, Namespace: "a", Address: "127.0.1.8", Labels: "istio=gw"},
	{Mode: compile.ModeGateway, Namespace: "istio-system", Address: "10.0.2.1", Labels: "istio=ingressgateway"},
}

type world struct {
	r         *rand.Rand
	objects   map[config.Key]*config.Object
	effective map[config.Key]*config.Object
	clock     int64
	cert, key []byte
}

func (w *world) pick(list ...string) string { return list[w.r.IntN(len(list))] }

// edit makes a batch of one to four random changes.
func (w *world) edit(t *testing.T) []config.Event {
	byKey := map[config.Key]config.Event{}
	for range 1 + w.r.IntN(4) {
		if len(w.objects) > 3 && w.r.IntN(4) == 0 {
			keys := slices.SortedFunc(maps.Keys(w.objects), config.Key.Compare)
			k := keys[w.r.IntN(len(keys))]
			delete(w.objects, k)
			byKey[k] = config.Event{Key: k}
			continue
		}
		o := w.clusterObject()
		if w.r.IntN(2) == 0 {
			res := config.Decode([]byte(w.manifest()), "random.yaml", "default")
			if err := config.Errors(res.Problems); err != nil {
				t.Fatal(err)
			}
			o = res.Objects[0].Clone()
		}
		w.clock++
		o.ResourceVersion = fmt.Sprint(w.clock)
		o.CreationTimestamp = time.Unix(w.clock, 0).UTC()
		if old := w.objects[o.Key]; old != nil {
			o.CreationTimestamp = old.CreationTimestamp
		}
		w.objects[o.Key] = o
		byKey[o.Key] = config.Event{Key: o.Key, Object: o}
	}
	return slices.SortedFunc(maps.Values(byKey), func(a, b config.Event) int { return a.Key.Compare(b.Key) })
}

// clusterObject makes one of Kubernetes' own objects.
func (w *world) clusterObject() *config.Object {
	ns := w.pick("a", "a", "b")
	object := func(k *config.Kind, ns, name string, spec any) *config.Object {
		return &config.Object{Key: config.Key{Kind: k, Namespace: ns, Name: name}, Spec: spec}
	}
	service, pod := w.pick("s0", "s1", "s2"), w.pick("p1", "p2", "p3")
	switch w.r.IntN(10) {
	case 8:
		data := map[string][]byte{"tls.crt": w.cert, "tls.key": w.key}
		if w.r.IntN(3) == 0 {
			data[w.pick("tls.crt", "ca.crt")] = []byte("broken")
		}
		return object(config.Secret, w.pick("istio-system", "a"), w.pick("cert", "cert-cacert"), &k8s.Secret{Data: data})
	case 9:
		kind, port := networkingv1.PathTypePrefix, networkingv1.ServiceBackendPort{Name: w.pick("http", "grpc-x")}
		backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: port}}
		o := object(config.Ingress, ns, w.pick("i0", "i1"), &networkingv1.IngressSpec{
			TLS: []networkingv1.IngressTLS{{SecretName: w.pick("cert", "none")}},
			Rules: []networkingv1.IngressRule{{Host: w.pick("x.example.com", "*.example.com"), IngressRuleValue: networkingv1.IngressRuleValue{
				HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: w.pick("/", "/long/path"), PathType: &kind, Backend: backend}}},
			}}},
		})
		o.Annotations = map[string]string{"kubernetes.io/ingress.class": w.pick("istio", "istio", "nginx")}
		return o
	case 0, 1:
		spec := &k8s.Service{Type: "ClusterIP", ClusterIPs: []string{w.pick("10.1.0.1", "10.1.0.2", "fd00::1")}, Headless: w.r.IntN(3) == 0}
		if spec.Headless {
			spec.ClusterIPs = nil
		}
		for i, name := range []string{w.pick("http", "grpc-x", "plain"), w.pick("tcp-r", "https", "mysql")} {
			spec.Ports = append(spec.Ports, k8s.ServicePort{Name: name, Number: []uint32{9080, 6379}[i], Protocol: "TCP"})
		}
		o := object(config.Service, ns, service, spec)
		if w.r.IntN(4) == 0 {
			o.Annotations = map[string]string{"networking.istio.io/exportTo": w.pick(".", "~", "a,b")}
		}
		return o
	case 2, 3, 4:
		return object(config.EndpointSlice, ns, service+w.pick("-x", "-y"), &k8s.EndpointSlice{
			Service: service, AddressType: w.pick("IPv4", "IPv4", "IPv6"),
			Ports: []k8s.EndpointPort{{Name: w.pick("http", "plain"), Number: 8080}, {Name: w.pick("tcp-r", "mysql"), Number: 6379}},
			Endpoints: []k8s.Endpoint{
				{Addresses: []string{w.pick("10.0.1.1", "10.0.1.2")}, Pod: pod, Node: "n1", Ready: w.r.IntN(3) > 0},
				{Addresses: []string{w.pick("10.0.0.1", "fd00::9")}, Ready: true, Node: w.pick("n1", "n2")},
			},
		})
	case 5:
		return object(config.Node, "", w.pick("n1", "n2"), &k8s.Node{Region: "r", Zone: w.pick("z1", "z2")})
	}
	o := object(config.Pod, ns, pod, &k8s.Pod{
		IPs: []string{w.pick("10.0.1.1", "10.0.1.2"), "fd00::2"}[:1+w.r.IntN(2)], ServiceAccount: w.pick("sa1", "sa2"), Node: w.pick("n1", "n2"),
		Ready: w.r.IntN(2) == 0, Workload: "w",
	})
	o.Labels = map[string]string{"app": w.pick("s0", "s1"), "version": w.pick("v1", "v2"), "security.istio.io/tlsMode": w.pick("istio", "disabled")}
	return o
}

func (w *world) manifest() string {
	ns := w.pick("a", "a", "b", "istio-system")
	host := w.pick("s0", "s1", "s2") + "." + w.pick("a", "b") + ".svc.cluster.local"
	version := w.pick("v1", "v2", "v3")
	head := func(kind, name string) string {
		group := "networking.istio.io/v1"
		if kind == "PeerAuthentication" {
			group = "security.istio.io/v1"
		}
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec:\n", group, kind, name, ns)
	}
	switch w.r.IntN(8) {
	case 0:
		name := w.pick("s0", "s1", "s2")
		return head("ServiceEntry", name) + fmt.Sprintf(`
  hosts: [%s.%s.svc.cluster.local]
  location: %s
  resolution: STATIC
  exportTo: [%q]
  addresses: [%s]
  ports: [{number: 9080, name: %s, protocol: %s}, {number: 6379, name: redis, protocol: TCP}]
  workloadSelector: {labels: {app: %s}}
`, name, ns, w.pick("MESH_INTERNAL", "MESH_EXTERNAL"), w.pick("*", "*", "."), w.pick("10.1.0.1", "10.1.0.2"), w.pick("http", "grpc", "x"), w.pick("HTTP", "GRPC", "TCP"), name)
	case 1, 2:
		name := w.pick("w0", "w1", "w2", "w3")
		return head("WorkloadEntry", name) + fmt.Sprintf(`
  address: %s
  labels: {app: %s, version: %s, security.istio.io/tlsMode: %s}
  serviceAccount: %s
`, w.pick("127.0.1.1", "127.0.1.2", "10.0.0.1", "10.0.0.2"), w.pick("s0", "s1", "s2"), version, w.pick("istio", "disabled"), w.pick("sa1", "sa2"))
	case 3:
		return head("DestinationRule", w.pick("d0", "d1")) + fmt.Sprintf(`
  host: %q
  trafficPolicy: {loadBalancer: {simple: %s}}
  subsets: [{name: v1, labels: {version: v1}}, {name: %s, labels: {version: %s}, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x}}}}]
`, w.pick(host, host, "*.a.svc.cluster.local"), w.pick("ROUND_ROBIN", "RANDOM"), w.pick("v2", "v3"), version)
	case 4, 5:
		match := w.pick("{uri: {prefix: /x}}", "{sourceLabels: {app: s0}}", "{sourceNamespace: a}", "{headers: {end-user: {exact: jason}}}", "{gateways: [mesh]}")
		return head("VirtualService", w.pick("r0", "r1", "r2")) + fmt.Sprintf(`
  hosts: [%q]
  gateways: [%s]
  http:
  - match: [%s]
    route: [{destination: {host: %s, subset: %s}}]
  - route: [{destination: {host: %s, subset: v1}, weight: 30}, {destination: {host: %s}, weight: 70}]
`, w.pick(host, host, "outside.example.com", "*.b.svc.cluster.local"), w.pick("mesh", "mesh, a/g", "a/g"), match, host, version, host, host)
	case 6:
		if w.r.IntN(2) == 0 {
			ns = "a"
			return head("Gateway", "g") + fmt.Sprintf(`
  selector: {istio: gw}
  servers:
  - {port: {number: %s, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 8443, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: %s, credentialName: cert}}
`, w.pick("8080", "8081"), w.pick("SIMPLE", "MUTUAL"))
		}
		return head("PeerAuthentication", "p") + "  mtls: {mode: " + w.pick("STRICT", "PERMISSIVE", "DISABLE") + "}\n"
	}
	return head("Sidecar", "default") + fmt.Sprintf(`
  egress: [{hosts: [%s]}]
`, w.pick(`"./*"`, `"*/*"`, `"a/*", "b/s1.b.svc.cluster.local"`))
}

// compare builds every class from scratch.
func (w *world) compare(t *testing.T, step int, p *Pipeline, held []Class) {
	t.Helper()
	var all []config.Event
	for _, k := range slices.SortedFunc(maps.Keys(w.effective), config.Key.Compare) {
		all = append(all, config.Event{Key: k, Object: w.effective[k]})
	}
	fresh := NewPipeline(nil)
	fresh.Apply(all)
	for _, c := range held {
		fresh.Hold(c, func(*View) {})
		got, want := p.View(c), fresh.View(c)

		if diff := cmp.Diff(describeView(want), describeView(got)); diff != "" {
			t.Fatalf("step %d, class %s: incremental differs (-scratch +incremental):\n%s", step, c, diff)
		}
		if c.Mode != compile.ModeProxyless {
			accepted(t, got)
		}
	}
}

// describeView lists what is in a view, by content.
func describeView(v *View) string {
	var b strings.Builder
	for _, typ := range viewTypes {
		for _, r := range v.Sets[typ] {
			fmt.Fprintf(&b, "%s %s %s\n", typ[strings.LastIndexByte(typ, '.')+1:], r.Name, r.Version)
		}
	}
	return b.String()
}
