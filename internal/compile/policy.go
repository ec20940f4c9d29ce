// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the old fields of the API are still served

package compile

import (
	"cmp"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

// portPolicy returns the traffic policy for one port: a port-level setting
// replaces the upper level, it is not merged with it.
func portPolicy(tp *networking.TrafficPolicy, p mesh.Port) *networking.TrafficPolicy {
	if tp == nil {
		return nil
	}
	if l := portLevel(tp, p); l != nil {
		return l
	}
	return &networking.TrafficPolicy{
		LoadBalancer: tp.LoadBalancer, ConnectionPool: tp.ConnectionPool, OutlierDetection: tp.OutlierDetection, Tls: tp.Tls,
	}
}

func portLevel(tp *networking.TrafficPolicy, p mesh.Port) *networking.TrafficPolicy {
	for _, l := range tp.GetPortLevelSettings() {
		if l.Port.GetNumber() == p.Number {
			return &networking.TrafficPolicy{
				LoadBalancer: l.LoadBalancer, ConnectionPool: l.ConnectionPool, OutlierDetection: l.OutlierDetection, Tls: l.Tls,
			}
		}
	}
	return nil
}

// subsetPolicy lays a subset's policy over the one of the host (already taken
// for the port): each part that the subset gives replaces the host's.
func subsetPolicy(base, tp *networking.TrafficPolicy, p mesh.Port) *networking.TrafficPolicy {
	if tp == nil {
		return base
	}
	out := &networking.TrafficPolicy{
		LoadBalancer: base.GetLoadBalancer(), ConnectionPool: base.GetConnectionPool(),
		OutlierDetection: base.GetOutlierDetection(), Tls: base.GetTls(),
	}
	if tp.LoadBalancer != nil {
		out.LoadBalancer = tp.LoadBalancer
	}
	if tp.ConnectionPool != nil {
		out.ConnectionPool = tp.ConnectionPool
	}
	if tp.OutlierDetection != nil {
		out.OutlierDetection = tp.OutlierDetection
	}
	if tp.Tls != nil {
		out.Tls = tp.Tls
	}
	if l := portLevel(tp, p); l != nil {
		return l
	}
	return out
}

// limit reads an int32 of the API, where 0 means no limit.
func limit(n int32) uint32 {
	if n <= 0 {
		return mesh.Unlimited
	}
	return uint32(n)
}

// h2Upgrade: what the rule does not say the mesh does.
func h2Upgrade(p networking.ConnectionPoolSettings_HTTPSettings_H2UpgradePolicy, opts *Options) bool {
	if p == networking.ConnectionPoolSettings_HTTPSettings_DEFAULT {
		return opts.H2Upgrade
	}
	return p == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE
}

// policy compiles a traffic policy, over Istio's defaults.
func policy(tp *networking.TrafficPolicy, opts *Options) mesh.Policy {
	tcp, http := tp.GetConnectionPool().GetTcp(), tp.GetConnectionPool().GetHttp()
	p := mesh.Policy{
		ConnectTimeout:       opts.ConnectTimeout,
		MaxConnections:       limit(tcp.GetMaxConnections()),
		MaxPendingRequests:   limit(http.GetHttp1MaxPendingRequests()),
		MaxRequests:          limit(http.GetHttp2MaxRequests()),
		MaxRetries:           limit(http.GetMaxRetries()),
		MaxRequestsPerConn:   uint32(max(0, http.GetMaxRequestsPerConnection())),
		MaxConcurrentStreams: uint32(max(0, http.GetMaxConcurrentStreams())),
		IdleTimeout:          http.GetIdleTimeout().AsDuration(),
		H2Upgrade:            h2Upgrade(http.GetH2UpgradePolicy(), opts),
		UseClientProtocol:    http.GetUseClientProtocol(),
	}
	if tcp.GetConnectTimeout() != nil {
		p.ConnectTimeout = tcp.ConnectTimeout.AsDuration()
	}
	p.DNSRefresh = opts.DNSRefresh
	if k := cmp.Or(tcp.GetTcpKeepalive(), opts.Keepalive); k != nil {
		p.Keepalive = &mesh.Keepalive{Probes: k.Probes, Time: k.Time.AsDuration(), Interval: k.Interval.AsDuration()}
	}
	balance(&p, tp.GetLoadBalancer())
	p.Outlier = outlier(tp.GetOutlierDetection())
	return p
}

func balance(p *mesh.Policy, lb *networking.LoadBalancerSettings) {
	switch lb.GetSimple() {
	case networking.LoadBalancerSettings_ROUND_ROBIN:
		p.Balancer = mesh.RoundRobin
	case networking.LoadBalancerSettings_RANDOM:
		p.Balancer = mesh.Random
	case networking.LoadBalancerSettings_PASSTHROUGH:
		p.Balancer = mesh.PassthroughLB
	}
	if w := lb.GetWarmup(); w != nil {
		p.Warmup = w.Duration.AsDuration()
		p.WarmupMinPercent, p.WarmupAggression = w.MinimumPercent.GetValue(), w.Aggression.GetValue()
	} else if d := lb.GetWarmupDurationSecs(); d != nil {
		p.Warmup = d.AsDuration()
	}
	ch := lb.GetConsistentHash()
	if ch == nil {
		return
	}
	p.Balancer = mesh.RingHash
	p.RingMin = 1024
	if r := ch.GetRingHash(); r != nil && r.MinimumRingSize > 0 {
		p.RingMin = r.MinimumRingSize
	} else if m := ch.GetMaglev(); m != nil {
		p.Balancer, p.RingMin, p.TableSize = mesh.Maglev, 0, m.TableSize
	}
	switch k := ch.HashKey.(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		p.Hash = []mesh.HashKey{{Header: k.HttpHeaderName}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		p.Hash = []mesh.HashKey{{Query: k.HttpQueryParameterName}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		if k.UseSourceIp {
			p.Hash = []mesh.HashKey{{SourceIP: true}}
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		h := mesh.HashKey{Cookie: k.HttpCookie.Name, CookiePath: k.HttpCookie.Path}
		if k.HttpCookie.Ttl != nil {
			h.CookieTTL = durationPtr(k.HttpCookie.Ttl)
		}
		p.Hash = []mesh.HashKey{h}
	}
}

func durationPtr(d *durationpb.Duration) *time.Duration {
	v := d.AsDuration()
	return &v
}

func outlier(o *networking.OutlierDetection) *mesh.Outlier {
	if o == nil {
		return nil
	}
	out := &mesh.Outlier{
		SplitLocalOrigin: o.SplitExternalLocalOriginErrors,
		Interval:         o.Interval.AsDuration(), BaseEjection: o.BaseEjectionTime.AsDuration(),
		MaxEjectionPercent: uint32(max(0, o.MaxEjectionPercent)), MinHealthPercent: uint32(max(0, o.MinHealthPercent)),
	}
	if v := o.Consecutive_5XxErrors; v != nil {
		out.Consecutive5xx = &v.Value
	}
	if v := o.ConsecutiveGatewayErrors; v != nil {
		out.ConsecutiveGatewayErrors = &v.Value
	}
	if v := o.ConsecutiveLocalOriginFailures; v != nil {
		out.ConsecutiveLocalOrigin = &v.Value
	}
	return out
}
