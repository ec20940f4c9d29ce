// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// Destination is what routes need to know about a host they send to.
type Destination struct {
	Service *mesh.Service // nil: unknown
	Rules   []*config.Object
}

// HostInput is what one virtual host of a sidecar is made from.
type HostInput struct {
	Options *Options
	Host    string        // a service's, or a VirtualService's that is no service
	Service *mesh.Service // nil when Host is no service
	Port    mesh.Port
	// WithPort puts the port into the domains (one route configuration for
	// all ports, as for the HTTP proxy port).
	WithPort bool
	// Local tells that the client is in the service's namespace, so that the
	// bare name is a domain too.
	Local bool
	// OwnAddresses tells that no other service of the port has its addresses.
	OwnAddresses bool
	// AnyAuthority: every request is for this host, whatever it names.
	AnyAuthority bool
	// Connect adds a route that ends CONNECT and sends its bytes to the service.
	Connect bool
	// Proxyless leaves out what grpc clients do not know.
	Proxyless    bool
	Routing      *config.Object // the VirtualService, if any
	Delegates    map[Ref]*config.Object
	Client       Client
	Destinations map[string]Destination
}

// Client is what routes may look at of the client's workload.
type Client struct {
	Namespace string
	Labels    map[string]string
}

// Host compiles one virtual host of a sidecar.
func Host(in HostInput) *mesh.VirtualHost {
	port := strconv.FormatUint(uint64(in.Port.Number), 10)
	name := in.Host + ":" + port
	vh := &mesh.VirtualHost{Name: name, Domains: in.domains(port)}
	isHTTP := in.Port.Protocol.MaybeHTTP()
	if isHTTP && in.Routing != nil {
		vh.Origin = origin(in.Routing)
		vh.Routes = routes(routing{
			opts: in.Options, object: in.Routing, delegates: in.Delegates, destinations: in.Destinations,
			gateway: meshGateway, port: in.Port.Number, client: in.Client, operation: name, proxyless: in.Proxyless,
		})
	}
	if in.Service != nil {
		if vh.Origin == "" {
			vh.Origin = in.Service.Origin
		}
		if in.Connect {
			// CONNECT is matched by its own route only: VirtualService matches are
			// about requests, and what runs in the tunnel is opaque.
			vh.Routes = append([]mesh.Route{connectRoute(in)}, vh.Routes...)
		}
		if isHTTP && (in.Routing == nil || len(in.Routing.Spec.(*networking.VirtualService).Http) == 0) {
			vh.Routes = append(vh.Routes, defaultRoute(in, name))
		}
	}
	return vh
}

func connectRoute(in HostInput) mesh.Route {
	return mesh.Route{
		Name: "connect", Origin: in.Service.Origin, Match: mesh.Match{Connect: true},
		Forward: &mesh.Forward{
			Targets:   []mesh.Target{{Cluster: mesh.OutboundCluster(in.Port.Number, "", in.Service.ID.Host)}},
			Terminate: true,
		},
	}
}

func defaultRoute(in HostInput, name string) mesh.Route {
	hash := hashKeys(in.Destinations[in.Host], in.Port, "")
	return mesh.Route{
		Name: "default", Operation: name + "/*", Match: mesh.Match{Path: mesh.StringMatch{Kind: mesh.Prefix, Value: "/"}},
		Forward: &mesh.Forward{
			Targets: []mesh.Target{{Cluster: mesh.OutboundCluster(in.Port.Number, "", in.Service.ID.Host)}},
			Retry:   retry(nil, in.Options, len(hash) > 0), Hash: hash,
		},
	}
}

// hashKeys returns where a request's hash comes from when its destination is
// balanced consistently.
func hashKeys(d Destination, port mesh.Port, subsetName string) []mesh.HashKey {
	if len(d.Rules) == 0 {
		return nil
	}
	merged := mergeRules(d.Rules)
	tp := portPolicy(merged.policy, port)
	for _, s := range merged.subsets {
		if s.name == subsetName && subsetName != "" {
			tp = subsetPolicy(tp, s.policy, port)
		}
	}
	var p mesh.Policy
	balance(&p, tp.GetLoadBalancer())
	return p.Hash
}

// domains lists the names a client may use, the full one first.
func (in *HostInput) domains(port string) []string {
	if in.AnyAuthority {
		return []string{"*"}
	}
	names := []string{in.Host}
	if strings.HasSuffix(in.Host, ".svc."+ClusterDomain) && !strings.HasPrefix(in.Host, "*") {
		names = append(append(names, in.Host+"."), ShortNames(in.Host, in.Local && in.Service != nil)...)
	}
	if in.Service != nil && in.Service.Headless {
		// The names of its pods: pod-0.<host>.
		for _, n := range slices.Clone(names) {
			if !strings.HasSuffix(n, ".") {
				names = append(names, "*."+n)
			}
		}
	}
	if in.Service != nil && in.OwnAddresses {
		for _, a := range in.Service.Addresses {
			if !strings.Contains(a, "/") {
				if strings.Contains(a, ":") {
					a = "[" + a + "]"
				}
				names = append(names, a)
			}
		}
	}
	if !in.WithPort && !in.Proxyless {
		return slices.DeleteFunc(names, func(s string) bool { return s == "" })
	}
	var out []string
	for _, n := range names {
		if in.Port.Number == 80 || in.Proxyless {
			out = append(out, n)
		}
		if n != "*" {
			out = append(out, n+":"+port)
		}
	}
	return out
}

// ShortNames returns the names under which DNS search domains find a
// cluster-local host; local adds the one that is good in its own namespace.
func ShortNames(host string, local bool) []string {
	base, ok := strings.CutSuffix(host, ".svc."+ClusterDomain)
	if !ok || strings.HasPrefix(host, "*") {
		return nil
	}
	var out []string
	if short, _, _ := strings.Cut(base, "."); local {
		out = append(out, short)
	}
	return append(out, base+".svc", base)
}

// DestinationHosts returns the hosts a VirtualService sends to, so that the
// caller can look them up.
func DestinationHosts(o *config.Object) []string {
	var out []string
	for _, d := range destinations(o) {
		if h := FQDN(d.Host, o.Namespace); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// destinations is everything a VirtualService sends requests or connections
// to, mirrors included.
func destinations(o *config.Object) []*networking.Destination {
	var out []*networking.Destination
	spec := o.Spec.(*networking.VirtualService)
	for _, r := range spec.Http {
		for _, d := range r.Route {
			out = append(out, d.Destination)
		}
		out = append(out, r.Mirror)
		for _, m := range r.Mirrors {
			out = append(out, m.Destination)
		}
	}
	for _, r := range spec.Tls {
		for _, d := range r.Route {
			out = append(out, d.Destination)
		}
	}
	for _, r := range spec.Tcp {
		for _, d := range r.Route {
			out = append(out, d.Destination)
		}
	}
	return slices.DeleteFunc(out, func(d *networking.Destination) bool { return d == nil })
}

// DelegateRefs returns the VirtualServices that the routes of one hand over to.
func DelegateRefs(o *config.Object) []Ref {
	var out []Ref
	for _, r := range o.Spec.(*networking.VirtualService).Http {
		if d := r.Delegate; d != nil {
			ref := Ref{d.Namespace, d.Name}
			if ref.Namespace == "" {
				ref.Namespace = o.Namespace
			}
			out = append(out, ref)
		}
	}
	return out
}

// CatchAll is the virtual host for hosts nobody declared.
func CatchAll(opts *Options, registryOnly, proxyPort bool) *mesh.VirtualHost {
	all := mesh.Match{Path: mesh.StringMatch{Kind: mesh.Prefix, Value: "/"}}
	if registryOnly || proxyPort {
		// On the HTTP proxy port there is no original destination to pass on
		// to, so an undeclared host is refused there whatever the policy is.
		return &mesh.VirtualHost{Name: "block_all", Domains: []string{"*"}, Routes: []mesh.Route{
			{Name: "block_all", Match: all, Direct: &mesh.Direct{Status: 502}},
		}}
	}
	return &mesh.VirtualHost{Name: "allow_any", Domains: []string{"*"}, Routes: []mesh.Route{
		{Name: "allow_any", Match: all, Forward: &mesh.Forward{Targets: []mesh.Target{{Cluster: mesh.Passthrough}}}},
	}}
}
