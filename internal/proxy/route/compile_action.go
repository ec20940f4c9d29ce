// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 deprecated fields are honoured: control planes still send them

package route

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lateen-mesh/lateen/internal/proxy/retry"
)

// defaultTimeout is a route's timeout where it says nothing.
const defaultTimeout = 15 * time.Second

func compileAction(m *routev3.RouteAction, inherited *retry.Policy) (*Action, error) {
	a := &Action{
		Timeout:              defaultTimeout,
		HighPriority:         m.GetPriority() == corev3.RoutingPriority_HIGH,
		AppendXForwardedHost: m.GetAppendXForwardedHost(),
		AutoHostRewrite:      m.GetAutoHostRewrite().GetValue(),
		Retry:                inherited,
	}
	if err := a.compileCluster(m); err != nil {
		return nil, err
	}
	if err := a.compileTimeouts(m); err != nil {
		return nil, err
	}
	if m.GetRetryPolicy() != nil {
		p, err := retry.Compile(m.GetRetryPolicy())
		if err != nil {
			return nil, fmt.Errorf("retry_policy.%w", err)
		}
		a.Retry = p
	}
	var err error
	if a.rewrite, err = compileRewrite(m); err != nil {
		return nil, err
	}
	if a.hash, err = compileHash(m.GetHashPolicy()); err != nil {
		return nil, err
	}
	if a.mirrors, err = compileMirrors(m.GetRequestMirrorPolicies()); err != nil {
		return nil, err
	}
	for _, u := range m.GetUpgradeConfigs() {
		up := Upgrade{Type: strings.ToLower(u.GetUpgradeType()), Enabled: true, Terminate: u.GetConnectConfig() != nil}
		if u.GetEnabled() != nil {
			up.Enabled = u.GetEnabled().GetValue()
		}
		if a.Upgrade(up.Type) != nil {
			return nil, fmt.Errorf("upgrade_configs: upgrade_type %q is given twice", up.Type)
		}
		if up.Terminate && up.Type != "connect" {
			return nil, fmt.Errorf("upgrade_configs: connect_config needs upgrade_type CONNECT, not %q", u.GetUpgradeType())
		}
		a.upgrades = append(a.upgrades, up)
	}
	return a, nil
}

func (a *Action) compileCluster(m *routev3.RouteAction) error {
	switch m.GetClusterNotFoundResponseCode() {
	case routev3.RouteAction_SERVICE_UNAVAILABLE:
		a.ClusterNotFoundStatus = 503
	case routev3.RouteAction_NOT_FOUND:
		a.ClusterNotFoundStatus = 404
	case routev3.RouteAction_INTERNAL_SERVER_ERROR:
		a.ClusterNotFoundStatus = 500
	default:
		return fmt.Errorf("cluster_not_found_response_code: %d is not known", m.GetClusterNotFoundResponseCode())
	}
	switch c := m.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		if c.Cluster == "" {
			return errors.New("cluster: is empty")
		}
		a.Cluster = c.Cluster
	case *routev3.RouteAction_ClusterHeader:
		if c.ClusterHeader == "" {
			return errors.New("cluster_header: is empty")
		}
		a.clusterHeader = newHeaderName(c.ClusterHeader)
	case *routev3.RouteAction_WeightedClusters:
		return a.compileWeighted(c.WeightedClusters)
	default:
		return fmt.Errorf("cluster_specifier: %T is not supported", c)
	}
	return nil
}

func (a *Action) compileWeighted(m *routev3.WeightedCluster) error {
	switch r := m.GetRandomValueSpecifier().(type) {
	case nil:
	case *routev3.WeightedCluster_HeaderName:
		a.randomHeader = newHeaderName(r.HeaderName)
	default:
		return fmt.Errorf("weighted_clusters.random_value_specifier: %T is not supported", r)
	}
	for i, c := range m.GetClusters() {
		w := Weighted{Cluster: c.GetName(), Weight: c.GetWeight().GetValue()}
		if c.GetClusterHeader() != "" {
			w.clusterHeader = newHeaderName(c.GetClusterHeader())
		}
		if (w.Cluster == "") == (c.GetClusterHeader() == "") {
			return fmt.Errorf("weighted_clusters.clusters[%d]: exactly one of name and cluster_header must be set", i)
		}
		if h := c.GetHostRewriteLiteral(); h != "" {
			w.hostRewrite = []byte(h)
		}
		var err error
		if w.request, w.response, err = compileBoth(c); err == nil {
			w.filters, err = compileFilters(c.GetTypedPerFilterConfig())
		}
		if err != nil {
			return fmt.Errorf("weighted_clusters.clusters[%d].%w", i, err)
		}
		a.total += uint64(w.Weight)
		w.upTo = a.total
		a.Weighted = append(a.Weighted, w)
	}
	if a.total == 0 || a.total > math.MaxUint32 {
		return fmt.Errorf("weighted_clusters: the sum of the weights is %d, it must be positive and fit 32 bits", a.total)
	}
	return nil
}

func (a *Action) compileTimeouts(m *routev3.RouteAction) error {
	var err error
	set := func(field string, d *durationpb.Duration, to *time.Duration, has *bool) {
		if d == nil || err != nil {
			return
		}
		if d.CheckValid() != nil || d.AsDuration() < 0 {
			err = fmt.Errorf("%s: is not a valid duration", field)
			return
		}
		*to = d.AsDuration()
		if has != nil {
			*has = true
		}
	}
	l := &a.limits
	set("timeout", m.GetTimeout(), &a.Timeout, nil)
	set("idle_timeout", m.GetIdleTimeout(), &a.IdleTimeout, &a.HasIdleTimeout)
	set("max_grpc_timeout", m.GetMaxGrpcTimeout(), &l.maxGRPCTimeout, &l.hasMaxGRPCTimeout)
	set("grpc_timeout_offset", m.GetGrpcTimeoutOffset(), &l.deprecatedGRPCDelta, nil)
	if s := m.GetMaxStreamDuration(); s != nil {
		set("max_stream_duration.max_stream_duration", s.GetMaxStreamDuration(), &l.maxStream, &l.hasMaxStream)
		set("max_stream_duration.grpc_timeout_header_max", s.GetGrpcTimeoutHeaderMax(), &l.grpcHeaderMax, &l.hasGRPCHeaderMax)
		set("max_stream_duration.grpc_timeout_header_offset", s.GetGrpcTimeoutHeaderOffset(), &l.grpcHeaderOffset, nil)
	}
	return err
}

func compileRewrite(m *routev3.RouteAction) (*rewrite, error) {
	w := &rewrite{}
	var err error
	if m.GetPrefixRewrite() != "" {
		if m.GetRegexRewrite() != nil {
			return nil, errors.New("regex_rewrite: only one of prefix_rewrite and regex_rewrite may be set")
		}
		if err := validValue([]byte(m.GetPrefixRewrite())); err != nil {
			return nil, fmt.Errorf("prefix_rewrite: %w", err)
		}
		w.prefix = []byte(m.GetPrefixRewrite())
	}
	if w.path, err = compileSubstitution(m.GetRegexRewrite()); err != nil {
		return nil, fmt.Errorf("regex_rewrite.%w", err)
	}
	switch h := m.GetHostRewriteSpecifier().(type) {
	case nil, *routev3.RouteAction_AutoHostRewrite:
	case *routev3.RouteAction_HostRewriteLiteral:
		if err := validValue([]byte(h.HostRewriteLiteral)); err != nil {
			return nil, fmt.Errorf("host_rewrite_literal: %w", err)
		}
		w.host = []byte(h.HostRewriteLiteral)
	case *routev3.RouteAction_HostRewriteHeader:
		w.hostHeader = newHeaderName(h.HostRewriteHeader)
	case *routev3.RouteAction_HostRewritePathRegex:
		if w.hostFromPath, err = compileSubstitution(h.HostRewritePathRegex); err != nil {
			return nil, fmt.Errorf("host_rewrite_path_regex.%w", err)
		}
	default:
		return nil, fmt.Errorf("host_rewrite_specifier: %T is not supported", h)
	}
	if w.prefix == nil && w.path == nil && len(w.host) == 0 && w.hostHeader.name == nil && w.hostFromPath == nil {
		return nil, nil
	}
	return w, nil
}

// compileSubstitution turns RE2's \1 into Go's ${1}.
func compileSubstitution(m *matcherv3.RegexMatchAndSubstitute) (*substitution, error) {
	if m == nil {
		return nil, nil
	}
	source := m.GetPattern().GetRegex()
	if source == "" || len(source) > 16<<10 {
		return nil, errors.New("pattern.regex: is empty or too long")
	}
	re, err := regexp.Compile(source)
	if err != nil {
		return nil, fmt.Errorf("pattern.regex: does not compile: %w", err)
	}
	s := &substitution{re: re}
	for in := m.GetSubstitution(); in != ""; in = in[1:] {
		switch c := in[0]; {
		case c == '$':
			s.with = append(s.with, "$$"...)
		case c != '\\':
			s.with = append(s.with, c)
		case len(in) > 1 && in[1] == '\\':
			s.with = append(s.with, '\\')
			in = in[1:]
		case len(in) > 1 && in[1] >= '0' && in[1] <= '9':
			if int(in[1]-'0') > re.NumSubexp() {
				return nil, fmt.Errorf("substitution: \\%c names no group of the pattern", in[1])
			}
			s.with = append(s.with, '$', '{', in[1], '}')
			in = in[1:]
		default:
			return nil, fmt.Errorf("substitution: %q: a backslash must be followed by a digit or a backslash", m.GetSubstitution())
		}
	}
	if err := validValue(s.with); err != nil {
		return nil, fmt.Errorf("substitution: %w", err)
	}
	return s, nil
}

func compileMirrors(ms []*routev3.RouteAction_RequestMirrorPolicy) ([]Mirror, error) {
	var out []Mirror
	for i, m := range ms {
		if m.GetCluster() == "" {
			return nil, fmt.Errorf("request_mirror_policies[%d].cluster: is empty", i)
		}
		p := Mirror{Cluster: m.GetCluster(), KeepHost: m.GetDisableShadowHostSuffixAppend()}
		if f := m.GetRuntimeFraction(); f != nil {
			var err error
			if p.share, err = compileFraction(f.GetDefaultValue()); err != nil {
				return nil, fmt.Errorf("request_mirror_policies[%d].runtime_fraction.default_value: %w", i, err)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

var redirectStatus = map[routev3.RedirectAction_RedirectResponseCode]int{
	routev3.RedirectAction_MOVED_PERMANENTLY:  301,
	routev3.RedirectAction_FOUND:              302,
	routev3.RedirectAction_SEE_OTHER:          303,
	routev3.RedirectAction_TEMPORARY_REDIRECT: 307,
	routev3.RedirectAction_PERMANENT_REDIRECT: 308,
}

func compileRedirect(m *routev3.RedirectAction) (*Redirect, error) {
	r := &Redirect{
		Status:     redirectStatus[m.GetResponseCode()],
		https:      m.GetHttpsRedirect(),
		scheme:     []byte(m.GetSchemeRedirect()),
		host:       []byte(m.GetHostRedirect()),
		port:       m.GetPortRedirect(),
		stripQuery: m.GetStripQuery(),
	}
	if r.Status == 0 {
		return nil, fmt.Errorf("response_code: %d is not known", m.GetResponseCode())
	}
	if r.port > math.MaxUint16 {
		return nil, fmt.Errorf("port_redirect: %d is no port", r.port)
	}
	switch p := m.GetPathRewriteSpecifier().(type) {
	case nil:
	case *routev3.RedirectAction_PathRedirect:
		r.path, r.pathQuery = []byte(p.PathRedirect), strings.Contains(p.PathRedirect, "?")
	case *routev3.RedirectAction_PrefixRewrite:
		r.prefix, r.replacePath = []byte(p.PrefixRewrite), true
	case *routev3.RedirectAction_RegexRewrite:
		sub, err := compileSubstitution(p.RegexRewrite)
		if err != nil {
			return nil, fmt.Errorf("regex_rewrite.%w", err)
		}
		r.regex, r.replacePath = sub, true
	default:
		return nil, fmt.Errorf("path_rewrite_specifier: %T is not supported", p)
	}
	for _, part := range [][]byte{r.scheme, r.host, r.path, r.prefix} {
		if err := validValue(part); err != nil {
			return nil, fmt.Errorf("location: %w", err)
		}
	}
	return r, nil
}

func compileDirect(m *routev3.DirectResponseAction) (*DirectResponse, error) {
	if m.GetStatus() < 200 || m.GetStatus() > 599 {
		return nil, fmt.Errorf("status: %d is not in [200, 599]", m.GetStatus())
	}
	d := &DirectResponse{Status: int(m.GetStatus())}
	switch b := m.GetBody().GetSpecifier().(type) {
	case nil:
	case *corev3.DataSource_InlineString:
		d.Body = []byte(b.InlineString)
	case *corev3.DataSource_InlineBytes:
		d.Body = b.InlineBytes
	default:
		return nil, fmt.Errorf("body: %T is not supported; use inline_string or inline_bytes", b)
	}
	return d, nil
}
