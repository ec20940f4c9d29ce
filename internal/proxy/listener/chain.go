// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	tlsconf "github.com/lateen-mesh/lateen/internal/proxy/tls"
)

// Info is what the listener knows of a connection.
type Info struct {
	// Local is the address the client believes it talks to: the original
	// destination when that was restored. Invalid on Unix sockets.
	Local  netip.AddrPort
	Remote netip.AddrPort // invalid on Unix sockets
	// Restored says that Local is an original destination.
	Restored bool
	// ServerName is the SNI, lower case, from the inspector or the handshake.
	ServerName string
	// ALPN is what the connection speaks: the handshake's, else what the HTTP
	// inspector saw ("http/1.1", "http/1.0", "h2c"), else empty.
	ALPN string
	// TLS is the finished handshake, nil on plain text.
	TLS *tls.ConnectionState
	// Own is the certificate the listener showed, or would have shown had the
	// session not been resumed; nil on plain text.
	Own *x509.Certificate
	// Chain is the filter chain's name.
	Chain string
	Start time.Time
}

// Handler serves the connections of one filter chain.
type Handler interface {
	// ServeConn serves c until it is over and closes it. c is a *net.TCPConn or
	// *net.UnixConn on plain text and a *tls.Conn over a *sockio.Conn otherwise.
	// When ctx is done the connection must end at once.
	ServeConn(ctx context.Context, c net.Conn, info *Info)
	// Drain asks that connections end when what they are doing is done.
	Drain()
	// CloseIdle closes the connections on which nothing is in progress.
	CloseIdle()
	// Close is called when the last connection of a drained chain has ended.
	Close()
	// Ready says whether what the handler needs from elsewhere (its routes) has
	// arrived; a listener is not used before all its chains are ready.
	Ready() bool
}

// chain is one filter chain and what serves its connections.
type chain struct {
	name    string
	hash    [sha256.Size]byte
	handler Handler
	tls     *tlsconf.Server
	timeout time.Duration // of the handshake

	ctx    context.Context // ends with end
	end    context.CancelFunc
	mu     sync.Mutex
	active int
	// draining chains take no new connections once the last one has ended.
	draining bool
	closed   bool
}

// chainFor takes the chain of the same hash over from old, or builds one.
func (m *Manager) chainFor(msg *listenerv3.Listener, fc *listenerv3.FilterChain, old *listener) (c *chain, fresh bool, err error) {
	// What a handler is built from: the chain, and the listener's direction.
	hash, err := messageHash(fc, wrapperspb.Int32(int32(msg.GetTrafficDirection())), wrapperspb.String(msg.GetStatPrefix()))
	if err != nil {
		return nil, false, err
	}
	if old != nil {
		for _, o := range old.all() {
			if o.hash == hash {
				return o, false, nil
			}
		}
	}
	c = &chain{name: fc.GetName(), hash: hash, timeout: defaultTLSTimeout}
	c.ctx, c.end = context.WithCancel(context.Background())
	if d := fc.GetTransportSocketConnectTimeout(); d.AsDuration() > 0 {
		c.timeout = d.AsDuration()
	}
	if err := m.transport(c, fc); err != nil {
		return nil, false, err
	}
	if c.handler, err = m.opts.Build(msg, fc); err != nil {
		return nil, false, err
	}
	return c, true, nil
}

func (m *Manager) transport(c *chain, fc *listenerv3.FilterChain) error {
	ts := fc.GetTransportSocket()
	if ts == nil {
		return nil
	}
	switch t := typeName(ts.GetTypedConfig()); t {
	case "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer":
		return nil
	case "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext":
		msg := new(tlsv3.DownstreamTlsContext)
		if err := proto.Unmarshal(ts.GetTypedConfig().GetValue(), msg); err != nil {
			return fmt.Errorf("transport_socket: %w", err)
		}
		s, err := tlsconf.NewServer(msg, m.opts.Secrets)
		if err != nil {
			return fmt.Errorf("transport_socket: %w", err)
		}
		c.tls = s
		return nil
	default:
		return fmt.Errorf("transport_socket: type %q is not supported", t)
	}
}

// add counts a connection in. False says that the chain takes no more.
func (c *chain) add() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.active++
	}
	return !c.closed
}

func (c *chain) remove() {
	c.mu.Lock()
	c.active--
	last := c.finishLocked()
	c.mu.Unlock()
	if last {
		c.release()
	}
}

// finishLocked closes a draining chain without connections. True asks the
// caller to release it.
func (c *chain) finishLocked() bool {
	if !c.draining || c.active > 0 || c.closed {
		return false
	}
	c.closed = true
	return true
}

func (c *chain) release() {
	c.end()
	c.handler.Close()
}

// drain asks the connections to end; the chain is released with the last one.
func (c *chain) drain() {
	c.mu.Lock()
	already := c.draining
	c.draining = true
	last := c.finishLocked()
	c.mu.Unlock()
	if !already {
		c.handler.Drain()
	}
	if last {
		c.release()
	}
}

// close ends every connection now.
func (c *chain) close() {
	c.drain()
	c.end()
}

func (c *chain) connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active
}
