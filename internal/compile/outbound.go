// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// OutboundInput is what the outbound listeners of a scope are made from.
type OutboundInput struct {
	Options *Options
	Scope   *Scope
	Mode    Mode
	Family  Family
	Client  Client
	// Routings holds the VirtualServices that sockets refer to.
	Routings map[Ref]*config.Object
	// Destinations holds the services that those send to.
	Destinations map[string]Destination
}

// ALPN of plain HTTP as the inspector reports it.
var plainHTTP = []string{"http/1.1", "h2c"}

// OutboundListeners compiles the listeners of a scope, without those that
// depend on the proxy's own address.
func OutboundListeners(in OutboundInput) []mesh.Listener {
	var out []mesh.Listener
	for _, sock := range in.Scope.Sockets {
		out = append(out, in.listener(sock))
	}
	if in.Mode == ModeRedirect {
		out = append(out, in.virtualOutbound())
	}
	return out
}

func (in *OutboundInput) listener(sock Socket) mesh.Listener {
	l := mesh.Listener{
		Name: sock.Name, Address: sock.Address, Port: sock.Port, HandOff: sock.HandOff, Direction: mesh.Outbound,
		DetectionTimeout: in.Options.DetectionTimeout, Origin: in.Scope.Origin,
	}
	switch {
	case sock.RouteConfig != "":
		l.Chains = []mesh.Chain{{HTTP: in.http(sock)}}
		if sock.HandOff {
			// What does not look like HTTP goes where the client wanted.
			l.InspectHTTP = true
			l.Chains[0].Match = mesh.ChainMatch{Transport: "raw_buffer", Applications: plainHTTP}
			l.Default = in.unmatched("PassthroughFilterChain")
		}
	case sock.Protocol.IsTLS():
		l.InspectTLS = true
		for _, s := range sock.Services {
			l.Chains = append(l.Chains, in.tlsChains(s)...)
		}
		l.Chains = dedupServerNames(l.Chains)
		if sock.HandOff {
			l.Default = in.unmatched("PassthroughFilterChain")
		}
	default:
		s := sock.Services[0]
		l.Chains = []mesh.Chain{{TCP: in.tcp(mesh.OutboundCluster(s.Port, "", s.ID.Host), in.tcpTargets(s))}}
		if o := in.Routings[s.Routing]; o != nil {
			l.Chains[0].Origin = origin(o)
		}
	}
	return l
}

// OwnListener compiles the listener of a service's own address: whatever comes
// is for it. The input's scope is not looked at.
func OwnListener(in OutboundInput, sock OwnSocket) mesh.Listener {
	s := sock.Service
	l := mesh.Listener{
		Name: socketName(sock.Address, s.Port), Address: sock.Address, Port: s.Port, HandOff: true, Direction: mesh.Outbound,
		DetectionTimeout: in.Options.DetectionTimeout, Origin: sock.Origin,
	}
	rest := mesh.Chain{TCP: in.tcp(mesh.OutboundCluster(s.Port, "", s.ID.Host), in.tcpTargets(s))}
	if o := in.Routings[s.Routing]; o != nil {
		rest.Origin = origin(o)
		if sock.Protocol.IsTLS() {
			l.Chains = dedupServerNames(tlsRouteChains(in.routing(o, s.Port), in.Options.AccessLog))
		}
	}
	switch {
	case sock.Protocol == mesh.Unknown:
		l.InspectHTTP, l.Default = true, &rest
		http := in.http(Socket{Name: l.Name, RouteConfig: sock.RouteConfig})
		l.Chains = []mesh.Chain{{HTTP: http, Match: mesh.ChainMatch{Transport: "raw_buffer", Applications: plainHTTP}}}
	case len(l.Chains) > 0:
		l.InspectTLS, l.Default = true, &rest
	default:
		l.Chains = []mesh.Chain{rest}
	}
	return l
}

// HeadlessInput is what the listeners of a port of a headless service are made from.
type HeadlessInput struct {
	OutboundInput
	Ref       HeadlessRef
	Service   *mesh.Service
	Endpoints []mesh.Endpoint
}

// HeadlessListeners compiles one listener for each address that a client of a
// headless service may connect to, as Istio does: <address>_<port>.
func HeadlessListeners(in HeadlessInput) []mesh.Listener {
	p, ok := in.Service.Port(in.Ref.Port)
	if !ok {
		return nil
	}
	service := SocketService{in.Ref.ID, in.Ref.Port, in.Ref.Routing}
	var out []mesh.Listener
	for i := range in.Endpoints {
		e := &in.Endpoints[i]
		port := e.TargetPort(p)
		addr, err := netip.ParseAddr(e.Address)
		if err != nil || port == 0 || e.Unready || !in.Ref.Family.speaks(addr) {
			continue
		}
		name := socketName(e.Address, port)
		if slices.ContainsFunc(out, func(l mesh.Listener) bool { return l.Name == name }) {
			continue
		}
		chain := mesh.Chain{TCP: in.tcp(mesh.OutboundCluster(p.Number, "", in.Ref.ID.Host), in.tcpTargets(service))}
		if o := in.Routings[in.Ref.Routing]; o != nil {
			chain.Origin = origin(o)
		}
		out = append(out, mesh.Listener{
			Name: name, Address: e.Address, Port: port, HandOff: true, Direction: mesh.Outbound, Chains: []mesh.Chain{chain},
		})
	}
	return out
}

func (in *OutboundInput) http(sock Socket) *mesh.HTTPConn {
	return &mesh.HTTPConn{
		StatPrefix: "outbound_" + sock.Name, RouteConfig: sock.RouteConfig, Direction: mesh.Outbound,
		Paths: in.Options.Paths, AccessLog: in.Options.AccessLog,
	}
}

func (in *OutboundInput) tcp(prefix string, targets []mesh.Target) *mesh.TCPProxy {
	return &mesh.TCPProxy{StatPrefix: prefix, Targets: targets, AccessLog: in.Options.AccessLog}
}

// unmatched is the chain for connections nothing is known about.
func (in *OutboundInput) unmatched(name string) *mesh.Chain {
	cluster := mesh.Passthrough
	if in.Scope.RegistryOnly {
		cluster = mesh.BlackHole
	}
	return &mesh.Chain{Name: name, TCP: in.tcp(cluster, []mesh.Target{{Cluster: cluster}})}
}

func (in *OutboundInput) routing(owner *config.Object, port uint32) *routing {
	return &routing{
		opts: in.Options, object: owner, destinations: in.Destinations,
		gateway: meshGateway, port: port, client: in.Client,
	}
}

func (r *routing) opaqueTargets(list []*networking.RouteDestination) []mesh.Target {
	var out []mesh.Target
	for _, d := range list {
		if d.Weight > 0 || len(list) == 1 {
			out = append(out, mesh.Target{Cluster: r.cluster(d.Destination, r.object), Weight: uint32(d.Weight)})
		}
	}
	if len(out) == 1 {
		out[0].Weight = 0
	}
	return out
}

// tcpTargets applies the first tcp route that is for this port and client.
func (in *OutboundInput) tcpTargets(s SocketService) []mesh.Target {
	if o := in.Routings[s.Routing]; o != nil {
		r := in.routing(o, s.Port)
		for _, route := range o.Spec.(*networking.VirtualService).Tcp {
			fits := len(route.Match) == 0
			for _, m := range route.Match {
				fits = fits || r.applies(m.Gateways, m.Port, m.SourceLabels, m.SourceNamespace)
			}
			if targets := r.opaqueTargets(route.Route); fits && len(targets) > 0 {
				return targets
			}
		}
	}
	return []mesh.Target{{Cluster: mesh.OutboundCluster(s.Port, "", s.ID.Host)}}
}

// tlsChains: server names of a VirtualService's tls routes, else the host's own.
func (in *OutboundInput) tlsChains(s SocketService) []mesh.Chain {
	var out []mesh.Chain
	if o := in.Routings[s.Routing]; o != nil {
		out = tlsRouteChains(in.routing(o, s.Port), in.Options.AccessLog)
	}
	if len(out) == 0 {
		cluster := mesh.OutboundCluster(s.Port, "", s.ID.Host)
		out = []mesh.Chain{{
			Match: mesh.ChainMatch{ServerNames: []string{s.ID.Host}},
			TCP:   in.tcp(cluster, []mesh.Target{{Cluster: cluster}}),
		}}
	}
	return out
}

func tlsRouteChains(r *routing, log *mesh.AccessLog) []mesh.Chain {
	var out []mesh.Chain
	for _, route := range r.object.Spec.(*networking.VirtualService).Tls {
		targets := r.opaqueTargets(route.Route)
		for _, m := range route.Match {
			if len(targets) == 0 || !r.applies(m.Gateways, m.Port, m.SourceLabels, m.SourceNamespace) {
				continue
			}
			out = append(out, mesh.Chain{
				Match: mesh.ChainMatch{ServerNames: m.SniHosts, Prefixes: prefixes(m.DestinationSubnets)}, Origin: origin(r.object),
				TCP: &mesh.TCPProxy{StatPrefix: targets[0].Cluster, Targets: targets, AccessLog: log},
			})
		}
	}
	return out
}

func prefixes(subnets []string) []string {
	var out []string
	for _, s := range subnets {
		if !strings.Contains(s, "/") {
			if strings.Contains(s, ":") {
				s += "/128"
			} else {
				s += "/32"
			}
		}
		out = append(out, s)
	}
	return out
}

// dedupServerNames keeps the first chain for each server name and subnet: two
// chains with one match would make a proxy refuse the listener.
func dedupServerNames(chains []mesh.Chain) []mesh.Chain {
	seen := map[string]bool{}
	var out []mesh.Chain
	for _, c := range chains {
		key := strings.Join(c.Match.Prefixes, ",")
		c.Match.ServerNames = slices.DeleteFunc(slices.Clone(c.Match.ServerNames), func(n string) bool {
			dup := seen[key+"|"+n]
			seen[key+"|"+n] = true
			return dup
		})
		if len(c.Match.ServerNames) > 0 {
			out = append(out, c)
		}
	}
	return out
}

func (in *OutboundInput) virtualOutbound() mesh.Listener {
	loop := in.tcp(mesh.BlackHole, []mesh.Target{{Cluster: mesh.BlackHole}})
	catchAll := in.unmatched("virtualOutbound-catchall-tcp")
	return mesh.Listener{
		Name: "virtualOutbound", Address: in.Family.any(), DualStack: in.Family == DualStack, Port: in.Options.OutboundPort, OriginalDst: true, Direction: mesh.Outbound,
		Chains: []mesh.Chain{
			{Name: "virtualOutbound-blackhole", Match: mesh.ChainMatch{Port: in.Options.OutboundPort}, TCP: loop},
			*catchAll,
		},
	}
}

// ProxyPortListener is the HTTP proxy port of one proxy, bound to its own
// loopback address.
func ProxyPortListener(opts *Options, address string) *mesh.Listener {
	if opts.ProxyHTTPPort == 0 {
		return nil
	}
	if !strings.HasPrefix(address, "127.") {
		address = "127.0.0.1"
	}
	name := socketName(address, opts.ProxyHTTPPort)
	return &mesh.Listener{
		Name: name, Address: address, Port: opts.ProxyHTTPPort, Direction: mesh.Outbound,
		Chains: []mesh.Chain{{HTTP: &mesh.HTTPConn{
			StatPrefix: "outbound_" + name, RouteConfig: ProxyRouteConfig, Direction: mesh.Outbound,
			Paths: opts.Paths, AccessLog: opts.AccessLog, Connect: true,
		}}},
	}
}
