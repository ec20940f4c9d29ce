// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"cmp"
	"regexp"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/lateen-mesh/lateen/internal/config"
)

// match is one match of a rule of either kind of route.
type match struct {
	rank    rank
	path    pathMatch
	method  string
	headers map[string]*networking.StringMatch
	query   map[string]*networking.StringMatch
	err     error // it cannot be served
}

// pathMatch is one of these. A prefix is by elements of the path, unless it
// ends in a slash.
type pathMatch struct{ exact, prefix, regex string }

// Classes of path matches, the most specific first. Where regular expressions
// stand is for the implementation to choose: before prefixes, for "/" is one.
const (
	classExact = iota
	classRegex
	classPrefix
)

// rank orders the matches of all routes of a host (HTTPRouteRule.Matches and
// GRPCRouteRule.Matches in the standard).
type rank struct {
	class          int
	length         int // of the path or prefix; of the gRPC service
	method         int // 1: a method is asked for; of gRPC the length of its name
	headers, query int
	rule, match    int // the place in the route
}

// before compares the ranks of matches of two routes, which may be one.
func before(a, b rank, x, y *config.Object) int {
	return cmp.Or(
		cmp.Compare(a.class, b.class), cmp.Compare(b.length, a.length), cmp.Compare(b.method, a.method),
		cmp.Compare(b.headers, a.headers), cmp.Compare(b.query, a.query),
		x.CreationTimestamp.Truncate(time.Second).Compare(y.CreationTimestamp.Truncate(time.Second)),
		cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), cmp.Compare(x.Kind.Name, y.Kind.Name),
		cmp.Compare(a.rule, b.rule), cmp.Compare(a.match, b.match),
	)
}

func exactly(s string) *networking.StringMatch {
	return &networking.StringMatch{MatchType: &networking.StringMatch_Exact{Exact: s}}
}

func prefixed(s string) *networking.StringMatch {
	return &networking.StringMatch{MatchType: &networking.StringMatch_Prefix{Prefix: s}}
}

func matching(s string) *networking.StringMatch {
	return &networking.StringMatch{MatchType: &networking.StringMatch_Regex{Regex: s}}
}

func httpMatch(m *v1.HTTPRouteMatch) match {
	out := match{headers: map[string]*networking.StringMatch{}, query: map[string]*networking.StringMatch{}, method: string(deref(m.Method, ""))}
	value, kind := "/", v1.PathMatchPathPrefix
	if m.Path != nil {
		value, kind = deref(m.Path.Value, "/"), deref(m.Path.Type, v1.PathMatchPathPrefix)
	}
	switch kind {
	case v1.PathMatchExact:
		out.path.exact, out.rank.class, out.rank.length = value, classExact, len(value)
	case v1.PathMatchPathPrefix:
		out.path.prefix = "/" + strings.Trim(value, "/")
		out.rank.class, out.rank.length = classPrefix, len(out.path.prefix)
	case v1.PathMatchRegularExpression:
		out.path.regex, out.rank.class, out.rank.length = value, classRegex, len(value)
		out.valid("path", value)
	default:
		out.err = unsupportedf("path type %q is not supported, use Exact, PathPrefix or RegularExpression", kind)
	}
	for _, h := range m.Headers {
		out.header(string(h.Name), h.Value, string(deref(h.Type, v1.HeaderMatchExact)))
	}
	for _, q := range m.QueryParams {
		name := string(q.Name)
		if _, dup := out.query[name]; dup {
			continue // the first of a name counts
		}
		switch t := deref(q.Type, v1.QueryParamMatchExact); t {
		case v1.QueryParamMatchExact:
			out.query[name] = exactly(q.Value)
		case v1.QueryParamMatchRegularExpression:
			out.query[name] = matching(q.Value)
			out.valid("query parameter", q.Value)
		default:
			out.err = unsupportedf("query parameter match type %q is not supported", t)
		}
	}
	if out.method != "" {
		out.rank.method = 1
	}
	out.rank.headers, out.rank.query = len(out.headers), len(out.query)
	return out
}

// header adds a header match; names differ by more than case, and the first of
// a name counts.
func (m *match) header(name, value, kind string) {
	name = strings.ToLower(name)
	if _, dup := m.headers[name]; dup {
		return
	}
	switch kind {
	case string(v1.HeaderMatchExact):
		m.headers[name] = exactly(value)
	case string(v1.HeaderMatchRegularExpression):
		m.headers[name] = matching(value)
		m.valid("header", value)
	default:
		m.err = unsupportedf("header match type %q is not supported, use Exact or RegularExpression", kind)
	}
}

func (m *match) valid(what, expression string) {
	if _, err := regexp.Compile(expression); err != nil {
		m.err = unsupportedf("regular expression of a %s: %v (the syntax is RE2's)", what, err)
	}
}

// split returns the path matches: a prefix is by elements of the path, which
// takes two.
func (p pathMatch) split() (exact, prefix, regex *networking.StringMatch) {
	switch {
	case p.exact != "":
		return exactly(p.exact), nil, nil
	case p.regex != "":
		return nil, nil, matching(p.regex)
	case strings.HasSuffix(p.prefix, "/"):
		return nil, prefixed(p.prefix), nil
	}
	return exactly(p.prefix), prefixed(p.prefix + "/"), nil
}

func (m *match) request(uri *networking.StringMatch) *networking.HTTPMatchRequest {
	out := &networking.HTTPMatchRequest{Uri: uri}
	if len(m.headers) > 0 {
		out.Headers = m.headers
	}
	if len(m.query) > 0 {
		out.QueryParams = m.query
	}
	if m.method != "" {
		out.Method = exactly(m.method)
	}
	return out
}

func (m *match) requests() []*networking.HTTPMatchRequest {
	var out []*networking.HTTPMatchRequest
	exact, prefix, regex := m.path.split()
	for _, uri := range []*networking.StringMatch{exact, prefix, regex} {
		if uri != nil {
			out = append(out, m.request(uri))
		}
	}
	if m.err != nil {
		// What could not be read is left out of the match, which then is wider.
		for _, r := range out {
			r.Headers, r.QueryParams = usable(r.Headers), usable(r.QueryParams)
		}
	}
	return out
}

// usable leaves out regular expressions that are none.
func usable(in map[string]*networking.StringMatch) map[string]*networking.StringMatch {
	out := map[string]*networking.StringMatch{}
	for k, v := range in {
		if _, err := regexp.Compile(v.GetRegex()); err == nil {
			out[k] = v
		}
	}
	return out
}

// grpcRules reads a GRPCRoute as the HTTP routes that gRPC is: POST to
// /service/method.
func grpcRules(s *v1.GRPCRouteSpec) []ruleSpec {
	var out []ruleSpec
	for i := range s.Rules {
		r := &s.Rules[i]
		spec := ruleSpec{name: string(deref(r.Name, "")), filters: grpcFilters(r.Filters), session: r.SessionPersistence != nil}
		for j := range r.Matches {
			spec.matches = append(spec.matches, grpcMatch(&r.Matches[j]))
		}
		for _, b := range r.BackendRefs {
			spec.backends = append(spec.backends, backend{b.BackendObjectReference, deref(b.Weight, 1), grpcFilters(b.Filters)})
		}
		out = append(out, spec)
	}
	return out
}

func grpcFilters(list []v1.GRPCRouteFilter) []v1.HTTPRouteFilter {
	var out []v1.HTTPRouteFilter
	for _, f := range list {
		out = append(out, v1.HTTPRouteFilter{
			Type: v1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

func grpcMatch(m *v1.GRPCRouteMatch) match {
	out := match{headers: map[string]*networking.StringMatch{}, rank: rank{class: classPrefix}, path: pathMatch{prefix: "/"}}
	if m.Method != nil {
		service, method := deref(m.Method.Service, ""), deref(m.Method.Method, "")
		out.rank.length, out.rank.method = len(service), len(method)
		switch t := deref(m.Method.Type, v1.GRPCMethodMatchExact); {
		case t == v1.GRPCMethodMatchRegularExpression:
			out.path = pathMatch{regex: "/" + cmp.Or(group(service), "[^/]+") + "/" + cmp.Or(group(method), "[^/]+")}
			out.valid("method", out.path.regex)
		case t != v1.GRPCMethodMatchExact:
			out.err = unsupportedf("method match type %q is not supported, use Exact or RegularExpression", t)
		case service != "" && method != "":
			out.path = pathMatch{exact: "/" + service + "/" + method}
		case service != "":
			out.path = pathMatch{prefix: "/" + service + "/"}
		case method != "":
			out.path = pathMatch{regex: "/[^/]+/" + regexp.QuoteMeta(method)}
		}
	}
	for _, h := range m.Headers {
		out.header(string(h.Name), h.Value, string(deref(h.Type, v1.GRPCHeaderMatchExact)))
	}
	out.rank.headers = len(out.headers)
	return out
}

// group keeps the alternatives of an expression together.
func group(expression string) string {
	if expression == "" {
		return ""
	}
	return "(?:" + expression + ")"
}
