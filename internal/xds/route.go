// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 deprecated fields are written where Istio writes them, so that any proxy that Istio drives understands them

package xds

import (
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

const (
	faultFilter = "envoy.filters.http.fault"
	corsFilter  = "envoy.filters.http.cors"
)

// maxDirectBody is Istio's bound for the body of a direct response.
const maxDirectBody = 1 << 20

// RouteConfig translates a route configuration. On demand, only the catch-all
// is inline; the other hosts are resources of their own.
func RouteConfig(rc *mesh.RouteConfig) *routev3.RouteConfiguration {
	out := &routev3.RouteConfiguration{
		Name: rc.Name, ValidateClusters: wrapperspb.Bool(false),
		MaxDirectResponseBodySizeBytes: u32(maxDirectBody), IgnorePortInHostMatching: !rc.KeepPort,
	}
	if rc.OnDemand {
		out.Vhds = &routev3.Vhds{ConfigSource: ads()}
	}
	for _, h := range rc.Hosts {
		out.VirtualHosts = append(out.VirtualHosts, VirtualHost(h))
	}
	return out
}

// VirtualHost translates a virtual host.
func VirtualHost(h *mesh.VirtualHost) *routev3.VirtualHost {
	out := &routev3.VirtualHost{
		Name: h.Name, Domains: h.Domains, IncludeRequestAttemptCount: true, Metadata: provenance(h.Origin),
	}
	if h.RequireTLS {
		out.RequireTls = routev3.VirtualHost_ALL
	}
	for i := range h.Routes {
		out.Routes = append(out.Routes, route(&h.Routes[i]))
	}
	return out
}

func route(r *mesh.Route) *routev3.Route {
	out := &routev3.Route{Name: r.Name, Match: routeMatch(&r.Match), Metadata: provenance(r.Origin)}
	out.RequestHeadersToAdd, out.RequestHeadersToRemove = headerOptions(r.Headers.RequestSet, r.Headers.RequestAdd), r.Headers.RequestRemove
	out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = headerOptions(r.Headers.ResponseSet, r.Headers.ResponseAdd), r.Headers.ResponseRemove
	if r.Operation != "" {
		out.Decorator = &routev3.Decorator{Operation: r.Operation}
	}
	switch {
	case r.Redirect != nil:
		out.Action = &routev3.Route_Redirect{Redirect: redirect(r.Redirect)}
	case r.Direct != nil:
		d := &routev3.DirectResponseAction{Status: r.Direct.Status}
		if len(r.Direct.Body) > 0 {
			d.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: r.Direct.Body}}
		}
		out.Action = &routev3.Route_DirectResponse{DirectResponse: d}
	default:
		out.Action = &routev3.Route_Route{Route: forward(r.Forward)}
	}
	if r.Fault != nil {
		out.TypedPerFilterConfig = map[string]*anypb.Any{faultFilter: typed(fault(r.Fault))}
	}
	if r.CORS != nil {
		if out.TypedPerFilterConfig == nil {
			out.TypedPerFilterConfig = map[string]*anypb.Any{}
		}
		out.TypedPerFilterConfig[corsFilter] = typed(cors(r.CORS))
	}
	return out
}

func routeMatch(m *mesh.Match) *routev3.RouteMatch {
	out := &routev3.RouteMatch{}
	if m.Connect {
		out.PathSpecifier = &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}
		return out
	}
	switch m.Path.Kind {
	case mesh.Exact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path.Value}
	case mesh.Prefix:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.Path.Value}
	case mesh.Regex:
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.Path.Value}}
	default:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
	}
	if m.Path.IgnoreCase {
		out.CaseSensitive = wrapperspb.Bool(false)
	}
	for _, h := range m.Headers {
		hm := &routev3.HeaderMatcher{Name: h.Name, InvertMatch: h.Invert}
		if h.Value.Kind == mesh.Any {
			hm.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		} else {
			hm.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: stringMatcher(h.Value)}
			// Without the header there is nothing to match: that is "not this value".
			hm.TreatMissingHeaderAsEmpty = h.Invert
		}
		out.Headers = append(out.Headers, hm)
	}
	for _, q := range m.Query {
		qm := &routev3.QueryParameterMatcher{Name: q.Name}
		if q.Value.Kind == mesh.Any {
			qm.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		} else {
			qm.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: stringMatcher(q.Value)}
		}
		out.QueryParameters = append(out.QueryParameters, qm)
	}
	return out
}

func stringMatcher(s mesh.StringMatch) *matcherv3.StringMatcher {
	out := &matcherv3.StringMatcher{IgnoreCase: s.IgnoreCase}
	switch s.Kind {
	case mesh.Exact:
		out.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: s.Value}
	case mesh.Prefix:
		out.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: s.Value}
	case mesh.Regex:
		out.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s.Value}}
	default:
		out.MatchPattern = &matcherv3.StringMatcher_Prefix{}
	}
	return out
}

func forward(f *mesh.Forward) *routev3.RouteAction {
	out := &routev3.RouteAction{Timeout: duration(f.Timeout), RetryPolicy: retryPolicy(f.Retry)}
	if !f.Terminate {
		// Istio: grpc-timeout does not limit a route.
		out.MaxGrpcTimeout = duration(0)
	}
	if len(f.Targets) == 1 && isPlain(&f.Targets[0]) {
		out.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: f.Targets[0].Cluster}
	} else {
		out.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted(f.Targets)}
	}
	if w := f.Rewrite; w != nil {
		out.PrefixRewrite = w.Prefix
		if w.Regex != "" {
			out.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: w.Regex}, Substitution: w.Replace}
		}
		if w.Authority != "" {
			out.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: w.Authority}
		}
	}
	for _, m := range f.Mirrors {
		out.RequestMirrorPolicies = append(out.RequestMirrorPolicies, &routev3.RouteAction_RequestMirrorPolicy{
			Cluster: m.Cluster, RuntimeFraction: &corev3.RuntimeFractionalPercent{DefaultValue: perMillion(m.PerMillion)},
		})
	}
	for i := range f.Hash {
		out.HashPolicy = append(out.HashPolicy, hashPolicy(&f.Hash[i]))
	}
	if f.Terminate {
		out.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{
			UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{},
		}}
	}
	return out
}

func isPlain(t *mesh.Target) bool {
	h := &t.Headers
	return t.Host == "" && len(h.RequestSet)+len(h.RequestAdd)+len(h.RequestRemove)+len(h.ResponseSet)+len(h.ResponseAdd)+len(h.ResponseRemove) == 0
}

func weighted(targets []mesh.Target) *routev3.WeightedCluster {
	out := &routev3.WeightedCluster{}
	for i := range targets {
		t := &targets[i]
		weight := t.Weight
		if len(targets) == 1 {
			weight = 100
		}
		c := &routev3.WeightedCluster_ClusterWeight{
			Name: t.Cluster, Weight: u32(weight),
			RequestHeadersToAdd: headerOptions(t.Headers.RequestSet, t.Headers.RequestAdd), RequestHeadersToRemove: t.Headers.RequestRemove,
			ResponseHeadersToAdd: headerOptions(t.Headers.ResponseSet, t.Headers.ResponseAdd), ResponseHeadersToRemove: t.Headers.ResponseRemove,
		}
		if t.Host != "" {
			c.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: t.Host}
		}
		out.Clusters = append(out.Clusters, c)
	}
	return out
}

func headerOptions(set, add []mesh.Header) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	option := func(h mesh.Header, action corev3.HeaderValueOption_HeaderAppendAction) {
		out = append(out, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: h.Name, Value: h.Value}, AppendAction: action})
	}
	for _, h := range add {
		option(h, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	}
	for _, h := range set {
		option(h, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	}
	return out
}

func retryPolicy(r *mesh.Retry) *routev3.RetryPolicy {
	if r == nil {
		return nil
	}
	out := &routev3.RetryPolicy{
		RetryOn: r.On, NumRetries: u32(r.Attempts), PerTryTimeout: optional(r.PerTryTimeout), RetriableStatusCodes: r.StatusCodes,
	}
	if r.AvoidPrevious {
		out.HostSelectionRetryMaxAttempts = 5
		out.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: typed(&previousv3.PreviousHostsPredicate{})},
		}}
	}
	if r.Backoff > 0 {
		out.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(r.Backoff), MaxInterval: duration(10 * r.Backoff)}
	}
	return out
}

func hashPolicy(k *mesh.HashKey) *routev3.RouteAction_HashPolicy {
	switch {
	case k.Header != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{
			Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: k.Header},
		}}
	case k.Query != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: k.Query},
		}}
	case k.Cookie != "":
		c := &routev3.RouteAction_HashPolicy_Cookie{Name: k.Cookie, Path: k.CookiePath}
		if k.CookieTTL != nil {
			c.Ttl = duration(*k.CookieTTL)
		}
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{Cookie: c}}
	}
	return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
		ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
	}}
}

var redirectCodes = map[uint32]routev3.RedirectAction_RedirectResponseCode{
	301: routev3.RedirectAction_MOVED_PERMANENTLY, 302: routev3.RedirectAction_FOUND, 303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT, 308: routev3.RedirectAction_PERMANENT_REDIRECT,
}

func redirect(r *mesh.Redirect) *routev3.RedirectAction {
	out := &routev3.RedirectAction{HostRedirect: r.Authority, PortRedirect: r.Port, ResponseCode: redirectCodes[r.Code]}
	if r.Scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: strings.ToLower(r.Scheme)}
	}
	switch {
	case r.Path != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: r.Path}
	case r.Prefix != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: r.Prefix}
	}
	return out
}

func perMillion(n uint32) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: n, Denominator: typev3.FractionalPercent_MILLION}
}

func fault(f *mesh.Fault) *faultv3.HTTPFault {
	out := &faultv3.HTTPFault{}
	if f.Delay > 0 {
		out.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: duration(f.Delay)}, Percentage: perMillion(f.DelayPerMillion),
		}
	}
	switch {
	case f.HTTPStatus != 0:
		out.Abort = &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_HttpStatus{HttpStatus: f.HTTPStatus}, Percentage: perMillion(f.AbortPerMillion)}
	case f.GRPCStatus != nil:
		out.Abort = &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_GrpcStatus{GrpcStatus: *f.GRPCStatus}, Percentage: perMillion(f.AbortPerMillion)}
	}
	return out
}

func cors(c *mesh.CORS) *corsv3.CorsPolicy {
	out := &corsv3.CorsPolicy{
		AllowMethods: strings.Join(c.Methods, ","), AllowHeaders: strings.Join(c.Headers, ","), ExposeHeaders: strings.Join(c.Expose, ","),
		ForwardNotMatchingPreflights: wrapperspb.Bool(!c.IgnoreUnmatched),
	}
	for _, o := range c.Origins {
		out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, stringMatcher(o))
	}
	if c.HasMaxAge {
		out.MaxAge = secondsText(c.MaxAge)
	}
	if c.AllowCredentials != nil {
		out.AllowCredentials = wrapperspb.Bool(*c.AllowCredentials)
	}
	return out
}

func secondsText(d time.Duration) string {
	return strconv.FormatInt(int64(d/time.Second), 10)
}
