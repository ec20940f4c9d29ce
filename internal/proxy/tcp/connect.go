// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/listener"
	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
	tlsconf "github.com/lateen-mesh/lateen/internal/proxy/tls"
)

// upstreamConn is a connection to a host, with what has to be given back.
type upstreamConn struct {
	conn   net.Conn
	host   *cluster.Host
	limits *cluster.Limits
	stats  *telemetry.ClusterStats
}

func (u *upstreamConn) release(s telemetry.Stripe) {
	_ = u.conn.Close()
	u.host.End()
	u.host.Stats().CxActive.Add(-1)
	u.limits.ReleaseConnection()
	u.stats.Dec(s, telemetry.ClusterCxActive)
	u.stats.Inc(s, telemetry.ClusterCxDestroy)
}

// connect picks a cluster and a host and connects to it, as often as
// max_connect_attempts allows. nil says that the entry holds the reason.
func (p *Proxy) connect(ctx context.Context, info *listener.Info, e *format.Entry, stripe telemetry.Stripe) *upstreamConn {
	name := p.pickCluster()
	e.UpstreamCluster = name
	c := p.deps.Clusters.Get(name)
	if c == nil {
		p.stats.Inc(stripe, telemetry.TCPCxNoRoute)
		e.Flags |= format.NoClusterFound
		e.Details = format.ClusterNotFound
		return nil
	}
	stats := p.deps.Pools.Stats(c)
	limits := c.Limits(false)
	if !limits.AcquireConnection() {
		stats.Inc(stripe, telemetry.ClusterCxOverflow)
		e.Flags |= format.UpstreamOverflow
		return nil
	}
	var pc cluster.PickContext
	if info.Restored { // else the connection would come back to this listener
		pc.OriginalDst = info.Local
	}
	for attempt := range p.attempts {
		if attempt > 0 && !p.pause(ctx, attempt) {
			break
		}
		h := c.Pick(&pc)
		if h == nil {
			limits.ReleaseConnection()
			stats.Inc(stripe, telemetry.ClusterCxNoneHealthy)
			e.Flags |= format.NoHealthyUpstream
			return nil
		}
		e.UpstreamHost, e.Attempts = h.Address(), attempt+1
		conn, err := dial(ctx, c, h)
		if err != nil {
			p.failed(err, e, h, stats, stripe)
			continue
		}
		e.Flags &^= format.UpstreamConnectionFailure
		e.UpstreamLocal = local(conn)
		h.Begin()
		h.Stats().CxTotal.Add(1)
		h.Stats().CxActive.Add(1)
		stats.Inc(stripe, telemetry.ClusterCxTotal)
		stats.Inc(stripe, telemetry.ClusterCxActive)
		return &upstreamConn{conn, h, limits, stats}
	}
	limits.ReleaseConnection()
	stats.Inc(stripe, telemetry.ClusterCxConnectAttemptsExceeded)
	e.Flags |= format.UpstreamRetryLimitExceeded
	return nil
}

func (p *Proxy) failed(err error, e *format.Entry, h *cluster.Host, stats *telemetry.ClusterStats, stripe telemetry.Stripe) {
	stats.Inc(stripe, telemetry.ClusterCxTotal)
	stats.Inc(stripe, telemetry.ClusterCxConnectFail)
	h.Stats().CxConnectFail.Add(1)
	e.Flags |= format.UpstreamConnectionFailure
	var te *tlsError
	switch {
	case errors.As(err, &te):
		stats.Inc(stripe, telemetry.ClusterSSLConnectionError)
		e.UpstreamTransportFailure = "TLS_error: " + strings.ReplaceAll(te.Error(), "\n", " ")
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		stats.Inc(stripe, telemetry.ClusterCxConnectTimeout)
		e.UpstreamTransportFailure = "connection timeout"
	default:
		e.UpstreamTransportFailure = "delayed_connect_error: " + err.Error()
	}
}

// pause waits before another attempt: the doubled base interval, jittered over
// its whole length. False says that the connection is over.
func (p *Proxy) pause(ctx context.Context, attempt int) bool {
	if p.base <= 0 {
		return ctx.Err() == nil
	}
	d := min(p.base<<min(attempt-1, 20), p.maxPause)
	d = time.Duration(p.deps.Rand() % uint64(max(d, 1)))
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// tlsError is a failed handshake.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

// dial connects to a host within the cluster's connect timeout, which covers
// the TLS handshake as in Envoy. The result is a *net.TCPConn, a *net.UnixConn
// or a *tls.Conn.
func dial(ctx context.Context, c *cluster.Cluster, h *cluster.Host) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	d := net.Dialer{KeepAlive: -1}
	h.Bind(&d)
	if k := c.Keepalive; k != nil {
		d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: k.Idle, Interval: k.Interval, Count: k.Probes}
	}
	conn, err := d.DialContext(ctx, h.Network(), h.Address())
	if err != nil {
		return nil, err
	}
	t := h.Transport()
	if t.TLS == nil {
		return conn, nil
	}
	o := tlsconf.Override{}
	if t.TLS.SNI() == "" && t.TLS.AutoHostSNI() {
		o.ServerName = h.Hostname()
	}
	tc := tls.Client(sockio.New(conn), t.TLS.Config(o))
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &tlsError{err}
	}
	return tc, nil
}
