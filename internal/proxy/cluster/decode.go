// SPDX-License-Identifier: Apache-2.0

package cluster

//lint:file-ignore SA1019 deprecated fields are still part of what a control plane may send

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3" // makes rawBufferType known to JSON
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/lateen-mesh/lateen/internal/proxy/balance"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	tlsconf "github.com/lateen-mesh/lateen/internal/proxy/tls"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Type names of the Any messages a cluster may hold.
const (
	typePrefix    = "type.googleapis.com/"
	tlsType       = typePrefix + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	rawBufferType = typePrefix + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
	httpOptsName  = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
)

// decode checks and compiles a cluster resource; fixed is its load_assignment,
// nil for EDS and ORIGINAL_DST.
func decode(msg *clusterv3.Cluster, store *secret.Store) (cfg *Config, fixed *assignment, err error) {
	if msg.GetName() == "" {
		return nil, nil, errors.New("cluster: name is empty: set name")
	}
	cfg = &Config{Name: intern(msg.GetName()), StatName: intern(msg.GetAltStatName()), ConnectTimeout: 5 * time.Second, PerHost: math.MaxUint32, BufferLimit: 1 << 20, Panic: 50}
	if cfg.StatName == "" {
		cfg.StatName = cfg.Name
	}
	if fixed, err = cfg.decodeAll(msg, store); err != nil {
		return nil, nil, fmt.Errorf("cluster %q: %w", msg.GetName(), err)
	}
	return cfg, fixed, nil
}

func (cfg *Config) decodeAll(msg *clusterv3.Cluster, store *secret.Store) (*assignment, error) {
	if err := unsupported(msg); err != nil {
		return nil, err
	}
	if d := msg.GetConnectTimeout(); d != nil {
		if cfg.ConnectTimeout = d.AsDuration(); cfg.ConnectTimeout <= 0 {
			return nil, errors.New("connect_timeout must be above 0")
		}
	}
	if v := msg.GetPerConnectionBufferLimitBytes(); v != nil {
		cfg.BufferLimit = v.GetValue()
	}
	if k := msg.GetUpstreamConnectionOptions().GetTcpKeepalive(); k != nil {
		cfg.Keepalive = &Keepalive{
			Idle:     time.Duration(k.GetKeepaliveTime().GetValue()) * time.Second,
			Interval: time.Duration(k.GetKeepaliveInterval().GetValue()) * time.Second,
			Probes:   int(min(k.GetKeepaliveProbes().GetValue(), 1000)),
		}
	}
	cfg.decodeMetadata(msg.GetMetadata())
	steps := []func() error{
		func() error { return cfg.decodeBind(msg.GetUpstreamBindConfig()) },
		func() error { return cfg.decodeBalancing(msg) },
		func() error { return cfg.decodeThresholds(msg.GetCircuitBreakers()) },
		func() error { return cfg.decodeHTTP(msg) },
		func() error { return cfg.decodeTransports(msg, store) },
	}
	for _, f := range steps {
		if err := f(); err != nil {
			return nil, err
		}
	}
	return cfg.decodeDiscovery(msg)
}

// unsupported names the fields that would change where or how requests go and
// that this proxy does not implement. What changes nothing a user can see is on
// the field policy's list instead.
func unsupported(msg *clusterv3.Cluster) error {
	for _, f := range []struct {
		set  bool
		name string
	}{
		{msg.GetClusterType() != nil, "cluster_type"},
		{msg.GetLbSubsetConfig() != nil, "lb_subset_config"},
		{msg.GetLoadBalancingPolicy() != nil, "load_balancing_policy"},
		{len(msg.GetHealthChecks()) > 0, "health_checks"},
		{msg.GetTransportSocketMatcher() != nil, "transport_socket_matcher"},
		{msg.GetUpstreamConfig() != nil, "upstream_config"},
		{msg.GetConnectionPoolPerDownstreamConnection(), "connection_pool_per_downstream_connection"},
		{msg.GetCommonLbConfig().GetConsistentHashingLbConfig().GetHashBalanceFactor() != nil, "common_lb_config.consistent_hashing_lb_config.hash_balance_factor"},
		{msg.GetOriginalDstLbConfig().GetUseHttpHeader(), "original_dst_lb_config.use_http_header"},
		{msg.GetOriginalDstLbConfig().GetUpstreamPortOverride() != nil, "original_dst_lb_config.upstream_port_override"},
		{msg.GetOriginalDstLbConfig().GetMetadataKey() != nil, "original_dst_lb_config.metadata_key"},
	} {
		if f.set {
			return fmt.Errorf("%s is not supported: remove it", f.name)
		}
	}
	return nil
}

func (cfg *Config) decodeMetadata(m *corev3.Metadata) {
	f := m.GetFilterMetadata()["istio"].GetFields()
	if f == nil {
		return
	}
	str := func(v *structpb.Value) string { return intern(v.GetStringValue()) }
	cfg.Provenance, cfg.Subset = str(f["config"]), str(f["subset"])
	if s := f["services"].GetListValue().GetValues(); len(s) > 0 {
		sf := s[0].GetStructValue().GetFields()
		cfg.Service = Service{Host: str(sf["host"]), Name: str(sf["name"]), Namespace: str(sf["namespace"])}
	}
}

func (cfg *Config) decodeBind(m *corev3.BindConfig) error {
	if m == nil {
		return nil
	}
	if len(m.GetSocketOptions()) > 0 || len(m.GetAdditionalSourceAddresses()) > 0 || m.GetLocalAddressSelector() != nil {
		return errors.New("upstream_bind_config: only source_address and extra_source_addresses are supported: remove the rest")
	}
	var sources []*corev3.SocketAddress
	if s := m.GetSourceAddress(); s != nil {
		sources = append(sources, s)
	}
	for _, e := range m.GetExtraSourceAddresses() {
		if e.GetSocketOptions() != nil {
			return errors.New("upstream_bind_config.extra_source_addresses.socket_options is not supported: remove it")
		}
		sources = append(sources, e.GetAddress())
	}
	for _, s := range sources {
		ip, err := netip.ParseAddr(s.GetAddress())
		if err != nil || s.GetPortValue() != 0 {
			return fmt.Errorf("upstream_bind_config.source_address: %q with port %d: give an IP address and port 0", s.GetAddress(), s.GetPortValue())
		}
		cfg.BindSources = append(cfg.BindSources, ip)
	}
	return nil
}

func (cfg *Config) decodeBalancing(msg *clusterv3.Cluster) error {
	cfg.balance.Bias = 1
	switch p := msg.GetLbPolicy(); p {
	case clusterv3.Cluster_ROUND_ROBIN:
		cfg.Policy = balance.RoundRobin
		if err := cfg.decodeSlowStart(msg.GetRoundRobinLbConfig().GetSlowStartConfig()); err != nil {
			return fmt.Errorf("round_robin_lb_config.slow_start_config: %w", err)
		}
	case clusterv3.Cluster_LEAST_REQUEST:
		cfg.Policy = balance.LeastRequest
		lr := msg.GetLeastRequestLbConfig()
		if err := cfg.decodeSlowStart(lr.GetSlowStartConfig()); err != nil {
			return fmt.Errorf("least_request_lb_config.slow_start_config: %w", err)
		}
		if c := lr.GetChoiceCount(); c != nil {
			if c.GetValue() < 2 {
				return errors.New("least_request_lb_config.choice_count is below 2")
			}
			cfg.balance.Choices = c.GetValue()
		}
		if b := lr.GetActiveRequestBias(); b != nil {
			if cfg.balance.Bias = b.GetDefaultValue(); cfg.balance.Bias < 0 {
				return errors.New("least_request_lb_config.active_request_bias is below 0")
			}
		}
	case clusterv3.Cluster_RANDOM:
		cfg.Policy = balance.Random
	case clusterv3.Cluster_RING_HASH, clusterv3.Cluster_MAGLEV:
		var err error
		if cfg.hash, err = decodeHash(msg); err != nil {
			return err
		}
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		if msg.GetType() != clusterv3.Cluster_ORIGINAL_DST {
			return errors.New("lb_policy CLUSTER_PROVIDED goes with type ORIGINAL_DST only")
		}
	default:
		return fmt.Errorf("lb_policy %v is not supported: use ROUND_ROBIN, LEAST_REQUEST, RANDOM, RING_HASH or MAGLEV", p)
	}
	common := msg.GetCommonLbConfig()
	if t := common.GetHealthyPanicThreshold(); t != nil {
		if v := t.GetValue(); !(v >= 0 && v <= 100) {
			return fmt.Errorf("common_lb_config.healthy_panic_threshold %v is not in 0..100", v)
		}
		cfg.Panic = uint32(math.Round(t.GetValue()))
	}
	cfg.localityLB = common.GetLocalityWeightedLbConfig() != nil
	return nil
}

func (cfg *Config) decodeSlowStart(m *clusterv3.Cluster_SlowStartConfig) error {
	if m.GetSlowStartWindow().AsDuration() == 0 {
		return nil // off, in Envoy too
	}
	s := &slowStart{window: m.GetSlowStartWindow().AsDuration(), aggression: 1, least: 0.1}
	if a := m.GetAggression(); a != nil {
		s.aggression = a.GetDefaultValue()
	}
	if p := m.GetMinWeightPercent(); p != nil {
		s.least = p.GetValue() / 100
	}
	if s.window < 0 || !(s.aggression > 0) || !(s.least >= 0 && s.least <= 1) {
		return errors.New("want slow_start_window above 0, aggression above 0 and min_weight_percent in 0..100")
	}
	cfg.slow = s
	return nil
}

func (cfg *Config) decodeThresholds(cb *clusterv3.CircuitBreakers) error {
	cfg.Thresholds = [2]Thresholds{defaultThresholds, defaultThresholds}
	for _, m := range cb.GetThresholds() {
		t := &cfg.Thresholds[0]
		if m.GetPriority() == corev3.RoutingPriority_HIGH {
			t = &cfg.Thresholds[1]
		}
		if m.GetMaxConnectionPools() != nil {
			return errors.New("circuit_breakers.thresholds.max_connection_pools is not supported: remove it")
		}
		for _, f := range []struct {
			v  interface{ GetValue() uint32 }
			is bool
			to *uint32
		}{
			{m.GetMaxConnections(), m.GetMaxConnections() != nil, &t.MaxConnections},
			{m.GetMaxPendingRequests(), m.GetMaxPendingRequests() != nil, &t.MaxPending},
			{m.GetMaxRequests(), m.GetMaxRequests() != nil, &t.MaxRequests},
			{m.GetMaxRetries(), m.GetMaxRetries() != nil, &t.MaxRetries},
		} {
			if f.is {
				*f.to = f.v.GetValue()
			}
		}
		if b := m.GetRetryBudget(); b != nil {
			if b.GetBudgetInterval().AsDuration() != 0 {
				return errors.New("circuit_breakers.thresholds.retry_budget.budget_interval is not supported: remove it")
			}
			t.HasBudget, t.RetryBudget, t.MinRetryConc = true, 20, 3
			if p := b.GetBudgetPercent(); p != nil {
				if v := p.GetValue(); !(v >= 0 && v <= 100) {
					return fmt.Errorf("circuit_breakers.thresholds.retry_budget.budget_percent %v is not in 0..100", v)
				}
				t.RetryBudget = p.GetValue()
			}
			if c := b.GetMinRetryConcurrency(); c != nil {
				t.MinRetryConc = c.GetValue()
			}
		}
		t.TrackRemained = m.GetTrackRemaining()
	}
	for _, m := range cb.GetPerHostThresholds() {
		if m.GetMaxConnections() != nil {
			cfg.PerHost = m.GetMaxConnections().GetValue()
		}
	}
	return nil
}

func (cfg *Config) decodeTransports(msg *clusterv3.Cluster, store *secret.Store) error {
	var err error
	if cfg.transport, err = decodeTransport(msg.GetTransportSocket(), store); err != nil {
		return fmt.Errorf("transport_socket: %w", err)
	}
	for i, m := range msg.GetTransportSocketMatches() {
		t, err := decodeTransport(m.GetTransportSocket(), store)
		if err != nil {
			return fmt.Errorf("transport_socket_matches[%d].transport_socket: %w", i, err)
		}
		own := *t
		own.Name = intern(m.GetName())
		if own.want, err = lines(m.GetMatch()); err != nil {
			return fmt.Errorf("transport_socket_matches[%d].match: %w", i, err)
		}
		cfg.matches = append(cfg.matches, &own)
	}
	return nil
}

var plain = &Transport{}

func decodeTransport(m *corev3.TransportSocket, store *secret.Store) (*Transport, error) {
	a := m.GetTypedConfig()
	switch {
	case m == nil:
		return plain, nil
	case a == nil:
		return nil, fmt.Errorf("%q has no typed_config: give one", m.GetName())
	case a.GetTypeUrl() == rawBufferType:
		return plain, nil
	case a.GetTypeUrl() == tlsType:
		var ctx tlsv3.UpstreamTlsContext
		if err := a.UnmarshalTo(&ctx); err != nil {
			return nil, err
		}
		c, err := tlsconf.NewClient(&ctx, store)
		if err != nil {
			return nil, err
		}
		return &Transport{TLS: c}, nil
	default:
		return nil, fmt.Errorf("type %q is not supported: use TLS or raw_buffer", a.GetTypeUrl())
	}
}

func (cfg *Config) decodeDiscovery(msg *clusterv3.Cluster) (*assignment, error) {
	la := msg.GetLoadAssignment()
	switch t := msg.GetType(); t {
	case clusterv3.Cluster_STATIC:
		cfg.Discovery = Static
	case clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS:
		cfg.Discovery = StrictDNS
		if t == clusterv3.Cluster_LOGICAL_DNS {
			cfg.Discovery = LogicalDNS
		}
		var err error
		if cfg.dns, err = decodeDNS(msg); err != nil {
			return nil, err
		}
	case clusterv3.Cluster_EDS:
		cfg.Discovery = EDS
		return nil, cfg.decodeEDS(msg)
	case clusterv3.Cluster_ORIGINAL_DST:
		cfg.Discovery = OriginalDst
		if la != nil {
			return nil, errors.New("load_assignment does not go with type ORIGINAL_DST: remove it")
		}
		cfg.cleanup = 5 * time.Second
		if d := msg.GetCleanupInterval(); d != nil {
			if cfg.cleanup = d.AsDuration(); cfg.cleanup <= 0 {
				return nil, errors.New("cleanup_interval must be above 0")
			}
		}
		return nil, nil
	default:
		return nil, fmt.Errorf("type %v is not supported", t)
	}
	a, err := decodeAssignment(la, cfg.dns != nil)
	if err != nil {
		return nil, fmt.Errorf("load_assignment: %w", err)
	}
	if cfg.Discovery == LogicalDNS && (len(a.localities) != 1 || len(a.localities[0].endpoints) != 1) {
		return nil, errors.New("load_assignment: type LOGICAL_DNS takes exactly one endpoint")
	}
	return a, nil
}

func (cfg *Config) decodeEDS(msg *clusterv3.Cluster) error {
	eds := msg.GetEdsClusterConfig()
	if msg.GetLoadAssignment() != nil {
		return errors.New("load_assignment does not go with type EDS: remove it")
	}
	src := eds.GetEdsConfig()
	if src.GetAds() == nil && src.GetSelf() == nil {
		return errors.New("eds_cluster_config.eds_config: only ads is supported: set ads")
	}
	cfg.ServiceName = intern(eds.GetServiceName())
	if cfg.ServiceName == "" {
		cfg.ServiceName = cfg.Name
	}
	cfg.fetchTimeout = 15 * time.Second
	if d := src.GetInitialFetchTimeout(); d != nil {
		cfg.fetchTimeout = d.AsDuration()
	}
	return nil
}

func seconds(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return d.AsDuration()
}

func (cfg *Config) decodeHTTP(msg *clusterv3.Cluster) error {
	o := defaultHTTP
	// The fields older than HttpProtocolOptions; Envoy still takes them when the
	// extension is absent.
	if msg.GetHttp2ProtocolOptions() != nil {
		o.Protocol = HTTP2
		if err := o.http2(msg.GetHttp2ProtocolOptions()); err != nil {
			return fmt.Errorf("http2_protocol_options: %w", err)
		}
	}
	if msg.GetProtocolSelection() == clusterv3.Cluster_USE_DOWNSTREAM_PROTOCOL {
		o.Protocol = UseDownstream
	}
	o.common(msg.GetCommonHttpProtocolOptions())
	o.http1(msg.GetHttpProtocolOptions())
	if err := o.upstream(msg.GetUpstreamHttpProtocolOptions()); err != nil {
		return fmt.Errorf("upstream_http_protocol_options: %w", err)
	}
	if v := msg.GetMaxRequestsPerConnection(); v != nil {
		o.MaxRequestsPerConn = v.GetValue()
	}
	for name, a := range msg.GetTypedExtensionProtocolOptions() {
		if a.GetTypeUrl() != typePrefix+httpOptsName {
			return fmt.Errorf("typed_extension_protocol_options[%q]: type %q is not supported: remove it", name, a.GetTypeUrl())
		}
		o = defaultHTTP
		if err := o.extension(a); err != nil {
			return fmt.Errorf("typed_extension_protocol_options[%q]: %w", name, err)
		}
	}
	cfg.HTTP = internHTTP(o)
	return nil
}

func (o *HTTPOptions) extension(a *anypb.Any) error {
	var m httpv3.HttpProtocolOptions
	if err := a.UnmarshalTo(&m); err != nil {
		return err
	}
	if len(m.GetHttpFilters()) > 0 {
		for _, f := range m.GetHttpFilters() {
			if f.GetTypedConfig().GetTypeUrl() != typePrefix+"envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec" {
				return fmt.Errorf("http_filters: %q is not supported upstream: remove it", f.GetName())
			}
		}
	}
	o.common(m.GetCommonHttpProtocolOptions())
	if err := o.upstream(m.GetUpstreamHttpProtocolOptions()); err != nil {
		return fmt.Errorf("upstream_http_protocol_options: %w", err)
	}
	var h1 *corev3.Http1ProtocolOptions
	var h2 *corev3.Http2ProtocolOptions
	switch t := m.GetUpstreamProtocolOptions().(type) {
	case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_:
		h1, h2 = t.ExplicitHttpConfig.GetHttpProtocolOptions(), t.ExplicitHttpConfig.GetHttp2ProtocolOptions()
		switch {
		case t.ExplicitHttpConfig.GetHttp3ProtocolOptions() != nil:
			return errors.New("explicit_http_config.http3_protocol_options is not supported: use HTTP/1.1 or HTTP/2")
		case h2 != nil:
			o.Protocol = HTTP2
		default:
			o.Protocol = HTTP1
		}
	case *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
		o.Protocol = UseDownstream
		h1, h2 = t.UseDownstreamProtocolConfig.GetHttpProtocolOptions(), t.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions()
	case *httpv3.HttpProtocolOptions_AutoConfig:
		o.Protocol = Auto
		h1, h2 = t.AutoConfig.GetHttpProtocolOptions(), t.AutoConfig.GetHttp2ProtocolOptions()
	default:
		return errors.New("upstream_protocol_options is not set: give explicit_http_config, use_downstream_protocol_config or auto_config")
	}
	o.http1(h1)
	return o.http2(h2)
}

func (o *HTTPOptions) common(m *corev3.HttpProtocolOptions) {
	o.IdleTimeout = seconds(m.GetIdleTimeout(), o.IdleTimeout)
	o.MaxConnectionDuration = seconds(m.GetMaxConnectionDuration(), o.MaxConnectionDuration)
	o.MaxStreamDuration = seconds(m.GetMaxStreamDuration(), o.MaxStreamDuration)
	if v := m.GetMaxRequestsPerConnection(); v != nil {
		o.MaxRequestsPerConn = v.GetValue()
	}
	if v := m.GetMaxHeadersCount(); v != nil {
		o.MaxHeadersCount = v.GetValue()
	}
	if v := m.GetMaxResponseHeadersKb(); v != nil {
		o.MaxResponseHeadersKB = v.GetValue()
	}
}

func (o *HTTPOptions) upstream(m *corev3.UpstreamHttpProtocolOptions) error {
	if m.GetOverrideAutoSniHeader() != "" {
		return errors.New("override_auto_sni_header is not supported: the authority is used")
	}
	o.AutoSNI, o.AutoSANValidation = m.GetAutoSni(), m.GetAutoSanValidation()
	return nil
}

func (o *HTTPOptions) http1(m *corev3.Http1ProtocolOptions) {
	if m != nil {
		o.EnableTrailers, o.AllowChunkedLength = m.GetEnableTrailers(), m.GetAllowChunkedLength()
	}
}

func (o *HTTPOptions) http2(m *corev3.Http2ProtocolOptions) error {
	if m == nil {
		return nil
	}
	if len(m.GetCustomSettingsParameters()) > 0 {
		return errors.New("custom_settings_parameters are not supported: remove them")
	}
	o.MaxConcurrentStreams = m.GetMaxConcurrentStreams().GetValue()
	o.InitialStreamWindow = m.GetInitialStreamWindowSize().GetValue()
	o.InitialConnectionWindow = m.GetInitialConnectionWindowSize().GetValue()
	o.PingInterval = m.GetConnectionKeepalive().GetInterval().AsDuration()
	o.PingTimeout = m.GetConnectionKeepalive().GetTimeout().AsDuration()
	return nil
}
