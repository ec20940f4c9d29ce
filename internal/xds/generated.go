// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/graph"
)

// collection is objects of one kind, from wherever they come.
type collection = *graph.Table[compile.Ref, *config.Object]

// generated is objects made from those of other kinds. Behind it nothing tells
// them from the user's own, which win where both have one name. A nil
// collection is none.
type generated struct {
	gateways, routings collection
}

// generators are all that make Gateways and VirtualServices. They may read what
// is in sources when they are called: sources of kinds, options and services'
// objects, but neither gateways nor routings.
var generators = []func(*graph.Graph, *sources) generated{ingresses, gatewayAPI}

// joinGenerated joins the user's Gateways and VirtualServices to the generated.
func (s *sources) joinGenerated(g *graph.Graph, gateways, routings objects) {
	allGateways := []graph.Collection[compile.Ref, *config.Object]{gateways}
	allRoutings := []graph.Collection[compile.Ref, *config.Object]{routings}
	for _, generate := range generators {
		out := generate(g, s)
		if out.gateways != nil {
			allGateways = append(allGateways, out.gateways)
		}
		if out.routings != nil {
			allRoutings = append(allRoutings, out.routings)
		}
	}
	s.gateways = graph.Join(g, "all-gateways", sameObject, allGateways...)
	s.routings = graph.Join(g, "all-virtualservices", sameObject, allRoutings...)
}

// sameGenerated compares by content: generated objects have no version.
func sameGenerated(a, b *config.Object) bool {
	if a == b {
		return true
	}
	x, ok1 := a.Spec.(proto.Message)
	y, ok2 := b.Spec.(proto.Message)
	return ok1 && ok2 && a.Key == b.Key && a.CreationTimestamp.Equal(b.CreationTimestamp) && slices.Equal(a.Parents, b.Parents) &&
		maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) && proto.Equal(x, y)
}

// ingresses generates from Kubernetes' Ingresses, all at once: those of one
// host become one VirtualService.
func ingresses(g *graph.Graph, s *sources) generated {
	list := func(c *graph.Ctx, k *config.Kind) []*config.Object {
		in := compile.IngressInput{Classes: map[string]*config.Object{}, Services: map[compile.Ref]*config.Object{}}
		in.Options, _ = graph.Fetch(c, s.options, 0)
		in.Ingresses = values(graph.FetchAll(c, s.cluster.ingresses))
		for ref, class := range graph.FetchAll(c, s.cluster.ingressClasses) {
			in.Classes[ref.Name] = class
		}
		for _, o := range in.Ingresses {
			for _, ref := range compile.IngressServices(o) {
				if svc, ok := graph.Fetch(c, s.cluster.services, ref); ok {
					in.Services[ref] = svc
				}
			}
		}
		var out []*config.Object
		for _, o := range compile.Ingresses(in) {
			if o.Kind == k {
				out = append(out, o)
			}
		}
		return out
	}
	of := func(name string, k *config.Kind) collection {
		return graph.FlatMap(g, name, s.options, func(c *graph.Ctx, _ int, _ *compile.Options, emit func(compile.Ref, *config.Object)) {
			for _, o := range list(c, k) {
				emit(compile.Ref{Namespace: o.Namespace, Name: o.Name}, o)
			}
		}, sameGenerated)
	}
	return generated{gateways: of("ingress-gateways", config.Gateway), routings: of("ingress-virtualservices", config.VirtualService)}
}
