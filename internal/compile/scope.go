// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// Mode is how connections reach a proxy.
type Mode string

const (
	ModeRedirect  Mode = "REDIRECT" // every connection is redirected to one port
	ModeNone      Mode = "NONE"     // the proxy binds all ports itself
	ModeProxyless Mode = "GRPC"     // a grpc library without a proxy
	ModeGateway   Mode = "GATEWAY"
)

// ScopeInput is what the outbound view of a group of clients is resolved from.
type ScopeInput struct {
	Options   *Options
	Registry  *Registry
	Namespace string
	// Labels are those of the client's that something in the registry looks at.
	Labels map[string]string
	Mode   Mode
	Family Family
	// DNS: the proxy answers its workload's DNS queries, so that the addresses
	// given to services reach it.
	DNS     bool
	Sidecar *config.Object // the Sidecar in force, or nil
}

// Family is which addresses a proxy has.
type Family uint8

// The families of addresses.
const (
	IPv4 Family = iota
	IPv6
	DualStack
)

// FamilyOf tells the family of a proxy with these addresses.
func FamilyOf(addresses []string) Family {
	var v4, v6 bool
	for _, a := range addresses {
		v6 = v6 || strings.Contains(a, ":")
		v4 = v4 || !strings.Contains(a, ":")
	}
	switch {
	case v4 && v6:
		return DualStack
	case v6:
		return IPv6
	}
	return IPv4
}

// any is the wildcard address; the IPv6 one stands for both on dual-stack.
func (f Family) any() string {
	if f == IPv4 {
		return "0.0.0.0"
	}
	return "::"
}

// named is the wildcard address as it stands in names, where Istio writes the
// first address of a dual-stack proxy.
func (f Family) named() string {
	if f == IPv6 {
		return "::"
	}
	return "0.0.0.0"
}

// speaks tells whether a proxy of the family can be connected to the address.
func (f Family) speaks(a netip.Addr) bool { return f == DualStack || a.Unmap().Is4() == (f == IPv4) }

// Scope is the outbound view of a group of clients, as references to what is
// compiled once for all scopes that refer to the same.
type Scope struct {
	Services     []ServiceRef // by service
	Hosts        []*HostRef   // by resource name; shared between scopes
	RouteConfigs []string
	Sockets      []Socket // by name
	Own          []OwnSocket
	// Headless are the services reached by the addresses of their endpoints.
	Headless     []HeadlessRef // by service and port
	RegistryOnly bool
	Origin       mesh.Origin // the Sidecar
}

// ServiceRef refers to a service under certain DestinationRules.
type ServiceRef struct {
	ID mesh.ServiceID
	// Rules are namespace/name, comma-separated, the leading one first.
	Rules string
}

// HostRef refers to a virtual host: everything its content depends on beside
// the objects named.
type HostRef struct {
	RouteConfig  string
	Host         string
	Service      mesh.ServiceID // zero: no service
	Port         uint32
	Routing      Ref // the VirtualService; zero: none
	WithPort     bool
	Local        bool
	OwnAddresses bool
	// Sniffed is the one host of a route configuration for a service's own
	// addresses, where HTTP was found on a port nobody declared as such.
	Sniffed   bool
	Connect   bool
	Proxyless bool
	// RuleNamespace is the client's namespace if its DestinationRules matter.
	RuleNamespace string
	// Client is the client's namespace and labels (see EncodeLabels), as far
	// as the VirtualService looks at them.
	ClientNamespace, ClientLabels string
}

// ResourceName is the name of the virtual host as a resource of its own:
// <route configuration>/<host>, with the port where hosts of all ports share
// one route configuration.
func (h HostRef) ResourceName() string {
	if h.WithPort {
		return h.RouteConfig + "/" + h.Host + ":" + strconv.FormatUint(uint64(h.Port), 10)
	}
	return h.RouteConfig + "/" + h.Host
}

// Socket is a planned outbound listener.
type Socket struct {
	Name        string
	Address     string
	Port        uint32
	HandOff     bool
	Protocol    mesh.Protocol // HTTP, TCP or TLS
	RouteConfig string
	Services    []SocketService // TCP and TLS
}

// OwnSocket is a planned listener of a service's own address, so that no host
// or server name need tell the service. It is everything its content depends on
// beside the objects named, so that scopes share it.
type OwnSocket struct {
	Address     string
	Protocol    mesh.Protocol // TCP, TLS, or Unknown: HTTP by RouteConfig if it is found, else TCP
	RouteConfig string
	Service     SocketService
	Origin      mesh.Origin // the Sidecar
	// Client is set as far as the VirtualService needs it.
	ClientNamespace, ClientLabels string
}

// SocketService is a service reached through a socket.
type SocketService struct {
	ID      mesh.ServiceID
	Port    uint32
	Routing Ref
}

// HeadlessRef refers to a port of a headless service that is not declared as
// HTTP. Client is set as far as the VirtualService needs it.
type HeadlessRef struct {
	ID                            mesh.ServiceID
	Port                          uint32
	Family                        Family
	Routing                       Ref
	ClientNamespace, ClientLabels string
}

// JoinRefs encodes references for ServiceRef.Rules.
func JoinRefs(refs []Ref) string {
	if len(refs) == 1 {
		return refs[0].String()
	}
	s := make([]string, len(refs))
	for i, r := range refs {
		s[i] = r.String()
	}
	return strings.Join(s, ",")
}

// SplitRefs decodes what JoinRefs made.
func SplitRefs(s string) []Ref {
	if s == "" {
		return nil
	}
	var out []Ref
	for _, part := range strings.Split(s, ",") {
		out = append(out, parseRef(part, ""))
	}
	return out
}

// EncodeLabels makes a comparable key of labels; keys limits it to those, nil means all.
func EncodeLabels(labels map[string]string, keys []string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if keys != nil && !slices.Contains(keys, k) {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k + "=" + labels[k])
	}
	return b.String()
}

// DecodeLabels is the inverse of EncodeLabels. Label keys and values contain
// neither commas nor equal signs.
func DecodeLabels(s string) map[string]string {
	if s == "" {
		return nil
	}
	out := map[string]string{}
	for _, part := range strings.Split(s, ",") {
		k, v, _ := strings.Cut(part, "=")
		out[k] = v
	}
	return out
}

// egress is one egress listener of a Sidecar, or the implicit one.
type egress struct {
	port  *networking.SidecarPort
	bind  string
	hosts []Ref // namespace and host; "*" and "." resolved
}

// scoper carries the working state of Resolve.
type scoper struct {
	ScopeInput
	egress []egress
	out    Scope
	seen   map[string]bool // route configuration and domain-giving host
	rcs    map[string]bool
	ports  map[uint32]*Socket // wildcard sockets of REDIRECT by port
}

// Resolve computes a scope from heads alone.
func Resolve(in ScopeInput) *Scope {
	s := &scoper{ScopeInput: in, seen: map[string]bool{}, rcs: map[string]bool{}, ports: map[uint32]*Socket{}}
	s.out.RegistryOnly = in.Options.RegistryOnly
	s.readSidecar()
	visible := s.visibleServices()
	s.out.Services = make([]ServiceRef, 0, len(visible))
	for _, svc := range visible {
		refs := in.Registry.RulesFor(svc, in.Namespace, in.Labels, in.Options.RootNamespace)
		s.out.Services = append(s.out.Services, ServiceRef{svc.ID, JoinRefs(refs)})
	}
	s.out.Services = in.Registry.shared.services(s.out.Services)
	switch in.Mode {
	case ModeNone:
		s.proxyPort(visible)
		s.boundSockets(visible)
	case ModeRedirect:
		s.redirected(visible)
	case ModeProxyless:
		s.proxyless(visible)
	}
	s.out.RouteConfigs = slices.Sorted(maps.Keys(s.rcs))
	sortHosts(s.out.Hosts)
	slices.SortFunc(s.out.Sockets, func(a, b Socket) int { return cmp.Compare(a.Name, b.Name) })
	return &s.out
}

// sortHosts orders by resource name, so that sets assembled in this order are sorted.
func sortHosts(hosts []*HostRef) {
	slices.SortFunc(hosts, func(a, b *HostRef) int {
		if a.RouteConfig == b.RouteConfig && !a.WithPort && !b.WithPort {
			return cmp.Compare(a.Host, b.Host)
		}
		return cmp.Compare(a.ResourceName(), b.ResourceName())
	})
}

// Equal tells whether two scopes are the same.
func (s *Scope) Equal(o *Scope) bool {
	return s.RegistryOnly == o.RegistryOnly && s.Origin == o.Origin && slices.Equal(s.Services, o.Services) &&
		slices.EqualFunc(s.Hosts, o.Hosts, func(a, b *HostRef) bool { return a == b || *a == *b }) && slices.Equal(s.RouteConfigs, o.RouteConfigs) && slices.Equal(s.Own, o.Own) && slices.Equal(s.Headless, o.Headless) &&
		slices.EqualFunc(s.Sockets, o.Sockets, func(a, b Socket) bool {
			return slices.Equal(a.Services, b.Services) && a.Name == b.Name && a.Address == b.Address && a.Port == b.Port && a.HandOff == b.HandOff &&
				a.Protocol == b.Protocol && a.RouteConfig == b.RouteConfig
		})
}

func (s *scoper) readSidecar() {
	if s.Sidecar == nil {
		s.egress = []egress{{hosts: []Ref{{"*", "*"}}}}
		return
	}
	spec := s.Sidecar.Spec.(*networking.Sidecar)
	s.out.Origin = origin(s.Sidecar)
	if p := spec.OutboundTrafficPolicy; p != nil {
		s.out.RegistryOnly = p.Mode == networking.OutboundTrafficPolicy_REGISTRY_ONLY
	}
	for _, e := range spec.Egress {
		x := egress{port: e.Port, bind: e.Bind}
		for _, h := range e.Hosts {
			ns, host, ok := strings.Cut(h, "/")
			if !ok {
				ns, host = "*", h
			}
			if ns == "." {
				ns = s.Sidecar.Namespace
			}
			x.hosts = append(x.hosts, Ref{ns, strings.ToLower(host)})
		}
		s.egress = append(s.egress, x)
	}
	if len(spec.Egress) == 0 {
		s.egress = []egress{{hosts: []Ref{{"*", "*"}}}}
	}
}

func (e *egress) allows(namespace, host string) bool {
	for _, h := range e.hosts {
		if (h.Namespace == "*" || h.Namespace == namespace) && hostMatches(h.Name, host) {
			return true
		}
	}
	return false
}

// imports tells whether any egress listener lets an object of the namespace
// about the host in.
func (s *scoper) imports(namespace, host string) bool {
	for i := range s.egress {
		if s.egress[i].allows(namespace, host) {
			return true
		}
	}
	return false
}

// visibleServices returns one service per host: that of the client's own
// namespace, else Kubernetes' own, else the oldest.
func (s *scoper) visibleServices() []*mesh.Service {
	out := make([]*mesh.Service, 0, len(s.Registry.Services))
	all := s.Registry.Services
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && all[j].ID.Host == all[i].ID.Host {
			j++
		}
		if svc := s.choose(all[i:j]); svc != nil {
			out = append(out, svc)
		}
		i = j
	}
	return out
}

func (s *scoper) choose(same []*mesh.Service) *mesh.Service {
	var best *mesh.Service
	for _, svc := range same {
		if !svc.ExportTo.Allows(svc.ID.Namespace, s.Namespace) || !s.imports(svc.ID.Namespace, svc.ID.Host) {
			continue
		}
		if svc.ID.Namespace == s.Namespace {
			return svc
		}
		if best == nil || Preferred(svc, best) {
			best = svc
		}
	}
	return best
}

// Preferred tells whether a service goes before another of the same host when
// none is of the client's namespace.
func Preferred(a, b *mesh.Service) bool {
	if a.Cluster != b.Cluster {
		return a.Cluster
	}
	return a.Created.Before(b.Created)
}

// ruleNamespace is the client's namespace if it has DestinationRules for
// hosts of other namespaces: only then do routes to the same destination
// differ between client namespaces.
func (s *scoper) ruleNamespace() string {
	if set := s.Registry.rules[s.Namespace]; set != nil && set.foreign {
		return s.Namespace
	}
	return ""
}

// host adds one virtual host to a route configuration, unless its name is taken.
func (s *scoper) host(h HostRef, svc *mesh.Service, e *egress) {
	if name := h.ResourceName(); s.seen[name] {
		return
	} else {
		s.seen[name] = true
	}
	if !h.Sniffed { // the one host is all of its route configuration
		s.rcs[h.RouteConfig] = true
	}
	if svc != nil {
		h.Service = svc.ID
		h.Local = svc.ID.Namespace == s.Namespace
		h.OwnAddresses = true
		for _, a := range svc.Addresses {
			if s.Registry.vips[vip{a, h.Port}] != svc.ID {
				h.OwnAddresses = false
			}
		}
	}
	head := s.Registry.RouteFor(h.Host, s.Namespace, func(r *RouteHead) bool {
		if e != nil {
			return e.allows(r.Ref.Namespace, h.Host)
		}
		return s.imports(r.Ref.Namespace, h.Host)
	})
	h.RuleNamespace = s.ruleNamespace()
	if head != nil {
		h.Routing = head.Ref
		if head.SourceNamespace {
			h.ClientNamespace = s.Namespace
		}
		if len(head.SourceKeys) > 0 {
			h.ClientLabels = EncodeLabels(s.Labels, head.SourceKeys)
		}
	}
	s.out.Hosts = append(s.out.Hosts, s.Registry.shared.host(h))
}

// unserved returns the hosts of mesh VirtualServices that are no service's.
func (s *scoper) unserved() []string {
	var out []string
	for i := range s.Registry.routes {
		r := &s.Registry.routes[i]
		if !r.Mesh || !r.ExportTo.Allows(r.Ref.Namespace, s.Namespace) {
			continue
		}
		for _, h := range r.Hosts {
			if len(s.Registry.byHost[h]) == 0 && !s.coversService(h) && s.imports(r.Ref.Namespace, h) {
				out = append(out, h)
			}
		}
	}
	return out
}

// coversService tells whether a wildcard host stands for services that exist:
// then it is in force through them.
func (s *scoper) coversService(pattern string) bool {
	if !strings.HasPrefix(pattern, "*") {
		return false
	}
	return slices.ContainsFunc(s.Registry.Services, func(svc *mesh.Service) bool { return hostMatches(pattern, svc.ID.Host) })
}
