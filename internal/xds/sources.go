// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"reflect"
	"slices"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/graph"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// objects is a source of one kind.
type objects = *graph.Source[compile.Ref, *config.Object]

// sources are the inputs of the graph, and the first things derived from them.
type sources struct {
	byKind  map[*config.Kind]objects
	options *graph.Source[int, *compile.Options] // key 0
	classes *graph.Source[Class, bool]

	entries   objects    // ServiceEntry
	rules     objects    // DestinationRule
	routings  collection // VirtualService, generated ones too
	gateways  collection // generated ones too
	sidecars  objects
	peers     objects
	workloads objects // WorkloadEntry
	cluster   clusterSources
	// gatewayAPI is where gateways and routings come from besides.
	gatewayAPI gatewaySources

	services  *graph.Table[mesh.ServiceID, *mesh.Service]
	endpoints *graph.Table[mesh.ServiceID, []mesh.Endpoint]
	accounts  *graph.Table[mesh.ServiceID, []string]
	ruleHeads *graph.Table[compile.Ref, compile.RuleHead]
	routeHead *graph.Table[compile.Ref, compile.RouteHead]
	registry  *graph.Table[int, *compile.Registry]
	// autoAddresses are those of services that have none of their own.
	autoAddresses *graph.Table[mesh.ServiceID, string]
	// sourceKeys are the client labels that anything looks at; key 0.
	sourceKeys *graph.Table[int, []string]

	entriesOf    *graph.Index[mesh.ServiceID, compile.Ref, *config.Object]
	byHost       *graph.Index[string, mesh.ServiceID, *mesh.Service]
	byAddress    *graph.Index[string, mesh.ServiceID, []mesh.Endpoint]
	ruleByHost   *graph.Index[string, compile.Ref, compile.RuleHead]
	sidecarsByNS *graph.Index[string, compile.Ref, *config.Object]
	peersByNS    *graph.Index[string, compile.Ref, *config.Object]
	byGateway    *graph.Index[string, compile.Ref, compile.RouteHead]
}

func sameObject(a, b *config.Object) bool {
	return a == b || a != nil && b != nil && a.ResourceVersion != "" && a.ResourceVersion == b.ResourceVersion &&
		a.CreationTimestamp.Equal(b.CreationTimestamp)
}

func deep[T any](a, b T) bool { return reflect.DeepEqual(a, b) }

func newSources(g *graph.Graph) *sources {
	s := &sources{byKind: map[*config.Kind]objects{}}
	source := func(k *config.Kind) objects {
		src := graph.NewSource[compile.Ref](g, k.Plural, sameObject)
		s.byKind[k] = src
		return src
	}
	s.options = graph.NewSource[int](g, "options", deep[*compile.Options])
	s.classes = graph.NewSource[Class, bool](g, "classes", nil)
	s.entries, s.rules, s.sidecars, s.peers = source(config.ServiceEntry), source(config.DestinationRule), source(config.Sidecar), source(config.PeerAuthentication)
	s.workloads = source(config.WorkloadEntry)
	s.cluster = newClusterSources(g, source)
	s.gatewayAPI = newGatewaySources(g, source)
	s.byKind[config.KubeGateway] = s.gatewayAPI.gateways
	s.joinGenerated(g, source(config.Gateway), source(config.VirtualService))
	namespace := func(k compile.Ref, _ *config.Object) []string { return []string{k.Namespace} }
	s.sidecarsByNS = graph.NewIndex(g, "sidecars/namespace", s.sidecars, namespace)
	s.peersByNS = graph.NewIndex(g, "peers/namespace", s.peers, namespace)
	s.deriveServices(g)
	s.deriveHeads(g)
	s.options.Set(0, compile.NewOptions(nil))
	return s
}

func (s *sources) deriveHeads(g *graph.Graph) {
	s.ruleHeads = graph.Map(g, "rule-heads", s.rules, func(c *graph.Ctx, _ compile.Ref, o *config.Object) (compile.RuleHead, bool) {
		opts, _ := graph.Fetch(c, s.options, 0)
		return compile.NewRuleHead(o, opts), true
	}, deep[compile.RuleHead])
	s.routeHead = graph.Map(g, "route-heads", s.routings, func(c *graph.Ctx, _ compile.Ref, o *config.Object) (compile.RouteHead, bool) {
		opts, _ := graph.Fetch(c, s.options, 0)
		return compile.NewRouteHead(o, opts), true
	}, deep[compile.RouteHead])
	s.ruleByHost = graph.NewIndex(g, "rules/host", s.ruleHeads, func(_ compile.Ref, h compile.RuleHead) []string {
		if h.Host != "" && h.Host[0] == '*' {
			return []string{"*"}
		}
		return []string{h.Host}
	})
	s.byGateway = graph.NewIndex(g, "routes/gateway", s.routeHead, func(_ compile.Ref, h compile.RouteHead) []string { return h.Gateways })
	s.registry = graph.Map(g, "registry", s.options, func(c *graph.Ctx, _ int, _ *compile.Options) (*compile.Registry, bool) {
		return compile.NewRegistry(values(graph.FetchAll(c, s.services)), values(graph.FetchAll(c, s.ruleHeads)), values(graph.FetchAll(c, s.routeHead))), true
	}, nil)
	s.autoAddresses = graph.FlatMap(g, "auto-addresses", s.registry, func(_ *graph.Ctx, _ int, r *compile.Registry, emit func(mesh.ServiceID, string)) {
		for id, a := range r.AutoAddresses() {
			emit(id, a)
		}
	}, nil)
	s.sourceKeys = graph.Map(g, "source-keys", s.registry, func(_ *graph.Ctx, _ int, r *compile.Registry) ([]string, bool) {
		return r.SourceKeys, true
	}, slices.Equal[[]string])
}

func values[K, V any](seq func(func(K, V) bool)) []V {
	var out []V
	for _, v := range seq {
		out = append(out, v)
	}
	return out
}

// stage puts a batch of changes into the sources; kinds that nothing is
// compiled from are left out.
func (s *sources) stage(events []config.Event) {
	for _, e := range events {
		if e.Key.Kind == config.MeshConfig {
			var m *meshv1alpha1.MeshConfig
			if e.Object != nil {
				m = e.Object.Spec.(*meshv1alpha1.MeshConfig)
			}
			s.options.Set(0, compile.NewOptions(m))
			continue
		}
		src := s.byKind[e.Key.Kind]
		if src == nil {
			continue
		}
		if ref := (compile.Ref{Namespace: e.Key.Namespace, Name: e.Key.Name}); e.Object == nil {
			src.Delete(ref)
		} else {
			src.Set(ref, e.Object)
		}
	}
}
