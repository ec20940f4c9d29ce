// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the old fields of the API are still served

package compile

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// routing is what the HTTP routes of one VirtualService are made from, for one
// port of one gateway or of the mesh.
type routing struct {
	opts         *Options
	object       *config.Object
	delegates    map[Ref]*config.Object
	destinations map[string]Destination
	gateway      string // "mesh" or namespace/name
	port         uint32
	client       Client
	operation    string // prefix of the operation's name
	proxyless    bool
}

// routes compiles the HTTP routes in order. Nothing can follow a route that
// matches everything, so the list ends there.
func routes(in routing) []mesh.Route {
	var out []mesh.Route
	spec := in.object.Spec.(*networking.VirtualService)
	for i, r := range spec.Http {
		if r.Delegate == nil {
			owner := in.object
			if i < len(owner.Parents) {
				owner = &config.Object{Key: owner.Parents[i]}
			}
			if out = in.add(out, r, owner); endsInCatchAll(out) {
				return out
			}
			continue
		}
		ref := Ref{r.Delegate.Namespace, r.Delegate.Name}
		if ref.Namespace == "" {
			ref.Namespace = in.object.Namespace
		}
		d := in.delegates[ref]
		if d == nil {
			continue // not there (yet): the route is absent, the others work
		}
		for _, dr := range d.Spec.(*networking.VirtualService).Http {
			merged := mergeDelegate(r, dr)
			if merged == nil {
				continue
			}
			if out = in.add(out, merged, d); endsInCatchAll(out) {
				return out
			}
		}
	}
	return out
}

func endsInCatchAll(list []mesh.Route) bool {
	if len(list) == 0 {
		return false
	}
	return isCatchAll(&list[len(list)-1])
}

func isCatchAll(r *mesh.Route) bool {
	p := r.Match.Path
	return (p.Kind == mesh.Any || p.Kind == mesh.Prefix && p.Value == "/" || p.Kind == mesh.Regex && p.Value == ".*") &&
		len(r.Match.Headers) == 0 && len(r.Match.Query) == 0 && !r.Match.Connect
}

func (in *routing) add(out []mesh.Route, r *networking.HTTPRoute, owner *config.Object) []mesh.Route {
	if len(r.Match) == 0 {
		return append(out, in.route(r, nil, owner))
	}
	for _, m := range r.Match {
		if !in.applies(m.Gateways, m.Port, m.SourceLabels, m.SourceNamespace) {
			continue
		}
		out = append(out, in.route(r, m, owner))
		if endsInCatchAll(out) {
			break
		}
	}
	return out
}

// applies tells whether a match is for this gateway, port and client.
func (in *routing) applies(gateways []string, port uint32, labels map[string]string, namespace string) bool {
	if port != 0 && port != in.port {
		return false
	}
	if len(gateways) > 0 {
		// Istio: where a match names gateways, the source is not asked about.
		return slices.ContainsFunc(gateways, func(g string) bool {
			return g == in.gateway || g != meshGateway && gatewayRef(g, in.object.Namespace).String() == in.gateway
		})
	}
	return mesh.HasLabels(in.client.Labels, labels) && (namespace == "" || namespace == in.client.Namespace)
}

func (in *routing) route(r *networking.HTTPRoute, m *networking.HTTPMatchRequest, owner *config.Object) mesh.Route {
	out := mesh.Route{
		Name: r.Name, Origin: origin(owner), Match: match(m), Headers: headerOps(r.Headers),
		Fault: fault(r.Fault), CORS: cors(r.CorsPolicy),
	}
	if m.GetName() != "" {
		out.Name = strings.TrimPrefix(out.Name+"."+m.Name, ".")
	}
	out.Operation = in.operation + pathOperation(out.Match.Path)
	switch {
	case r.Redirect != nil:
		out.Redirect = redirect(r.Redirect, in.port)
	case r.DirectResponse != nil:
		out.Direct = &mesh.Direct{Status: r.DirectResponse.Status, Body: directBody(r.DirectResponse.Body)}
	default:
		out.Forward = in.forward(r, owner)
	}
	return out
}

func pathOperation(p mesh.StringMatch) string {
	switch p.Kind {
	case mesh.Exact, mesh.Regex:
		return p.Value
	case mesh.Prefix:
		return p.Value + "*"
	}
	return "/*"
}

func directBody(b *networking.HTTPBody) []byte {
	switch s := b.GetSpecifier().(type) {
	case *networking.HTTPBody_String_:
		return []byte(s.String_)
	case *networking.HTTPBody_Bytes:
		return s.Bytes
	}
	return nil
}

func (in *routing) forward(r *networking.HTTPRoute, owner *config.Object) *mesh.Forward {
	f := &mesh.Forward{Timeout: r.Timeout.AsDuration()}
	for _, d := range r.Route {
		if d.Weight == 0 && len(r.Route) > 1 {
			continue
		}
		t := mesh.Target{
			Cluster: in.cluster(d.Destination, owner), Weight: uint32(d.Weight),
			Headers: headerOps(d.Headers), Host: routeHost(d.Headers),
		}
		f.Targets = append(f.Targets, t)
		if f.Hash == nil {
			host := FQDN(d.Destination.GetHost(), owner.Namespace)
			f.Hash = hashKeys(in.destinations[host], in.destinationPort(d.Destination, host), d.Destination.GetSubset())
		}
	}
	if len(f.Targets) == 0 {
		f.Targets = []mesh.Target{{Cluster: mesh.BlackHole}}
	}
	if len(f.Targets) == 1 {
		f.Targets[0].Weight = 0
	}
	f.Retry = retry(r.Retries, in.opts, len(f.Hash) > 0)
	if w := r.Rewrite; w != nil {
		f.Rewrite = &mesh.Rewrite{Prefix: w.Uri, Authority: w.Authority}
		if x := w.UriRegexRewrite; x != nil {
			f.Rewrite.Prefix, f.Rewrite.Regex, f.Rewrite.Replace = "", x.Match, x.Rewrite
		}
	}
	if host := routeHost(r.Headers); host != "" && (f.Rewrite == nil || f.Rewrite.Authority == "") {
		if f.Rewrite == nil {
			f.Rewrite = &mesh.Rewrite{}
		}
		f.Rewrite.Authority = host
	}
	in.mirrors(f, r, owner)
	return f
}

func (in *routing) mirrors(f *mesh.Forward, r *networking.HTTPRoute, owner *config.Object) {
	if r.Mirror != nil {
		share := uint32(1_000_000)
		if p := r.MirrorPercentage; p != nil {
			share = perMillion(p)
		} else if p := r.MirrorPercent; p != nil {
			share = p.Value * 10_000
		}
		if share > 0 {
			f.Mirrors = append(f.Mirrors, mesh.Mirror{Cluster: in.cluster(r.Mirror, owner), PerMillion: share})
		}
	}
	for _, m := range r.Mirrors {
		share := uint32(1_000_000)
		if m.Percentage != nil {
			share = perMillion(m.Percentage)
		}
		if share > 0 {
			f.Mirrors = append(f.Mirrors, mesh.Mirror{Cluster: in.cluster(m.Destination, owner), PerMillion: share})
		}
	}
}

func perMillion(p *networking.Percent) uint32 { return uint32(p.GetValue()*10_000 + 0.5) }

func (in *routing) cluster(d *networking.Destination, owner *config.Object) string {
	host := FQDN(d.GetHost(), owner.Namespace)
	return mesh.OutboundCluster(in.destinationPort(d, host).Number, d.GetSubset(), host)
}

// destinationPort is the port a destination names, else the service's only
// port, else the one the request came on.
func (in *routing) destinationPort(d *networking.Destination, host string) mesh.Port {
	number := d.GetPort().GetNumber()
	svc := in.destinations[host].Service
	if number == 0 && svc != nil && len(svc.Ports) == 1 {
		return svc.Ports[0]
	}
	if number == 0 {
		number = in.port
	}
	if svc != nil {
		if p, ok := svc.Port(number); ok {
			return p
		}
	}
	return mesh.Port{Number: number, Target: number}
}

func match(m *networking.HTTPMatchRequest) mesh.Match {
	if m == nil {
		return mesh.Match{Path: mesh.StringMatch{Kind: mesh.Prefix, Value: "/"}}
	}
	out := mesh.Match{Path: stringMatch(m.Uri)}
	if m.Uri == nil {
		out.Path = mesh.StringMatch{Kind: mesh.Prefix, Value: "/"}
	}
	out.Path.IgnoreCase = m.IgnoreUriCase
	pseudo := func(name string, s *networking.StringMatch) {
		if s != nil {
			out.Headers = append(out.Headers, mesh.HeaderMatch{Name: name, Value: stringMatch(s)})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(m.Headers)) {
		out.Headers = append(out.Headers, mesh.HeaderMatch{Name: strings.ToLower(k), Value: stringMatch(m.Headers[k])})
	}
	for _, k := range slices.Sorted(maps.Keys(m.WithoutHeaders)) {
		out.Headers = append(out.Headers, mesh.HeaderMatch{Name: strings.ToLower(k), Value: stringMatch(m.WithoutHeaders[k]), Invert: true})
	}
	pseudo(":method", m.Method)
	pseudo(":authority", m.Authority)
	pseudo(":scheme", m.Scheme)
	for _, k := range slices.Sorted(maps.Keys(m.QueryParams)) {
		out.Query = append(out.Query, mesh.QueryMatch{Name: k, Value: stringMatch(m.QueryParams[k])})
	}
	return out
}

// stringMatch: an empty match (or a regex that accepts everything) means presence.
func stringMatch(s *networking.StringMatch) mesh.StringMatch {
	switch m := s.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return mesh.StringMatch{Kind: mesh.Exact, Value: m.Exact}
	case *networking.StringMatch_Prefix:
		return mesh.StringMatch{Kind: mesh.Prefix, Value: m.Prefix}
	case *networking.StringMatch_Regex:
		if m.Regex == "*" {
			return mesh.StringMatch{Kind: mesh.Any}
		}
		return mesh.StringMatch{Kind: mesh.Regex, Value: m.Regex}
	}
	return mesh.StringMatch{Kind: mesh.Any}
}

func redirect(r *networking.HTTPRedirect, requestPort uint32) *mesh.Redirect {
	out := &mesh.Redirect{Scheme: r.Scheme, Authority: r.Authority, Path: r.Uri, Code: orDefault(r.RedirectCode, 301)}
	if p, ok := strings.CutPrefix(r.Uri, "%PREFIX()%"); ok {
		out.Path, out.Prefix = "", p // Istio's older way of asking for a prefix rewrite
	}
	switch p := r.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		out.Port = p.Port
	case *networking.HTTPRedirect_DerivePort:
		if p.DerivePort == networking.HTTPRedirect_FROM_REQUEST_PORT {
			out.Port = requestPort
		}
	}
	return out
}

func fault(f *networking.HTTPFaultInjection) *mesh.Fault {
	if f == nil {
		return nil
	}
	out := &mesh.Fault{}
	if d := f.Delay; d != nil {
		out.Delay = d.GetFixedDelay().AsDuration()
		out.DelayPerMillion = faultShare(d.Percentage, d.Percent)
	}
	if a := f.Abort; a != nil {
		out.AbortPerMillion = faultShare(a.Percentage, 0)
		switch e := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			out.HTTPStatus = uint32(e.HttpStatus)
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			code := grpcCode(e.GrpcStatus)
			out.GRPCStatus = &code
		}
	}
	return out
}

// faultShare: without a percentage every request is meant.
func faultShare(p *networking.Percent, old int32) uint32 {
	switch {
	case p != nil:
		return perMillion(p)
	case old > 0:
		return uint32(old) * 10_000
	}
	return 1_000_000
}

var grpcCodes = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

func grpcCode(s string) uint32 {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		return uint32(n)
	}
	if i := slices.Index(grpcCodes, strings.ToUpper(s)); i >= 0 {
		return uint32(i)
	}
	return 2
}

func cors(c *networking.CorsPolicy) *mesh.CORS {
	if c == nil {
		return nil
	}
	out := &mesh.CORS{
		Methods: c.AllowMethods, Headers: c.AllowHeaders, Expose: c.ExposeHeaders,
		IgnoreUnmatched: c.UnmatchedPreflights == networking.CorsPolicy_IGNORE,
	}
	for _, o := range c.AllowOrigins {
		out.Origins = append(out.Origins, stringMatch(o))
	}
	for _, o := range c.AllowOrigin {
		out.Origins = append(out.Origins, mesh.StringMatch{Kind: mesh.Exact, Value: o})
	}
	if c.MaxAge != nil {
		out.HasMaxAge, out.MaxAge = true, c.MaxAge.AsDuration()
	}
	if c.AllowCredentials != nil {
		v := c.AllowCredentials.Value
		out.AllowCredentials = &v
	}
	return out
}
