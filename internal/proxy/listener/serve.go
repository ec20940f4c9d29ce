// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// admit counts a new connection against the process's bound.
func (m *Manager) admit(l *listener) bool {
	n := m.conns.Add(1)
	if m.opts.MaxConnections > 0 && n > m.opts.MaxConnections {
		m.conns.Add(-1)
		l.stats.Inc(0, telemetry.ListenerGlobalCxOverflow)
		return false
	}
	return true
}

// serve runs one accepted connection to its end.
func (m *Manager) serve(l *listener, c net.Conn) {
	defer m.conns.Add(-1)
	// One connection's fault must not end the others.
	defer func() {
		if p := recover(); p != nil {
			m.opts.Registry.Server.PanicsRecovered.Inc()
			m.opts.Log.Error("connection handler panicked", "panic", p, "stack", stack())
			reset(c)
		}
	}()
	stripe := telemetry.NextStripe()
	stats := l.stats
	stats.Inc(stripe, telemetry.ListenerCxTotal)
	stats.Inc(stripe, telemetry.ListenerCxActive)
	info := &Info{Local: addrPort(c.LocalAddr()), Remote: addrPort(c.RemoteAddr()), Start: m.opts.Now()}
	// What choosing a chain takes of the stack is free again before the handler
	// begins: idle connections keep theirs.
	if ch, conn := m.prepare(l, c, info, stripe); ch != nil {
		ch.serve(conn, info)
	}
	stats.Dec(stripe, telemetry.ListenerCxActive)
	stats.Inc(stripe, telemetry.ListenerCxDestroy)
	stats.ObserveLength(stripe, m.opts.Now().Sub(info.Start))
}

// serve gives a connection to the chain's handler and counts it out, even when
// the handler panics.
func (c *chain) serve(nc net.Conn, info *Info) {
	defer c.remove()
	if nc != nil {
		c.handler.ServeConn(c.ctx, nc, info)
	}
}

// prepare chooses the chain of a connection, counted in, and terminates TLS. No
// chain, or no connection, says that it is over.
func (m *Manager) prepare(l *listener, c net.Conn, info *Info, stripe telemetry.Stripe) (*chain, net.Conn) {
	l.tune(c)
	bound := l
	if l.originalDst {
		if dst, ok := originalDst(c); ok {
			info.Local, info.Restored = dst, true
		} else if l.transparent && info.Local.Port() != l.address.Port() {
			info.Restored = true // nothing was translated
		}
		if l.handOff {
			l = m.target(l, info.Local)
		}
	}
	in, err := m.inspect(l, c, info.Local.Port())
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			bound.stats.Inc(stripe, telemetry.ListenerPreCxTimeout)
		}
		reset(c)
		return nil, nil
	}
	f := &found{
		destination: info.Local, source: info.Remote, direct: info.Remote.Addr(),
		serverName: in.serverName, transport: "raw_buffer", alpn: in.alpn,
	}
	if in.tls {
		f.transport = "tls"
	}
	ch := m.choose(l, f)
	if ch == nil {
		bound.stats.Inc(stripe, telemetry.ListenerNoFilterChainMatch)
		reset(c)
		return nil, nil
	}
	info.ServerName, info.Chain = in.serverName, ch.name
	if !in.tls && len(in.alpn) == 1 {
		info.ALPN = in.alpn[0]
	}
	if ch.tls == nil {
		return ch, c
	}
	tc, own := handshake(ch, c, bound.stats, stripe)
	if tc == nil {
		return ch, nil
	}
	st := tc.ConnectionState()
	info.TLS, info.Own, info.ALPN = &st, own, st.NegotiatedProtocol
	if st.ServerName != "" {
		info.ServerName = st.ServerName
	}
	return ch, tc
}

// choose matches a connection and counts it in at its chain. An update may have
// closed the chain meanwhile; then the listener that took its place decides.
func (m *Manager) choose(l *listener, f *found) *chain {
	for range 3 {
		ch := l.matcher.match(f)
		if ch == nil {
			ch = l.fallback
		}
		if ch == nil || ch.add() {
			return ch
		}
		m.mu.Lock()
		now := m.listeners[l.name]
		m.mu.Unlock()
		if now == nil {
			return nil
		}
		l = now
	}
	return nil
}

// target is the listener that a restored destination belongs to: its exact
// address, else the wildcard address of its port, else l itself.
func (m *Manager) target(l *listener, dst netip.AddrPort) *listener {
	t := *m.byAddr.Load()
	if to := t[dst]; to != nil {
		return to
	}
	any := netip.IPv4Unspecified()
	if dst.Addr().Is6() {
		any = netip.IPv6Unspecified()
	}
	if to := t[netip.AddrPortFrom(any, dst.Port())]; to != nil {
		return to
	}
	if to := t[netip.AddrPortFrom(netip.IPv6Unspecified(), dst.Port())]; to != nil {
		return to
	}
	return l
}

func (l *listener) tune(c net.Conn) {
	k := l.keepalive
	t, ok := c.(*net.TCPConn)
	if k == nil || !ok {
		return
	}
	_ = t.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Count: int(k.GetKeepaliveProbes().GetValue()),
		Idle:     time.Duration(k.GetKeepaliveTime().GetValue()) * time.Second,
		Interval: time.Duration(k.GetKeepaliveInterval().GetValue()) * time.Second,
	})
}

func (m *Manager) inspect(l *listener, c net.Conn, port uint16) (inspected, error) {
	wantTLS, wantHTTP := l.tls.on(port), l.http.on(port)
	sc, ok := c.(syscall.Conn)
	if !ok || !wantTLS && !wantHTTP {
		return inspected{}, nil
	}
	m.mu.Lock()
	m.inspected[c] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.inspected, c)
		m.mu.Unlock()
	}()
	if l.timeout > 0 {
		_ = c.SetReadDeadline(time.Now().Add(l.timeout))
		defer c.SetReadDeadline(time.Time{})
	}
	in, err := inspect(sc, wantTLS, wantHTTP)
	if l.goOn && errors.Is(err, os.ErrDeadlineExceeded) {
		return inspected{}, nil
	}
	return in, err
}

// handshake terminates TLS and returns the listener's own certificate beside the
// connection; nil says that the connection is over.
func handshake(ch *chain, c net.Conn, stats *telemetry.ListenerStats, stripe telemetry.Stripe) (*tls.Conn, *x509.Certificate) {
	sc := sockio.New(c)
	tc := tls.Server(sc, ch.tls.Config())
	_ = sc.SetDeadline(time.Now().Add(ch.timeout))
	own, err := ch.tls.Handshake(ch.ctx, tc)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			stats.Inc(stripe, telemetry.ListenerTransportSocketTimeout)
		}
		stats.Inc(stripe, failureStat(err))
		_ = c.Close()
		return nil, nil
	}
	_ = sc.SetDeadline(time.Time{})
	stats.Inc(stripe, telemetry.ListenerSSLHandshake)
	if tc.ConnectionState().DidResume {
		stats.Inc(stripe, telemetry.ListenerSSLSessionReused)
	}
	return tc, own
}
