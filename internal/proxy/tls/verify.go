// SPDX-License-Identifier: Apache-2.0

package tlsconf

//lint:file-ignore SA1019 deprecated fields are still part of what a control plane may send

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
)

// peer is what the other side's certificate must hold to: a trust that may
// change (inline trusts never do) and the rules of the context itself.
type peer struct {
	trust  *secret.Value[secret.Trust]
	static *rules // of the context's own (or default) validation context
	cached atomic.Pointer[merged]
	now    func() time.Time
}

// merged are the rules of one value of the trust, made once per value.
type merged struct {
	of    *secret.Trust
	rules *rules
}

// rules are the checks beyond the chain.
type rules struct {
	sans         []sanMatcher // any one must match; none: no check
	hashes       [][32]byte   // SHA-256 of the leaf
	spkis        [][32]byte   // SHA-256 of the leaf's SubjectPublicKeyInfo
	allowExpired bool
	acceptChain  bool // ACCEPT_UNTRUSTED
	crlLeafOnly  bool
}

var (
	errNoTrust = errors.New("tls: trusted authorities are not there yet")
	errNoPeer  = errors.New("tls: peer sent no certificate")
	errSAN     = errors.New("tls: no subject alternative name of the peer's certificate is accepted")
	errPin     = errors.New("tls: the peer's certificate is none of the pinned ones")
	errRevoked = errors.New("tls: the peer's certificate is revoked")
)

func decodePeer(msg *tlsv3.CommonTlsContext, store *secret.Store) (*peer, error) {
	p := &peer{now: time.Now}
	var err error
	switch t := msg.GetValidationContextType().(type) {
	case nil:
		return nil, nil
	case *tlsv3.CommonTlsContext_ValidationContext:
		return inlinePeer(p, t.ValidationContext, store)
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		if err := source(t.ValidationContextSdsSecretConfig, store); err != nil {
			return nil, fmt.Errorf("validation_context_sds_secret_config: %w", err)
		}
		p.trust = store.Trust(t.ValidationContextSdsSecretConfig.GetName())
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		cv := t.CombinedValidationContext
		if cv.GetValidationContextCertificateProvider() != nil || cv.GetValidationContextCertificateProviderInstance() != nil {
			return nil, errors.New("combined_validation_context: certificate providers are not supported: use SDS")
		}
		d := cv.GetDefaultValidationContext()
		if cv.GetValidationContextSdsSecretConfig() == nil {
			return inlinePeer(p, d, store)
		}
		if err := source(cv.GetValidationContextSdsSecretConfig(), store); err != nil {
			return nil, fmt.Errorf("combined_validation_context: %w", err)
		}
		if p.static, err = decodeRules(d); err != nil {
			return nil, fmt.Errorf("combined_validation_context.default_validation_context: %w", err)
		}
		p.trust = store.Trust(cv.GetValidationContextSdsSecretConfig().GetName())
	default:
		return nil, fmt.Errorf("%T is not supported: give validation_context or combined_validation_context", t)
	}
	return p, nil
}

// inlinePeer is a validation context whose authorities stand in it or in files.
func inlinePeer(p *peer, msg *tlsv3.CertificateValidationContext, store *secret.Store) (*peer, error) {
	t, err := secret.DecodeTrust(msg)
	if err != nil {
		return nil, fmt.Errorf("validation_context: %w", err)
	}
	if p.static, err = decodeRules(msg); err != nil {
		return nil, fmt.Errorf("validation_context: %w", err)
	}
	t.Context = nil // the rules stand in p.static
	if t.Roots == nil && !t.System && len(p.static.hashes) == 0 && len(p.static.spkis) == 0 {
		if len(p.static.sans) > 0 {
			return nil, errors.New("validation_context: subject alternative names without trusted_ca prove nothing: give trusted_ca")
		}
		return nil, nil // an empty context checks nothing, in Envoy too
	}
	p.trust = store.InlineTrust(msg, t)
	return p, nil
}

func decodeRules(msg *tlsv3.CertificateValidationContext) (*rules, error) {
	switch {
	case msg.GetCaCertificateProviderInstance() != nil:
		return nil, errors.New("ca_certificate_provider_instance is not supported: use trusted_ca")
	case msg.GetCustomValidatorConfig() != nil:
		return nil, errors.New("custom_validator_config is not supported: remove it")
	case msg.GetRequireSignedCertificateTimestamp().GetValue():
		return nil, errors.New("require_signed_certificate_timestamp is not supported: remove it")
	case msg.GetMaxVerifyDepth() != nil:
		return nil, errors.New("max_verify_depth is not supported: remove it")
	}
	r := &rules{
		allowExpired: msg.GetAllowExpiredCertificate(),
		acceptChain:  msg.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED,
		crlLeafOnly:  msg.GetOnlyVerifyLeafCertCrl(),
	}
	for i, m := range msg.GetMatchTypedSubjectAltNames() {
		if m.GetSanType() == tlsv3.SubjectAltNameMatcher_OTHER_NAME {
			return nil, fmt.Errorf("match_typed_subject_alt_names[%d]: san_type OTHER_NAME is not supported: use DNS, URI, EMAIL or IP_ADDRESS", i)
		}
		sm, err := newSANMatcher(m.GetSanType(), m.GetMatcher())
		if err != nil {
			return nil, fmt.Errorf("match_typed_subject_alt_names[%d]: %w", i, err)
		}
		r.sans = append(r.sans, sm)
	}
	for i, m := range msg.GetMatchSubjectAltNames() {
		sm, err := newSANMatcher(tlsv3.SubjectAltNameMatcher_SAN_TYPE_UNSPECIFIED, m)
		if err != nil {
			return nil, fmt.Errorf("match_subject_alt_names[%d]: %w", i, err)
		}
		r.sans = append(r.sans, sm)
	}
	for i, s := range msg.GetVerifyCertificateHash() {
		b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
		if err != nil || len(b) != 32 {
			return nil, fmt.Errorf("verify_certificate_hash[%d] is no SHA-256 in hexadecimal", i)
		}
		r.hashes = append(r.hashes, [32]byte(b))
	}
	for i, s := range msg.GetVerifyCertificateSpki() {
		b, err := base64.StdEncoding.DecodeString(s)
		if err != nil || len(b) != 32 {
			return nil, fmt.Errorf("verify_certificate_spki[%d] is no SHA-256 in base64", i)
		}
		r.spkis = append(r.spkis, [32]byte(b))
	}
	return r, nil
}

// effective is the context's rules merged with those of the secret, as Envoy
// merges a combined context: lists are concatenated, flags of the secret win.
func (p *peer) effective(t *secret.Trust) (*rules, error) {
	if t.Context == nil {
		if p.static != nil {
			return p.static, nil
		}
		return &rules{}, nil
	}
	if m := p.cached.Load(); m != nil && m.of == t {
		return m.rules, nil
	}
	r, err := decodeRules(t.Context)
	if err != nil {
		return nil, fmt.Errorf("tls: validation context from %s: %w", t.Source, err)
	}
	if s := p.static; s != nil {
		r.sans = append(r.sans, s.sans...)
		r.hashes = append(r.hashes, s.hashes...)
		r.spkis = append(r.spkis, s.spkis...)
		r.allowExpired = r.allowExpired || s.allowExpired
		r.acceptChain = r.acceptChain || s.acceptChain
		r.crlLeafOnly = r.crlLeafOnly || s.crlLeafOnly
	}
	p.cached.Store(&merged{of: t, rules: r})
	return r, nil
}

// check verifies a peer's chain, leaf first: validity, chain to a trusted
// authority, extended key usage for its role (serverPeer: the peer is a
// server), revocation, pins and names. A nil peer checks nothing.
func (p *peer) check(certs []*x509.Certificate, serverPeer bool) error {
	if p == nil {
		return nil
	}
	if len(certs) == 0 {
		return errNoPeer
	}
	t := p.trust.Load()
	if t == nil {
		return errNoTrust
	}
	r, err := p.effective(t)
	if err != nil {
		return err
	}
	leaf := certs[0]
	if !r.acceptChain {
		if err := verifyChain(t, r, certs, serverPeer, p.now()); err != nil {
			return err
		}
	}
	if len(r.hashes) > 0 || len(r.spkis) > 0 {
		if !pinned(r.hashes, sha256.Sum256(leaf.Raw)) && !pinned(r.spkis, sha256.Sum256(leaf.RawSubjectPublicKeyInfo)) {
			return errPin
		}
	}
	if len(r.sans) > 0 {
		for i := range r.sans {
			if r.sans[i].match(leaf) {
				return nil
			}
		}
		return errSAN
	}
	return nil
}

func verifyChain(t *secret.Trust, r *rules, certs []*x509.Certificate, serverPeer bool, now time.Time) error {
	if t.Roots == nil && !t.System {
		if len(r.hashes) > 0 || len(r.spkis) > 0 {
			return nil // the pin is the proof
		}
		return errNoTrust
	}
	usage := x509.ExtKeyUsageClientAuth
	if serverPeer {
		usage = x509.ExtKeyUsageServerAuth
	}
	// A nil Roots means the operating system's.
	opts := x509.VerifyOptions{Roots: t.Roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
	if r.allowExpired {
		opts.CurrentTime = certs[0].NotBefore.Add(time.Second)
	}
	if len(certs) > 1 {
		opts.Intermediates = x509.NewCertPool()
		for _, c := range certs[1:] {
			opts.Intermediates.AddCert(c)
		}
	}
	chains, err := certs[0].Verify(opts)
	if err != nil {
		return fmt.Errorf("tls: peer certificate: %w", err)
	}
	if len(t.CRLs) > 0 && revoked(t.CRLs, chains[0], r.crlLeafOnly) {
		return errRevoked
	}
	return nil
}

// revoked looks the chain up in the lists that its issuers signed.
func revoked(crls []*x509.RevocationList, chain []*x509.Certificate, leafOnly bool) bool {
	for i, c := range chain[:len(chain)-1] {
		if leafOnly && i > 0 {
			break
		}
		for _, l := range crls {
			if !bytes.Equal(l.RawIssuer, c.RawIssuer) || l.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			for _, e := range l.RevokedCertificateEntries {
				if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return true
				}
			}
		}
	}
	return false
}

func pinned(pins [][32]byte, sum [32]byte) bool {
	for _, p := range pins {
		if p == sum {
			return true
		}
	}
	return false
}

// sanMatcher matches one kind of subject alternative name; kind unspecified
// matches any, as the deprecated match_subject_alt_names does.
type sanMatcher struct {
	kind   tlsv3.SubjectAltNameMatcher_SanType
	match_ func(string) bool
	exact  string
	dns    bool // exact DNS matchers accept the certificate's wildcard
}

func newSANMatcher(kind tlsv3.SubjectAltNameMatcher_SanType, m *matcherv3.StringMatcher) (sanMatcher, error) {
	s := sanMatcher{kind: kind}
	fold := m.GetIgnoreCase()
	lower := func(v string) string {
		if fold {
			return strings.ToLower(v)
		}
		return v
	}
	switch t := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		want := lower(t.Exact)
		s.exact, s.dns = want, true
		s.match_ = func(v string) bool { return lower(v) == want }
	case *matcherv3.StringMatcher_Prefix:
		want := lower(t.Prefix)
		s.match_ = func(v string) bool { return strings.HasPrefix(lower(v), want) }
	case *matcherv3.StringMatcher_Suffix:
		want := lower(t.Suffix)
		s.match_ = func(v string) bool { return strings.HasSuffix(lower(v), want) }
	case *matcherv3.StringMatcher_Contains:
		want := lower(t.Contains)
		s.match_ = func(v string) bool { return strings.Contains(lower(v), want) }
	case *matcherv3.StringMatcher_SafeRegex:
		// Envoy's regular expressions match the whole string.
		re, err := regexp.Compile(`\A(?:` + t.SafeRegex.GetRegex() + `)\z`)
		if err != nil {
			return s, fmt.Errorf("matcher: %w", err)
		}
		s.match_ = re.MatchString
	default:
		return s, errors.New("matcher: give exact, prefix, suffix, contains or safe_regex")
	}
	return s, nil
}

func (s *sanMatcher) match(c *x509.Certificate) bool {
	any := s.kind == tlsv3.SubjectAltNameMatcher_SAN_TYPE_UNSPECIFIED
	if any || s.kind == tlsv3.SubjectAltNameMatcher_URI {
		for _, u := range c.URIs {
			if s.match_(u.String()) {
				return true
			}
		}
	}
	if any || s.kind == tlsv3.SubjectAltNameMatcher_DNS {
		for _, n := range c.DNSNames {
			if s.match_(n) || s.dns && wildcard(n, s.exact) {
				return true
			}
		}
	}
	if any || s.kind == tlsv3.SubjectAltNameMatcher_EMAIL {
		for _, n := range c.EmailAddresses {
			if s.match_(n) {
				return true
			}
		}
	}
	if any || s.kind == tlsv3.SubjectAltNameMatcher_IP_ADDRESS {
		for _, ip := range c.IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok && s.match_(a.Unmap().String()) {
				return true
			}
		}
	}
	return false
}

// wildcard says whether the certificate's name pattern "*.rest" covers name:
// the star is the whole left-most label and stands for one label (RFC 6125).
func wildcard(pattern, name string) bool {
	rest, ok := strings.CutPrefix(pattern, "*.")
	if !ok || !strings.Contains(rest, ".") {
		return false
	}
	_, parent, ok := strings.Cut(name, ".")
	return ok && strings.EqualFold(parent, rest)
}

// matchNames is auto_san_validation: one of the names must be the certificate's.
func matchNames(certs []*x509.Certificate, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if len(certs) == 0 {
		return errNoPeer
	}
	for _, n := range names {
		if certs[0].VerifyHostname(n) == nil {
			return nil
		}
	}
	return errSAN
}
