// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"github.com/lateen-mesh/lateen/internal/proxy/fieldpolicy"
	"github.com/lateen-mesh/lateen/internal/proxy/hcm"
	"github.com/lateen-mesh/lateen/internal/proxy/listener"
	"github.com/lateen-mesh/lateen/internal/proxy/route"
	"github.com/lateen-mesh/lateen/internal/proxy/tcp"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

const (
	hcmType = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	tcpType = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
)

// fetchTimeout is Envoy's default of ConfigSource.initial_fetch_timeout.
const fetchTimeout = 15 * time.Second

// build makes the handler of a filter chain: its last network filter, since the
// others that are known today have no effect.
func (s *Server) build(_ *listenerv3.Listener, fc *listenerv3.FilterChain) (listener.Handler, error) {
	filters := fc.GetFilters()
	for i, f := range filters {
		a := f.GetTypedConfig()
		last := i == len(filters)-1
		switch {
		case a.GetTypeUrl() == hcmType && last:
			msg := new(hcmv3.HttpConnectionManager)
			if err := proto.Unmarshal(a.GetValue(), msg); err != nil {
				return nil, fmt.Errorf("filters[%d]: %w", i, err)
			}
			return s.newHTTP(msg)
		case a.GetTypeUrl() == tcpType && last:
			msg := new(tcpproxyv3.TcpProxy)
			if err := proto.Unmarshal(a.GetValue(), msg); err != nil {
				return nil, fmt.Errorf("filters[%d]: %w", i, err)
			}
			return tcp.New(msg, tcp.Deps{
				Clusters: s.clusters, Pools: s.pools, Registry: s.registry, Sinks: s.sinks,
				TLSInfo: describeTLS,
			})
		case fieldpolicy.Accepted(a.GetTypeUrl()):
		default:
			return nil, fmt.Errorf("filters[%d] (%q): type %q cannot stand here", i, f.GetName(), a.GetTypeUrl())
		}
	}
	return nil, errors.New("filters: the chain ends with neither http_connection_manager nor tcp_proxy")
}

// httpHandler serves a chain with an HTTP connection manager.
type httpHandler struct {
	*hcm.Manager
	routes *routes
	entry  *routeEntry // nil with an inline route configuration
	once   sync.Once
}

func (s *Server) newHTTP(msg *hcmv3.HttpConnectionManager) (listener.Handler, error) {
	// The field policy refuses it too, but not in a bootstrap read leniently.
	//lint:ignore SA1019 the older way to name a file is refused as well
	if c := msg.GetRds().GetConfigSource(); c.GetPathConfigSource() != nil || c.GetPath() != "" {
		return nil, fmt.Errorf("rds %q: config_source: routes from a file are not supported: use ads or route_config", msg.GetRds().GetRouteConfigName())
	}
	h := &httpHandler{routes: s.routes}
	m, err := hcm.New(msg, hcm.Deps{
		Clusters: s.clusters, Pools: s.pools, Registry: s.registry,
		Routes: func(name string) *atomic.Pointer[route.Table] {
			if h.entry == nil {
				h.entry = s.routes.acquire(name, waitFor(msg.GetRds().GetConfigSource()))
			}
			return h.entry.source.Pointer()
		},
		Sinks: s.sinks,
	})
	if err != nil {
		h.Close()
		return nil, err
	}
	h.Manager = m
	return h, nil
}

// waitFor is initial_fetch_timeout: 15 s unless said, 0 for ever.
func waitFor(c *corev3.ConfigSource) time.Duration {
	if d := c.GetInitialFetchTimeout(); d != nil {
		return d.AsDuration()
	}
	return fetchTimeout
}

// Ready implements listener.Handler.
func (h *httpHandler) Ready() bool { return h.entry == nil || h.entry.ready.Load() }

// Close implements listener.Handler.
func (h *httpHandler) Close() {
	h.once.Do(func() {
		if h.entry != nil {
			h.routes.release(h.entry)
		}
	})
}

var connectionIDs atomic.Uint64

// ServeConn implements listener.Handler.
func (h *httpHandler) ServeConn(ctx context.Context, c net.Conn, info *listener.Info) {
	ci := &hcm.ConnInfo{
		Local: info.Local, Remote: info.Remote, Redirected: info.Restored, ALPN: info.ALPN, SNI: info.ServerName, ID: connectionIDs.Add(1),
	}
	if info.TLS != nil {
		ci.TLS = describeTLS(info)
		if len(info.TLS.VerifiedChains) > 0 || len(info.TLS.PeerCertificates) > 0 {
			ci.PeerCertificates = info.TLS.PeerCertificates
		}
	}
	h.Manager.ServeConn(ctx, c, ci)
}

// describeTLS is what logs and headers say of a handshake. The peer's values
// are those of a certificate that VerifyConnection has accepted. It is made once
// per connection.
func describeTLS(info *listener.Info) *format.TLS {
	st := info.TLS
	if st == nil {
		return nil
	}
	d := &format.TLS{Version: tlsVersion(st.Version), Cipher: tls.CipherSuiteName(st.CipherSuite)}
	if own := info.Own; own != nil {
		d.LocalURISANs, d.LocalDNSSANs, d.LocalSubject = uris(own), strings.Join(own.DNSNames, ","), own.Subject.String()
	}
	if len(st.PeerCertificates) == 0 {
		return d
	}
	leaf := st.PeerCertificates[0]
	d.PeerURISANs, d.PeerDNSSANs = uris(leaf), strings.Join(leaf.DNSNames, ",")
	d.PeerSubject, d.PeerIssuer = leaf.Subject.String(), leaf.Issuer.String()
	sum := sha256.Sum256(leaf.Raw)
	d.PeerFingerprint256 = hex.EncodeToString(sum[:])
	d.PeerSerial = leaf.SerialNumber.Text(16)
	d.PeerCertNotBefore, d.PeerCertNotEnd = leaf.NotBefore, leaf.NotAfter
	return d
}

func uris(c *x509.Certificate) string {
	out := make([]string, len(c.URIs))
	for i, u := range c.URIs {
		out[i] = u.String()
	}
	return strings.Join(out, ",")
}

// tlsVersion is the version as Envoy prints it (%DOWNSTREAM_TLS_VERSION%).
func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return tls.VersionName(v)
}
