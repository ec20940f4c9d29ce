// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"slices"

	"github.com/cespare/xxhash/v2"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/graph"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// scopeKey names an outbound view: what the client's side of it depends on.
type scopeKey struct {
	mode      compile.Mode
	namespace string
	labels    string // only those that something looks at
	sidecar   compile.Ref
	family    compile.Family
	dns       bool
}

// audience is for whom clusters are written.
type audience uint8

const (
	forSidecars audience = iota
	forGRPC
	forGateways // only where it makes a difference
)

func audienceOf(m compile.Mode) audience {
	switch m {
	case compile.ModeProxyless:
		return forGRPC
	case compile.ModeGateway:
		return forGateways
	}
	return forSidecars
}

// listKey names a list of services by its content: scopes that see the same
// services under the same rules share one node for each type.
type listKey struct {
	hash     string
	audience audience
}

type clusterKey struct {
	ref      compile.ServiceRef
	audience audience
}

// outbound derives what scopes are made of. One service under one set of rules
// is one node for its clusters and one for its endpoints; one virtual host is
// one node; whoever refers to the same shares them.
type outbound struct {
	*sources
	interner  *Interner
	scopes    *graph.Table[scopeKey, *compile.Scope]
	lists     *graph.Table[scopeKey, listKey]
	clusters  *graph.Table[listKey, Set]
	endpoints *graph.Table[listKey, Set]
	hosts     *graph.Table[compile.HostRef, *Resource]
	sniffed   *graph.Table[compile.HostRef, *Resource] // route configurations of one host
	own       *graph.Table[compile.OwnSocket, *Resource]
	headless  *graph.Table[compile.HeadlessRef, Set]
	hostSets  *graph.Table[scopeKey, Set]
	listeners *graph.Table[scopeKey, Set]
	// routesOnDemand have only the catch-all inline, routesInline everything.
	routesOnDemand, routesInline *graph.Table[scopeKey, Set]
}

func sameSet(a, b Set) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

func sortSet(s Set) Set {
	slices.SortFunc(s, func(a, b *Resource) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(s, func(a, b *Resource) bool { return a.Name == b.Name })
}

// newOutbound wires the outbound side for the scopes wanted; inline holds
// those that need their virtual hosts inside of route configurations.
func newOutbound(g *graph.Graph, s *sources, in *Interner, wanted, inline *graph.Table[scopeKey, struct{}]) *outbound {
	o := &outbound{sources: s, interner: in}
	o.scopes = graph.Map(g, "scopes", wanted, o.resolve, (*compile.Scope).Equal)
	o.deriveServices(g)
	o.deriveHosts(g)
	o.deriveOwn(g)
	shared := graph.Map(g, "scope-listeners", o.scopes, o.compileListeners, sameSet)
	o.listeners = graph.Map(g, "outbound-listeners", o.scopes, func(c *graph.Ctx, k scopeKey, s *compile.Scope) (Set, bool) {
		out, _ := graph.Fetch(c, shared, k)
		own := make(Set, 0, len(s.Own)+len(s.Headless))
		for _, ref := range s.Own {
			if l, ok := graph.Fetch(c, o.own, ref); ok {
				own = append(own, l)
			}
		}
		for _, ref := range s.Headless {
			l, _ := graph.Fetch(c, o.headless, ref)
			own = append(own, l...)
		}
		return merge(out, sortSet(own)), true
	}, sameSet)
	o.routesOnDemand = graph.Map(g, "routes-on-demand", o.scopes, func(c *graph.Ctx, k scopeKey, sc *compile.Scope) (Set, bool) {
		opts, _ := graph.Fetch(c, s.options, 0)
		return o.routeConfigs(c, opts, k, sc, nil), true
	}, sameSet)
	o.routesInline = graph.Map(g, "routes-inline", inline, func(c *graph.Ctx, k scopeKey, _ struct{}) (Set, bool) {
		opts, _ := graph.Fetch(c, s.options, 0)
		sc, ok := graph.Fetch(c, o.scopes, k)
		if !ok {
			return nil, false
		}
		return o.routeConfigs(c, opts, k, sc, func(ref compile.HostRef) *Resource {
			r, _ := graph.Fetch(c, o.hosts, ref)
			return r
		}), true
	}, sameSet)
	return o
}

func (o *outbound) resolve(c *graph.Ctx, k scopeKey, _ struct{}) (*compile.Scope, bool) {
	opts, _ := graph.Fetch(c, o.options, 0)
	registry, _ := graph.Fetch(c, o.registry, 0)
	in := compile.ScopeInput{
		Options: opts, Registry: registry, Namespace: k.namespace, Labels: compile.DecodeLabels(k.labels), Mode: k.mode, Family: k.family, DNS: k.dns,
	}
	if k.sidecar.Name != "" {
		in.Sidecar, _ = graph.Fetch(c, o.sidecars, k.sidecar)
	}
	return compile.Resolve(in), true
}

type serviceList struct {
	refs []compile.ServiceRef
}

func (o *outbound) deriveServices(g *graph.Graph) {
	o.lists = graph.Map(g, "service-list-of-scope", o.scopes, func(_ *graph.Ctx, k scopeKey, s *compile.Scope) (listKey, bool) {
		return listKey{hashRefs(s.Services), audienceOf(k.mode)}, true
	}, nil)
	lists := graph.FlatMap(g, "service-lists", o.scopes, func(c *graph.Ctx, k scopeKey, s *compile.Scope, emit func(listKey, *serviceList)) {
		key, _ := graph.Fetch(c, o.lists, k)
		emit(key, &serviceList{s.Services})
	}, func(a, b *serviceList) bool { return slices.Equal(a.refs, b.refs) })
	clusterKeys := graph.Union(g, "cluster-refs", lists, func(c *graph.Ctx, k listKey, l *serviceList, want func(clusterKey)) {
		for _, ref := range l.refs {
			want(o.clusterKey(c, k, ref))
		}
	})
	refs := graph.Union(g, "service-refs", clusterKeys, func(_ *graph.Ctx, k clusterKey, _ struct{}, want func(compile.ServiceRef)) { want(k.ref) })
	perCluster := graph.Map(g, "service-clusters", clusterKeys, o.compileClusters, sameSet)
	perEndpoints := graph.Map(g, "service-endpoints", refs, o.compileEndpoints, sameSet)
	builtin := graph.Map(g, "builtin-clusters", o.options, func(_ *graph.Ctx, _ int, opts *compile.Options) (Set, bool) {
		var out Set
		for _, cl := range compile.BuiltinClusters(opts) {
			out = append(out, o.interner.Make(ClusterType, cl.Name, Cluster(&cl)))
		}
		return out, true
	}, sameSet)
	o.clusters = graph.Map(g, "clusters", lists, func(c *graph.Ctx, k listKey, l *serviceList) (Set, bool) {
		out := make(Set, 0, len(l.refs)+2)
		for _, ref := range l.refs {
			s, _ := graph.Fetch(c, perCluster, o.clusterKey(c, k, ref))
			out = append(out, s...)
		}
		if k.audience != forGRPC {
			s, _ := graph.Fetch(c, builtin, 0)
			out = append(out, s...)
		}
		return sortSet(out), true
	}, sameSet)
	o.endpoints = graph.Map(g, "load-assignments", lists, func(c *graph.Ctx, _ listKey, l *serviceList) (Set, bool) {
		out := make(Set, 0, len(l.refs))
		for _, ref := range l.refs {
			s, _ := graph.Fetch(c, perEndpoints, ref)
			out = append(out, s...)
		}
		return sortSet(out), true
	}, sameSet)
}

// clusterKey shares what gateways get alike with sidecars.
func (o *outbound) clusterKey(c *graph.Ctx, k listKey, ref compile.ServiceRef) clusterKey {
	to := k.audience
	if to == forGateways {
		if svc, ok := graph.Fetch(c, o.services, ref.ID); !ok || !svc.Headless {
			to = forSidecars
		}
	}
	return clusterKey{ref, to}
}

// hashRefs is 128 bits over a list of references.
func hashRefs(refs []compile.ServiceRef) string {
	var a, b xxhash.Digest
	a.ResetWithSeed(0)
	b.ResetWithSeed(1)
	for _, r := range refs {
		for _, s := range [...]string{r.ID.Namespace, r.ID.Host, r.Rules} {
			for _, d := range [...]*xxhash.Digest{&a, &b} {
				_, _ = d.WriteString(s) // a Digest never fails
				_, _ = d.Write([]byte{0})
			}
		}
	}
	var sum [16]byte
	binary.BigEndian.PutUint64(sum[:], a.Sum64())
	binary.BigEndian.PutUint64(sum[8:], b.Sum64())
	return hex.EncodeToString(sum[:])
}

func (o *outbound) rulesOf(c *graph.Ctx, refs []compile.Ref) []*config.Object {
	var out []*config.Object
	for _, r := range refs {
		if obj, ok := graph.Fetch(c, o.rules, r); ok {
			out = append(out, obj)
		}
	}
	return out
}

func (o *outbound) compileClusters(c *graph.Ctx, k clusterKey, _ struct{}) (Set, bool) {
	svc, ok := graph.Fetch(c, o.services, k.ref.ID)
	if !ok {
		return nil, false
	}
	opts, _ := graph.Fetch(c, o.options, 0)
	in := compile.ClustersInput{Options: opts, Service: svc, Rules: o.rulesOf(c, compile.SplitRefs(k.ref.Rules))}
	in.Gateway = k.audience == forGateways
	if k.audience != forGRPC {
		in.ServiceAccounts, _ = graph.Fetch(c, o.accounts, k.ref.ID)
	}
	if compile.NeedsEndpoints(svc, in.Rules) {
		in.Endpoints, _ = graph.Fetch(c, o.sources.endpoints, k.ref.ID)
		in.Peers = o.peersFor(c, opts, k.ref.ID.Namespace)
	}
	var out Set
	for _, cl := range compile.Clusters(in) {
		m := Cluster(&cl)
		if k.audience == forGRPC {
			m = proxylessCluster(m)
		}
		out = append(out, o.interner.Make(ClusterType, cl.Name, m))
	}
	return out, true
}

// proxylessCluster keeps what grpc's own xDS clients accept: they refuse
// transport socket matches, and have no limit but that of requests.
func proxylessCluster(m *clusterv3.Cluster) *clusterv3.Cluster {
	if m.GetType() != clusterv3.Cluster_EDS {
		return m
	}
	return &clusterv3.Cluster{
		Name: m.Name, ClusterDiscoveryType: m.ClusterDiscoveryType, EdsClusterConfig: m.EdsClusterConfig,
		ConnectTimeout: m.ConnectTimeout, LbPolicy: clusterv3.Cluster_ROUND_ROBIN, Metadata: m.Metadata,
	}
}

func (o *outbound) compileEndpoints(c *graph.Ctx, ref compile.ServiceRef, _ struct{}) (Set, bool) {
	svc, ok := graph.Fetch(c, o.services, ref.ID)
	if !ok {
		return nil, false
	}
	opts, _ := graph.Fetch(c, o.options, 0)
	in := compile.AssignmentsInput{Options: opts, Service: svc, Rules: o.rulesOf(c, compile.SplitRefs(ref.Rules))}
	in.Endpoints, _ = graph.Fetch(c, o.sources.endpoints, ref.ID)
	in.Peers = o.peersFor(c, opts, ref.ID.Namespace)
	var out Set
	for _, a := range compile.Assignments(in) {
		out = append(out, o.interner.Make(EndpointType, a.Cluster, LoadAssignment(&a)))
	}
	return out, true
}

func (o *outbound) peersFor(c *graph.Ctx, opts *compile.Options, namespace string) []*config.Object {
	out := values(graph.FetchIndex(c, o.peersByNS, namespace))
	if namespace != opts.RootNamespace {
		out = append(out, values(graph.FetchIndex(c, o.peersByNS, opts.RootNamespace))...)
	}
	return out
}

func (o *outbound) deriveHosts(g *graph.Graph) {
	in := o.interner
	refs := graph.Union(g, "host-refs", o.scopes, func(_ *graph.Ctx, _ scopeKey, s *compile.Scope, want func(compile.HostRef)) {
		for _, h := range s.Hosts {
			want(*h)
		}
	})
	o.hosts = graph.Map(g, "virtual-hosts", refs, o.compileHost, nil)
	o.sniffed = graph.Map(g, "sniffed-routes", o.hosts, func(_ *graph.Ctx, ref compile.HostRef, r *Resource) (*Resource, bool) {
		if !ref.Sniffed {
			return nil, false
		}
		return in.makeRouteConfig(&mesh.RouteConfig{Name: ref.RouteConfig}, []*Resource{r}), true
	}, nil)
	o.hostSets = graph.Map(g, "virtual-host-sets", o.scopes, func(c *graph.Ctx, _ scopeKey, s *compile.Scope) (Set, bool) {
		out := make(Set, 0, len(s.Hosts))
		for _, h := range s.Hosts {
			if h.Sniffed {
				continue // inside of its route configuration
			}
			if r, ok := graph.Fetch(c, o.hosts, *h); ok {
				out = append(out, r)
			}
		}
		return out, true // in order, see compile.Scope.Hosts
	}, sameSet)
}

func (o *outbound) compileHost(c *graph.Ctx, ref compile.HostRef, _ struct{}) (*Resource, bool) {
	opts, _ := graph.Fetch(c, o.options, 0)
	in := compile.HostInput{
		Options: opts, Host: ref.Host, Port: mesh.Port{Number: ref.Port, Protocol: mesh.HTTP}, WithPort: ref.WithPort, Local: ref.Local,
		OwnAddresses: ref.OwnAddresses, AnyAuthority: ref.Sniffed, Connect: ref.Connect, Proxyless: ref.Proxyless,
		Client:       compile.Client{Namespace: ref.ClientNamespace, Labels: compile.DecodeLabels(ref.ClientLabels)},
		Destinations: map[string]compile.Destination{},
	}
	if ref.Service.Host != "" {
		svc, ok := graph.Fetch(c, o.services, ref.Service)
		if !ok {
			return nil, false
		}
		in.Service = svc
		if in.Port, ok = svc.Port(ref.Port); !ok {
			return nil, false
		}
		in.Destinations[ref.Host] = o.destinationOf(c, opts, svc, ref.RuleNamespace)
	}
	if ref.Routing.Name != "" {
		in.Routing, _ = graph.Fetch(c, o.routings, ref.Routing)
	}
	if in.Routing != nil {
		in.Delegates = o.delegates(c, in.Routing)
		o.destinations(c, opts, in.Routing, ref.RuleNamespace, in.Destinations)
		for _, d := range in.Delegates {
			o.destinations(c, opts, d, ref.RuleNamespace, in.Destinations)
		}
	}
	return o.interner.Make(VirtualHostType, ref.ResourceName(), VirtualHost(compile.Host(in))), true
}

func (o *outbound) delegates(c *graph.Ctx, routing *config.Object) map[compile.Ref]*config.Object {
	var out map[compile.Ref]*config.Object
	for _, d := range compile.DelegateRefs(routing) {
		if obj, ok := graph.Fetch(c, o.routings, d); ok {
			if out == nil {
				out = map[compile.Ref]*config.Object{}
			}
			out[d] = obj
		}
	}
	return out
}

// destinations looks up the hosts a VirtualService sends to.
func (o *outbound) destinations(c *graph.Ctx, opts *compile.Options, routing *config.Object, client string, into map[string]compile.Destination) {
	for _, host := range compile.DestinationHosts(routing) {
		if _, known := into[host]; known {
			continue
		}
		var best *mesh.Service
		for id, svc := range graph.FetchIndex(c, o.byHost, host) {
			if best == nil || id.Namespace == routing.Namespace || best.ID.Namespace != routing.Namespace && compile.Preferred(svc, best) {
				best = svc
			}
		}
		if best != nil {
			into[host] = o.destinationOf(c, opts, best, client)
		}
	}
}

// destinationOf finds the rules for a destination as a client of the namespace
// sees it; no namespace stands for clients that have no rules of their own.
func (o *outbound) destinationOf(c *graph.Ctx, opts *compile.Options, svc *mesh.Service, client string) compile.Destination {
	heads := values(graph.FetchIndex(c, o.ruleByHost, svc.ID.Host))
	heads = append(heads, values(graph.FetchIndex(c, o.ruleByHost, "*"))...)
	if len(heads) == 0 {
		return compile.Destination{Service: svc}
	}
	if client == "" {
		client = svc.ID.Namespace
	}
	refs := compile.NewRegistry(nil, heads, nil).RulesFor(svc, client, nil, opts.RootNamespace)
	return compile.Destination{Service: svc, Rules: o.rulesOf(c, refs)}
}

// opaqueInput is what listeners of one service are made from.
func (o *outbound) opaqueInput(c *graph.Ctx, routing compile.Ref, namespace, labels string) compile.OutboundInput {
	in := compile.OutboundInput{
		Client:   compile.Client{Namespace: namespace, Labels: compile.DecodeLabels(labels)},
		Routings: map[compile.Ref]*config.Object{}, Destinations: map[string]compile.Destination{},
	}
	in.Options, _ = graph.Fetch(c, o.options, 0)
	if routing.Name == "" {
		return in
	}
	if obj, ok := graph.Fetch(c, o.routings, routing); ok {
		in.Routings[routing] = obj
		o.destinations(c, in.Options, obj, namespace, in.Destinations)
	}
	return in
}

// deriveOwn makes the listeners of services' own addresses and those of headless
// services, which follow their endpoints, once for all scopes.
func (o *outbound) deriveOwn(g *graph.Graph) {
	sockets := graph.Union(g, "own-sockets", o.scopes, func(_ *graph.Ctx, _ scopeKey, s *compile.Scope, want func(compile.OwnSocket)) {
		for _, sock := range s.Own {
			want(sock)
		}
	})
	o.own = graph.Map(g, "own-listeners", sockets, func(c *graph.Ctx, sock compile.OwnSocket, _ struct{}) (*Resource, bool) {
		l := compile.OwnListener(o.opaqueInput(c, sock.Service.Routing, sock.ClientNamespace, sock.ClientLabels), sock)
		return o.interner.Make(ListenerType, l.Name, Listener(&l)), true
	}, nil)
	refs := graph.Union(g, "headless-refs", o.scopes, func(_ *graph.Ctx, _ scopeKey, s *compile.Scope, want func(compile.HeadlessRef)) {
		for _, ref := range s.Headless {
			want(ref)
		}
	})
	o.headless = graph.Map(g, "headless-listeners", refs, func(c *graph.Ctx, ref compile.HeadlessRef, _ struct{}) (Set, bool) {
		svc, ok := graph.Fetch(c, o.services, ref.ID)
		if !ok {
			return nil, false
		}
		in := compile.HeadlessInput{Ref: ref, Service: svc, OutboundInput: o.opaqueInput(c, ref.Routing, ref.ClientNamespace, ref.ClientLabels)}
		in.Endpoints, _ = graph.Fetch(c, o.sources.endpoints, ref.ID)
		var out Set
		for _, l := range compile.HeadlessListeners(in) {
			out = append(out, o.interner.Make(ListenerType, l.Name, Listener(&l)))
		}
		return sortSet(out), true
	}, sameSet)
}

func (o *outbound) compileListeners(c *graph.Ctx, k scopeKey, s *compile.Scope) (Set, bool) {
	opts, _ := graph.Fetch(c, o.options, 0)
	if k.mode == compile.ModeProxyless {
		var out Set
		for _, h := range s.Hosts {
			for _, l := range proxylessListeners(*h) {
				out = append(out, o.interner.Make(ListenerType, l.Name, l))
			}
		}
		return sortSet(out), true
	}
	in := compile.OutboundInput{
		Options: opts, Scope: s, Mode: k.mode, Family: k.family, Client: compile.Client{Namespace: k.namespace, Labels: compile.DecodeLabels(k.labels)},
		Routings: map[compile.Ref]*config.Object{}, Destinations: map[string]compile.Destination{},
	}
	for _, sock := range s.Sockets {
		for _, svc := range sock.Services {
			if obj, ok := graph.Fetch(c, o.routings, svc.Routing); ok {
				in.Routings[svc.Routing] = obj
				o.destinations(c, opts, obj, k.namespace, in.Destinations)
			}
		}
	}
	var out Set
	for _, l := range compile.OutboundListeners(in) {
		out = append(out, o.interner.Make(ListenerType, l.Name, Listener(&l)))
	}
	return sortSet(out), true
}
