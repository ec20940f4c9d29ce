// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"strconv"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

// ProxyRouteConfig is the route configuration of the HTTP proxy port.
const ProxyRouteConfig = "http_proxy"

func portName(port uint32) string { return strconv.FormatUint(uint64(port), 10) }

func socketName(address string, port uint32) string { return address + "_" + portName(port) }

// proxyPort puts every host of every port behind the HTTP proxy port. Ports
// that are not HTTP are reached by CONNECT.
func (s *scoper) proxyPort(visible []*mesh.Service) {
	if s.Options.ProxyHTTPPort == 0 {
		return
	}
	s.rcs[ProxyRouteConfig] = true
	for _, svc := range visible {
		for _, p := range svc.Ports {
			if p.Protocol != mesh.UDP {
				s.host(HostRef{RouteConfig: ProxyRouteConfig, Host: svc.ID.Host, Port: p.Number, WithPort: true, Connect: true}, svc, nil)
			}
		}
	}
	for _, h := range s.unserved() {
		if h != "*" {
			s.host(HostRef{RouteConfig: ProxyRouteConfig, Host: h, Port: 80, WithPort: true}, nil, nil)
		}
	}
}

// boundSockets are the Sidecar egress listeners with a port, which the proxy
// binds itself when nothing is redirected to it.
func (s *scoper) boundSockets(visible []*mesh.Service) {
	for i := range s.egress {
		e := &s.egress[i]
		if e.port == nil {
			continue
		}
		bind := e.bind
		if bind == "" {
			bind = "127.0.0.1"
		}
		sock := Socket{Name: socketName(bind, e.port.Number), Address: bind, Port: e.port.Number,
			Protocol: protocol(e.port.Protocol, e.port.Name, e.port.Number)}
		for _, svc := range visible {
			if !e.allows(svc.ID.Namespace, svc.ID.Host) {
				continue
			}
			if _, ok := svc.Port(e.port.Number); !ok {
				continue
			}
			if sock.Protocol.MaybeHTTP() {
				s.host(HostRef{RouteConfig: portName(e.port.Number), Host: svc.ID.Host, Port: e.port.Number}, svc, e)
				continue
			}
			sock.Services = append(sock.Services, s.socketService(svc, e.port.Number))
		}
		if sock.Protocol.MaybeHTTP() {
			sock.RouteConfig = portName(e.port.Number)
			s.rcs[sock.RouteConfig] = true
		} else if len(sock.Services) == 0 {
			continue // nothing behind it (yet)
		}
		s.out.Sockets = append(s.out.Sockets, sock)
	}
}

func (s *scoper) socketService(svc *mesh.Service, port uint32) SocketService {
	out := SocketService{ID: svc.ID, Port: port}
	if head := s.Registry.RouteFor(svc.ID.Host, s.Namespace, nil); head != nil && head.Opaque {
		out.Routing = head.Ref
	}
	return out
}

// redirected plans the hand-off listeners behind the redirect port: one per
// HTTP port for all hosts; for everything else one per address and port of a
// service, or, where services have no addresses, one per port.
func (s *scoper) redirected(visible []*mesh.Service) {
	for _, svc := range visible {
		for _, p := range svc.Ports {
			switch {
			case p.Protocol == mesh.UDP || p.Number == s.Options.OutboundPort || p.Number == s.Options.InboundPort:
			case p.Protocol.IsHTTP():
				s.wildcard(p, mesh.HTTP)
			case s.ownSockets(svc, p):
			case svc.Headless:
				s.out.Headless = append(s.out.Headless, s.headless(svc, p))
			case p.Protocol == mesh.Unknown:
				s.wildcard(p, mesh.HTTP)
			case p.Protocol.IsTLS():
				if sock := s.wildcard(p, mesh.TLS); sock.Protocol == mesh.TLS {
					sock.Services = append(sock.Services, s.socketService(svc, p.Number))
				}
			default:
				if sock := s.wildcard(p, mesh.TCP); sock.Protocol == mesh.TCP && len(sock.Services) == 0 {
					sock.Services = []SocketService{s.socketService(svc, p.Number)}
				}
			}
		}
	}
	for _, sock := range s.ports {
		if sock.Protocol == mesh.HTTP {
			sock.RouteConfig = portName(sock.Port)
			s.rcs[sock.RouteConfig] = true
		}
		s.out.Sockets = append(s.out.Sockets, *sock)
	}
	for _, svc := range visible {
		for _, p := range svc.Ports {
			if p.Protocol.MaybeHTTP() && s.ports[p.Number] != nil && s.ports[p.Number].Protocol == mesh.HTTP {
				s.host(HostRef{RouteConfig: portName(p.Number), Host: svc.ID.Host, Port: p.Number}, svc, nil)
			}
		}
	}
	for _, h := range s.unserved() {
		for port, sock := range s.ports {
			if sock.Protocol == mesh.HTTP && h != "*" {
				s.host(HostRef{RouteConfig: portName(port), Host: h, Port: port}, nil, nil)
			}
		}
	}
}

// wildcard returns the socket of all addresses for a port. The first protocol
// that comes to a port decides; services are in a fixed order, so that every
// replica decides alike.
func (s *scoper) wildcard(p mesh.Port, proto mesh.Protocol) *Socket {
	sock := s.ports[p.Number]
	if sock == nil {
		sock = &Socket{Name: socketName(s.Family.named(), p.Number), Address: s.Family.any(), Port: p.Number, HandOff: true, Protocol: proto}
		s.ports[p.Number] = sock
	}
	return sock
}

// ownSockets plans a socket for each address of a service, if it has any. Of
// addresses that several services have, the first service has the socket.
func (s *scoper) ownSockets(svc *mesh.Service, p mesh.Port) bool {
	proto, rc := p.Protocol, ""
	if proto == mesh.Unknown {
		rc = svc.ID.Host + ":" + portName(p.Number)
	}
	found := false
	addresses := svc.Addresses
	if a := s.Registry.auto[svc.ID]; a != "" && s.DNS {
		addresses = []string{a}
	}
	for _, a := range addresses {
		addr, err := netip.ParseAddr(a)
		if owner, known := s.Registry.vips[vip{a, p.Number}]; err != nil || known && owner != svc.ID {
			continue
		}
		found = true
		if !s.Family.speaks(addr) {
			continue
		}
		own := OwnSocket{Address: a, Protocol: proto, RouteConfig: rc, Service: s.socketService(svc, p.Number), Origin: s.out.Origin}
		own.ClientNamespace, own.ClientLabels = s.opaqueClient(svc, own.Service)
		s.out.Own = append(s.out.Own, own)
	}
	if found && rc != "" {
		s.host(HostRef{RouteConfig: rc, Host: svc.ID.Host, Port: p.Number, Sniffed: true}, svc, nil)
	}
	return found
}

func (s *scoper) headless(svc *mesh.Service, p mesh.Port) HeadlessRef {
	to := s.socketService(svc, p.Number)
	ref := HeadlessRef{ID: svc.ID, Port: p.Number, Family: s.Family, Routing: to.Routing}
	ref.ClientNamespace, ref.ClientLabels = s.opaqueClient(svc, to)
	return ref
}

// opaqueClient is the client as far as the tcp and tls routes for a service
// look at it; their destinations depend on its namespace.
func (s *scoper) opaqueClient(svc *mesh.Service, to SocketService) (namespace, labels string) {
	if to.Routing.Name == "" {
		return "", ""
	}
	head := s.Registry.RouteFor(svc.ID.Host, s.Namespace, nil)
	return s.Namespace, EncodeLabels(s.Labels, head.SourceKeys)
}

// proxyless gives each service port a route configuration of its own, named as
// Istio's grpc generator does.
func (s *scoper) proxyless(visible []*mesh.Service) {
	for _, svc := range visible {
		for _, p := range svc.Ports {
			if p.Protocol.MaybeHTTP() {
				s.host(HostRef{RouteConfig: mesh.OutboundCluster(p.Number, "", svc.ID.Host), Host: svc.ID.Host, Port: p.Number, Proxyless: true}, svc, nil)
			}
		}
	}
}
