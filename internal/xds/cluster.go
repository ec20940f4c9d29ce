// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 deprecated fields are written where Istio writes them, so that any proxy that Istio drives understands them

package xds

import (
	"cmp"
	"math"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

const httpOptionsName = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// Cluster translates a cluster as Istio writes it.
func Cluster(c *mesh.Cluster) *clusterv3.Cluster {
	p := &c.Policy
	out := &clusterv3.Cluster{
		Name: c.Name, ConnectTimeout: duration(p.ConnectTimeout), Metadata: clusterMetadata(c), CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{},
	}
	switch c.Kind {
	case mesh.ClusterEDS:
		out.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_EDS)
		out.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: c.Name}
	case mesh.ClusterStatic:
		out.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_STATIC)
	case mesh.ClusterStrictDNS, mesh.ClusterLogicalDNS:
		out.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_STRICT_DNS)
		if c.Kind == mesh.ClusterLogicalDNS {
			out.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_LOGICAL_DNS)
		}
		out.DnsLookupFamily = clusterv3.Cluster_V4_ONLY
		out.DnsRefreshRate, out.RespectDnsTtl = duration(cmp.Or(p.DNSRefresh, 60*time.Second)), true
	case mesh.ClusterOriginalDst:
		out.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_ORIGINAL_DST)
	}
	if len(c.Endpoints) > 0 {
		out.LoadAssignment = LoadAssignment(&mesh.LoadAssignment{Cluster: c.Name, Localities: c.Endpoints})
	}
	balancing(out, c)
	limits(out, p)
	if p.Keepalive != nil {
		out.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes: optional32(p.Keepalive.Probes), KeepaliveTime: seconds(p.Keepalive.Time), KeepaliveInterval: seconds(p.Keepalive.Interval),
		}}
	}
	out.OutlierDetection = outlier(out, p.Outlier)
	if o := protocolOptions(c); o != nil {
		out.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsName: typed(o)}
	}
	clientTLS(out, c)
	if c.Inbound && c.Kind == mesh.ClusterOriginalDst {
		// Istio's mark for connections of the proxy to its own application.
		source := "127.0.0.6"
		if c.IPv6 {
			source = "::6"
		}
		out.UpstreamBindConfig = &corev3.BindConfig{SourceAddress: socketAddress(source, 0).GetSocketAddress()}
	}
	return out
}

func discoveryType(t clusterv3.Cluster_DiscoveryType) *clusterv3.Cluster_Type {
	return &clusterv3.Cluster_Type{Type: t}
}

func seconds(d time.Duration) *wrapperspb.UInt32Value {
	if d <= 0 {
		return nil
	}
	return u32(uint32(math.Ceil(d.Seconds())))
}

func clusterMetadata(c *mesh.Cluster) *corev3.Metadata {
	fields := map[string]*structpb.Value{}
	if c.Origin != "" {
		fields["config"] = text(string(c.Origin))
	}
	if c.Service.Host != "" {
		fields["services"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{
			structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
				"host": text(c.Service.Host), "name": text(c.ServiceName), "namespace": text(c.Service.Namespace),
			}}),
		}})
	}
	if c.Subset != "" {
		fields["subset"] = text(c.Subset)
	}
	if len(fields) == 0 {
		return nil
	}
	return istioMetadata(fields)
}

func balancing(out *clusterv3.Cluster, c *mesh.Cluster) {
	p := &c.Policy
	if c.Kind == mesh.ClusterOriginalDst {
		out.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
		return
	}
	switch p.Balancer {
	case mesh.LeastRequest:
		out.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		if s := slowStart(p); s != nil {
			out.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: s}}
		}
	case mesh.RoundRobin:
		out.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
		if s := slowStart(p); s != nil {
			out.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: s}}
		}
	case mesh.Random:
		out.LbPolicy = clusterv3.Cluster_RANDOM
	case mesh.RingHash:
		out.LbPolicy = clusterv3.Cluster_RING_HASH
		out.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{
			MinimumRingSize: wrapperspb.UInt64(p.RingMin),
		}}
	case mesh.Maglev:
		out.LbPolicy = clusterv3.Cluster_MAGLEV
		if p.TableSize > 0 {
			out.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(p.TableSize)}}
		}
	}
}

func slowStart(p *mesh.Policy) *clusterv3.Cluster_SlowStartConfig {
	if p.Warmup == 0 {
		return nil
	}
	s := &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: duration(p.Warmup)}
	if p.WarmupAggression > 0 {
		s.Aggression = &corev3.RuntimeDouble{DefaultValue: p.WarmupAggression}
	}
	if p.WarmupMinPercent > 0 {
		s.MinWeightPercent = &typev3.Percent{Value: p.WarmupMinPercent}
	}
	return s
}

func limits(out *clusterv3.Cluster, p *mesh.Policy) {
	out.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: u32(p.MaxConnections), MaxPendingRequests: u32(p.MaxPendingRequests),
		MaxRequests: u32(p.MaxRequests), MaxRetries: u32(p.MaxRetries), TrackRemaining: true,
	}}}
}

func outlier(out *clusterv3.Cluster, o *mesh.Outlier) *clusterv3.OutlierDetection {
	if o == nil {
		return nil
	}
	// Istio: the panic threshold is minHealthPercent once outliers are looked for.
	out.CommonLbConfig.HealthyPanicThreshold = &typev3.Percent{Value: float64(o.MinHealthPercent)}
	d := &clusterv3.OutlierDetection{
		Interval: positive(o.Interval), BaseEjectionTime: positive(o.BaseEjection), MaxEjectionPercent: optional32(o.MaxEjectionPercent),
		SplitExternalLocalOriginErrors: o.SplitLocalOrigin, EnforcingSuccessRate: u32(0),
	}
	if v := o.Consecutive5xx; v != nil {
		d.Consecutive_5Xx, d.EnforcingConsecutive_5Xx = u32(*v), u32(enforce(*v))
	}
	if v := o.ConsecutiveGatewayErrors; v != nil {
		d.ConsecutiveGatewayFailure, d.EnforcingConsecutiveGatewayFailure = u32(*v), u32(enforce(*v))
	}
	if v := o.ConsecutiveLocalOrigin; v != nil && o.SplitLocalOrigin {
		d.ConsecutiveLocalOriginFailure, d.EnforcingConsecutiveLocalOriginFailure = u32(*v), u32(enforce(*v))
	}
	return d
}

// enforce: a count of 0 turns the check off.
func enforce(count uint32) uint32 {
	if count == 0 {
		return 0
	}
	return 100
}

func positive(d time.Duration) *durationpb.Duration { return optional(d) }

func protocolOptions(c *mesh.Cluster) *httpv3.HttpProtocolOptions {
	p := &c.Policy
	common := &corev3.HttpProtocolOptions{IdleTimeout: optional(p.IdleTimeout), MaxRequestsPerConnection: optional32(p.MaxRequestsPerConn)}
	if p.IdleTimeout == 0 && p.MaxRequestsPerConn == 0 {
		common = nil
	}
	h2 := &corev3.Http2ProtocolOptions{MaxConcurrentStreams: optional32(p.MaxConcurrentStreams)}
	out := &httpv3.HttpProtocolOptions{CommonHttpProtocolOptions: common}
	switch c.Upstream {
	case mesh.UpstreamHTTP2:
		out.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: h2},
		}}
	case mesh.UpstreamAsClient:
		out.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: h2,
		}}
	default:
		if common == nil {
			return nil
		}
		out.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
		}}
	}
	return out
}

// LoadAssignment translates the endpoints of a cluster.
func LoadAssignment(a *mesh.LoadAssignment) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: a.Cluster}
	for i := range a.Localities {
		l := &a.Localities[i]
		group := &endpointv3.LocalityLbEndpoints{Priority: l.Priority, LoadBalancingWeight: optional32(l.Weight), Locality: locality(l.Locality)}
		for j := range l.Endpoints {
			group.LbEndpoints = append(group.LbEndpoints, lbEndpoint(&l.Endpoints[j]))
		}
		out.Endpoints = append(out.Endpoints, group)
	}
	return out
}

func lbEndpoint(e *mesh.ClusterEndpoint) *endpointv3.LbEndpoint {
	address := socketAddress(e.Address, e.Port)
	if path, ok := strings.CutPrefix(e.Address, "unix://"); ok {
		address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
	}
	out := &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address}},
		LoadBalancingWeight: u32(max(1, e.Weight)),
	}
	fields := map[string]*structpb.Struct{}
	if e.Mutual {
		fields["envoy.transport_socket_match"] = &structpb.Struct{Fields: map[string]*structpb.Value{"tlsMode": text("istio")}}
	}
	if e.Workload != "" {
		fields["istio"] = &structpb.Struct{Fields: map[string]*structpb.Value{"workload": text(e.Workload)}}
	}
	if len(fields) > 0 {
		out.Metadata = &corev3.Metadata{FilterMetadata: fields}
	}
	return out
}

func locality(s string) *corev3.Locality {
	if s == "" {
		return &corev3.Locality{}
	}
	parts := append(strings.SplitN(s, "/", 3), "", "")
	return &corev3.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}
