// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// Workload is who a proxy stands beside.
type Workload struct {
	Namespace string
	Name      string
	Address   string
	// Addresses are all that the workload has, Address among them; empty: only it.
	Addresses []string
	Labels    map[string]string
	// PublishOn is what a gateway opens for 0.0.0.0, and PublishedPorts what it
	// opens for some ports, as for a container whose ports are published: on
	// one machine a gateway is not alone with its network.
	PublishOn      string
	PublishedPorts map[uint32]uint32
}

// Family is which addresses the workload has.
func (w Workload) Family() Family {
	if len(w.Addresses) == 0 {
		return FamilyOf([]string{w.Address})
	}
	return FamilyOf(w.Addresses)
}

// InboundService is a service that has the workload among its endpoints.
type InboundService struct {
	Service  *mesh.Service
	Endpoint mesh.Endpoint
}

// InboundInput is what the inbound side of a sidecar is made from.
type InboundInput struct {
	Options  *Options
	Workload Workload
	Mode     Mode
	Sidecar  *config.Object   // the Sidecar in force, or nil
	Services []InboundService // by service
	Peers    []*config.Object // PeerAuthentications of the namespace and the root namespace
}

// Inbound is the inbound side of a sidecar.
type Inbound struct {
	Listeners []mesh.Listener
	Clusters  []mesh.Cluster
}

// inboundPort is one port of the workload.
type inboundPort struct {
	number   uint32 // that clients connect to
	protocol mesh.Protocol
	bind     string
	endpoint string // host:port or unix path of the application; empty: where the client wanted
	service  *mesh.Service
	origin   mesh.Origin
	// plain is a Sidecar's own TLS: then PeerAuthentication does not apply.
	tls *networking.ServerTLSSettings
}

// The ALPN values of the mesh's own connections.
var (
	meshHTTP = []string{"istio-http/1.0", "istio-http/1.1", "istio-h2"}
	meshAny  = []string{"istio-peer-exchange", "istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"}
)

// CompileInbound compiles the inbound side of a sidecar.
func CompileInbound(in InboundInput) *Inbound {
	out := &Inbound{}
	ports := in.ports()
	for _, p := range ports {
		out.Clusters = append(out.Clusters, in.cluster(p))
	}
	if in.Mode == ModeRedirect {
		out.Listeners = []mesh.Listener{in.virtual(ports)}
		out.Clusters = append(out.Clusters, mesh.Cluster{
			Name: mesh.InboundPassthrough, Kind: mesh.ClusterOriginalDst, Inbound: true, IPv6: in.Workload.Family() == IPv6,
			Policy: in.passthroughPolicy(), Upstream: mesh.UpstreamAsClient,
		})
		return out
	}
	for _, p := range ports {
		bind := p.bind
		out.Listeners = append(out.Listeners, mesh.Listener{
			Name: socketName(bind, p.number), Address: bind, Port: p.number, Direction: mesh.Inbound,
			InspectTLS: true, InspectHTTP: p.protocol == mesh.Unknown, DetectionTimeout: in.Options.DetectionTimeout,
			Chains: in.chains(p, 0), Origin: p.origin,
		})
	}
	return out
}

func (in *InboundInput) passthroughPolicy() mesh.Policy {
	p := policy(nil, in.Options)
	p.Balancer, p.H2Upgrade = mesh.PassthroughLB, false // the application speaks what it speaks
	return p
}

// ports are those of the Sidecar's ingress listeners, or else those of the
// services that the workload is part of.
func (in *InboundInput) ports() []inboundPort {
	var out []inboundPort
	if in.Sidecar != nil {
		for _, i := range in.Sidecar.Spec.(*networking.Sidecar).Ingress {
			p := inboundPort{
				number: i.Port.GetNumber(), protocol: protocol(i.Port.GetProtocol(), i.Port.GetName(), i.Port.GetNumber()),
				bind: cmp.Or(i.Bind, in.Workload.Address), endpoint: in.ingressEndpoint(i), origin: origin(in.Sidecar),
				service: in.serviceOf(i.Port.GetNumber()), tls: i.Tls,
			}
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		for _, s := range in.Services {
			for _, sp := range s.Service.Ports {
				number := s.Endpoint.TargetPort(sp)
				if number == 0 || sp.Protocol == mesh.UDP || slices.ContainsFunc(out, func(p inboundPort) bool { return p.number == number }) {
					continue
				}
				p := inboundPort{number: number, protocol: sp.Protocol, bind: in.Workload.Address, service: s.Service, origin: s.Service.Origin}
				if in.Mode == ModeNone || in.Options.InboundLocalhost {
					p.endpoint = net.JoinHostPort("127.0.0.1", strconv.FormatUint(uint64(number), 10))
				}
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, func(a, b inboundPort) int { return cmp.Compare(a.number, b.number) })
	return out
}

// ingressEndpoint: Istio's 0.0.0.0:port means the workload's own address.
func (in *InboundInput) ingressEndpoint(i *networking.IstioIngressListener) string {
	host, port, err := net.SplitHostPort(i.DefaultEndpoint)
	if strings.HasPrefix(i.DefaultEndpoint, "unix://") {
		return i.DefaultEndpoint
	}
	if err != nil {
		return net.JoinHostPort("127.0.0.1", strconv.FormatUint(uint64(i.Port.GetNumber()), 10))
	}
	if host == "0.0.0.0" || host == "::" {
		host = in.Workload.Address
	}
	return net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port)
}

func (in *InboundInput) serviceOf(port uint32) *mesh.Service {
	for _, s := range in.Services {
		for _, p := range s.Service.Ports {
			if s.Endpoint.TargetPort(p) == port {
				return s.Service
			}
		}
	}
	return nil
}

func (in *InboundInput) cluster(p inboundPort) mesh.Cluster {
	c := mesh.Cluster{
		Name: mesh.InboundCluster(p.number), Kind: mesh.ClusterOriginalDst, Port: p.number, Protocol: p.protocol,
		Origin: p.origin, Inbound: true, IPv6: in.Workload.Family() == IPv6, Policy: in.passthroughPolicy(),
	}
	c.Upstream = upstream(mesh.Port{Number: p.number, Protocol: p.protocol}, c.Policy)
	if p.service != nil {
		c.Service, c.ServiceName = p.service.ID, p.service.Name
	}
	if p.endpoint == "" {
		return c
	}
	c.Kind, c.Policy.Balancer = mesh.ClusterStatic, mesh.RoundRobin
	e := mesh.ClusterEndpoint{Address: p.endpoint, Weight: 1}
	if host, port, err := net.SplitHostPort(p.endpoint); err == nil && !strings.HasPrefix(p.endpoint, "unix://") {
		n, _ := strconv.ParseUint(port, 10, 16)
		e.Address, e.Port = host, uint32(n)
	}
	c.Endpoints = []mesh.LocalityEndpoints{{Weight: 1, Endpoints: []mesh.ClusterEndpoint{e}}}
	return c
}

// chains are the filter chains of one port. A connection that the mode does
// not allow matches none and is reset.
func (in *InboundInput) chains(p inboundPort, match uint32) []mesh.Chain {
	name := socketName(in.Workload.Family().named(), p.number)
	http, tcp := in.http(p), in.tcp(p)
	chain := func(transport string, alpn []string, tls bool, isHTTP bool) mesh.Chain {
		c := mesh.Chain{Name: name, Match: mesh.ChainMatch{Port: match, Transport: transport, Applications: alpn}, Origin: p.origin}
		if isHTTP {
			c.HTTP = http
			if tls {
				h := *http
				h.ForwardCert = true
				c.HTTP = &h
			}
		} else {
			c.TCP = tcp
		}
		if tls {
			c.TLS = in.meshTLS(isHTTP)
		}
		return c
	}
	if p.tls != nil && p.tls.Mode != networking.ServerTLSSettings_PASSTHROUGH {
		c := chain("", nil, false, p.protocol.IsHTTP())
		c.TLS = serverTLS(p.tls, p.protocol.IsHTTP())
		return []mesh.Chain{c}
	}
	mode := PeerMode(PeerInput{in.Options.RootNamespace, in.Workload.Namespace, in.Workload.Labels, p.number, in.Peers})
	isHTTP, auto := p.protocol.IsHTTP(), p.protocol == mesh.Unknown
	var out []mesh.Chain
	if mode != PeerDisable {
		switch {
		case auto:
			out = append(out, chain("tls", meshHTTP, true, true), chain("tls", meshAny[:2], true, false))
		case mode == PeerStrict:
			out = append(out, chain("tls", nil, true, isHTTP))
		default:
			out = append(out, chain("tls", meshAny, true, isHTTP))
		}
	}
	if mode == PeerStrict {
		return out
	}
	switch {
	case auto:
		out = append(out, chain("raw_buffer", plainHTTP, false, true), chain("", nil, false, false))
	case isHTTP:
		// TLS that is not the mesh's matches nothing: policies on requests could
		// not be held to it.
		out = append(out, chain("raw_buffer", nil, false, true))
	default:
		out = append(out, chain("", nil, false, false))
	}
	return out
}

// meshTLS is the server side of mesh mutual TLS. Both peers are Lateen's or
// Istio's sidecars, whose clients offer these protocols.
func (in *InboundInput) meshTLS(isHTTP bool) *mesh.ServerTLS {
	t := &mesh.ServerTLS{Mesh: true, TrustDomains: in.Options.TrustDomains, ALPN: []string{"h2", "http/1.1"}}
	if !isHTTP {
		t.ALPN = []string{"istio-peer-exchange", "istio"}
	}
	return t
}

func (in *InboundInput) http(p inboundPort) *mesh.HTTPConn {
	name := mesh.InboundCluster(p.number)
	operation := ":" + portName(p.number) + "/*"
	vh := &mesh.VirtualHost{Name: "inbound|http|" + portName(p.number), Domains: []string{"*"}, Origin: p.origin}
	if p.service != nil {
		operation = p.service.ID.Host + operation
	}
	vh.Routes = []mesh.Route{{
		Name: "default", Origin: p.origin, Operation: operation, Match: mesh.Match{Path: mesh.StringMatch{Kind: mesh.Prefix, Value: "/"}},
		Forward: &mesh.Forward{
			Targets: []mesh.Target{{Cluster: name}},
			// The connection to the application may have been closed meanwhile.
			Retry: &mesh.Retry{On: "reset-before-request", Attempts: 2},
		},
	}}
	return &mesh.HTTPConn{
		StatPrefix: "inbound_" + portName(p.number), Direction: mesh.Inbound, Paths: in.Options.Paths, AccessLog: in.Options.AccessLog,
		Inline: &mesh.RouteConfig{Name: name, Hosts: []*mesh.VirtualHost{vh}},
	}
}

func (in *InboundInput) tcp(p inboundPort) *mesh.TCPProxy {
	name := mesh.InboundCluster(p.number)
	return &mesh.TCPProxy{StatPrefix: name, Targets: []mesh.Target{{Cluster: name}}, AccessLog: in.Options.AccessLog}
}

// virtual is the listener all inbound connections are redirected to.
func (in *InboundInput) virtual(ports []inboundPort) mesh.Listener {
	number := in.Options.InboundPort
	family := in.Workload.Family()
	l := mesh.Listener{
		Name: "virtualInbound", Address: family.any(), DualStack: family == DualStack, Port: number, OriginalDst: true, Direction: mesh.Inbound,
		PlainPorts: []uint32{number}, OpaquePorts: []uint32{number},
		InspectTLS: true, InspectHTTP: true, DetectionTimeout: in.Options.DetectionTimeout,
		Chains: []mesh.Chain{{
			Name: "virtualInbound-blackhole", Match: mesh.ChainMatch{Port: number},
			TCP: &mesh.TCPProxy{StatPrefix: mesh.BlackHole, Targets: []mesh.Target{{Cluster: mesh.BlackHole}}},
		}},
	}
	rest := inboundPort{protocol: mesh.Unknown}
	for _, c := range in.chains(rest, 0) {
		if c.Name = "virtualInbound-catchall-tcp"; c.HTTP != nil {
			c.Name = "virtualInbound-catchall-http"
			h := *c.HTTP
			h.StatPrefix = mesh.InboundPassthrough
			h.Inline = renamed(h.Inline, mesh.InboundPassthrough)
			c.HTTP = &h
		} else {
			c.TCP = &mesh.TCPProxy{StatPrefix: mesh.InboundPassthrough, Targets: []mesh.Target{{Cluster: mesh.InboundPassthrough}}, AccessLog: in.Options.AccessLog}
		}
		l.Chains = append(l.Chains, c)
	}
	for _, p := range ports {
		chains := in.chains(p, p.number)
		l.Chains = append(l.Chains, chains...)
		// A server may be the one who speaks first: nobody waits for the client
		// where its first bytes decide nothing.
		if !slices.ContainsFunc(chains, func(c mesh.Chain) bool { return c.TLS != nil || c.Match.Transport == "tls" }) {
			l.PlainPorts = append(l.PlainPorts, p.number)
		}
		if !slices.ContainsFunc(chains, func(c mesh.Chain) bool { return slices.Equal(c.Match.Applications, plainHTTP) }) {
			l.OpaquePorts = append(l.OpaquePorts, p.number)
		}
	}
	return l
}

func renamed(rc *mesh.RouteConfig, cluster string) *mesh.RouteConfig {
	vh := *rc.Hosts[0]
	vh.Routes = slices.Clone(vh.Routes)
	f := *vh.Routes[0].Forward
	f.Targets = []mesh.Target{{Cluster: cluster}}
	vh.Routes[0].Forward = &f
	return &mesh.RouteConfig{Name: cluster, Hosts: []*mesh.VirtualHost{&vh}}
}

// SelectSidecar returns the Sidecar in force for a workload: one that selects
// it by label (the oldest), else the namespace's without selector, else the
// root namespace's without selector.
func SelectSidecar(sidecars []*config.Object, opts *Options, namespace string, labels map[string]string) *config.Object {
	var selected, own, root *config.Object
	older := func(cur *config.Object, o *config.Object) *config.Object {
		if cur == nil || config.Older(o, cur) < 0 {
			return o
		}
		return cur
	}
	for _, o := range sidecars {
		sel := o.Spec.(*networking.Sidecar).GetWorkloadSelector().GetLabels()
		switch {
		case o.Namespace == namespace && len(sel) > 0:
			if mesh.HasLabels(labels, sel) {
				selected = older(selected, o)
			}
		case len(sel) > 0:
		case o.Namespace == namespace:
			own = older(own, o)
		case o.Namespace == opts.RootNamespace:
			root = older(root, o)
		}
	}
	if selected != nil {
		return selected
	}
	if own != nil {
		return own
	}
	return root
}
