// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/graph"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// side is what one proxy needs beside what it shares with its scope.
type side struct {
	listeners, clusters, routes, hosts Set
	// credentials are the secrets that the listeners refer to.
	credentials []string
}

func sameSide(a, b *side) bool {
	return a == b || a != nil && b != nil && sameSet(a.listeners, b.listeners) && sameSet(a.clusters, b.clusters) &&
		sameSet(a.routes, b.routes) && sameSet(a.hosts, b.hosts) &&
		slices.Equal(a.credentials, b.credentials)
}

// views derives what each class is sent from its scope and its own side.
type views struct {
	*sources
	interner *Interner
	// workloads are the workloads of classes, by the registry where it knows them.
	workloads *graph.Table[Class, compile.Workload]
	scopeOf   *graph.Table[Class, scopeKey]
	out       *outbound
	inbound   *graph.Table[Class, *side]
	gateway   *graph.Table[Class, *side]
	// clusters and listeners join a class's own to its scope's. They are apart
	// from sets, so that a change of one type does not join the others anew.
	clusters  *graph.Table[joinKey, Set]
	listeners *graph.Table[Class, Set]
	secrets   *graph.Table[Class, *secretState] // of gateways
	names     *graph.Table[scopeKey, Set]       // of DNS proxies
	// sets are by type, in the order of viewTypes.
	sets *graph.Table[Class, *viewSets]
}

var viewTypes = [...]string{ClusterType, EndpointType, ListenerType, RouteType, VirtualHostType, SecretType, NameTableType}

type viewSets [len(viewTypes)]Set

func sameViewSets(a, b *viewSets) bool {
	if a == b {
		return true
	}
	for i := range a {
		if !sameSet(a[i], b[i]) {
			return false
		}
	}
	return true
}

func newViews(g *graph.Graph, s *sources, in *Interner) *views {
	v := &views{sources: s, interner: in}
	v.workloads = graph.Map(g, "workload-of-class", s.classes, v.workload, deep[compile.Workload])
	v.scopeOf = graph.Map(g, "scope-of-class", s.classes, v.classify, nil)
	wanted := graph.Union(g, "scope-keys", v.scopeOf, func(_ *graph.Ctx, _ Class, k scopeKey, want func(scopeKey)) { want(k) })
	inline := graph.Union(g, "inline-scope-keys", v.scopeOf, func(_ *graph.Ctx, c Class, k scopeKey, want func(scopeKey)) {
		if !c.OnDemand {
			want(k)
		}
	})
	v.out = newOutbound(g, s, in, wanted, inline)
	v.inbound = graph.Map(g, "inbound", s.classes, v.compileInbound, sameSide)
	v.gateway = graph.Map(g, "gateways-of-class", s.classes, v.compileGateway, sameSide)
	v.deriveSecrets(g)
	v.deriveNames(g)
	v.joinClusters(g)
	v.listeners = graph.Map(g, "listeners-of-class", s.classes, func(c *graph.Ctx, class Class, _ bool) (Set, bool) {
		k, _ := graph.Fetch(c, v.scopeOf, class)
		shared, _ := graph.Fetch(c, v.out.listeners, k)
		return merge(shared, v.own(c, class).listeners), true
	}, sameSet)
	v.sets = graph.Map(g, "views", s.classes, v.assemble, sameViewSets)
	return v
}

// classify finds the scope of a class: the Sidecar in force and those of its
// labels that anything looks at.
func (v *views) classify(c *graph.Ctx, class Class, _ bool) (scopeKey, bool) {
	w, _ := graph.Fetch(c, v.workloads, class)
	k := scopeKey{mode: class.Mode, namespace: class.Namespace}
	if class.Mode == compile.ModeRedirect {
		k.family, k.dns = w.Family(), class.DNS
	}
	labels := w.Labels
	if keys, _ := graph.Fetch(c, v.sourceKeys, 0); len(keys) > 0 {
		k.labels = compile.EncodeLabels(labels, keys)
	}
	if sc := v.sidecarFor(c, class, w.Labels); sc != nil && class.Mode != compile.ModeGateway && hasEgress(sc) {
		k.sidecar = compile.Ref{Namespace: sc.Namespace, Name: sc.Name}
	}
	return k, true
}

// workload is what a proxy stands beside. Where the registry has its pod, the
// pod's own labels and addresses count, not what the proxy says of itself; the
// namespace has been held to the proxy's identity when it connected.
func (v *views) workload(c *graph.Ctx, class Class, _ bool) (compile.Workload, bool) {
	w := class.workload()
	pod, ok := graph.Fetch(c, v.cluster.pods, compile.Ref{Namespace: class.Namespace, Name: class.Pod})
	if ok {
		w, _ = compile.PodWorkload(w, pod)
	}
	return w, true
}

// hasEgress tells whether a Sidecar says anything about outbound traffic. One
// that does not leaves its workloads in the scope they would be in without it.
func hasEgress(o *config.Object) bool {
	spec := o.Spec.(*networking.Sidecar)
	return len(spec.Egress) > 0 || spec.OutboundTrafficPolicy != nil
}

func (v *views) sidecarFor(c *graph.Ctx, class Class, labels map[string]string) *config.Object {
	opts, _ := graph.Fetch(c, v.options, 0)
	list := values(graph.FetchIndex(c, v.sidecarsByNS, class.Namespace))
	if class.Namespace != opts.RootNamespace {
		list = append(list, values(graph.FetchIndex(c, v.sidecarsByNS, opts.RootNamespace))...)
	}
	return compile.SelectSidecar(list, opts, class.Namespace, labels)
}

func (v *views) compileInbound(c *graph.Ctx, class Class, _ bool) (*side, bool) {
	if class.Mode != compile.ModeNone && class.Mode != compile.ModeRedirect {
		return nil, false
	}
	opts, _ := graph.Fetch(c, v.options, 0)
	w, _ := graph.Fetch(c, v.workloads, class)
	in := compile.InboundInput{
		Options: opts, Workload: w, Mode: class.Mode, Sidecar: v.sidecarFor(c, class, w.Labels), Peers: v.out.peersFor(c, opts, class.Namespace),
	}
	in.Services = v.servicesOf(c, w)
	out := &side{}
	compiled := compile.CompileInbound(in)
	listeners := compiled.Listeners
	if class.Mode == compile.ModeNone {
		if l := compile.ProxyPortListener(opts, class.Address); l != nil {
			listeners = append(listeners, *l)
		}
	}
	for i := range listeners {
		out.listeners = append(out.listeners, v.interner.Make(ListenerType, listeners[i].Name, Listener(&listeners[i])))
	}
	for i := range compiled.Clusters {
		out.clusters = append(out.clusters, v.interner.Make(ClusterType, compiled.Clusters[i].Name, Cluster(&compiled.Clusters[i])))
	}
	out.listeners, out.clusters = sortSet(out.listeners), sortSet(out.clusters)
	return out, true
}

// servicesOf are the services that have the workload among their endpoints.
func (v *views) servicesOf(c *graph.Ctx, w compile.Workload) []compile.InboundService {
	var out []compile.InboundService
	for _, address := range w.Addresses {
		for id, list := range graph.FetchIndex(c, v.byAddress, address) {
			svc, ok := graph.Fetch(c, v.services, id)
			if !ok {
				continue
			}
			for i := range list {
				if list[i].Address == address {
					out = append(out, compile.InboundService{Service: svc, Endpoint: list[i]})
				}
			}
		}
	}
	return out
}

func (v *views) compileGateway(c *graph.Ctx, class Class, _ bool) (*side, bool) {
	if class.Mode != compile.ModeGateway {
		return nil, false
	}
	opts, _ := graph.Fetch(c, v.options, 0)
	in := compile.GatewayInput{
		Options: opts, Delegates: map[compile.Ref]*config.Object{}, Destinations: map[string]compile.Destination{},
	}
	in.Workload, _ = graph.Fetch(c, v.workloads, class)
	in.Services = v.servicesOf(c, in.Workload)
	seen := map[compile.Ref]bool{}
	for ref, g := range graph.FetchAll(c, v.gateways) {
		if !compile.SelectsGateway(g, in.Workload.Labels) || len(g.Parents) > 0 && g.Namespace != class.Namespace {
			continue // what is made of a Gateway API's is for its own namespace
		}
		in.Gateways = append(in.Gateways, g)
		for r := range graph.FetchIndex(c, v.byGateway, ref.String()) {
			o, ok := graph.Fetch(c, v.routings, r)
			if !ok || seen[r] {
				continue
			}
			seen[r] = true
			in.Routings = append(in.Routings, o)
			v.out.destinations(c, opts, o, class.Namespace, in.Destinations)
			for d, obj := range v.out.delegates(c, o) {
				in.Delegates[d] = obj
				v.out.destinations(c, opts, obj, class.Namespace, in.Destinations)
			}
		}
	}
	return v.gatewaySide(compile.CompileGateway(in), class.OnDemand), true
}

func (v *views) gatewaySide(cfg *compile.GatewayConfig, onDemand bool) *side {
	out := &side{credentials: cfg.Credentials()}
	for i := range cfg.Listeners {
		out.listeners = append(out.listeners, v.interner.Make(ListenerType, cfg.Listeners[i].Name, Listener(&cfg.Listeners[i])))
	}
	for _, rc := range cfg.RouteConfigs {
		if onDemand {
			only := &mesh.RouteConfig{Name: rc.Name, OnDemand: true, KeepPort: rc.KeepPort}
			for _, h := range rc.Hosts {
				if slices.Contains(h.Domains, "*") {
					only.Hosts = append(only.Hosts, h)
					continue
				}
				out.hosts = append(out.hosts, v.interner.Make(VirtualHostType, rc.Name+"/"+h.Domains[0], VirtualHost(h)))
			}
			rc = only
		}
		out.routes = append(out.routes, v.interner.Make(RouteType, rc.Name, RouteConfig(rc)))
	}
	out.listeners, out.routes, out.hosts = sortSet(out.listeners), sortSet(out.routes), sortSet(out.hosts)
	return out
}

// joinKey names a scope's clusters joined with a class's own, by content: most
// sidecars' own clusters are alike.
type joinKey struct {
	list listKey
	own  string
}

func (v *views) joinKey(c *graph.Ctx, class Class, own *side) joinKey {
	k, _ := graph.Fetch(c, v.scopeOf, class)
	list, _ := graph.Fetch(c, v.out.lists, k)
	var names strings.Builder
	for _, r := range own.clusters {
		names.WriteString(r.Name + " " + r.Version + " ")
	}
	return joinKey{list, names.String()}
}

func (v *views) joinClusters(g *graph.Graph) {
	keys := graph.FlatMap(g, "cluster-joins", v.classes, func(c *graph.Ctx, class Class, _ bool, emit func(joinKey, Set)) {
		own := v.own(c, class)
		emit(v.joinKey(c, class, own), own.clusters)
	}, sameSet)
	v.clusters = graph.Map(g, "clusters-of-classes", keys, func(c *graph.Ctx, k joinKey, own Set) (Set, bool) {
		shared, _ := graph.Fetch(c, v.out.clusters, k.list)
		return merge(shared, own), true
	}, sameSet)
}

// own is what a class has beside its scope.
func (v *views) own(c *graph.Ctx, class Class) *side {
	table := v.inbound
	if class.Mode == compile.ModeGateway {
		table = v.gateway
	}
	if s, ok := graph.Fetch(c, table, class); ok {
		return s
	}
	return &side{}
}

func (v *views) assemble(c *graph.Ctx, class Class, _ bool) (*viewSets, bool) {
	k, ok := graph.Fetch(c, v.scopeOf, class)
	if !ok {
		return nil, false
	}
	own := v.own(c, class)
	list, _ := graph.Fetch(c, v.out.lists, k)
	clusters, _ := graph.Fetch(c, v.clusters, v.joinKey(c, class, own))
	endpoints, _ := graph.Fetch(c, v.out.endpoints, list)
	listeners, _ := graph.Fetch(c, v.listeners, class)
	out := &viewSets{clusters, endpoints, listeners, own.routes, own.hosts, nil, nil}
	if class.DNS {
		out[6], _ = graph.Fetch(c, v.names, k)
	}
	if class.Mode == compile.ModeGateway {
		if s, ok := graph.Fetch(c, v.secrets, class); ok {
			out[5] = s.set
		}
		return out, true
	}
	if class.OnDemand {
		routes, _ := graph.Fetch(c, v.out.routesOnDemand, k)
		hosts, _ := graph.Fetch(c, v.out.hostSets, k)
		out[3], out[4] = merge(routes, own.routes), merge(hosts, own.hosts)
	} else {
		routes, _ := graph.Fetch(c, v.out.routesInline, k)
		out[3] = merge(routes, own.routes)
	}
	return out, true
}

// merge joins two sorted sets; of a name in both, the second's wins. A set that
// nothing is added to is returned as it is, so that classes share it.
func merge(a, b Set) Set {
	if len(b) == 0 {
		return a
	}
	if len(a) == 0 {
		return b
	}
	out := make(Set, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].Name < b[0].Name:
			out = append(out, a[0])
			a = a[1:]
		case a[0].Name > b[0].Name:
			out = append(out, b[0])
			b = b[1:]
		default:
			out = append(out, b[0])
			a, b = a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}
