// SPDX-License-Identifier: Apache-2.0

package tlsconf

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
)

const (
	// sessionsPerClient bounds the TLS sessions kept for resumption; Envoy's
	// max_session_keys default is 1. They are keyed by server name.
	sessionsPerClient = 1
	// variantsPerClient bounds the configurations kept for overrides; further
	// ones are made per connection.
	variantsPerClient = 64
)

// Client is a decoded UpstreamTlsContext. It is small until its first
// connection; it is safe for concurrent use.
type Client struct {
	common   *common
	sni      string
	sessions int
	autoHost bool
	autoSAN  bool

	config atomic.Pointer[tls.Config]
	mu     sync.Mutex // guards variants
	// variants are the configurations with overrides, by Override's key.
	variants map[string]*tls.Config
}

// Override changes a Client's configuration for one connection, as the ALPN
// filter and auto_sni ask.
type Override struct {
	ServerName string   // SNI instead of the context's; empty keeps it
	ALPN       []string // protocols instead of the context's; nil keeps them
	// SANs are DNS names of which the peer's certificate must hold one
	// (auto_san_validation); nil adds no check.
	SANs []string
}

func (o Override) empty() bool { return o.ServerName == "" && o.ALPN == nil && o.SANs == nil }

func (o Override) key() string {
	return o.ServerName + "\x00" + strings.Join(o.ALPN, "\x01") + "\x00" + strings.Join(o.SANs, "\x01")
}

// NewClient decodes an UpstreamTlsContext. A field that is neither honoured nor
// harmless is an error that names it.
func NewClient(msg *tlsv3.UpstreamTlsContext, store *secret.Store) (*Client, error) {
	if msg.GetAllowRenegotiation() {
		return nil, errors.New("upstream_tls_context: allow_renegotiation is not supported: remove it")
	}
	c, err := decodeCommon(msg.GetCommonTlsContext(), store, false)
	if err != nil {
		return nil, fmt.Errorf("upstream_tls_context: %w", err)
	}
	if len(c.certs) > 1 {
		return nil, errors.New("upstream_tls_context: more than one client certificate: keep one")
	}
	cl := &Client{common: c, sni: msg.GetSni(), sessions: sessionsPerClient, autoHost: msg.GetAutoHostSni(), autoSAN: msg.GetAutoSniSanValidation()}
	if n := msg.GetMaxSessionKeys(); n != nil {
		cl.sessions = int(min(n.GetValue(), 1024))
	}
	return cl, nil
}

// AutoHostSNI says that the SNI is to be the endpoint's host name.
func (c *Client) AutoHostSNI() bool { return c.autoHost }

// SNI is the server name of the context, empty when it sets none.
func (c *Client) SNI() string { return c.sni }

// ALPN is the context's list of protocols. Callers do not change it.
func (c *Client) ALPN() []string { return c.common.alpn }

// Config gives the configuration for one connection. It is shared and must not
// be changed. The server name is not verified by itself: what the peer must
// hold is the context's matchers and Override.SANs, as in Envoy.
func (c *Client) Config(o Override) *tls.Config {
	if o.empty() {
		if cfg := c.config.Load(); cfg != nil {
			return cfg
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.baseLocked()
	}
	key := o.key()
	c.mu.Lock()
	defer c.mu.Unlock()
	if cfg := c.variants[key]; cfg != nil {
		return cfg
	}
	cfg := c.baseLocked().Clone()
	if o.ServerName != "" {
		cfg.ServerName = o.ServerName
	}
	if o.ALPN != nil {
		cfg.NextProtos = slices.Clone(o.ALPN)
	}
	sans := o.SANs
	if c.autoSAN && sans == nil && cfg.ServerName != "" {
		sans = []string{cfg.ServerName}
	}
	cfg.VerifyConnection = c.verify(slices.Clone(sans))
	if len(c.variants) < variantsPerClient {
		if c.variants == nil {
			c.variants = make(map[string]*tls.Config)
		}
		c.variants[key] = cfg
	}
	return cfg
}

// baseLocked makes the configuration without overrides once. Callers hold mu.
func (c *Client) baseLocked() *tls.Config {
	if cfg := c.config.Load(); cfg != nil {
		return cfg
	}
	cfg := c.common.base()
	cfg.ServerName = c.sni
	// The chain and the names are checked in VerifyConnection, see the package
	// comment. Without a validation context there is no check, as in Envoy: the
	// control plane asked for encryption only (DestinationRule mode SIMPLE
	// with insecureSkipVerify).
	cfg.InsecureSkipVerify = true
	var sans []string
	if c.autoSAN && c.sni != "" {
		sans = []string{c.sni}
	}
	cfg.VerifyConnection = c.verify(sans)
	if len(c.common.certs) == 1 {
		v := c.common.certs[0]
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			kp := v.Load()
			if kp == nil {
				return nil, errNoCertificate
			}
			return &kp.TLS, nil
		}
	}
	if c.sessions > 0 {
		cfg.ClientSessionCache = &sessions{client: c}
	}
	c.config.Store(cfg)
	return cfg
}

func (c *Client) verify(sans []string) func(tls.ConnectionState) error {
	peer := c.common.peer
	return func(cs tls.ConnectionState) error {
		if err := peer.check(cs.PeerCertificates, true); err != nil {
			return err
		}
		return matchNames(cs.PeerCertificates, sans)
	}
}
