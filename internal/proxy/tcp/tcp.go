// SPDX-License-Identifier: Apache-2.0

// Package tcp is the TCP proxy filter (envoy.filters.network.tcp_proxy): it
// connects a downstream connection to a host of a cluster and carries bytes both
// ways, in the kernel where both sides are plain TCP.
package tcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/listener"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/accesslog"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
	"github.com/lateen-mesh/lateen/internal/proxy/upstream"
)

// Deps are the rooms that a Proxy calls.
type Deps struct {
	Clusters *cluster.Manager
	Pools    *upstream.Pools // for the counters of clusters
	Registry *telemetry.Registry
	Sinks    *accesslog.Sinks // nil: nothing is logged
	// Rand gives 64 random bits; nil means the runtime's source.
	Rand func() uint64
	// TLSInfo describes a handshake for the log; nil leaves it out.
	TLSInfo func(*listener.Info) *format.TLS
}

// defaultIdle is tcp_proxy's idle timeout (tcp_proxy.proto).
const defaultIdle = time.Hour

// Proxy is one compiled tcp_proxy filter. It implements listener.Handler.
type Proxy struct {
	deps     Deps
	clusters []weighted
	total    uint64
	idle     time.Duration // 0: none
	maxAge   time.Duration // 0: none
	attempts int
	base     time.Duration // of the back-off between attempts, 0: none
	maxPause time.Duration
	logs     accesslog.Logs
	stats    *telemetry.TCPStats
	draining atomic.Bool
}

type weighted struct {
	name string
	upTo uint64 // sum of the weights up to and with this one
}

// New compiles a tcp_proxy message. A value that cannot be honoured is an error
// that names its field.
func New(msg *tcpproxyv3.TcpProxy, d Deps) (*Proxy, error) {
	p := &Proxy{deps: d, idle: defaultIdle, attempts: 1}
	if p.deps.Rand == nil {
		p.deps.Rand = rand.Uint64
	}
	if msg.GetCluster() != "" {
		p.clusters = []weighted{{msg.GetCluster(), 1}}
	}
	for _, c := range msg.GetWeightedClusters().GetClusters() {
		if c.GetName() == "" || c.GetWeight() == 0 {
			return nil, fmt.Errorf("tcp_proxy %q: weighted_clusters: each needs a name and a weight of at least 1", msg.GetStatPrefix())
		}
		p.clusters = append(p.clusters, weighted{c.GetName(), p.sum() + uint64(c.GetWeight())})
	}
	if p.total = p.sum(); p.total == 0 {
		return nil, fmt.Errorf("tcp_proxy %q: neither cluster nor weighted_clusters is set", msg.GetStatPrefix())
	}
	if d := msg.GetIdleTimeout(); d != nil {
		p.idle = d.AsDuration()
	}
	p.maxAge = msg.GetMaxDownstreamConnectionDuration().AsDuration()
	if n := msg.GetMaxConnectAttempts(); n != nil {
		if n.GetValue() == 0 {
			return nil, fmt.Errorf("tcp_proxy %q: max_connect_attempts: 0 is not allowed", msg.GetStatPrefix())
		}
		p.attempts = int(n.GetValue())
	}
	if b := msg.GetBackoffOptions(); b != nil {
		p.base, p.maxPause = b.GetBaseInterval().AsDuration(), b.GetMaxInterval().AsDuration()
		if p.maxPause < p.base {
			p.maxPause = 10 * p.base
		}
	}
	if d.Sinks != nil && len(msg.GetAccessLog()) > 0 {
		var err error
		if p.logs, err = d.Sinks.Compile(msg.GetAccessLog()); err != nil {
			return nil, fmt.Errorf("tcp_proxy %q: access_log: %w", msg.GetStatPrefix(), err)
		}
	}
	p.stats = d.Registry.TCP(msg.GetStatPrefix())
	return p, nil
}

func (p *Proxy) sum() uint64 {
	if n := len(p.clusters); n > 0 {
		return p.clusters[n-1].upTo
	}
	return 0
}

// pickCluster draws a cluster's name by weight.
func (p *Proxy) pickCluster() string {
	if len(p.clusters) == 1 {
		return p.clusters[0].name
	}
	r := p.deps.Rand() % p.total
	for i := range p.clusters {
		if r < p.clusters[i].upTo {
			return p.clusters[i].name
		}
	}
	return p.clusters[len(p.clusters)-1].name
}

// Drain, CloseIdle, Close and Ready are as in listener.Handler. Nobody can tell
// when a byte stream is idle, so drained connections go on until the listener
// ends them.
func (p *Proxy) Drain() { p.draining.Store(true) }

// CloseIdle does nothing: see Drain.
func (p *Proxy) CloseIdle() {}

// Close does nothing.
func (p *Proxy) Close() {}

// Ready is always true: a missing cluster is an error of each connection.
func (p *Proxy) Ready() bool { return true }

// ServeConn connects c to an upstream host and carries bytes until both sides
// have ended.
func (p *Proxy) ServeConn(ctx context.Context, c net.Conn, info *listener.Info) {
	stripe := telemetry.NextStripe()
	p.stats.Inc(stripe, telemetry.TCPCxTotal)
	e := &format.Entry{
		Start: info.Start, DownstreamLocal: info.Local, DownstreamRemote: info.Remote,
		DownstreamDirectRemote: info.Remote, SNI: info.ServerName,
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if p.maxAge > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, p.maxAge, errMaxDuration)
		defer cancel()
	}
	up := p.connect(ctx, info, e, stripe)
	if up == nil {
		refuse(c)
	} else {
		p.carry(ctx, c, up, e, stripe)
		up.release(stripe)
	}
	if len(p.logs) > 0 {
		if p.deps.TLSInfo != nil && info.TLS != nil {
			e.TLS = p.deps.TLSInfo(info)
		}
		e.Duration = time.Since(info.Start)
		p.logs.Write(e)
	}
}

var errMaxDuration = errors.New("max_downstream_connection_duration reached")

// refuse ends a connection that reaches no host. Bytes of the client may be
// unread, so that the peer sees a reset, as behind Envoy.
func refuse(c net.Conn) { _ = c.Close() }

// carry moves bytes both ways and fills the log entry.
func (p *Proxy) carry(ctx context.Context, c net.Conn, up *upstreamConn, e *format.Entry, stripe telemetry.Stripe) {
	r := newRelay(c, up.conn, p.idle)
	stop := context.AfterFunc(ctx, r.abort)
	r.run()
	stop()
	e.BytesReceived, e.BytesSent = uint64(r.toUpstream.bytes.Load()), uint64(r.toClient.bytes.Load())
	e.UpstreamBytesSent, e.UpstreamBytesReceived = e.BytesReceived, e.BytesSent
	p.stats.Add(stripe, telemetry.TCPCxRxBytes, int64(e.BytesReceived))
	p.stats.Add(stripe, telemetry.TCPCxTxBytes, int64(e.BytesSent))
	up.stats.Add(stripe, telemetry.ClusterCxTxBytes, int64(e.BytesReceived))
	up.stats.Add(stripe, telemetry.ClusterCxRxBytes, int64(e.BytesSent))
	switch {
	case r.idledOut.Load():
		p.stats.Inc(stripe, telemetry.TCPIdleTimeout)
		e.Flags |= format.StreamIdleTimeout
	case errors.Is(context.Cause(ctx), errMaxDuration):
		p.stats.Inc(stripe, telemetry.TCPMaxDuration)
		e.Flags |= format.DurationTimeout
	}
}

// local is the address of a connection's own end.
func local(c net.Conn) netip.AddrPort {
	if t, ok := c.LocalAddr().(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
