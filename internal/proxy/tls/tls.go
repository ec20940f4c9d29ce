// SPDX-License-Identifier: Apache-2.0

// Package tlsconf turns Envoy's TLS contexts into crypto/tls configurations
// that take certificates and trust from proxy/secret at each handshake, so that
// a rotation needs no new configuration and drops no connection.
//
// The peer is checked in VerifyConnection, chain, usage and names, on full
// handshakes and on resumed ones alike: crypto/tls's own check would use roots
// fixed in the configuration and would not look at URI names. A configuration
// whose secrets are not there yet fails each handshake.
//
// Key exchange is X25519 or P-256 unless the context names curves. The
// post-quantum hybrid X25519MLKEM768, which crypto/tls would prefer, costs
// more than the rest of a P-256 handshake together and adds two kilobytes to
// it; connections inside the mesh are made and checked by the same two proxies
// and can name it in ecdh_curves where recorded traffic is part of the threat.
package tlsconf

//lint:file-ignore SA1019 deprecated fields are still part of what a control plane may send

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
)

// common is a decoded CommonTlsContext.
type common struct {
	certs    []*secret.Value[secret.KeyPair] // empty: no certificate of our own
	peer     *peer                           // nil: the peer is not checked
	alpn     []string
	curves   []tls.CurveID
	ciphers  []uint16 // for TLS 1.2 only
	min, max uint16
}

var defaultCurves = []tls.CurveID{tls.X25519, tls.CurveP256}

func decodeCommon(msg *tlsv3.CommonTlsContext, store *secret.Store, server bool) (*common, error) {
	if msg == nil {
		msg = &tlsv3.CommonTlsContext{}
	}
	switch {
	case msg.GetTlsCertificateProviderInstance() != nil, msg.GetTlsCertificateCertificateProvider() != nil, msg.GetTlsCertificateCertificateProviderInstance() != nil:
		return nil, errors.New("common_tls_context: certificate providers are not supported: use tls_certificates or SDS")
	case msg.GetCustomHandshaker() != nil:
		return nil, errors.New("common_tls_context.custom_handshaker is not supported: remove it")
	case msg.GetCustomTlsCertificateSelector() != nil:
		return nil, errors.New("common_tls_context.custom_tls_certificate_selector is not supported: remove it")
	case msg.GetKeyLog() != nil:
		return nil, errors.New("common_tls_context.key_log is not supported: remove it")
	}
	c := &common{alpn: slices.Clone(msg.GetAlpnProtocols())}
	if err := c.decodeParams(msg.GetTlsParams(), server); err != nil {
		return nil, fmt.Errorf("common_tls_context.tls_params: %w", err)
	}
	for i, m := range msg.GetTlsCertificates() {
		kp, err := secret.DecodeKeyPair(m)
		if err != nil {
			return nil, fmt.Errorf("common_tls_context.tls_certificates[%d]: %w", i, err)
		}
		c.certs = append(c.certs, store.Inline(m, kp))
	}
	for _, m := range msg.GetTlsCertificateSdsSecretConfigs() {
		if len(c.certs) > 0 && len(msg.GetTlsCertificates()) > 0 {
			return nil, errors.New("common_tls_context: both tls_certificates and tls_certificate_sds_secret_configs are set: keep one")
		}
		if err := source(m, store); err != nil {
			return nil, fmt.Errorf("common_tls_context.tls_certificate_sds_secret_configs: %w", err)
		}
		c.certs = append(c.certs, store.KeyPair(m.GetName()))
	}
	var err error
	if c.peer, err = decodePeer(msg, store); err != nil {
		return nil, fmt.Errorf("common_tls_context: %w", err)
	}
	return c, nil
}

// source notes where a secret named by SDS comes from. Names without an
// sds_config are static secrets of the bootstrap; those of a management server
// other than ADS are served in this process (Istio's sds-grpc cluster is the
// agent beside the proxy, and here proxy and agent are one).
func source(m *tlsv3.SdsSecretConfig, store *secret.Store) error {
	if m.GetName() == "" {
		return errors.New("name is empty: set name")
	}
	switch {
	case m.GetSdsConfig().GetAds() != nil:
		store.Want(m.GetName())
	case m.GetSdsConfig().GetApiConfigSource() != nil:
		return store.Local(m.GetName())
	case m.GetSdsConfig().GetPathConfigSource() != nil, m.GetSdsConfig().GetPath() != "":
		return fmt.Errorf("secret %q: SDS from a file is not supported: name the certificate files in tls_certificates", m.GetName())
	}
	return nil
}

func (c *common) decodeParams(p *tlsv3.TlsParameters, server bool) error {
	versions := map[tlsv3.TlsParameters_TlsProtocol]uint16{
		tlsv3.TlsParameters_TLSv1_2: tls.VersionTLS12,
		tlsv3.TlsParameters_TLSv1_3: tls.VersionTLS13,
	}
	// Envoy's defaults: 1.2 at least; a client goes no higher, a server to 1.3.
	c.min, c.max = tls.VersionTLS12, tls.VersionTLS12
	if server {
		c.max = tls.VersionTLS13
	}
	if v := p.GetTlsMinimumProtocolVersion(); v != tlsv3.TlsParameters_TLS_AUTO {
		if c.min = versions[v]; c.min == 0 {
			return fmt.Errorf("tls_minimum_protocol_version %v is not supported: use TLSv1_2 or TLSv1_3", v)
		}
	}
	if v := p.GetTlsMaximumProtocolVersion(); v != tlsv3.TlsParameters_TLS_AUTO {
		if c.max = versions[v]; c.max == 0 {
			return fmt.Errorf("tls_maximum_protocol_version %v is not supported: use TLSv1_2 or TLSv1_3", v)
		}
	}
	if c.min > c.max {
		if p.GetTlsMaximumProtocolVersion() != tlsv3.TlsParameters_TLS_AUTO {
			return errors.New("tls_minimum_protocol_version is above tls_maximum_protocol_version")
		}
		c.max = c.min
	}
	if len(p.GetSignatureAlgorithms()) > 0 || len(p.GetCompliancePolicies()) > 0 {
		return errors.New("signature_algorithms and compliance_policies are not supported: remove them")
	}
	for _, s := range p.GetCipherSuites() {
		ids, ok := ciphers[s]
		if !ok {
			return fmt.Errorf("cipher suite %q is not supported: use the ECDHE suites with AES-GCM or CHACHA20-POLY1305", s)
		}
		c.ciphers = append(c.ciphers, ids...)
	}
	if len(c.ciphers) == 0 {
		c.ciphers = defaultCiphers
	}
	for _, s := range p.GetEcdhCurves() {
		id, ok := curves[s]
		if !ok {
			return fmt.Errorf("curve %q is not supported: use X25519, P-256, P-384, P-521 or X25519MLKEM768", s)
		}
		c.curves = append(c.curves, id)
	}
	if len(c.curves) == 0 {
		c.curves = defaultCurves
	}
	return nil
}

var curves = map[string]tls.CurveID{
	"X25519":         tls.X25519,
	"P-256":          tls.CurveP256,
	"P-384":          tls.CurveP384,
	"P-521":          tls.CurveP521,
	"X25519MLKEM768": tls.X25519MLKEM768,
}

// defaultCiphers are Istio's (and the modern half of Envoy's) TLS 1.2 suites.
// Those of TLS 1.3 are not configurable, here as there.
var defaultCiphers = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// ciphers maps BoringSSL's names, groups of equal preference included. Names of
// TLS 1.3 suites are allowed and change nothing.
var ciphers = map[string][]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": {tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	"ECDHE-RSA-AES128-GCM-SHA256":   {tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	"ECDHE-ECDSA-AES256-GCM-SHA384": {tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
	"ECDHE-RSA-AES256-GCM-SHA384":   {tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384},
	"ECDHE-ECDSA-CHACHA20-POLY1305": {tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
	"ECDHE-RSA-CHACHA20-POLY1305":   {tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
	"[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]": {
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
	"[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]": {
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
	"TLS_AES_128_GCM_SHA256":       nil,
	"TLS_AES_256_GCM_SHA384":       nil,
	"TLS_CHACHA20_POLY1305_SHA256": nil,
}

// errNoCertificate is what a handshake fails with while SDS has not given the
// certificate.
var errNoCertificate = errors.New("tls: own certificate is not there yet")

func (c *common) base() *tls.Config {
	return &tls.Config{
		MinVersion:       c.min,
		MaxVersion:       c.max,
		CipherSuites:     c.ciphers,
		CurvePreferences: c.curves,
		NextProtos:       c.alpn,
	}
}
