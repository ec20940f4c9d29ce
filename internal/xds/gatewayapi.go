// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"reflect"
	"slices"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/compile/gatewayapi"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/graph"
)

// gatewaySources are the Gateway API's objects.
type gatewaySources struct {
	classes, gateways, http, grpc, grants, namespaces objects
	grantsByNS                                        *graph.Index[string, compile.Ref, *config.Object]
}

func newGatewaySources(g *graph.Graph, source func(*config.Kind) objects) gatewaySources {
	s := gatewaySources{
		classes: source(config.GatewayClass), http: source(config.HTTPRoute), grpc: source(config.GRPCRoute),
		grants: source(config.ReferenceGrant), namespaces: source(config.Namespace),
	}
	// Istio's own has the plural already.
	s.gateways = graph.NewSource[compile.Ref](g, "kubernetes-gateways", sameObject)
	s.grantsByNS = graph.NewIndex(g, "referencegrants/namespace", s.grants, func(k compile.Ref, _ *config.Object) []string { return []string{k.Namespace} })
	return s
}

// servedRoute names a route of either kind.
type servedRoute struct {
	kind string
	ref  compile.Ref
}

// attachmentKey names one of the rules' places: of one route, or of a Gateway's
// own.
type attachmentKey struct {
	by servedRoute
	at gatewayapi.Key
	// port tells several attachments to one Service apart.
	port uint32
}

// gatewayAPI generates from the Gateway API's objects, step by step: Gateways,
// routes, and of all rules for a host one VirtualService.
func gatewayAPI(g *graph.Graph, s *sources) generated {
	gateways := graph.Map(g, "gateway-api-gateways", s.gatewayAPI.gateways, s.compileKubeGateway, sameKubeGateway)
	istio := graph.FlatMap(g, "gateway-api-istio-gateways", gateways, func(_ *graph.Ctx, _ compile.Ref, gw *gatewayapi.Gateway, emit func(compile.Ref, *config.Object)) {
		for _, o := range gw.Objects {
			emit(compile.Ref{Namespace: o.Namespace, Name: o.Name}, o)
		}
	}, sameGenerated)
	routes := func(k *config.Kind, from objects) *graph.Table[attachmentKey, *gatewayapi.Attachment] {
		return graph.FlatMap(g, "gateway-api-"+k.Plural, from, func(c *graph.Ctx, ref compile.Ref, o *config.Object, emit func(attachmentKey, *gatewayapi.Attachment)) {
			r := gatewayapi.CompileRoute(s.routeInput(c, gateways, o))
			for i := range r.Attachments {
				a := &r.Attachments[i]
				emit(attachmentKey{servedRoute{k.Name, ref}, a.Key, a.Port}, a)
			}
		}, sameAttachment)
	}
	reserved := graph.FlatMap(g, "gateway-api-reserved", gateways, func(_ *graph.Ctx, ref compile.Ref, gw *gatewayapi.Gateway, emit func(attachmentKey, *gatewayapi.Attachment)) {
		for i := range gw.Reserved {
			a := &gw.Reserved[i]
			emit(attachmentKey{servedRoute{config.KubeGateway.Name, ref}, a.Key, a.Port}, a)
		}
	}, sameAttachment)
	all := graph.Join(g, "gateway-api-attachments", sameAttachment, routes(config.HTTPRoute, s.gatewayAPI.http), routes(config.GRPCRoute, s.gatewayAPI.grpc), reserved)
	byKey := graph.NewIndex(g, "gateway-api-attachments/host", all, func(k attachmentKey, _ *gatewayapi.Attachment) []gatewayapi.Key { return []gatewayapi.Key{k.at} })
	hosts := graph.Union(g, "gateway-api-hosts", all, func(_ *graph.Ctx, k attachmentKey, _ *gatewayapi.Attachment, want func(gatewayapi.Key)) { want(k.at) })
	merged := graph.FlatMap(g, "gateway-api-virtualservices", hosts, func(c *graph.Ctx, k gatewayapi.Key, _ struct{}, emit func(compile.Ref, *config.Object)) {
		var list []gatewayapi.Attachment
		for _, a := range graph.FetchIndex(c, byKey, k) {
			list = append(list, *a)
		}
		if len(list) > 0 {
			emit(k.Name(), gatewayapi.VirtualService(k, list))
		}
	}, sameGenerated)
	return generated{gateways: istio, routings: merged}
}

func (s *sources) compileKubeGateway(c *graph.Ctx, _ compile.Ref, o *config.Object) (*gatewayapi.Gateway, bool) {
	in := gatewayapi.GatewayInput{Gateway: o, Secrets: map[compile.Ref]*config.Object{}, Services: map[compile.Ref]*config.Object{}}
	in.Class, _ = graph.Fetch(c, s.gatewayAPI.classes, compile.Ref{Name: gatewayapi.ClassOf(o)})
	if !gatewayapi.Ours(in.Class) {
		return nil, false
	}
	var namespaces []string
	for _, ref := range gatewayapi.SecretRefs(o) {
		namespaces = append(namespaces, ref.Namespace)
		if secret, ok := graph.Fetch(c, s.cluster.secrets, ref); ok {
			in.Secrets[ref] = secret
		}
	}
	in.Grants = s.grantsOf(c, o.Namespace, namespaces)
	ref := gatewayapi.ServiceOf(o)
	if svc, ok := graph.Fetch(c, s.cluster.services, ref); ok {
		in.Services[ref] = svc
	}
	return gatewayapi.CompileGateway(in), true
}

// grantsOf are the grants of other namespaces than the object's own.
func (s *sources) grantsOf(c *graph.Ctx, own string, namespaces []string) []*config.Object {
	slices.Sort(namespaces)
	var out []*config.Object
	for _, ns := range slices.Compact(namespaces) {
		if ns != own {
			out = append(out, values(graph.FetchIndex(c, s.gatewayAPI.grantsByNS, ns))...)
		}
	}
	return out
}

func (s *sources) routeInput(c *graph.Ctx, gateways *graph.Table[compile.Ref, *gatewayapi.Gateway], o *config.Object) gatewayapi.RouteInput {
	in := gatewayapi.RouteInput{Route: o, Gateways: map[compile.Ref]*gatewayapi.Gateway{}, Services: map[compile.Ref]*config.Object{}}
	for _, ref := range gatewayapi.GatewayRefs(o) {
		if gw, ok := graph.Fetch(c, gateways, ref); ok {
			in.Gateways[ref] = gw
		}
	}
	if ns, ok := graph.Fetch(c, s.gatewayAPI.namespaces, compile.Ref{Name: o.Namespace}); ok {
		in.Labels = ns.Labels
	}
	var namespaces []string
	for _, ref := range gatewayapi.ServiceRefs(o) {
		namespaces = append(namespaces, ref.Namespace)
		if svc, ok := graph.Fetch(c, s.cluster.services, ref); ok {
			in.Services[ref] = svc
		}
	}
	in.Grants = s.grantsOf(c, o.Namespace, namespaces)
	return in
}

// sameKubeGateway compares what routes and proxies depend on.
func sameKubeGateway(a, b *gatewayapi.Gateway) bool {
	return a == b || a.Ref == b.Ref && a.Service == b.Service && slices.EqualFunc(a.Objects, b.Objects, sameGenerated) &&
		reflect.DeepEqual(a.Listeners, b.Listeners) && slices.EqualFunc(a.Reserved, b.Reserved, func(x, y gatewayapi.Attachment) bool { return sameAttachment(&x, &y) })
}

func sameAttachment(a, b *gatewayapi.Attachment) bool {
	return a == b || a.Key == b.Key && a.Scheme == b.Scheme && a.Port == b.Port && a.Gateway == b.Gateway && slices.Equal(a.Ports, b.Ports) &&
		sameObject(a.Route, b.Route) && slices.EqualFunc(a.Rules, b.Rules, func(x, y gatewayapi.Rule) bool { return x.Equal(&y) })
}
