// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// TestGatewayAPI decodes what the Gateway API's types need beyond plain
// structs: embedded fields, pointers, named string types, durations, and the
// objects that have no namespace.
func TestGatewayAPI(t *testing.T) {
	const text = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: istio, namespace: ignored}
spec: {controllerName: istio.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: Gateway
metadata:
  name: bookinfo-gateway
  annotations: {networking.istio.io/service-type: ClusterIP}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Same}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews, port: 9080}]
  hostnames: [reviews.example.com]
  rules:
  - timeouts: {request: 500ms}
    matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs:
    - {name: reviews-v1, port: 9080, weight: 90}
    - {name: reviews-v2, port: 9080, weight: 10}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  ingressClassName: istio
  rules:
  - host: web.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: elsewhere}
spec: {}
`
	r := Decode([]byte(text), "gw.yaml", "apps")
	if err := Errors(r.Problems); err != nil {
		t.Fatal(err)
	}
	byKind := map[*Kind]*Object{}
	for _, o := range r.Objects {
		byKind[o.Kind] = o
	}
	if len(byKind) != 4 {
		t.Fatalf("%d kinds: %v", len(byKind), r.Problems)
	}
	if o := byKind[GatewayClass]; o.Namespace != "" || o.Key.String() != "GatewayClass//istio" {
		t.Errorf("the class is %v", o.Key)
	}
	if s := byKind[KubeGateway].Spec.(*gateway.GatewaySpec); *s.Listeners[0].AllowedRoutes.Namespaces.From != "Same" || s.Listeners[0].Port != 80 {
		t.Errorf("gateway: %+v", s)
	}
	s := byKind[HTTPRoute].Spec.(*gateway.HTTPRouteSpec)
	b := s.Rules[0].BackendRefs
	if len(b) != 2 || *b[1].Weight != 10 || b[0].Name != "reviews-v1" || *b[0].Port != 9080 || *s.Rules[0].Timeouts.Request != "500ms" || *s.ParentRefs[0].Kind != "Service" {
		t.Errorf("route: %+v", s)
	}
	if s := byKind[Ingress].Spec.(*networkingv1.IngressSpec); s.Rules[0].HTTP.Paths[0].Backend.Service.Port.Number != 80 {
		t.Errorf("ingress: %+v", s)
	}
	for _, o := range r.Objects {
		y, err := o.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again := Decode(y, "again.yaml", "apps")
		if len(again.Objects) != 1 || !SameSpec(o, again.Objects[0]) || again.Objects[0].Key != o.Key {
			t.Errorf("does not read back: %v\n%s", again.Problems, y)
		}
	}
}

func TestGatewayAPIStrictness(t *testing.T) {
	const text = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  rules:
  - backendRefs:
    - {name: reviews-v1, prot: 9080}
    - {name: reviews-v1, port: "9080"}
`
	r := Decode([]byte(text), "gw.yaml", "")
	if len(r.Objects) != 0 || len(r.Problems) != 2 ||
		!strings.Contains(r.Problems[0].Error(), `spec.rules[0].backendRefs[0].prot: unknown field; did you mean "port"?`) ||
		!strings.Contains(r.Problems[1].Error(), "spec.rules[0].backendRefs[1].port") {
		t.Errorf("%v", r.Problems)
	}
}

// TestKindsAreDistinct holds that every word a user may type means one kind, and every slug.
func TestKindsAreDistinct(t *testing.T) {
	slugs := map[string]bool{}
	for _, k := range Kinds() {
		if slugs[k.Slug] {
			t.Errorf("two kinds have slug %s", k.Slug)
		}
		slugs[k.Slug] = true
		for _, w := range append([]string{k.Plural + "." + k.Group, strings.ToLower(k.Name) + "." + k.Group}, k.Short...) {
			if got, _ := FindKind(w); got != k {
				t.Errorf("%s is %v.%s, want %s.%s", w, got, got.Group, k.Name, k.Group)
			}
		}
	}
	for w, want := range map[string]*Kind{"gateways": Gateway, "gateway": Gateway, "gw": Gateway, "gtw": KubeGateway, "gateways.gateway.networking.k8s.io": KubeGateway} {
		if got, _ := FindKind(w); got != want {
			t.Errorf("%s is %v", w, got)
		}
	}
}
