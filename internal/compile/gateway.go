// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// GatewayInput is what the listeners and routes of one gateway proxy are made from.
type GatewayInput struct {
	Options  *Options
	Workload Workload
	// Services are those the proxy is an endpoint of.
	Services []InboundService
	// Gateways are the Gateway objects that select the proxy.
	Gateways []*config.Object
	// Routings are the VirtualServices that name one of them.
	Routings     []*config.Object
	Delegates    map[Ref]*config.Object
	Destinations map[string]Destination
}

// GatewayConfig is what a gateway proxy runs.
type GatewayConfig struct {
	Listeners    []mesh.Listener
	RouteConfigs []*mesh.RouteConfig
}

// Credentials are the secrets that the listeners refer to, by resource name.
func (c *GatewayConfig) Credentials() []string {
	var out []string
	for i := range c.Listeners {
		for j := range c.Listeners[i].Chains {
			if t := c.Listeners[i].Chains[j].TLS; t != nil && !t.Mesh {
				out = append(out, t.Credentials...)
				if t.Roots != "" && (t.RequireClient || t.OptionalClient) {
					out = append(out, t.Roots)
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// SelectsGateway tells whether a Gateway object is for a proxy with these labels.
func SelectsGateway(o *config.Object, labels map[string]string) bool {
	return mesh.HasLabels(labels, o.Spec.(*networking.Gateway).Selector)
}

// gatewayServer is one server of one Gateway object.
type gatewayServer struct {
	*networking.Server
	owner *config.Object
}

func (s gatewayServer) protocol() mesh.Protocol {
	return protocol(s.Port.GetProtocol(), s.Port.GetName(), s.Port.GetNumber())
}

func (s gatewayServer) terminates() bool {
	return s.Tls != nil && s.Tls.Mode != networking.ServerTLSSettings_PASSTHROUGH && s.Tls.Mode != networking.ServerTLSSettings_AUTO_PASSTHROUGH && !s.plain()
}

// plain: an HTTP server may carry tls only for httpsRedirect.
func (s gatewayServer) plain() bool { return s.protocol().IsHTTP() }

// CompileGateway merges all servers of the gateways that share a port.
func CompileGateway(in GatewayInput) *GatewayConfig {
	gateways, routings := slices.Clone(in.Gateways), slices.Clone(in.Routings)
	config.SortByAge(gateways)
	config.SortByAge(routings)
	in.Gateways, in.Routings = gateways, routings
	type socket struct {
		bind string
		port uint32
	}
	servers := map[socket][]gatewayServer{}
	for _, g := range gateways {
		for _, s := range g.Spec.(*networking.Gateway).Servers {
			k := socket{cmp.Or(s.Bind, in.Workload.Family().named()), in.targetPort(s.Port.GetNumber())}
			servers[k] = append(servers[k], gatewayServer{s, g})
		}
	}
	keys := slices.SortedFunc(maps.Keys(servers), func(a, b socket) int {
		return cmp.Or(cmp.Compare(a.bind, b.bind), cmp.Compare(a.port, b.port))
	})
	out := &GatewayConfig{}
	for _, k := range keys {
		l := mesh.Listener{
			Name: socketName(k.bind, k.port), Address: k.bind, Port: k.port, Direction: mesh.Edge,
			DualStack:        k.bind == "0.0.0.0" && in.Workload.Family() == DualStack,
			DetectionTimeout: in.Options.DetectionTimeout, Origin: origin(servers[k][0].owner),
		}
		if servers[k][0].plain() {
			in.plainPort(out, &l, servers[k], k.bind)
		} else {
			in.otherPort(out, &l, servers[k])
		}
		if l.DualStack {
			l.Address = DualStack.any()
		}
		l.Address, l.Port = in.Workload.socket(l.Address, l.Port)
		if len(l.Chains) > 0 {
			out.Listeners = append(out.Listeners, l)
		}
	}
	slices.SortFunc(out.RouteConfigs, func(a, b *mesh.RouteConfig) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// targetPort is where connections to a server's port arrive: a Service before
// the gateway may send them to another port of its pods.
func (in *GatewayInput) targetPort(number uint32) uint32 {
	for i := range in.Services {
		if p, ok := in.Services[i].Service.Port(number); ok {
			if target := in.Services[i].Endpoint.TargetPort(p); target != 0 {
				return target
			}
		}
	}
	return number
}

// socket is what the proxy opens for an address and port: those, unless it
// publishes them elsewhere. Names keep the ones that were written.
func (w Workload) socket(address string, port uint32) (string, uint32) {
	if address == "0.0.0.0" && w.PublishOn != "" {
		address = w.PublishOn
	}
	return address, cmp.Or(w.PublishedPorts[port], port)
}

func (in *GatewayInput) httpConn(l *mesh.Listener, rc string) *mesh.HTTPConn {
	return &mesh.HTTPConn{
		StatPrefix: "outbound_" + l.Name, RouteConfig: rc, Direction: mesh.Edge,
		Paths: in.Options.Paths, AccessLog: in.Options.AccessLog,
	}
}

// plainPort merges all HTTP servers of a port into one route configuration.
func (in *GatewayInput) plainPort(out *GatewayConfig, l *mesh.Listener, servers []gatewayServer, bind string) {
	name := "http." + portName(l.Port)
	if bind != in.Workload.Family().named() {
		name += "." + bind
	}
	l.Chains = []mesh.Chain{{HTTP: in.httpConn(l, name), Origin: l.Origin}}
	same := slices.DeleteFunc(slices.Clone(servers), func(s gatewayServer) bool { return !s.plain() })
	out.RouteConfigs = append(out.RouteConfigs, in.routeConfig(name, same))
}

// otherPort gives each TLS server chains by server name; a TCP server takes all.
func (in *GatewayInput) otherPort(out *GatewayConfig, l *mesh.Listener, servers []gatewayServer) {
	for _, s := range servers {
		switch {
		case s.plain():
			// Another protocol came first to the port: Istio's first wins.
		case s.terminates() && s.protocol() != mesh.TLS && s.protocol() != mesh.TCP:
			l.InspectTLS = true
			name := strings.Join([]string{"https", portName(l.Port), s.Port.Name, s.owner.Name, s.owner.Namespace}, ".")
			tls := serverTLS(s.Tls, true)
			l.Chains = append(l.Chains, mesh.Chain{
				Match: mesh.ChainMatch{ServerNames: serverNames(s.Hosts)}, TLS: tls, HTTP: in.httpConn(l, name), Origin: origin(s.owner),
			})
			out.RouteConfigs = append(out.RouteConfigs, in.routeConfig(name, []gatewayServer{s}))
		case s.terminates():
			l.InspectTLS = true
			for _, c := range in.tcpChains(s) {
				c.Match = mesh.ChainMatch{ServerNames: serverNames(s.Hosts)}
				c.TLS = serverTLS(s.Tls, false)
				l.Chains = append(l.Chains, c)
				break
			}
		case s.protocol().IsTLS():
			l.InspectTLS = true
			l.Chains = append(l.Chains, in.passthroughChains(s)...)
		default:
			if chains := in.tcpChains(s); len(chains) > 0 {
				l.Chains = append(l.Chains, chains[0])
			}
		}
	}
	if l.InspectTLS {
		l.Chains = uniqueServerNames(l.Chains)
	}
}

// serverNames turns Gateway hosts into SNI; "*" is any, also none.
func serverNames(hosts []string) []string {
	var out []string
	for _, h := range hosts {
		_, h = splitHost(h)
		if h == "*" {
			return nil
		}
		out = append(out, strings.ToLower(h))
	}
	return out
}

// splitHost takes "namespace/host" apart; no namespace is any.
func splitHost(h string) (namespace, host string) {
	if ns, host, ok := strings.Cut(h, "/"); ok {
		return ns, host
	}
	return "*", h
}

// uniqueServerNames drops chains whose server names are taken by older ones.
func uniqueServerNames(chains []mesh.Chain) []mesh.Chain {
	var named, any []mesh.Chain
	for _, c := range chains {
		if len(c.Match.ServerNames) > 0 {
			named = append(named, c)
		} else {
			any = append(any, c)
		}
	}
	out := dedupServerNames(named)
	if len(any) > 0 {
		out = append(out, any[0])
	}
	return out
}

// bound returns the VirtualServices for a server with the hosts they share.
func (in *GatewayInput) bound(s gatewayServer, visit func(o *config.Object, host string)) {
	gateway := refOf(s.owner).String()
	for _, o := range in.Routings {
		spec := o.Spec.(*networking.VirtualService)
		if !slices.ContainsFunc(spec.Gateways, func(g string) bool { return g != meshGateway && gatewayRef(g, o.Namespace).String() == gateway }) {
			continue
		}
		for _, sh := range s.Hosts {
			ns, host := splitHost(sh)
			if ns == "." {
				ns = s.owner.Namespace
			}
			if ns != "*" && ns != o.Namespace {
				continue
			}
			for _, vh := range spec.Hosts {
				if h := narrower(strings.ToLower(host), FQDN(vh, o.Namespace)); h != "" {
					visit(o, h)
				}
			}
		}
	}
}

// routeConfig merges the VirtualServices of all servers by host, in the order
// of their age; routes that match everything go last.
func (in *GatewayInput) routeConfig(name string, servers []gatewayServer) *mesh.RouteConfig {
	port := servers[0].Port.GetNumber()
	hosts := map[string]*mesh.VirtualHost{}
	done := map[string]bool{}
	get := func(h string) *mesh.VirtualHost {
		if hosts[h] == nil {
			hosts[h] = &mesh.VirtualHost{Name: h + ":" + portName(port), Domains: []string{h}}
		}
		return hosts[h]
	}
	for _, s := range servers {
		if s.Tls.GetHttpsRedirect() {
			for _, sh := range s.Hosts {
				_, h := splitHost(sh)
				vh := get(strings.ToLower(h))
				vh.RequireTLS, vh.Origin = true, origin(s.owner)
			}
		}
		in.bound(s, func(o *config.Object, h string) {
			key := refOf(o).String() + "|" + h
			if looksAtGateways(o) {
				key += "|" + refOf(s.owner).String()
			}
			if done[key] {
				return
			}
			done[key] = true
			vh := get(h)
			vh.RequireTLS = vh.RequireTLS || s.Tls.GetHttpsRedirect()
			vh.Origin = cmp.Or(vh.Origin, origin(o))
			vh.Routes = append(vh.Routes, routes(routing{
				opts: in.Options, object: o, delegates: in.Delegates, destinations: in.Destinations,
				gateway: refOf(s.owner).String(), port: port, operation: h + ":" + portName(port),
				client: Client{Namespace: in.Workload.Namespace, Labels: in.Workload.Labels},
			})...)
		})
	}
	rc := &mesh.RouteConfig{Name: name}
	for _, h := range slices.Sorted(maps.Keys(hosts)) {
		vh := hosts[h]
		slices.SortStableFunc(vh.Routes, func(a, b mesh.Route) int { return rankCatchAll(&a) - rankCatchAll(&b) })
		if vh.RequireTLS && len(vh.Routes) == 0 {
			vh.Routes = []mesh.Route{{
				Name: "redirect", Match: mesh.Match{Path: mesh.StringMatch{Kind: mesh.Prefix, Value: "/"}},
				Redirect: &mesh.Redirect{Scheme: "https", Code: 301}, Origin: vh.Origin,
			}}
		}
		rc.Hosts = append(rc.Hosts, vh)
	}
	if len(rc.Hosts) == 0 {
		rc.Hosts = []*mesh.VirtualHost{{Name: "blackhole:" + portName(port), Domains: []string{"*"}}}
	}
	return rc
}

// looksAtGateways tells whether the routes of a VirtualService differ between
// the gateways that it is bound to.
func looksAtGateways(o *config.Object) bool {
	return slices.ContainsFunc(o.Spec.(*networking.VirtualService).Http, func(r *networking.HTTPRoute) bool {
		return r.Delegate != nil || slices.ContainsFunc(r.Match, func(m *networking.HTTPMatchRequest) bool { return len(m.Gateways) > 0 })
	})
}

func rankCatchAll(r *mesh.Route) int {
	if isCatchAll(r) {
		return 1
	}
	return 0
}

// tcpChains: the first tcp route for the server.
func (in *GatewayInput) tcpChains(s gatewayServer) []mesh.Chain {
	var out []mesh.Chain
	seen := map[Ref]bool{}
	in.bound(s, func(o *config.Object, _ string) {
		if seen[refOf(o)] {
			return
		}
		seen[refOf(o)] = true
		r := in.opaque(s, o)
		for _, route := range o.Spec.(*networking.VirtualService).Tcp {
			fits := len(route.Match) == 0
			for _, m := range route.Match {
				fits = fits || r.applies(m.Gateways, m.Port, nil, "")
			}
			if targets := r.opaqueTargets(route.Route); fits && len(targets) > 0 {
				out = append(out, mesh.Chain{Origin: origin(o), TCP: &mesh.TCPProxy{
					StatPrefix: targets[0].Cluster, Targets: targets, AccessLog: in.Options.AccessLog,
				}})
				return
			}
		}
	})
	return out
}

func (in *GatewayInput) opaque(s gatewayServer, o *config.Object) *routing {
	return &routing{
		opts: in.Options, object: o, destinations: in.Destinations, gateway: refOf(s.owner).String(), port: s.Port.GetNumber(),
	}
}

// passthroughChains: the tls routes for the server, whose server names the
// server's hosts cover.
func (in *GatewayInput) passthroughChains(s gatewayServer) []mesh.Chain {
	var out []mesh.Chain
	seen := map[Ref]bool{}
	in.bound(s, func(o *config.Object, _ string) {
		if seen[refOf(o)] {
			return
		}
		seen[refOf(o)] = true
		out = append(out, tlsRouteChains(in.opaque(s, o), in.Options.AccessLog)...)
	})
	return out
}

// serverTLS compiles the TLS of a gateway server or a Sidecar ingress listener.
func serverTLS(t *networking.ServerTLSSettings, isHTTP bool) *mesh.ServerTLS {
	out := &mesh.ServerTLS{
		CertificateFile: t.ServerCertificate, KeyFile: t.PrivateKey, RootFile: t.CaCertificates,
		SubjectAltNames: t.SubjectAltNames, CipherSuites: t.CipherSuites,
		MinVersion: tlsVersion(t.MinProtocolVersion), MaxVersion: tlsVersion(t.MaxProtocolVersion),
	}
	if isHTTP {
		out.ALPN = []string{"h2", "http/1.1"}
	}
	for _, name := range append(slices.Clone(t.CredentialNames), t.CredentialName) {
		if name != "" {
			out.Credentials = append(out.Credentials, credentialName(name))
		}
	}
	if name := cmp.Or(t.CaCertCredentialName, t.CredentialName, append(slices.Clone(t.CredentialNames), "")[0]); name != "" {
		out.Roots = rootsName(name)
	}
	switch t.Mode {
	case networking.ServerTLSSettings_MUTUAL:
		out.RequireClient = true
	case networking.ServerTLSSettings_OPTIONAL_MUTUAL:
		out.OptionalClient = true
	case networking.ServerTLSSettings_ISTIO_MUTUAL:
		out = &mesh.ServerTLS{Mesh: true, ALPN: out.ALPN}
	}
	return out
}

func tlsVersion(v networking.ServerTLSSettings_TLSProtocol) uint8 {
	if v == networking.ServerTLSSettings_TLS_AUTO {
		return 0
	}
	return 9 + uint8(v) // TLSV1_0 is 1
}
