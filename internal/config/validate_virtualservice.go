// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// MeshGateway is the word that means all sidecars in a list of gateways.
const MeshGateway = "mesh"

func validateVirtualService(c *checker, o *Object) {
	vs := o.Spec.(*networking.VirtualService)
	delegate := len(vs.Hosts) == 0
	inMesh := len(vs.Gateways) == 0 || slices.Contains(vs.Gateways, MeshGateway)
	if delegate {
		c.check(len(vs.Gateways) == 0, "spec.hosts", "add the hosts", "is required with gateways")
		c.check(len(vs.Tcp) == 0 && len(vs.Tls) == 0, "spec.hosts", "add the hosts", "is required with tcp or tls routes")
		c.warn("spec.hosts", "add hosts unless another VirtualService delegates to this one", "is empty: the routes take effect by delegation only")
	}
	seen := map[string]bool{}
	for i, h := range vs.Hosts {
		p := fmt.Sprintf("spec.hosts[%d]", i)
		c.check(isWildcardHost(h) || isIPOrPrefix(h), p, "write a host such as reviews, *.example.com or an IP address", "%q is not a host", clip(h))
		c.check(h != "*" || !inMesh, p, "name the gateways it is for, or the hosts", `"*" is not allowed for the sidecars of the mesh`)
		c.check(!seen[h], p, "remove it", "%q is there twice", clip(h))
		seen[h] = true
	}
	c.gatewayNames("spec.gateways", vs.Gateways)
	c.exportTo("spec.exportTo", vs.ExportTo, false)
	c.check(len(vs.Http)+len(vs.Tcp)+len(vs.Tls) > 0, "spec", "add http, tls or tcp", "has no routes")
	for i, r := range vs.Http {
		p := fmt.Sprintf("spec.http[%d]", i)
		c.httpRoute(p, r, delegate)
		if len(r.Match) == 0 && i < len(vs.Http)-1 {
			c.warn(p, "put it last", "has no match, so the routes after it are never reached")
		}
	}
	for i, r := range vs.Tls {
		c.tlsRoute(fmt.Sprintf("spec.tls[%d]", i), r, vs.Hosts)
	}
	for i, r := range vs.Tcp {
		p := fmt.Sprintf("spec.tcp[%d]", i)
		for j, m := range r.Match {
			c.layer4Match(fmt.Sprintf("%s.match[%d]", p, j), m.DestinationSubnets, m.SourceLabels, m.SourceNamespace, m.Gateways)
		}
		c.routes(p, r.Route)
	}
}

// gatewayNames checks [namespace/]name, or the word mesh.
func (c *checker) gatewayNames(path string, names []string) {
	for i, g := range names {
		p := fmt.Sprintf("%s[%d]", path, i)
		if ns, name, ok := strings.Cut(g, "/"); ok {
			c.check((isLabel(ns) || ns == ".") && isSubdomain(name), p, "write namespace/name", "%q is not the name of a gateway", clip(g))
		} else {
			c.check(isHost(g), p, "write a gateway's name, namespace/name, or mesh", "%q is not the name of a gateway", clip(g))
		}
	}
}

func (c *checker) exportTo(path string, list []string, nobody bool) {
	seen := map[string]bool{}
	for i, e := range list {
		p := fmt.Sprintf("%s[%d]", path, i)
		c.check(e == "." || e == "*" || nobody && e == "~" || isLabel(e), p, `write ".", "*" or a namespace`, "%q is not a namespace", clip(e))
		c.check(e != "*" && e != "~" || len(list) == 1, p, "keep it alone, or name the namespaces", "%q cannot be there together with others", e)
		if e == "." {
			e = c.obj.Namespace
		}
		c.check(!seen[e], p, "remove it", "%q is there twice", clip(e))
		seen[e] = true
	}
}

func (c *checker) httpRoute(p string, r *networking.HTTPRoute, delegate bool) {
	c.routeAction(p, r, delegate)
	for i, m := range r.Match {
		c.httpMatch(fmt.Sprintf("%s.match[%d]", p, i), m, delegate || r.Delegate != nil)
	}
	c.httpDestinations(p, r.Route)
	if m := r.Mirror; m != nil {
		c.destination(p+".mirror", m)
	}
	for i, m := range r.Mirrors {
		if m.Destination != nil {
			c.destination(fmt.Sprintf("%s.mirrors[%d].destination", p, i), m.Destination)
		}
	}
	c.check(r.Mirror == nil || len(r.Mirrors) == 0, p+".mirror", "move it into mirrors", "cannot be there together with mirrors")
	//lint:ignore SA1019 users have it
	percent := r.MirrorPercent.GetValue()
	c.check(percent <= 100, p+".mirrorPercent", "write 0 to 100", "is %d", percent)
	c.headers(p+".headers", r.Headers)
	c.redirect(p+".redirect", r.Redirect)
	c.directResponse(p+".directResponse", r.DirectResponse)
	c.rewrite(p, r)
	c.retries(p+".retries", r.Retries)
	c.fault(p+".fault", r.Fault)
	c.cors(p+".corsPolicy", r.CorsPolicy)
	if d := r.Delegate; d != nil {
		c.check(isSubdomain(d.Name), p+".delegate.name", "name a VirtualService without hosts", "%q is not a name", clip(d.Name))
		c.check(d.Namespace == "" || isLabel(d.Namespace), p+".delegate.namespace", "", "%q is not a namespace", clip(d.Namespace))
	}
}

// routeAction checks that the route does one thing.
func (c *checker) routeAction(p string, r *networking.HTTPRoute, delegate bool) {
	var actions []string
	for name, there := range map[string]bool{
		"route": len(r.Route) > 0, "redirect": r.Redirect != nil,
		"directResponse": r.DirectResponse != nil, "delegate": r.Delegate != nil,
	} {
		if there {
			actions = append(actions, name)
		}
	}
	slices.Sort(actions)
	c.check(len(actions) > 0, p, "add route, redirect, directResponse or delegate", "does nothing")
	c.check(len(actions) < 2, p, "keep one of them", "has %s", strings.Join(actions, " and "))
	c.check(!delegate || r.Delegate == nil, p+".delegate", "delegate once only", "is in a VirtualService that is itself delegated to")
	for name, with := range map[string]bool{"redirect": r.Redirect != nil, "directResponse": r.DirectResponse != nil} {
		if with {
			c.check(r.Fault == nil, p+".fault", "remove one of them", "cannot be there together with %s", name)
			c.check(r.Rewrite == nil, p+".rewrite", "remove one of them", "cannot be there together with %s", name)
		}
	}
}

func (c *checker) httpMatch(p string, m *networking.HTTPMatchRequest, delegation bool) {
	match := func(path string, s *networking.StringMatch) {
		c.stringMatch(path, s)
		if re, ok := s.GetMatchType().(*networking.StringMatch_Regex); ok && delegation {
			c.fail(path, "write exact or prefix", "regex %q is not possible with delegation", clip(re.Regex))
		}
	}
	match(p+".uri", m.Uri)
	match(p+".scheme", m.Scheme)
	match(p+".method", m.Method)
	match(p+".authority", m.Authority)
	for _, headers := range []struct {
		name string
		m    map[string]*networking.StringMatch
	}{{"headers", m.Headers}, {"withoutHeaders", m.WithoutHeaders}} {
		for _, name := range slices.Sorted(maps.Keys(headers.m)) {
			path := p + "." + headers.name + "[" + clip(name) + "]"
			// @request.auth.claims.x is a claim of the token, not a header.
			fix := ""
			if strings.HasPrefix(name, ":") {
				fix = "use uri, method, scheme or authority"
			}
			c.check(headerNameForm.MatchString(name) || strings.HasPrefix(name, "@request.auth.claims"), path, fix, "%q is not a header name", clip(name))
			match(path, headers.m[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.QueryParams)) {
		match(p+".queryParams["+clip(name)+"]", m.QueryParams[name])
	}
	c.labels(p+".sourceLabels", m.SourceLabels)
	c.check(m.SourceNamespace == "" || isLabel(m.SourceNamespace), p+".sourceNamespace", "", "%q is not a namespace", clip(m.SourceNamespace))
	c.gatewayNames(p+".gateways", m.Gateways)
}

// stringMatch checks the expression of a regex. An empty match is one of presence.
func (c *checker) stringMatch(path string, s *networking.StringMatch) {
	if re, ok := s.GetMatchType().(*networking.StringMatch_Regex); ok {
		c.regex(path+".regex", re.Regex)
	}
}

func (c *checker) regex(path, expression string) {
	if _, err := regexp.Compile(expression); err != nil {
		c.fail(path, "write it in RE2 syntax: https://github.com/google/re2/wiki/Syntax", "%q is not a regular expression: %v", clip(expression), err)
	}
}

func (c *checker) labels(path string, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		c.check(isQualifiedName(k) && isLabelValue(labels[k]), path+"["+clip(k)+"]", "use at most 63 letters, digits, -, _ and .", "%q is not a label", clip(k+"="+labels[k]))
	}
}

func (c *checker) destination(p string, d *networking.Destination) {
	if d.Host != "" { // that it is required has been said
		c.check(isHost(d.Host) || isIP(d.Host), p+".host", "write the name of a service", "%q is not a host", clip(d.Host))
	}
	c.check(d.Subset == "" || isLabel(d.Subset), p+".subset", "use lower-case letters, digits and -", "%q is not the name of a subset", clip(d.Subset))
	c.check(d.Port == nil || d.Port.Number > 0, p+".port.number", "write a port of 1 to 65535", "is required")
}

func (c *checker) httpDestinations(p string, routes []*networking.HTTPRouteDestination) {
	total := int64(0)
	for i, d := range routes {
		path := fmt.Sprintf("%s.route[%d]", p, i)
		if d.Destination != nil {
			c.destination(path+".destination", d.Destination)
		}
		c.headers(path+".headers", d.Headers)
		total += int64(d.Weight)
	}
	c.weights(p, len(routes), total)
}

func (c *checker) routes(p string, routes []*networking.RouteDestination) {
	c.check(len(routes) > 0, p+".route", "add a destination", "is required")
	total := int64(0)
	for i, d := range routes {
		if d.Destination != nil {
			c.destination(fmt.Sprintf("%s.route[%d].destination", p, i), d.Destination)
		}
		total += int64(d.Weight)
	}
	c.weights(p, len(routes), total)
}

func (c *checker) weights(p string, n int, total int64) {
	c.check(n < 2 || total > 0, p+".route", "give each destination a weight", "has %d destinations whose weights are all 0", n)
	c.check(total <= 1<<32-1, p+".route", "use smaller weights", "weights add up to %d, more than 4294967295", total)
}

func (c *checker) headers(p string, h *networking.Headers) {
	for dir, op := range map[string]*networking.Headers_HeaderOperations{"request": h.GetRequest(), "response": h.GetResponse()} {
		for verb, values := range map[string]map[string]string{"set": op.GetSet(), "add": op.GetAdd()} {
			for _, name := range slices.Sorted(maps.Keys(values)) {
				path := p + "." + dir + "." + verb + "[" + clip(name) + "]"
				c.headerName(path, name, dir == "request")
				c.check(!strings.ContainsAny(values[name], "\r\n\x00"), path, "write it on one line", "the value has a line break")
			}
		}
		for i, name := range op.GetRemove() {
			c.headerName(fmt.Sprintf("%s.%s.remove[%d]", p, dir, i), name, false)
		}
	}
}

// headerName checks the name of a header that a route changes. The authority
// of a request may be set; the other pseudo-headers belong to the proxy.
func (c *checker) headerName(path, name string, authority bool) {
	if authority && strings.EqualFold(name, ":authority") {
		return
	}
	c.check(headerNameForm.MatchString(name), path, "", "%q is not the name of a header that can be changed", clip(name))
	c.check(authority || !strings.EqualFold(name, "host"), path, "use rewrite.authority", "%q cannot be changed here", clip(name))
}

func (c *checker) redirect(p string, r *networking.HTTPRedirect) {
	if r == nil {
		return
	}
	c.check(r.Uri != "" || r.PrefixRewrite != "" || r.Authority != "" || r.Scheme != "" || r.RedirectPort != nil, p, "add uri, prefixRewrite, authority, scheme or port", "changes nothing, so a client would be sent in circles")
	c.check(r.Uri == "" || r.PrefixRewrite == "", p+".prefixRewrite", "keep one of them", "cannot be there together with uri")
	c.check(r.RedirectCode == 0 || slices.Contains([]uint32{301, 302, 303, 307, 308}, r.RedirectCode), p+".redirectCode", "write 301, 302, 303, 307 or 308", "is %d", r.RedirectCode)
	c.check(r.Scheme == "" || r.Scheme == "http" || r.Scheme == "https", p+".scheme", "write http or https", "is %q", clip(r.Scheme))
	c.check(!strings.ContainsAny(r.Authority, "/ \r\n"), p+".authority", "write host or host:port", "%q is not an authority", clip(r.Authority))
}

func (c *checker) directResponse(p string, r *networking.HTTPDirectResponse) {
	const warnBody, maxBody = 100 << 10, 1 << 20
	if r == nil {
		return
	}
	c.check(r.Status == 0 || r.Status >= 200 && r.Status <= 599, p+".status", "write 200 to 599", "is %d", r.Status)
	size := len(r.Body.GetString_()) + len(r.Body.GetBytes())
	c.check(size <= maxBody, p+".body", "serve it from a workload", "has %d bytes, more than %d", size, maxBody)
	if size > warnBody && size <= maxBody {
		c.warn(p+".body", "", "has %d bytes, which every proxy keeps in memory", size)
	}
}

func (c *checker) rewrite(p string, r *networking.HTTPRoute) {
	authority := r.Rewrite.GetAuthority() != ""
	for verb, m := range map[string]map[string]string{"set": r.Headers.GetRequest().GetSet(), "add": r.Headers.GetRequest().GetAdd()} {
		for name := range m {
			if strings.EqualFold(name, "host") || strings.EqualFold(name, ":authority") {
				c.check(!authority, p+".headers.request."+verb+"["+name+"]", "set the authority in one place", "the authority is set twice")
				authority = true
			}
		}
	}
	w := r.Rewrite
	if w == nil {
		return
	}
	p += ".rewrite"
	c.check(w.Uri != "" || w.Authority != "" || w.UriRegexRewrite != nil, p, "add uri, authority or uriRegexRewrite", "changes nothing")
	c.check(w.Uri == "" || w.UriRegexRewrite == nil, p+".uriRegexRewrite", "keep one of them", "cannot be there together with uri")
	if x := w.UriRegexRewrite; x != nil {
		c.check(x.Match != "", p+".uriRegexRewrite.match", "write a regular expression", "is required")
		c.regex(p+".uriRegexRewrite.match", x.Match)
	}
}

// retryConditions are Envoy's x-envoy-retry-on and x-envoy-retry-grpc-on values.
var retryConditions = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx",
	"refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

func (c *checker) retries(p string, r *networking.HTTPRetry) {
	if r == nil {
		return
	}
	c.check(r.Attempts > 0 || r.PerTryTimeout == nil && r.RetryOn == "" && r.Backoff == nil, p+".attempts", "write how often to try again", "is 0, which means never, so the other fields have no use")
	if r.RetryOn == "" {
		return
	}
	for on := range strings.SplitSeq(r.RetryOn, ",") {
		on = strings.TrimSpace(on)
		if code, err := strconv.Atoi(on); err == nil {
			c.check(code >= 100 && code <= 599, p+".retryOn", "write a status of 100 to 599", "%d is not a status", code)
			continue
		}
		c.oneOf(p+".retryOn", on, retryConditions, "is not a condition to retry on")
	}
}

// grpcStatuses are the names of https://grpc.github.io/grpc/core/md_doc_statuscodes.html.
var grpcStatuses = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

func (c *checker) fault(p string, f *networking.HTTPFaultInjection) {
	if f == nil {
		return
	}
	c.check(f.Delay != nil || f.Abort != nil, p, "add delay or abort", "does nothing")
	if d := f.Delay; d != nil {
		c.check(d.HttpDelayType != nil, p+".delay", `add fixedDelay, such as "5s"`, "has no delay")
	}
	if a := f.Abort; a != nil {
		switch e := a.ErrorType.(type) {
		case *networking.HTTPFaultInjection_Abort_HttpStatus:
			c.check(e.HttpStatus >= 200 && e.HttpStatus <= 599, p+".abort.httpStatus", "write 200 to 599", "is %d", e.HttpStatus)
		case *networking.HTTPFaultInjection_Abort_GrpcStatus:
			n, err := strconv.Atoi(e.GrpcStatus)
			ok := slices.Contains(grpcStatuses, e.GrpcStatus) || err == nil && n >= 0 && n < len(grpcStatuses)
			if !ok {
				c.oneOf(p+".abort.grpcStatus", e.GrpcStatus, grpcStatuses, "is not a gRPC status")
			}
		case *networking.HTTPFaultInjection_Abort_Http2Error:
			c.fail(p+".abort.http2Error", "use httpStatus or grpcStatus", "is not implemented, in Istio neither")
		default:
			c.fail(p+".abort", "add httpStatus or grpcStatus", "has no error")
		}
	}
}

var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"}

func (c *checker) cors(p string, r *networking.CorsPolicy) {
	if r == nil {
		return
	}
	for i, o := range r.AllowOrigins {
		c.stringMatch(fmt.Sprintf("%s.allowOrigins[%d]", p, i), o)
	}
	for i, m := range r.AllowMethods {
		c.oneOf(fmt.Sprintf("%s.allowMethods[%d]", p, i), m, httpMethods, "is not a method")
	}
	for name, list := range map[string][]string{"allowHeaders": r.AllowHeaders, "exposeHeaders": r.ExposeHeaders} {
		for i, h := range list {
			c.check(headerNameForm.MatchString(h), fmt.Sprintf("%s.%s[%d]", p, name, i), "", "%q is not a header name", clip(h))
		}
	}
}

func (c *checker) tlsRoute(p string, r *networking.TLSRoute, hosts []string) {
	for i, m := range r.Match {
		path := fmt.Sprintf("%s.match[%d]", p, i)
		for j, sni := range m.SniHosts {
			q := fmt.Sprintf("%s.sniHosts[%d]", path, j)
			c.check(isWildcardHost(sni), q, "", "%q is not a host", clip(sni))
			within := slices.ContainsFunc(hosts, func(h string) bool { return coversHost(h, sni) })
			c.check(within, q, "add it to spec.hosts", "%q is in none of the hosts", clip(sni))
		}
		c.layer4Match(path, m.DestinationSubnets, m.SourceLabels, m.SourceNamespace, m.Gateways)
	}
	c.routes(p, r.Route)
}

// coversHost reports whether every host that b stands for is one that a stands for.
func coversHost(a, b string) bool {
	if a == b || a == "*" {
		return true
	}
	suffix, ok := strings.CutPrefix(a, "*")
	return ok && strings.HasSuffix(strings.TrimPrefix(b, "*"), suffix)
}

func (c *checker) layer4Match(p string, subnets []string, labels map[string]string, namespace string, gateways []string) {
	for i, s := range subnets {
		c.check(isIPOrPrefix(s), fmt.Sprintf("%s.destinationSubnets[%d]", p, i), "write an address such as 10.0.0.0/8", "%q is not a subnet", clip(s))
	}
	c.labels(p+".sourceLabels", labels)
	c.check(namespace == "" || isLabel(namespace), p+".sourceNamespace", "", "%q is not a namespace", clip(namespace))
	c.gatewayNames(p+".gateways", gateways)
}
