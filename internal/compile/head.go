// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"slices"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// RuleHead is the part of a DestinationRule that decides whom it is for. An
// edit that leaves the head alone does not re-resolve anything.
type RuleHead struct {
	Ref      Ref
	Host     string
	ExportTo mesh.Visibility
	Created  time.Time
	Selector map[string]string // of client workloads; nil: all
}

// NewRuleHead projects a DestinationRule.
func NewRuleHead(o *config.Object, opts *Options) RuleHead {
	spec := o.Spec.(*networking.DestinationRule)
	return RuleHead{
		Ref: refOf(o), Host: FQDN(spec.Host, o.Namespace), Created: o.CreationTimestamp,
		ExportTo: visibility(spec.ExportTo, opts.RuleExport),
		Selector: spec.GetWorkloadSelector().GetMatchLabels(),
	}
}

// RouteHead is the part of a VirtualService that decides whom it is for.
type RouteHead struct {
	Ref      Ref
	Hosts    []string
	ExportTo mesh.Visibility
	Created  time.Time
	Mesh     bool     // for sidecars
	Gateways []string // namespace/name, without "mesh"
	// SourceKeys are the client labels its matches look at; SourceNamespace
	// tells that they look at the client's namespace.
	SourceKeys      []string
	SourceNamespace bool
	// Addresses tells that it holds tcp or tls routes.
	Opaque   bool
	Delegate bool // has no hosts: only for others to refer to
}

// NewRouteHead projects a VirtualService.
func NewRouteHead(o *config.Object, opts *Options) RouteHead {
	spec := o.Spec.(*networking.VirtualService)
	h := RouteHead{
		Ref: refOf(o), ExportTo: visibility(spec.ExportTo, opts.RouteExport), Created: o.CreationTimestamp,
		Opaque: len(spec.Tcp)+len(spec.Tls) > 0, Delegate: len(spec.Hosts) == 0,
	}
	for _, host := range spec.Hosts {
		h.Hosts = append(h.Hosts, FQDN(host, o.Namespace))
	}
	h.Mesh = len(spec.Gateways) == 0
	for _, g := range spec.Gateways {
		if g == meshGateway {
			h.Mesh = true
			continue
		}
		h.Gateways = append(h.Gateways, gatewayRef(g, o.Namespace).String())
	}
	source := func(labels map[string]string, namespace string) {
		for k := range labels {
			h.SourceKeys = append(h.SourceKeys, k)
		}
		h.SourceNamespace = h.SourceNamespace || namespace != ""
	}
	for _, r := range spec.Http {
		for _, m := range r.Match {
			source(m.SourceLabels, m.SourceNamespace)
		}
	}
	for _, r := range spec.Tls {
		for _, m := range r.Match {
			source(m.SourceLabels, m.SourceNamespace)
		}
	}
	for _, r := range spec.Tcp {
		for _, m := range r.Match {
			source(m.SourceLabels, m.SourceNamespace)
		}
	}
	slices.Sort(h.SourceKeys)
	h.SourceKeys = slices.Compact(h.SourceKeys)
	return h
}

// meshGateway is the reserved gateway name that means all sidecars.
const meshGateway = "mesh"

// gatewayRef completes the name of a gateway: "gw" and "ns/gw"; the old
// "gw.ns.svc.cluster.local" is understood as Istio does.
func gatewayRef(name, namespace string) Ref {
	if strings.Contains(name, "/") {
		return parseRef(name, namespace)
	}
	if parts := strings.Split(name, "."); len(parts) > 2 && parts[2] == "svc" {
		return Ref{parts[1], parts[0]}
	}
	return Ref{namespace, name}
}

func olderRule(a, b RuleHead) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Ref.Namespace, b.Ref.Namespace), cmp.Compare(a.Ref.Name, b.Ref.Name))
}

func olderRoute(a, b RouteHead) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Ref.Namespace, b.Ref.Namespace), cmp.Compare(a.Ref.Name, b.Ref.Name))
}

// Registry holds all heads, arranged for look-ups. One is built per change of
// any head and shared by all scopes.
type Registry struct {
	Services []*mesh.Service // by host, then namespace
	byHost   map[string][]*mesh.Service
	rules    map[string]*ruleSet // by namespace
	exact    map[string][]*RouteHead
	wild     []wildRoute // longest pattern first, then oldest
	routes   []RouteHead // by age
	vips     map[vip]mesh.ServiceID
	shared   *sharing
	auto     map[mesh.ServiceID]string
	// SourceKeys are the client labels that anything looks at.
	SourceKeys []string
}

type vip struct {
	address string
	port    uint32
}

type ruleSet struct {
	exact map[string][]*RuleHead // by age
	wild  []*RuleHead            // longest host first, then oldest
	// foreign: some rule is for hosts outside of the namespace.
	foreign bool
}

type wildRoute struct {
	pattern string
	head    *RouteHead
}

// NewRegistry arranges heads; the slices are taken over.
func NewRegistry(services []*mesh.Service, rules []RuleHead, routes []RouteHead) *Registry {
	r := &Registry{
		Services: services, byHost: map[string][]*mesh.Service{}, rules: map[string]*ruleSet{},
		exact: map[string][]*RouteHead{}, vips: map[vip]mesh.ServiceID{}, routes: routes, shared: &sharing{hosts: map[HostRef]*HostRef{}},
	}
	slices.SortFunc(r.Services, func(a, b *mesh.Service) int { return a.ID.Compare(b.ID) })
	for _, s := range r.Services {
		r.byHost[s.ID.Host] = append(r.byHost[s.ID.Host], s)
		for _, a := range s.Addresses {
			for _, p := range s.Ports {
				if _, taken := r.vips[vip{a, p.Number}]; !taken {
					r.vips[vip{a, p.Number}] = s.ID
				}
			}
		}
	}
	r.auto = autoAddresses(r.Services)
	slices.SortFunc(rules, olderRule)
	for i := range rules {
		r.addRule(&rules[i])
	}
	for _, set := range r.rules {
		slices.SortStableFunc(set.wild, func(a, b *RuleHead) int { return cmp.Compare(len(b.Host), len(a.Host)) })
	}
	slices.SortFunc(r.routes, olderRoute)
	for i := range r.routes {
		head := &r.routes[i]
		r.SourceKeys = append(r.SourceKeys, head.SourceKeys...)
		if !head.Mesh {
			continue
		}
		for _, h := range head.Hosts {
			if strings.HasPrefix(h, "*") {
				r.wild = append(r.wild, wildRoute{h, head})
			} else {
				r.exact[h] = append(r.exact[h], head)
			}
		}
	}
	slices.SortStableFunc(r.wild, func(a, b wildRoute) int { return cmp.Compare(len(b.pattern), len(a.pattern)) })
	slices.Sort(r.SourceKeys)
	r.SourceKeys = slices.Compact(r.SourceKeys)
	return r
}

func (r *Registry) addRule(h *RuleHead) {
	set := r.rules[h.Ref.Namespace]
	if set == nil {
		set = &ruleSet{exact: map[string][]*RuleHead{}}
		r.rules[h.Ref.Namespace] = set
	}
	if strings.HasPrefix(h.Host, "*") {
		set.wild = append(set.wild, h)
	} else {
		set.exact[h.Host] = append(set.exact[h.Host], h)
	}
	if !strings.HasSuffix(h.Host, "."+h.Ref.Namespace+".svc."+ClusterDomain) {
		set.foreign = true
	}
	for k := range h.Selector {
		r.SourceKeys = append(r.SourceKeys, k)
	}
}

// ServiceFor returns the service of a host as a client of the namespace sees
// it: one of its own namespace first, else the oldest visible one.
func (r *Registry) ServiceFor(host, client string) *mesh.Service {
	var best *mesh.Service
	for _, s := range r.byHost[host] {
		if !s.ExportTo.Allows(s.ID.Namespace, client) {
			continue
		}
		if s.ID.Namespace == client {
			return s
		}
		if best == nil || Preferred(s, best) {
			best = s
		}
	}
	return best
}

// RulesFor returns the DestinationRules in force for a service and a client:
// the client's namespace, then the service's, then the root namespace; in each
// the most specific host wins, and rules for the same host are merged.
func (r *Registry) RulesFor(s *mesh.Service, client string, labels map[string]string, root string) []Ref {
	namespaces := [...]string{client, s.ID.Namespace, root}
	for i, ns := range namespaces {
		if slices.Contains(namespaces[:i], ns) {
			continue
		}
		set := r.rules[ns]
		if set == nil || ns == client && ns != s.ID.Namespace && ns != root && !set.foreign {
			continue
		}
		if refs := set.lookup(s.ID.Host, client, labels); len(refs) > 0 {
			return refs
		}
	}
	return nil
}

// lookup returns the rules of one namespace for a host. Rules that select the
// client's workload by label go before those that select all.
func (set *ruleSet) lookup(host, client string, labels map[string]string) []Ref {
	usable := func(h *RuleHead) bool {
		return h.ExportTo.Allows(h.Ref.Namespace, client) && (h.Selector == nil || h.Ref.Namespace == client && mesh.HasLabels(labels, h.Selector))
	}
	pick := func(heads []*RuleHead) []Ref {
		var refs []Ref
		for _, selected := range []bool{true, false} {
			for _, h := range heads {
				if (h.Selector != nil) == selected && usable(h) {
					refs = append(refs, h.Ref)
				}
			}
			if len(refs) > 0 {
				return refs
			}
		}
		return refs
	}
	if refs := pick(set.exact[host]); len(refs) > 0 {
		return refs
	}
	for i, h := range set.wild {
		if !hostMatches(h.Host, host) || !usable(h) {
			continue
		}
		same := []*RuleHead{}
		for _, o := range set.wild[i:] {
			if o.Host == h.Host {
				same = append(same, o)
			}
		}
		return pick(same)
	}
	return nil
}

// private: it is of the client's namespace and for that one only.
func (h *RouteHead) private(client string) bool {
	return h.Ref.Namespace == client && len(h.ExportTo) == 1 && h.ExportTo[0] == "."
}

// RouteFor returns the VirtualService of a host for sidecars of a namespace:
// an exact host before a wildcard, the longest wildcard, one that only the
// namespace has before one that others have too (as in Istio), the oldest.
func (r *Registry) RouteFor(host, client string, visible func(*RouteHead) bool) *RouteHead {
	ok := func(h *RouteHead) bool {
		return h.ExportTo.Allows(h.Ref.Namespace, client) && (visible == nil || visible(h))
	}
	for _, h := range r.exact[host] {
		if h.private(client) && ok(h) {
			return h
		}
	}
	for _, h := range r.exact[host] {
		if ok(h) {
			return h
		}
	}
	for _, w := range r.wild {
		if hostMatches(w.pattern, host) && ok(w.head) {
			return w.head
		}
	}
	return nil
}
