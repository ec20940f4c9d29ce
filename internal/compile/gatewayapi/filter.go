// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
	v1 "sigs.k8s.io/gateway-api/apis/v1"
)

// filtered are the filters that replace or change where a request goes.
type filtered struct {
	redirect *v1.HTTPRequestRedirectFilter
	rewrite  *v1.HTTPURLRewriteFilter
}

// filters puts filters into a route. One that is not known is an error: what it
// stands for may be what protects the backend.
func (in *RouteInput) filters(list []v1.HTTPRouteFilter, r *networking.HTTPRoute, out *rules) (filtered, error) {
	var f filtered
	for i := range list {
		spec := &list[i]
		empty := func(missing bool) error {
			if missing {
				return unsupportedf("filters[%d]: type %s without its settings", i, spec.Type)
			}
			return nil
		}
		var err error
		switch spec.Type {
		case v1.HTTPRouteFilterRequestHeaderModifier:
			if err = empty(spec.RequestHeaderModifier == nil); err == nil {
				headers(r).Request = operations(headers(r).Request, spec.RequestHeaderModifier)
			}
		case v1.HTTPRouteFilterResponseHeaderModifier:
			if err = empty(spec.ResponseHeaderModifier == nil); err == nil {
				headers(r).Response = operations(headers(r).Response, spec.ResponseHeaderModifier)
			}
		case v1.HTTPRouteFilterRequestRedirect:
			f.redirect, err = spec.RequestRedirect, empty(spec.RequestRedirect == nil)
		case v1.HTTPRouteFilterURLRewrite:
			f.rewrite, err = spec.URLRewrite, empty(spec.URLRewrite == nil)
		case v1.HTTPRouteFilterRequestMirror:
			if err = empty(spec.RequestMirror == nil); err == nil {
				in.mirror(spec.RequestMirror, r, out)
				out.lacks("requests are not mirrored yet") // by the proxy, which is told to
			}
		case v1.HTTPRouteFilterCORS:
			if err = empty(spec.CORS == nil); err == nil {
				r.CorsPolicy = cors(spec.CORS)
				out.lacks("CORS requests are passed on to the backend as yet") // so too
			}
		default:
			err = unsupportedf("filters[%d]: type %q is not supported", i, spec.Type)
		}
		if err != nil {
			return f, err
		}
	}
	if f.redirect != nil && f.rewrite != nil {
		return f, &unsupported{v1.RouteReasonIncompatibleFilters, "filters RequestRedirect and URLRewrite exclude each other"}
	}
	return f, nil
}

func headers(r *networking.HTTPRoute) *networking.Headers {
	if r.Headers == nil {
		r.Headers = &networking.Headers{}
	}
	return r.Headers
}

// operations reads a header filter. Of equal names the first counts.
func operations(o *networking.Headers_HeaderOperations, f *v1.HTTPHeaderFilter) *networking.Headers_HeaderOperations {
	if o == nil {
		o = &networking.Headers_HeaderOperations{}
	}
	put := func(m *map[string]string, list []v1.HTTPHeader) {
		for _, h := range list {
			name := strings.ToLower(string(h.Name))
			if *m == nil {
				*m = map[string]string{}
			}
			if _, dup := (*m)[name]; !dup {
				(*m)[name] = h.Value
			}
		}
	}
	put(&o.Set, f.Set)
	put(&o.Add, f.Add)
	o.Remove = append(o.Remove, f.Remove...)
	return o
}

func (in *RouteInput) mirror(f *v1.HTTPRequestMirrorFilter, r *networking.HTTPRoute, out *rules) {
	to := in.destination(f.BackendRef, out)
	if to == nil {
		return // a copy that nobody waits for
	}
	m := &networking.HTTPMirrorPolicy{Destination: to}
	switch {
	case f.Percent != nil:
		m.Percentage = &networking.Percent{Value: float64(*f.Percent)}
	case f.Fraction != nil:
		m.Percentage = &networking.Percent{Value: 100 * float64(f.Fraction.Numerator) / float64(max(1, deref(f.Fraction.Denominator, 100)))}
	}
	r.Mirrors = append(r.Mirrors, m)
}

func cors(f *v1.HTTPCORSFilter) *networking.CorsPolicy {
	out := &networking.CorsPolicy{UnmatchedPreflights: networking.CorsPolicy_IGNORE}
	for _, o := range f.AllowOrigins {
		switch s := string(o); {
		case s == "*":
			out.AllowOrigins = append(out.AllowOrigins, matching(".*"))
		case strings.Contains(s, "*"):
			// The wildcard stands for whole labels of the host.
			out.AllowOrigins = append(out.AllowOrigins, matching(strings.ReplaceAll(regexp.QuoteMeta(s), `\*`, `[^/:]+`)))
		default:
			out.AllowOrigins = append(out.AllowOrigins, exactly(s))
		}
	}
	for _, m := range f.AllowMethods {
		out.AllowMethods = append(out.AllowMethods, string(m))
	}
	for _, h := range f.AllowHeaders {
		out.AllowHeaders = append(out.AllowHeaders, string(h))
	}
	for _, h := range f.ExposeHeaders {
		out.ExposeHeaders = append(out.ExposeHeaders, string(h))
	}
	if f.AllowCredentials != nil {
		out.AllowCredentials = wrapperspb.Bool(*f.AllowCredentials)
	}
	if f.MaxAge > 0 {
		out.MaxAge = durationpb.New(time.Duration(f.MaxAge) * time.Second)
	}
	return out
}

// readDuration reads a duration of the standard (GEP-2257); 0 is none.
func readDuration(field string, d *v1.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	out, err := time.ParseDuration(string(*d))
	if err != nil || out < 0 {
		return 0, unsupportedf("%s: %q is no duration such as 10s or 1m30s", field, *d)
	}
	return out, nil
}

// timeouts sets the time of the whole request and that of each try.
func timeouts(spec *ruleSpec, r *networking.HTTPRoute) error {
	var request, try time.Duration
	var err error
	if t := spec.timeouts; t != nil {
		if request, err = readDuration("timeouts.request", t.Request); err != nil {
			return err
		}
		if try, err = readDuration("timeouts.backendRequest", t.BackendRequest); err != nil {
			return err
		}
	}
	if request > 0 {
		r.Timeout = durationpb.New(request)
	}
	if spec.retry == nil && try == 0 {
		return nil
	}
	r.Retries = &networking.HTTPRetry{Attempts: 2}
	if try > 0 {
		r.Retries.PerTryTimeout = durationpb.New(try)
	}
	if spec.retry == nil {
		return nil
	}
	r.Retries.Attempts = int32(min(max(0, deref(spec.retry.Attempts, 2)), 1000))
	backoff, err := readDuration("retry.backoff", spec.retry.Backoff)
	if err != nil {
		return err
	}
	if backoff > 0 {
		r.Retries.Backoff = durationpb.New(backoff)
	}
	if len(spec.retry.Codes) > 0 {
		on := []string{"connect-failure", "refused-stream", "unavailable", "cancelled"}
		for _, c := range spec.retry.Codes {
			on = append(on, strconv.Itoa(int(c)))
		}
		r.Retries.RetryOn = strings.Join(on, ",")
	}
	return nil
}

// modified is a path modifier: what an exact path, and what a prefix with its
// slash, becomes.
type modified struct{ full, exact, prefix string }

func pathModifier(p *v1.HTTPPathModifier, m *match) (modified, error) {
	if p == nil {
		return modified{}, nil
	}
	switch p.Type {
	case v1.FullPathHTTPPathModifier:
		return modified{full: cmp.Or(deref(p.ReplaceFullPath, ""), "/")}, nil
	case v1.PrefixMatchHTTPPathModifier:
		if m.path.prefix == "" {
			return modified{}, unsupportedf("path.replacePrefixMatch needs a match of type PathPrefix")
		}
		to := deref(p.ReplacePrefixMatch, "")
		return modified{exact: cmp.Or(to, "/"), prefix: strings.TrimSuffix(to, "/") + "/"}, nil
	}
	return modified{}, unsupportedf("path.type %q is not supported", p.Type)
}

// split makes two routes where a prefix becomes another one, as the element's
// own path and those below it change differently.
func split(m *match, base *networking.HTTPRoute, p modified, set func(r *networking.HTTPRoute, prefix bool)) []*networking.HTTPRoute {
	if p.prefix == "" {
		base.Match = m.requests()
		set(base, false)
		return []*networking.HTTPRoute{base}
	}
	var out []*networking.HTTPRoute
	exact, prefix, _ := m.path.split()
	for _, uri := range []*networking.StringMatch{exact, prefix} {
		if uri != nil {
			r := proto.CloneOf(base)
			r.Match = []*networking.HTTPMatchRequest{m.request(uri)}
			set(r, uri == prefix)
			out = append(out, r)
		}
	}
	return out
}

func rewrites(f *v1.HTTPURLRewriteFilter, m *match, base *networking.HTTPRoute) ([]*networking.HTTPRoute, error) {
	if f == nil || base.DirectResponse != nil {
		base.Match = m.requests()
		return []*networking.HTTPRoute{base}, nil
	}
	p, err := pathModifier(f.Path, m)
	if err != nil {
		return nil, err
	}
	return split(m, base, p, func(r *networking.HTTPRoute, prefix bool) {
		r.Rewrite = &networking.HTTPRewrite{Authority: string(deref(f.Hostname, ""))}
		switch {
		case p.full != "":
			r.Rewrite.UriRegexRewrite = &networking.RegexRewrite{Match: "^/.*$", Rewrite: strings.ReplaceAll(p.full, `\`, `\\`)}
		case prefix:
			r.Rewrite.Uri = p.prefix
		default:
			r.Rewrite.Uri = p.exact
		}
	}), nil
}

func redirects(f *v1.HTTPRequestRedirectFilter, m *match, base *networking.HTTPRoute) ([]*networking.HTTPRoute, error) {
	p, err := pathModifier(f.Path, m)
	if err != nil {
		return nil, err
	}
	code := deref(f.StatusCode, 302)
	switch code {
	case 301, 302, 303, 307, 308:
	default:
		return nil, unsupportedf("requestRedirect.statusCode: %d is not supported", code)
	}
	return split(m, base, p, func(r *networking.HTTPRoute, prefix bool) {
		r.Redirect = &networking.HTTPRedirect{Scheme: deref(f.Scheme, ""), Authority: string(deref(f.Hostname, "")), RedirectCode: uint32(code)}
		switch {
		case p.full != "":
			r.Redirect.Uri = p.full
		case prefix:
			r.Redirect.Uri = "%PREFIX()%" + p.prefix
		default:
			r.Redirect.Uri = p.exact
		}
	}), nil
}

// redirectPort is the port of a redirect's Location: the one that is said, else
// the scheme's, else the listener's; one that goes without saying is left out.
func redirectPort(f *v1.HTTPRequestRedirectFilter, scheme string, port uint32) uint32 {
	wellKnown := map[string]uint32{"http": 80, "https": 443}
	target := cmp.Or(deref(f.Scheme, ""), scheme)
	out := port
	switch {
	case f.Port != nil:
		out = uint32(*f.Port)
	case f.Scheme != nil:
		out = wellKnown[*f.Scheme]
	}
	if out == wellKnown[target] && port == wellKnown[scheme] {
		return 0
	}
	return out
}
