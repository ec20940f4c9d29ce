// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"strconv"
	"time"
)

// The clusters that stand for no service.
const (
	Passthrough        = "PassthroughCluster"
	BlackHole          = "BlackHoleCluster"
	InboundPassthrough = "InboundPassthroughCluster"
)

// OutboundCluster returns Istio's name of a service's cluster.
func OutboundCluster(port uint32, subset, host string) string {
	return "outbound|" + strconv.FormatUint(uint64(port), 10) + "|" + subset + "|" + host
}

// InboundCluster returns Istio's name of a workload's own port.
func InboundCluster(port uint32) string {
	return "inbound|" + strconv.FormatUint(uint64(port), 10) + "||"
}

// SNI returns the server name a mesh client sends: outbound_.9080_.v1_.host.
func SNI(port uint32, subset, host string) string {
	return "outbound_." + strconv.FormatUint(uint64(port), 10) + "_." + subset + "_." + host
}

// ClusterKind says where a cluster's endpoints come from.
type ClusterKind uint8

const (
	ClusterEDS ClusterKind = iota
	ClusterStatic
	ClusterStrictDNS
	ClusterLogicalDNS
	ClusterOriginalDst
)

// Upstream is the HTTP version spoken to a cluster.
type Upstream uint8

const (
	UpstreamHTTP1 Upstream = iota
	UpstreamHTTP2
	UpstreamAsClient // the version the client speaks
)

// Cluster is a group of endpoints and how to reach them.
type Cluster struct {
	Name    string
	Kind    ClusterKind
	Service ServiceID // zero for the built-in ones
	// ServiceName is the short name, Port the service's, Subset possibly empty.
	ServiceName string
	Port        uint32
	Subset      string
	Origin      Origin // the DestinationRule, if any
	Protocol    Protocol
	Upstream    Upstream
	// Endpoints are set unless the kind is EDS or ORIGINAL_DST.
	Endpoints []LocalityEndpoints
	Policy    Policy
	TLS       ClientTLS
	Inbound   bool
	IPv6      bool // of an inbound cluster: the workload has no IPv4 address
}

// LoadAssignment is the endpoints of one EDS cluster.
type LoadAssignment struct {
	Cluster    string
	Localities []LocalityEndpoints // sorted by locality
}

// LocalityEndpoints are the endpoints of one locality.
type LocalityEndpoints struct {
	Locality  string // region/zone/subzone
	Priority  uint32
	Weight    uint32
	Endpoints []ClusterEndpoint
}

// ClusterEndpoint is an endpoint as one cluster sees it.
type ClusterEndpoint struct {
	Address  string
	Port     uint32
	Weight   uint32
	Mutual   bool
	Workload string // "workload;namespace;canonical name;canonical revision;cluster"
}

// TLSMode says how a client protects its connections.
type TLSMode uint8

const (
	TLSDisable TLSMode = iota
	TLSAuto            // mutual TLS to endpoints that accept it, else plain text
	TLSIstioMutual
	TLSSimple
	TLSMutual
)

// ClientTLS is the client side of TLS towards a cluster.
type ClientTLS struct {
	Mode            TLSMode
	SNI             string
	SubjectAltNames []string // exact; empty: only the chain is checked
	CertificateFile string
	KeyFile         string
	RootFile        string
	// Credential and Roots are secrets by their resource names, instead of files.
	Credential, Roots  string
	InsecureSkipVerify bool
}

// Balancer chooses among the endpoints.
type Balancer uint8

const (
	LeastRequest Balancer = iota
	RoundRobin
	Random
	PassthroughLB
	RingHash
	Maglev
)

// Unlimited is the limit that is none.
const Unlimited = ^uint32(0)

// Policy is the traffic policy of a cluster. Durations of 0 mean unset.
type Policy struct {
	Balancer           Balancer
	RingMin, TableSize uint64
	Hash               []HashKey
	Warmup             time.Duration
	WarmupMinPercent   float64
	WarmupAggression   float64

	ConnectTimeout       time.Duration
	DNSRefresh           time.Duration // how soon a name that was not found is asked for again
	MaxConnections       uint32
	MaxPendingRequests   uint32
	MaxRequests          uint32
	MaxRetries           uint32
	MaxRequestsPerConn   uint32
	MaxConcurrentStreams uint32
	IdleTimeout          time.Duration // HTTP
	Keepalive            *Keepalive
	Outlier              *Outlier
	H2Upgrade            bool
	UseClientProtocol    bool
}

// Keepalive is TCP keep-alive; zero values leave the system's.
type Keepalive struct {
	Probes         uint32
	Time, Interval time.Duration
}

// Outlier takes failing endpoints out for a while. Nil pointers: the default.
type Outlier struct {
	Consecutive5xx           *uint32
	ConsecutiveGatewayErrors *uint32
	ConsecutiveLocalOrigin   *uint32
	SplitLocalOrigin         bool
	Interval                 time.Duration
	BaseEjection             time.Duration
	MaxEjectionPercent       uint32 // 0: default
	MinHealthPercent         uint32
}

// HashKey is one source of the hash for consistent balancing; one field is set.
type HashKey struct {
	Header, Query      string
	Cookie, CookiePath string
	CookieTTL          *time.Duration
	SourceIP           bool
}
