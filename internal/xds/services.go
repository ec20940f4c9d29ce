// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/graph"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// clusterSources are Kubernetes' own objects.
type clusterSources struct {
	services, slices, pods, nodes, secrets objects
	ingresses, ingressClasses              objects

	slicesOf *graph.Index[compile.Ref, compile.Ref, *config.Object] // by Service
	podsByNS *graph.Index[string, compile.Ref, *config.Object]
	// localities of nodes, apart because nodes change all the time.
	localities *graph.Table[compile.Ref, string]
}

func newClusterSources(g *graph.Graph, source func(*config.Kind) objects) clusterSources {
	s := clusterSources{
		secrets: source(config.Secret), ingresses: source(config.Ingress), ingressClasses: source(config.IngressClass),
		services: source(config.Service), slices: source(config.EndpointSlice), pods: source(config.Pod), nodes: source(config.Node),
	}
	s.slicesOf = graph.NewIndex(g, "endpointslices/service", s.slices, func(_ compile.Ref, o *config.Object) []compile.Ref {
		return []compile.Ref{compile.SliceService(o)}
	})
	s.podsByNS = graph.NewIndex(g, "pods/namespace", s.pods, func(k compile.Ref, _ *config.Object) []string { return []string{k.Namespace} })
	s.localities = graph.Map(g, "node-localities", s.nodes, func(_ *graph.Ctx, _ compile.Ref, o *config.Object) (string, bool) {
		return compile.Locality(o), true
	}, nil)
	return s
}

// deriveServices joins ServiceEntries and Kubernetes' Services to services, and
// whatever can be an endpoint to their endpoints.
func (s *sources) deriveServices(g *graph.Graph) {
	keys := s.serviceKeys(g)
	s.services = graph.Map(g, "services-compiled", keys, func(c *graph.Ctx, id mesh.ServiceID, _ bool) (*mesh.Service, bool) {
		opts, _ := graph.Fetch(c, s.options, 0)
		in := compile.ServiceInput{Options: opts, ID: id, Cluster: s.clusterService(c, id)}
		if in.Cluster == nil {
			in.Entries = values(graph.FetchIndex(c, s.entriesOf, id))
		}
		svc := compile.Service(in)
		return svc, svc != nil
	}, deep[*mesh.Service])
	byLabel := graph.NewIndex(g, "workloadentries/label", s.workloads, func(k compile.Ref, o *config.Object) []labelKey {
		var out []labelKey
		for l, v := range compile.WorkloadLabels(o) {
			out = append(out, labelKey{k.Namespace, l, v})
		}
		return out
	})
	s.endpoints = graph.Map(g, "endpoints", keys, func(c *graph.Ctx, id mesh.ServiceID, _ bool) ([]mesh.Endpoint, bool) {
		if svc := s.clusterService(c, id); svc != nil {
			return compile.Endpoints(s.cluster.endpointsInput(c, id, svc)), true
		}
		in := compile.EndpointsInput{ID: id, Entries: values(graph.FetchIndex(c, s.entriesOf, id))}
		for _, e := range in.Entries {
			selector := e.Spec.(*networking.ServiceEntry).GetWorkloadSelector().GetLabels()
			if k, ok := leastKey(selector); ok {
				in.Workloads = append(in.Workloads, values(graph.FetchIndex(c, byLabel, labelKey{e.Namespace, k, selector[k]}))...)
				s.cluster.selectedPods(c, &in, e.Namespace, selector)
			}
		}
		return compile.Endpoints(in), true
	}, deep[[]mesh.Endpoint])
	s.accounts = graph.Map(g, "service-accounts", s.endpoints, func(c *graph.Ctx, _ mesh.ServiceID, list []mesh.Endpoint) ([]string, bool) {
		opts, _ := graph.Fetch(c, s.options, 0)
		return compile.ServiceAccounts(opts.TrustDomains, list), true
	}, slices.Equal[[]string])
	s.byHost = graph.NewIndex(g, "services/host", s.services, func(id mesh.ServiceID, _ *mesh.Service) []string { return []string{id.Host} })
	s.byAddress = graph.NewIndex(g, "endpoints/address", s.endpoints, func(_ mesh.ServiceID, list []mesh.Endpoint) []string {
		var out []string
		for i := range list {
			out = append(out, list[i].Address)
		}
		slices.Sort(out)
		return slices.Compact(out)
	})
}

// serviceKeys are all services there may be, from whatever they come.
func (s *sources) serviceKeys(g *graph.Graph) *graph.Table[mesh.ServiceID, bool] {
	ids := func(o *config.Object) []mesh.ServiceID {
		var out []mesh.ServiceID
		for _, h := range compile.ServiceHosts(o) {
			out = append(out, mesh.ServiceID{Namespace: o.Namespace, Host: h})
		}
		return out
	}
	s.entriesOf = graph.NewIndex(g, "serviceentries/service", s.entries, func(_ compile.Ref, o *config.Object) []mesh.ServiceID { return ids(o) })
	written := graph.FlatMap(g, "serviceentry-ids", s.entries, func(_ *graph.Ctx, _ compile.Ref, o *config.Object, emit func(mesh.ServiceID, bool)) {
		for _, id := range ids(o) {
			emit(id, true)
		}
	}, nil)
	cluster := graph.FlatMap(g, "cluster-service-ids", s.cluster.services, func(_ *graph.Ctx, k compile.Ref, _ *config.Object, emit func(mesh.ServiceID, bool)) {
		emit(mesh.ServiceID{Namespace: k.Namespace, Host: compile.ClusterHost(k)}, true)
	}, nil)
	return graph.Join(g, "service-ids", nil, cluster, written)
}

func (s *sources) clusterService(c *graph.Ctx, id mesh.ServiceID) *config.Object {
	ref, ok := compile.ClusterServiceRef(id)
	if !ok {
		return nil
	}
	o, _ := graph.Fetch(c, s.cluster.services, ref)
	return o
}

func (s *clusterSources) endpointsInput(c *graph.Ctx, id mesh.ServiceID, svc *config.Object) compile.EndpointsInput {
	in := compile.EndpointsInput{
		ID: id, Cluster: svc, Slices: values(graph.FetchIndex(c, s.slicesOf, compile.Ref{Namespace: svc.Namespace, Name: svc.Name})),
		Pods: map[string]*config.Object{}, Localities: map[string]string{},
	}
	for _, name := range compile.PodNames(in.Slices) {
		if pod, ok := graph.Fetch(c, s.pods, compile.Ref{Namespace: svc.Namespace, Name: name}); ok {
			in.Pods[name] = pod
		}
	}
	s.locate(c, &in)
	return in
}

// selectedPods adds the pods of a namespace that a workload selector matches.
func (s *clusterSources) selectedPods(c *graph.Ctx, in *compile.EndpointsInput, namespace string, selector map[string]string) {
	for k, pod := range graph.FetchIndex(c, s.podsByNS, namespace) {
		if !mesh.HasLabels(pod.Labels, selector) {
			continue
		}
		if in.Pods == nil {
			in.Pods, in.Localities = map[string]*config.Object{}, map[string]string{}
		}
		in.Pods[k.Name] = pod
	}
	s.locate(c, in)
}

func (s *clusterSources) locate(c *graph.Ctx, in *compile.EndpointsInput) {
	for _, node := range compile.NodeNames(in.Slices, in.Pods) {
		if l, ok := graph.Fetch(c, s.localities, compile.Ref{Name: node}); ok {
			in.Localities[node] = l
		}
	}
}

// labelKey finds workloads by one of their labels.
type labelKey struct{ namespace, key, value string }

// leastKey returns the first label of a selector, by which its workloads are looked up.
func leastKey(m map[string]string) (string, bool) {
	best, ok := "", false
	for k := range m {
		if !ok || k < best {
			best, ok = k, true
		}
	}
	return best, ok
}
