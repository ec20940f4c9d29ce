// SPDX-License-Identifier: Apache-2.0

package route

import (
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lateen-mesh/lateen/internal/proxy/fault"
	"github.com/lateen-mesh/lateen/internal/proxy/match"
	"github.com/lateen-mesh/lateen/internal/proxy/retry"
)

// defaultDirectBody is the longest direct response in bytes where
// max_direct_response_body_size_bytes says nothing.
const defaultDirectBody = 4096

// Compile builds the table of a route configuration with inline virtual hosts.
// An error names the field, and the configuration must then be refused as a
// whole. With VHDS see Source.
func Compile(rc *routev3.RouteConfiguration, opt Options) (*Table, error) {
	set, hosts, err := compileConfig(rc, opt)
	if err != nil {
		return nil, err
	}
	x, dup := newIndex(hosts, len(hosts))
	if dup != nil {
		return nil, fmt.Errorf("route configuration %q: %w", rc.GetName(), dup.describe(hosts))
	}
	return &Table{settings: set, hosts: hosts, index: x}, nil
}

func compileConfig(rc *routev3.RouteConfiguration, opt Options) (*settings, []*VirtualHost, error) {
	fail := func(err error) (*settings, []*VirtualHost, error) {
		return nil, nil, fmt.Errorf("route configuration %q: %w", rc.GetName(), err)
	}
	set := &settings{
		name:             rc.GetName(),
		config:           provenance(rc.GetMetadata()),
		ignorePort:       rc.GetIgnorePortInHostMatching(),
		mostSpecificWins: rc.GetMostSpecificHeaderMutationsWins(),
		vhds:             rc.GetVhds() != nil,
		maxDirectBody:    defaultDirectBody,
		rand:             opt.random(),
	}
	if v := rc.GetMaxDirectResponseBodySizeBytes(); v != nil {
		set.maxDirectBody = int(v.GetValue())
	}
	for _, h := range rc.GetInternalOnlyHeaders() {
		if h != "" {
			set.internalOnly = append(set.internalOnly, newHeaderName(h))
		}
	}
	var err error
	if set.request, set.response, err = compileBoth(rc); err != nil {
		return fail(err)
	}
	if set.filters, err = compileFilters(rc.GetTypedPerFilterConfig()); err != nil {
		return fail(err)
	}
	if set.mirrors, err = compileMirrors(rc.GetRequestMirrorPolicies()); err != nil {
		return fail(err)
	}
	hosts := make([]*VirtualHost, 0, len(rc.GetVirtualHosts()))
	for i, vh := range rc.GetVirtualHosts() {
		h, err := CompileVirtualHost(vh)
		if err == nil {
			err = set.accepts(h)
		}
		if err != nil {
			return fail(fmt.Errorf("virtual_hosts[%d]: %w", i, err))
		}
		hosts = append(hosts, h)
	}
	return set, hosts, nil
}

// accepts checks what depends on both a virtual host and its table.
func (s *settings) accepts(h *VirtualHost) error {
	if h.directBody > s.maxDirectBody {
		return fmt.Errorf("virtual host %q: direct_response.body: %d bytes are more than max_direct_response_body_size_bytes, %d",
			h.Name, h.directBody, s.maxDirectBody)
	}
	return nil
}

// headerOps are the four lists that every level has.
type headerOps interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func compileBoth(o headerOps) (request, response *mutations, err error) {
	if request, err = compileMutations(o.GetRequestHeadersToAdd(), o.GetRequestHeadersToRemove()); err != nil {
		return nil, nil, fmt.Errorf("request_%w", err)
	}
	if response, err = compileMutations(o.GetResponseHeadersToAdd(), o.GetResponseHeadersToRemove()); err != nil {
		return nil, nil, fmt.Errorf("response_%w", err)
	}
	return request, response, nil
}

// CompileVirtualHost builds one virtual host, inline or a resource of its own.
func CompileVirtualHost(vh *routev3.VirtualHost) (*VirtualHost, error) {
	h := &VirtualHost{
		Name:                          vh.GetName(),
		Config:                        provenance(vh.GetMetadata()),
		IncludeRequestAttemptCount:    vh.GetIncludeRequestAttemptCount(),
		IncludeAttemptCountInResponse: vh.GetIncludeAttemptCountInResponse(),
	}
	fail := func(err error) (*VirtualHost, error) {
		return nil, fmt.Errorf("virtual host %q: %w", vh.GetName(), err)
	}
	if len(vh.GetDomains()) == 0 {
		return fail(errors.New("domains: is empty"))
	}
	for i, d := range vh.GetDomains() {
		if d == "" || d != "*" && strings.Contains(strings.Trim(d, "*"), "*") || strings.Count(d, "*") > 1 {
			return fail(fmt.Errorf("domains[%d]: %q is not a domain, *.suffix, prefix.* or *", i, d))
		}
		h.Domains = append(h.Domains, string(match.AppendLower(nil, []byte(d))))
	}
	switch vh.GetRequireTls() {
	case routev3.VirtualHost_NONE:
	case routev3.VirtualHost_EXTERNAL_ONLY:
		h.RequireTLS = TLSExternalOnly
	case routev3.VirtualHost_ALL:
		h.RequireTLS = TLSAll
	default:
		return fail(fmt.Errorf("require_tls: %d is not known", vh.GetRequireTls()))
	}
	var err error
	if h.request, h.response, err = compileBoth(vh); err != nil {
		return fail(err)
	}
	if h.filters, err = compileFilters(vh.GetTypedPerFilterConfig()); err != nil {
		return fail(err)
	}
	if h.mirrors, err = compileMirrors(vh.GetRequestMirrorPolicies()); err != nil {
		return fail(err)
	}
	policy, err := retry.Compile(vh.GetRetryPolicy())
	if err != nil {
		return fail(fmt.Errorf("retry_policy.%w", err))
	}
	h.Routes = make([]*Route, 0, len(vh.GetRoutes()))
	for i, m := range vh.GetRoutes() {
		r, err := compileRoute(m, policy)
		if err != nil {
			return fail(fmt.Errorf("routes[%d] %q: %w", i, m.GetName(), err))
		}
		if r.Direct != nil {
			h.directBody = max(h.directBody, len(r.Direct.Body))
		}
		h.Routes = append(h.Routes, r)
	}
	return h, nil
}

// provenance reads filter_metadata["istio"].config.
func provenance(m *corev3.Metadata) string {
	return m.GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue()
}

func compileRoute(m *routev3.Route, inherited *retry.Policy) (*Route, error) {
	r := &Route{Name: m.GetName(), Config: provenance(m.GetMetadata()), Operation: m.GetDecorator().GetOperation()}
	if err := r.compileMatch(m.GetMatch()); err != nil {
		return nil, fmt.Errorf("match.%w", err)
	}
	var err error
	if r.request, r.response, err = compileBoth(m); err != nil {
		return nil, err
	}
	if r.filters, err = compileFilters(m.GetTypedPerFilterConfig()); err != nil {
		return nil, err
	}
	switch a := m.GetAction().(type) {
	case *routev3.Route_Route:
		if r.Action, err = compileAction(a.Route, inherited); err != nil {
			return nil, fmt.Errorf("route.%w", err)
		}
	case *routev3.Route_Redirect:
		if r.Redirect, err = compileRedirect(a.Redirect); err != nil {
			return nil, fmt.Errorf("redirect.%w", err)
		}
	case *routev3.Route_DirectResponse:
		if r.Direct, err = compileDirect(a.DirectResponse); err != nil {
			return nil, fmt.Errorf("direct_response.%w", err)
		}
	case *routev3.Route_NonForwardingAction:
		r.NonForwarding = true
	default:
		return nil, fmt.Errorf("action: %T is not supported", a)
	}
	return r, nil
}

func (r *Route) compileMatch(m *routev3.RouteMatch) error {
	switch {
	case m == nil:
		return errors.New("path_specifier: match is missing")
	case len(m.GetCookies()) > 0:
		return errors.New("cookies: not supported")
	case m.GetTlsContext() != nil:
		return errors.New("tls_context: not supported")
	case len(m.GetDynamicMetadata()) > 0:
		return errors.New("dynamic_metadata: not supported")
	case len(m.GetFilterState()) > 0:
		return errors.New("filter_state: not supported")
	}
	p := &r.path
	switch s := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		p.kind, p.value = pathPrefix, s.Prefix
	case *routev3.RouteMatch_Path:
		p.kind, p.value = pathExact, s.Path
	case *routev3.RouteMatch_PathSeparatedPrefix:
		p.kind, p.value = pathSeparated, s.PathSeparatedPrefix
		if !strings.HasPrefix(p.value, "/") || strings.HasSuffix(p.value, "/") || strings.ContainsAny(p.value, "?#") {
			return fmt.Errorf("path_separated_prefix: %q must begin with a slash, not end with one and hold no ? or #", p.value)
		}
	case *routev3.RouteMatch_SafeRegex:
		re, err := match.CompileRegex(s.SafeRegex)
		if err != nil {
			return fmt.Errorf("safe_regex: %w", err)
		}
		p.kind, p.re = pathRegex, re
	case *routev3.RouteMatch_ConnectMatcher_:
		p.kind = pathConnect
	default:
		return fmt.Errorf("path_specifier: %T is not supported", s)
	}
	if v := m.GetCaseSensitive(); v != nil && !v.GetValue() && p.kind != pathRegex {
		p.fold = true
		p.value = string(match.AppendLower(nil, []byte(p.value)))
	}
	var err error
	if r.headers, err = match.CompileHeaders(m.GetHeaders()); err != nil {
		return err
	}
	for i, q := range m.GetQueryParameters() {
		c, err := match.CompileQuery(q)
		if err != nil {
			return fmt.Errorf("query_parameters[%d]: %w", i, err)
		}
		r.query = append(r.query, c)
	}
	r.grpc = m.GetGrpc() != nil
	if f := m.GetRuntimeFraction(); f != nil {
		if r.fraction, err = compileFraction(f.GetDefaultValue()); err != nil {
			return fmt.Errorf("runtime_fraction.default_value: %w", err)
		}
	}
	return nil
}

func compileFraction(p *typev3.FractionalPercent) (fraction, error) {
	f := fraction{n: uint64(p.GetNumerator())}
	switch p.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
		f.of = 100
	case typev3.FractionalPercent_TEN_THOUSAND:
		f.of = 10_000
	case typev3.FractionalPercent_MILLION:
		f.of = 1_000_000
	default:
		return fraction{}, fmt.Errorf("denominator: %v is not known", p.GetDenominator())
	}
	return f, nil
}

// compileFilters decodes per-filter configuration. CORS has no filter yet and
// is accepted without effect, as the field policy documents.
func compileFilters(m map[string]*anypb.Any) ([]FilterConfig, error) {
	var fs []FilterConfig
	for name, a := range m {
		f, err := compileFilter(name, a)
		if err != nil {
			return nil, fmt.Errorf("typed_per_filter_config[%q]: %w", name, err)
		}
		if f != nil {
			fs = append(fs, *f)
		}
	}
	return fs, nil
}

func compileFilter(name string, a *anypb.Any) (*FilterConfig, error) {
	switch a.GetTypeUrl() {
	case "type.googleapis.com/envoy.config.route.v3.FilterConfig":
		w := &routev3.FilterConfig{}
		if err := a.UnmarshalTo(w); err != nil {
			return nil, err
		}
		f := &FilterConfig{}
		if w.GetConfig() != nil {
			var err error
			if f, err = compileFilter(name, w.GetConfig()); err != nil && !w.GetIsOptional() {
				return nil, err
			}
			if f == nil {
				f = &FilterConfig{}
			}
		}
		f.Name, f.Disabled = name, w.GetDisabled()
		return f, nil
	case "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault":
		m := &faultv3.HTTPFault{}
		if err := a.UnmarshalTo(m); err != nil {
			return nil, err
		}
		c, err := fault.Compile(m)
		if err != nil {
			return nil, err
		}
		return &FilterConfig{Name: name, Fault: c}, nil
	case "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy":
		return nil, nil
	}
	return nil, fmt.Errorf("type %q is not supported", a.GetTypeUrl())
}
