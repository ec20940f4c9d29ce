// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"net/netip"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	fileaccessv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

// Listener translates a listener.
func Listener(l *mesh.Listener) *listenerv3.Listener {
	out := &listenerv3.Listener{
		Name: l.Name, Address: socketAddress(l.Address, l.Port), TrafficDirection: corev3.TrafficDirection_OUTBOUND, Metadata: provenance(l.Origin),
	}
	if l.DualStack {
		out.GetAddress().GetSocketAddress().Ipv4Compat = true
	}
	if l.Direction == mesh.Inbound {
		out.TrafficDirection = corev3.TrafficDirection_INBOUND
	}
	if l.HandOff {
		out.BindToPort = wrapperspb.Bool(false)
	}
	if l.OriginalDst {
		out.UseOriginalDst = wrapperspb.Bool(true)
		if l.Direction == mesh.Inbound {
			// Inbound does not hand off: the original port only selects the chain.
			out.UseOriginalDst = nil
			out.ListenerFilters = append(out.ListenerFilters, listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{}))
		}
	}
	if l.InspectTLS {
		f := listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{})
		f.FilterDisabled = onPorts(l.PlainPorts)
		out.ListenerFilters = append(out.ListenerFilters, f)
	}
	if l.InspectHTTP {
		f := listenerFilter("envoy.filters.listener.http_inspector", &httpinspectorv3.HttpInspector{})
		f.FilterDisabled = onPorts(l.OpaquePorts)
		out.ListenerFilters = append(out.ListenerFilters, f)
	}
	if len(out.ListenerFilters) > 0 {
		out.ListenerFiltersTimeout, out.ContinueOnListenerFiltersTimeout = duration(l.DetectionTimeout), true
	}
	for i := range l.Chains {
		out.FilterChains = append(out.FilterChains, chain(&l.Chains[i]))
	}
	if l.Default != nil {
		out.DefaultFilterChain = chain(l.Default)
	}
	return out
}

// onPorts is a predicate for connections to some original destination ports.
func onPorts(ports []uint32) *listenerv3.ListenerFilterChainMatchPredicate {
	var rules []*listenerv3.ListenerFilterChainMatchPredicate
	for _, p := range ports {
		rules = append(rules, &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
			DestinationPortRange: &typev3.Int32Range{Start: int32(p), End: int32(p) + 1},
		}})
	}
	switch len(rules) {
	case 0:
		return nil
	case 1:
		return rules[0]
	}
	return &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
		OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: rules},
	}}
}

func listenerFilter(name string, m proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: typed(m)}}
}

func chain(c *mesh.Chain) *listenerv3.FilterChain {
	out := &listenerv3.FilterChain{Name: c.Name, Metadata: provenance(c.Origin), TransportSocketConnectTimeout: duration(15 * time.Second)}
	m := &listenerv3.FilterChainMatch{
		DestinationPort: optional32(c.Match.Port), ServerNames: c.Match.ServerNames,
		TransportProtocol: c.Match.Transport, ApplicationProtocols: c.Match.Applications,
	}
	for _, p := range c.Match.Prefixes {
		if prefix, err := netip.ParsePrefix(p); err == nil {
			m.PrefixRanges = append(m.PrefixRanges, &corev3.CidrRange{AddressPrefix: prefix.Addr().String(), PrefixLen: u32(uint32(prefix.Bits()))})
		}
	}
	if proto.Size(m) > 0 {
		out.FilterChainMatch = m
	}
	if c.TLS != nil {
		out.TransportSocket = serverTLS(c.TLS)
	}
	if c.HTTP != nil {
		out.Filters = []*listenerv3.Filter{networkFilter("envoy.filters.network.http_connection_manager", connectionManager(c.HTTP))}
	} else {
		out.Filters = []*listenerv3.Filter{networkFilter("envoy.filters.network.tcp_proxy", tcpProxy(c.TCP))}
	}
	return out
}

func networkFilter(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typed(m)}}
}

func tcpProxy(t *mesh.TCPProxy) *tcpv3.TcpProxy {
	out := &tcpv3.TcpProxy{
		StatPrefix: t.StatPrefix, IdleTimeout: optional(t.IdleTimeout), AccessLog: accessLogs(t.AccessLog),
		MaxDownstreamConnectionDuration: optional(t.MaxConnectionDuration),
	}
	if len(t.Targets) == 1 {
		out.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: t.Targets[0].Cluster}
		return out
	}
	w := &tcpv3.TcpProxy_WeightedCluster{}
	for _, target := range t.Targets {
		w.Clusters = append(w.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{Name: target.Cluster, Weight: target.Weight})
	}
	out.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	return out
}

func connectionManager(h *mesh.HTTPConn) *hcmv3.HttpConnectionManager {
	out := &hcmv3.HttpConnectionManager{
		StatPrefix: h.StatPrefix, UseRemoteAddress: wrapperspb.Bool(false), StreamIdleTimeout: duration(0), Proxy_100Continue: true,
		UpgradeConfigs: []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		AccessLog:      accessLogs(h.AccessLog),
		HttpFilters: []*hcmv3.HttpFilter{
			httpFilter(faultFilter, &faultv3.HTTPFault{}), httpFilter(corsFilter, &corsv3.Cors{}), httpFilter("envoy.filters.http.router", &routerv3.Router{}),
		},
	}
	normalize(out, h.Paths)
	if h.Connect {
		out.UpgradeConfigs = append(out.UpgradeConfigs, &hcmv3.HttpConnectionManager_UpgradeConfig{UpgradeType: "CONNECT"})
		// Requests in absolute form are what the port is for.
		out.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AllowAbsoluteUrl: wrapperspb.Bool(true)}
	}
	if h.Inline != nil {
		out.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: inline(h.Inline)}
	} else {
		out.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: h.RouteConfig}}
	}
	switch h.Direction {
	case mesh.Inbound:
		out.ServerName = "istio-envoy"
		out.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
		if h.ForwardCert {
			out.ForwardClientCertDetails = hcmv3.HttpConnectionManager_APPEND_FORWARD
			out.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
				Subject: wrapperspb.Bool(true), Dns: true, Uri: true,
			}
		}
	case mesh.Edge:
		out.ServerName = "istio-envoy"
		out.UseRemoteAddress = wrapperspb.Bool(true)
		out.XffNumTrustedHops = h.XFFTrustedHops
		out.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		out.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
			Subject: wrapperspb.Bool(true), Cert: true, Dns: true, Uri: true,
		}
	}
	return out
}

// inline translates routes that are a part of a listener.
func inline(rc *mesh.RouteConfig) *routev3.RouteConfiguration {
	out := RouteConfig(rc)
	out.IgnorePortInHostMatching = false
	out.MaxDirectResponseBodySizeBytes = nil
	return out
}

func httpFilter(name string, m proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(m)}}
}

func normalize(out *hcmv3.HttpConnectionManager, p mesh.PathNormalization) {
	out.NormalizePath = wrapperspb.Bool(p != mesh.NormalizeNone)
	out.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_KEEP_UNCHANGED
	switch p {
	case mesh.NormalizeMergeSlashes:
		out.MergeSlashes = true
	case mesh.NormalizeDecodeAndMerge:
		out.MergeSlashes = true
		out.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD
	}
}

// textFormat is Istio's default access log format.
const textFormat = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% " +
	"%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% " +
	"%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" " +
	"\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% " +
	"%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"

// jsonFormat is Istio's default in JSON encoding.
var jsonFormat = [][2]string{
	{"start_time", "%START_TIME%"}, {"route_name", "%ROUTE_NAME%"}, {"method", "%REQ(:METHOD)%"},
	{"path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"}, {"protocol", "%PROTOCOL%"}, {"response_code", "%RESPONSE_CODE%"},
	{"response_flags", "%RESPONSE_FLAGS%"}, {"response_code_details", "%RESPONSE_CODE_DETAILS%"},
	{"connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"}, {"bytes_received", "%BYTES_RECEIVED%"},
	{"bytes_sent", "%BYTES_SENT%"}, {"duration", "%DURATION%"}, {"upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"},
	{"x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"}, {"user_agent", "%REQ(USER-AGENT)%"}, {"request_id", "%REQ(X-REQUEST-ID)%"},
	{"authority", "%REQ(:AUTHORITY)%"}, {"upstream_host", "%UPSTREAM_HOST%"}, {"upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"},
	{"upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"}, {"downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"},
	{"downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"}, {"requested_server_name", "%REQUESTED_SERVER_NAME%"},
	{"upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"},
}

func accessLogs(l *mesh.AccessLog) []*accesslogv3.AccessLog {
	if l == nil {
		return nil
	}
	format := &corev3.SubstitutionFormatString{}
	if l.IsJSON {
		fields := l.JSON
		if len(fields) == 0 {
			fields = jsonFormat
		}
		s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for _, f := range fields {
			s.Fields[f[0]] = text(f[1])
		}
		format.Format = &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: s}
	} else {
		source := l.Format
		if source == "" {
			source = textFormat
		}
		format.Format = &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: source},
		}}
	}
	return []*accesslogv3.AccessLog{{Name: "envoy.access_loggers.file", ConfigType: &accesslogv3.AccessLog_TypedConfig{
		TypedConfig: typed(&fileaccessv3.FileAccessLog{Path: l.Path, AccessLogFormat: &fileaccessv3.FileAccessLog_LogFormat{LogFormat: format}}),
	}}}
}
