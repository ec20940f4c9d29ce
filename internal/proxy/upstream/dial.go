// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/http2"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	tlsconf "github.com/lateen-mesh/lateen/internal/proxy/tls"
)

// dial opens and secures a connection to the host within the cluster's connect
// timeout, which covers the handshake as in Envoy.
func (hp *pool) dial(ctx context.Context, w *Want) (net.Conn, error) {
	c := hp.host.Cluster()
	dctx, cancel := context.WithTimeoutCause(ctx, c.ConnectTimeout, errConnectTimeout)
	defer cancel()
	start := time.Now()
	var d net.Dialer
	hp.host.Bind(&d)
	if k := c.Keepalive; k != nil {
		d.KeepAliveConfig = net.KeepAliveConfig{Enable: true, Idle: k.Idle, Interval: k.Interval, Count: k.Probes}
	} else {
		d.KeepAlive = -1 // Envoy sets none unless asked
	}
	nc, err := d.DialContext(dctx, hp.host.Network(), hp.host.Address())
	if err != nil {
		return nil, hp.failed(dctx, "tcp", err)
	}
	conn := net.Conn(sockio.New(nc))
	if t := hp.host.Transport(); t.TLS != nil {
		if conn, err = hp.secure(dctx, conn, t, w); err != nil {
			nc.Close()
			return nil, hp.failed(dctx, "tls", err)
		}
	}
	hp.stats().Inc(w.Stripe, telemetry.ClusterCxTotal)
	hp.stats().Inc(w.Stripe, telemetry.ClusterCxActive)
	hp.stats().Observe(w.Stripe, telemetry.ClusterCxConnect, time.Since(start))
	hs := hp.host.Stats()
	hs.CxTotal.Add(1)
	hs.CxActive.Add(1)
	return conn, nil
}

func (hp *pool) failed(ctx context.Context, stage string, err error) error {
	e := failure(ctx, hp.host.Cluster().ConnectTimeout, stage, err)
	var se *message.StreamError
	if errors.As(e, &se) {
		hp.stats().Inc(0, telemetry.ClusterCxConnectFail)
		hp.host.Stats().CxConnectFail.Add(1)
		if se.Reason == message.ConnectTimeout {
			hp.stats().Inc(0, telemetry.ClusterCxConnectTimeout)
		}
		if stage == "tls" {
			hp.stats().Inc(0, telemetry.ClusterSSLConnectionError)
		}
	}
	return e
}

func (hp *pool) secure(ctx context.Context, conn net.Conn, t *cluster.Transport, w *Want) (net.Conn, error) {
	o := tlsconf.Override{ServerName: hp.serverName(w)}
	opts := hp.host.Cluster().HTTP
	if o.ServerName == "" && t.TLS.AutoHostSNI() {
		o.ServerName = hp.host.Hostname()
	}
	if opts.AutoSANValidation && o.ServerName != "" {
		o.SANs = []string{o.ServerName}
	}
	if opts.Protocol == cluster.Auto && !slices.Contains(t.TLS.ALPN(), "h2") {
		o.ALPN = []string{"h2", "http/1.1"}
	}
	tc := tls.Client(conn, t.TLS.Config(o))
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	hp.stats().Inc(w.Stripe, telemetry.ClusterSSLHandshake)
	if tc.ConnectionState().DidResume {
		hp.stats().Inc(w.Stripe, telemetry.ClusterSSLSessionReused)
	}
	return tc, nil
}

// negotiated is the protocol that ALPN chose.
func negotiated(conn net.Conn) string {
	if tc, ok := conn.(*tls.Conn); ok {
		return tc.ConnectionState().NegotiatedProtocol
	}
	return ""
}

var errTryAgain = errors.New("try again")

// Refuses says whether nothing listens at a host any more. It makes a
// connection to find out, and closes it; it takes at most a second.
func (p *Pools) Refuses(ctx context.Context, h *cluster.Host) bool {
	d := net.Dialer{Timeout: min(h.Cluster().ConnectTimeout, time.Second)}
	h.Bind(&d)
	nc, err := d.DialContext(ctx, h.Network(), h.Address())
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	nc.Close()
	return false
}

// waitMux opens a stream on a new HTTP/2 connection, or waits for the dial in
// progress: one connection serves many exchanges, so one is made at a time.
func (hp *pool) waitMux(ctx context.Context, s *Stream, w *Want, sni string) error {
	hp.mu.Lock()
	if hp.takeMux(s, sni) {
		hp.mu.Unlock()
		return nil
	}
	if d := hp.dialing; d != nil {
		hp.mu.Unlock()
		select {
		case <-d:
			return errTryAgain
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if !s.limits.AcquireConnection() {
		if len(hp.muxes) > 0 {
			hp.mu.Unlock()
			hp.stats().Inc(s.stripe, telemetry.ClusterCxOverflow)
			return errOverflow
		}
		s.limits.ForceConnection()
	}
	done := make(chan struct{})
	hp.dialing = done
	hp.mu.Unlock()

	conn, err := hp.dial(ctx, w)
	var m *mux
	if err == nil {
		m, err = hp.newMux(conn, sni, s.limits)
	} else {
		s.limits.ReleaseConnection()
	}
	var st message.ClientStream
	if err == nil {
		st, err = m.NewStream()
	}
	hp.mu.Lock()
	hp.dialing = nil
	hp.mu.Unlock()
	close(done)
	if err != nil {
		return err
	}
	s.ClientStream, s.Proto, s.Local = st, message.HTTP2, m.local
	return nil
}

// newMux starts HTTP/2 on conn and keeps it until it ends. The connection's
// place in the circuit breaker is its own from here on.
func (hp *pool) newMux(conn net.Conn, sni string, limits *cluster.Limits) (*mux, error) {
	o := hp.host.Cluster().HTTP
	cc, err := http2.NewClientConn(conn, http2.Options{
		MaxConcurrentStreams: o.MaxConcurrentStreams,
		StreamWindow:         o.InitialStreamWindow,
		ConnWindow:           o.InitialConnectionWindow,
		MaxHeaderBytes:       o.MaxResponseHeadersKB << 10,
		MaxHeaderFields:      int(o.MaxHeadersCount),
		IdleTimeout:          o.IdleTimeout,
	})
	if err != nil {
		limits.ReleaseConnection()
		hp.countOut()
		return nil, &message.StreamError{Reason: message.ConnectionFailure, Unsent: true, Err: err}
	}
	m := &mux{ClientConn: cc, sni: sni, local: conn.LocalAddr()}
	hp.stats().Inc(0, telemetry.ClusterCxHTTP2Total)
	hp.mu.Lock()
	hp.muxes = append(hp.muxes, m)
	if hp.closed {
		m.Drain()
	}
	hp.mu.Unlock()
	go func() {
		<-cc.Done()
		hp.mu.Lock()
		if i := slices.Index(hp.muxes, m); i >= 0 {
			hp.muxes = slices.Delete(hp.muxes, i, i+1)
		}
		hp.mu.Unlock()
		limits.ReleaseConnection()
		hp.countOut()
	}()
	return m, nil
}
