// SPDX-License-Identifier: Apache-2.0

package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
)

// Server is a decoded DownstreamTlsContext.
type Server struct {
	config *tls.Config
	certs  []*secret.Value[secret.KeyPair]
}

// Config is the configuration for every connection of its filter chain. It is
// shared and must not be changed.
func (s *Server) Config() *tls.Config { return s.config }

var (
	errNoSNI    = errors.New("tls: client sent no server name, which the listener requires")
	errNoClient = errors.New("tls: client sent no certificate, which the listener requires")
)

// NewServer decodes a DownstreamTlsContext. A field that is neither honoured
// nor harmless is an error that names it.
func NewServer(msg *tlsv3.DownstreamTlsContext, store *secret.Store) (*Server, error) {
	switch {
	case msg.GetSessionTicketKeys() != nil, msg.GetSessionTicketKeysSdsSecretConfig() != nil:
		return nil, errors.New("downstream_tls_context: session_ticket_keys are not supported: keys are made and rotated in the proxy")
	case msg.GetOcspStaplePolicy() != tlsv3.DownstreamTlsContext_LENIENT_STAPLING:
		return nil, errors.New("downstream_tls_context: ocsp_staple_policy is not supported: remove it")
	}
	c, err := decodeCommon(msg.GetCommonTlsContext(), store, true)
	if err != nil {
		return nil, fmt.Errorf("downstream_tls_context: %w", err)
	}
	if len(c.certs) == 0 {
		return nil, errors.New("downstream_tls_context: no certificate: give tls_certificates or tls_certificate_sds_secret_configs")
	}
	require := msg.GetRequireClientCertificate().GetValue()
	if require && c.peer == nil {
		return nil, errors.New("downstream_tls_context: require_client_certificate without a validation context would accept any certificate: give one")
	}
	cfg := c.base()
	cfg.SessionTicketsDisabled = msg.GetDisableStatelessSessionResumption()
	cfg.GetCertificate = c.certificate
	if c.peer != nil {
		// Any certificate at this point: VerifyConnection checks it against the
		// trust of the moment, which ClientCAs could not follow.
		cfg.ClientAuth = tls.RequestClientCert
		if require {
			cfg.ClientAuth = tls.RequireAnyClientCert
		}
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				if require {
					return errNoClient
				}
				return nil
			}
			return c.peer.check(cs.PeerCertificates, false)
		}
		if !cfg.SessionTicketsDisabled {
			bindTickets(cfg, c.peer)
		}
	}
	requireSNI := msg.GetRequireSni().GetValue()
	if len(c.alpn) > 0 || requireSNI {
		cfg.GetConfigForClient = chooseALPN(cfg.Clone(), requireSNI)
	}
	return &Server{config: cfg, certs: c.certs}, nil
}

// chooseALPN makes a handshake go on without ALPN when client and server share
// no protocol: BoringSSL under Envoy does, crypto/tls would break it off.
func chooseALPN(plain *tls.Config, requireSNI bool) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	alpn := plain.NextProtos
	plain.NextProtos = nil
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if requireSNI && hello.ServerName == "" {
			return nil, errNoSNI
		}
		if len(hello.SupportedProtos) == 0 || slices.ContainsFunc(hello.SupportedProtos, func(p string) bool { return slices.Contains(alpn, p) }) {
			return nil, nil
		}
		return plain, nil
	}
}

// certificate picks the first certificate the client supports, the first one
// at all when it supports none.
func (c *common) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var first *tls.Certificate
	for _, v := range c.certs {
		kp := v.Load()
		if kp == nil {
			continue
		}
		if len(c.certs) == 1 || hello.SupportsCertificate(&kp.TLS) == nil {
			return presented(hello, &kp.TLS), nil
		}
		if first == nil {
			first = &kp.TLS
		}
	}
	if first == nil {
		return nil, errNoCertificate
	}
	return presented(hello, first), nil
}

// ownKey is under which Handshake's context holds where to note the certificate.
type ownKey struct{}

func presented(hello *tls.ClientHelloInfo, c *tls.Certificate) *tls.Certificate {
	if own, ok := hello.Context().Value(ownKey{}).(**tls.Certificate); ok {
		*own = c
	}
	return c
}

// Handshake runs the handshake of tc, which has s's configuration, and returns
// the certificate the server showed. A resumed TLS 1.3 session shows none: then
// it is the first certificate of the moment, nil without one.
func (s *Server) Handshake(ctx context.Context, tc *tls.Conn) (*x509.Certificate, error) {
	var own *tls.Certificate
	if err := tc.HandshakeContext(context.WithValue(ctx, ownKey{}, &own)); err != nil {
		return nil, err
	}
	if own != nil {
		return own.Leaf, nil
	}
	for _, v := range s.certs {
		if kp := v.Load(); kp != nil {
			return kp.TLS.Leaf, nil
		}
	}
	return nil, nil
}
