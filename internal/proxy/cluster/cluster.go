// SPDX-License-Identifier: Apache-2.0

// Package cluster holds the proxy's upstreams: xDS clusters and their endpoints
// compiled into an immutable configuration with shared, living hosts, and the
// choice of a host for a request (priorities, panic, localities, policy).
//
// A Manager maps names to clusters. A request takes a Cluster once and keeps
// it; updates make new values beside it. An endpoint update keeps the Host of
// each address that stays; a changed cluster resource makes a new Cluster with
// new hosts, and the old one's pools are closed once the new one serves.
package cluster

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/balance"
	tlsconf "github.com/lateen-mesh/lateen/internal/proxy/tls"
)

// Discovery is how a cluster finds its hosts.
type Discovery uint8

// The kinds of discovery.
const (
	Static Discovery = iota
	StrictDNS
	LogicalDNS
	EDS
	OriginalDst
)

// String is the discovery's name in the xDS enum.
func (d Discovery) String() string {
	return [...]string{"STATIC", "STRICT_DNS", "LOGICAL_DNS", "EDS", "ORIGINAL_DST"}[d]
}

// Config is a decoded cluster resource. It is immutable.
type Config struct {
	Name        string
	StatName    string // alt_stat_name, or Name
	ServiceName string // EDS resource to ask for; Name unless the cluster says otherwise
	Service     Service
	Provenance  string // filter_metadata["istio"].config: the Istio object behind the cluster
	Subset      string // filter_metadata["istio"].subset
	Discovery   Discovery

	ConnectTimeout time.Duration // default 5 s
	Policy         balance.Policy
	hash           *hashPolicy // ring hash or maglev; nil for the others
	balance        balance.Options
	slow           *slowStart // nil: off
	Panic          uint32     // healthy_panic_threshold in percent; 0 is off
	localityLB     bool

	HTTP       *HTTPOptions // never nil; shared among clusters that say the same
	Thresholds [2]Thresholds
	PerHost    uint32 // per-host max_connections, MaxUint32 when not set

	// BindSources are the local addresses of upstream connections, the first of a
	// host's family counts; none: the kernel chooses.
	BindSources []netip.Addr
	Keepalive   *Keepalive // TCP keep-alive; nil: the system's default
	// BufferLimit is per_connection_buffer_limit_bytes, default 1 MiB.
	BufferLimit uint32

	transport *Transport // of hosts no match takes
	matches   []*Transport

	dns          *dnsConfig
	fetchTimeout time.Duration // EDS initial_fetch_timeout; 0 waits for ever
	cleanup      time.Duration // ORIGINAL_DST cleanup_interval
}

// slowStart ramps a new host's weight up.
type slowStart struct {
	window     time.Duration
	aggression float64 // default 1: linear
	least      float64 // min_weight_percent as a fraction, default 0.1
}

// Service is the service a cluster stands for, as Istio's metadata names it.
// The strings are interned.
type Service struct{ Host, Name, Namespace string }

// Keepalive are TCP keep-alive settings; zero fields are the system's.
type Keepalive struct {
	Idle, Interval time.Duration
	Probes         int
}

// Transport is how a connection to a host is secured.
type Transport struct {
	Name string          // of the transport_socket_matches entry; empty for the default
	TLS  *tlsconf.Client // nil: plain bytes
	want []string        // "key=value" lines a host must have, sorted
}

// Protocol is how the upstream's HTTP version is decided.
type Protocol uint8

// The protocol choices.
const (
	HTTP1 Protocol = iota
	HTTP2
	UseDownstream // as the downstream request
	Auto          // by ALPN
)

// HTTPOptions are HttpProtocolOptions. Zero durations mean none unless said.
type HTTPOptions struct {
	Protocol Protocol

	IdleTimeout           time.Duration // default 1 h; 0: never
	MaxConnectionDuration time.Duration
	MaxStreamDuration     time.Duration
	MaxRequestsPerConn    uint32 // 0: no limit
	MaxHeadersCount       uint32 // of responses, default 100
	MaxResponseHeadersKB  uint32 // default 60

	EnableTrailers     bool // HTTP/1.1: carry trailers
	AllowChunkedLength bool

	MaxConcurrentStreams    uint32 // 0: the peer's
	InitialStreamWindow     uint32 // 0: the codec's choice
	InitialConnectionWindow uint32
	PingInterval            time.Duration // HTTP/2 connection_keepalive
	PingTimeout             time.Duration

	// AutoSNI takes the SNI from the request's authority, AutoSANValidation
	// checks the certificate against it.
	AutoSNI, AutoSANValidation bool
}

// Cluster is one upstream cluster. Its configuration never changes; its hosts
// and counters do. It is safe for concurrent use.
type Cluster struct {
	Config
	hosts    atomic.Pointer[hostSet]
	limits   [2]Limits
	panics   atomic.Uint64
	original *originalHosts // ORIGINAL_DST only
	attached atomic.Pointer[any]

	poolMu  sync.Mutex // guards the making and closing of hosts' pools and of attached
	rand    func() uint64
	stopDNS func()
	closed  atomic.Bool
	added   bool // came by xDS rather than the bootstrap
}

// Limits gives the circuit breaker of a routing priority (high: HIGH).
func (c *Cluster) Limits(high bool) *Limits {
	if high {
		return &c.limits[1]
	}
	return &c.limits[0]
}

// Panics counts picks made in panic mode (lb_healthy_panic).
func (c *Cluster) Panics() uint64 { return c.panics.Load() }

// Attach gives what another package keeps per cluster (its counters), made by
// create on first use.
func (c *Cluster) Attach(create func(*Cluster) any) any {
	if p := c.attached.Load(); p != nil {
		return *p
	}
	c.poolMu.Lock()
	defer c.poolMu.Unlock()
	if p := c.attached.Load(); p != nil {
		return *p
	}
	v := create(c)
	c.attached.Store(&v)
	return v
}

// AddedViaAPI says that xDS gave the cluster, not the bootstrap.
func (c *Cluster) AddedViaAPI() bool { return c.added }

// transportFor gives the first match whose every line the host has, else the
// cluster's own socket. match is as in hostMeta.
func (c *Config) transportFor(match string) *Transport {
	for _, t := range c.matches {
		if hasLines(match, t.want) {
			return t
		}
	}
	return c.transport
}
