// SPDX-License-Identifier: Apache-2.0

// Package hcm is the HTTP connection manager: it serves downstream connections,
// runs the filters (fault, then the router), forwards requests to upstream
// hosts with timeouts and retries, and answers itself where it must, with
// Envoy's defaults, texts, flags and details.
//
// One goroutine drives one HTTP/1.1 connection and each of its requests from
// end to end; a second one exists only while a request body is still arriving
// and a response may already flow. A request allocates nothing in the steady
// state. Its configuration, routes and cluster are looked up once per request.
package hcm

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/fault"
	"github.com/lateen-mesh/lateen/internal/proxy/route"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/accesslog"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
	"github.com/lateen-mesh/lateen/internal/proxy/upstream"
)

// Deps are the rooms that a connection manager calls.
type Deps struct {
	Clusters *cluster.Manager
	Pools    *upstream.Pools
	Registry *telemetry.Registry
	// Routes gives the slot of a route configuration that comes by RDS. The slot
	// holds nil until the configuration has arrived; its owner swaps tables.
	// Only connection managers with rds need it.
	Routes func(name string) *atomic.Pointer[route.Table]
	// Sinks are where access logs go; nil logs nothing.
	Sinks *accesslog.Sinks
	// Rand gives 64 random bits; nil means the runtime's source.
	Rand func() uint64
}

// ConnInfo is what the listener knows of a connection. It is not changed after
// ServeConn was called.
type ConnInfo struct {
	// Local is the address the client connected to: the original destination
	// when the connection was redirected.
	Local  netip.AddrPort
	Remote netip.AddrPort
	// Redirected says that Local is an original destination. Without it an
	// ORIGINAL_DST cluster has no host: its connection would come back here.
	Redirected bool
	// ALPN is the protocol that TLS negotiated or the HTTP inspector found
	// ("h2", "h2c", "http/1.1", "http/1.0", Istio's "istio-h2"...), empty when
	// unknown: then the first bytes decide.
	ALPN string
	SNI  string
	// TLS describes the connection for logs and headers, nil for plain text.
	TLS *format.TLS
	// PeerCertificates is the client's verified chain, leaf first; empty when it
	// presented none.
	PeerCertificates []*x509.Certificate
	ID               uint64
}

// Manager serves the connections of one filter chain. It is safe for concurrent
// use.
type Manager struct {
	cfg   *config
	deps  Deps
	table *atomic.Pointer[route.Table]
	log   accesslog.Logs
	stats *telemetry.HTTPStats
	fault *fault.Filter
	rand  func() uint64

	draining atomic.Bool
	drain    chan struct{} // closed when draining begins
	mu       sync.Mutex    // guards conns
	conns    map[*conn]struct{}
}

// New compiles a connection manager. A field it cannot honour is an error that
// names it.
func New(msg *hcmv3.HttpConnectionManager, d Deps) (*Manager, error) {
	cfg, err := compile(msg)
	if err != nil {
		return nil, fmt.Errorf("http_connection_manager %q: %w", msg.GetStatPrefix(), err)
	}
	m := &Manager{cfg: cfg, deps: d, rand: d.Rand, drain: make(chan struct{}), conns: make(map[*conn]struct{})}
	if m.rand == nil {
		m.rand = rand.Uint64
	}
	m.stats = d.Registry.HTTP(msg.GetStatPrefix())
	if cfg.hasFault {
		m.fault = fault.NewFilter(cfg.fault, m.rand)
	}
	switch {
	case msg.GetRds() != nil && d.Routes != nil:
		m.table = d.Routes(msg.GetRds().GetRouteConfigName())
	case msg.GetRouteConfig() != nil:
		t, err := route.Compile(msg.GetRouteConfig(), route.Options{Rand: d.Rand})
		if err != nil {
			return nil, fmt.Errorf("http_connection_manager %q: route_config: %w", msg.GetStatPrefix(), err)
		}
		m.table = new(atomic.Pointer[route.Table])
		m.table.Store(t)
	default:
		return nil, fmt.Errorf("http_connection_manager %q: neither rds nor route_config is set", msg.GetStatPrefix())
	}
	if d.Sinks != nil {
		if m.log, err = d.Sinks.Compile(msg.GetAccessLog()); err != nil {
			return nil, fmt.Errorf("http_connection_manager %q: access_log: %w", msg.GetStatPrefix(), err)
		}
	}
	return m, nil
}

// RouteConfigName is the name of the RDS resource it follows, empty with an
// inline route configuration.
func (m *Manager) RouteConfigName() string { return m.cfg.rdsName }

// ServeConn serves conn until it ends and closes it. conn is a *net.TCPConn, a
// *sockio.Conn (over which inspected bytes were put back with Unread) or a
// *tls.Conn, best over a *sockio.Conn, whose handshake is done. When ctx is
// done the connection is closed at once.
func (m *Manager) ServeConn(ctx context.Context, nc net.Conn, info *ConnInfo) {
	c := newConn(m, nc, info)
	m.mu.Lock()
	m.conns[c] = struct{}{}
	m.mu.Unlock()
	stop := context.AfterFunc(ctx, c.abort)
	defer func() {
		stop()
		m.mu.Lock()
		delete(m.conns, c)
		m.mu.Unlock()
	}()
	c.serve(ctx)
}

// Drain makes every connection end in order: the next response says
// Connection: close, HTTP/2 clients get GOAWAY. Connections accepted from here
// on behave so from their first request.
func (m *Manager) Drain() {
	if m.draining.Swap(true) {
		return
	}
	close(m.drain)
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.drain()
	}
}

// CloseIdle closes the connections that wait for a request. The listener calls
// it when the drain time is over.
func (m *Manager) CloseIdle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		c.closeIdle()
	}
}

// Active is the number of connections being served.
func (m *Manager) Active() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns)
}
