// SPDX-License-Identifier: Apache-2.0

package route

import (
	"regexp"
	"strconv"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/retry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// Action forwards to a cluster.
type Action struct {
	Cluster string // empty with Weighted or cluster_header
	// Weighted are the clusters to draw from.
	Weighted []Weighted
	// ClusterNotFoundStatus answers when the cluster does not exist: 503, 404 or 500.
	ClusterNotFoundStatus int
	// Timeout is the route's, 15 s by default, 0 for none. See Timeouts.
	Timeout time.Duration
	// IdleTimeout replaces the connection manager's stream idle timeout when
	// HasIdleTimeout; 0 switches it off.
	IdleTimeout    time.Duration
	HasIdleTimeout bool
	// Retry is the route's policy or else the virtual host's; nil for none.
	Retry *retry.Policy
	// HighPriority selects the cluster's limits of priority HIGH.
	HighPriority bool
	// AutoHostRewrite replaces the authority by the chosen host's name.
	AutoHostRewrite bool
	// AppendXForwardedHost keeps a replaced authority in x-forwarded-host.
	AppendXForwardedHost bool

	clusterHeader headerName
	randomHeader  headerName
	total         uint64
	rewrite       *rewrite // nil for none
	hash          []hashPolicy
	mirrors       []Mirror
	upgrades      []Upgrade
	limits        streamLimits
}

// streamLimits are max_stream_duration and the gRPC timeout fields.
type streamLimits struct {
	maxStream           time.Duration
	hasMaxStream        bool
	grpcHeaderMax       time.Duration // of max_stream_duration.grpc_timeout_header_max
	hasGRPCHeaderMax    bool
	grpcHeaderOffset    time.Duration
	maxGRPCTimeout      time.Duration // the deprecated fields of the action
	hasMaxGRPCTimeout   bool
	deprecatedGRPCDelta time.Duration
}

// Weighted is one entry of weighted_clusters.
type Weighted struct {
	Cluster string
	Weight  uint32

	clusterHeader     headerName
	upTo              uint64 // sum of the weights up to here
	hostRewrite       []byte
	request, response *mutations
	filters           []FilterConfig
}

// Mirror is a shadow policy.
type Mirror struct {
	Cluster string
	// KeepHost leaves "-shadow" off the authority.
	KeepHost bool
	share    fraction
}

// Due draws whether a request is mirrored. random is any 64 random bits.
func (m *Mirror) Due(random uint64) bool { return m.share.of == 0 || random%m.share.of < m.share.n }

// Upgrade allows or forbids one upgrade on a route.
type Upgrade struct {
	Type    string // lower case: "websocket", "connect"
	Enabled bool
	// Terminate says that CONNECT ends here and its payload goes on as plain TCP.
	Terminate bool
}

// Upgrade returns what the route says of an upgrade type (lower case), or nil
// when it says nothing and the connection manager's setting counts.
func (a *Action) Upgrade(kind string) *Upgrade {
	for i := range a.upgrades {
		if a.upgrades[i].Type == kind {
			return &a.upgrades[i]
		}
	}
	return nil
}

// Timeouts bound one exchange; 0 is no bound. Global counts from the end of the
// request to the end of the response, MaxStream from the request's head.
type Timeouts struct {
	Global     time.Duration
	PerTry     time.Duration
	PerTryIdle time.Duration
	MaxStream  time.Duration
	// HasMaxStream says that MaxStream replaces the connection manager's.
	HasMaxStream bool
}

// Timeouts computes the bounds of a request from the route and the request's
// x-envoy-upstream-rq-* and grpc-timeout headers (Envoy:
// FilterUtility::finalTimeout). It does not change the request.
func (a *Action) Timeouts(req *message.Request) Timeouts {
	t := Timeouts{Global: a.Timeout, MaxStream: a.limits.maxStream, HasMaxStream: a.limits.hasMaxStream}
	l := &a.limits
	if (l.hasMaxGRPCTimeout || l.hasGRPCHeaderMax) && format.IsGRPC(req) {
		d, present := grpcTimeout(req)
		if l.hasMaxGRPCTimeout {
			t.Global = capped(offset(d, l.deprecatedGRPCDelta), l.maxGRPCTimeout)
		}
		if l.hasGRPCHeaderMax && present {
			t.MaxStream = capped(offset(d, l.grpcHeaderOffset), l.grpcHeaderMax)
			t.HasMaxStream = true
		}
	}
	if a.Retry != nil {
		t.PerTry, t.PerTryIdle = a.Retry.PerTryTimeout, a.Retry.PerTryIdleTimeout
	}
	if d, ok := millisHeader(req, message.XEnvoyUpstreamRqTimeoutMs); ok {
		t.Global = d
	}
	if d, ok := millisHeader(req, message.XEnvoyUpstreamRqPerTryTimeoutMs); ok {
		t.PerTry = d
	}
	if t.Global != 0 && t.PerTry >= t.Global {
		t.PerTry = 0
	}
	return t
}

// offset takes delta off d unless nothing would be left.
func offset(d, delta time.Duration) time.Duration {
	if delta < d {
		return d - delta
	}
	return d
}

// capped is d, at most limit; 0 is unbounded in both.
func capped(d, limit time.Duration) time.Duration {
	if limit != 0 && (d == 0 || d > limit) {
		return limit
	}
	return d
}

func millisHeader(req *message.Request, id message.ID) (time.Duration, bool) {
	v, ok := req.Header.Get(id)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(string(v), 10, 40)
	return time.Duration(n) * time.Millisecond, err == nil
}

// grpcTimeout reads grpc-timeout: at most 8 digits and a unit (gRPC over
// HTTP/2; CVE-2021-28682 is what unbounded digits do).
func grpcTimeout(req *message.Request) (time.Duration, bool) {
	v, ok := req.Header.Get(message.GRPCTimeout)
	if !ok || len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	var n time.Duration
	for _, c := range v[:len(v)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + time.Duration(c-'0')
	}
	switch v[len(v)-1] {
	case 'H':
		return min(n, 1_000_000) * time.Hour, true
	case 'M':
		return n * time.Minute, true
	case 'S':
		return n * time.Second, true
	case 'm':
		return n * time.Millisecond, true
	case 'u':
		return n * time.Microsecond, true
	case 'n':
		return n * time.Nanosecond, true
	}
	return 0, false
}

// rewrite is what an action does to path and authority.
type rewrite struct {
	prefix       []byte // prefix_rewrite; nil for none
	path         *substitution
	host         []byte // host_rewrite_literal
	hostHeader   headerName
	hostFromPath *substitution
}

// substitution is an RE2 pattern and what replaces its matches.
type substitution struct {
	re   *regexp.Regexp
	with []byte // in Go's syntax
}

// apply replaces every match in the path without its query (RE2::GlobalReplace).
// Unlike everything else on the request path it allocates.
func (s *substitution) apply(path []byte) []byte { return s.re.ReplaceAll(path, s.with) }
