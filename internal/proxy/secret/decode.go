// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
)

// maxFile bounds a certificate or key file in bytes: a system bundle is about
// 250 KiB.
const maxFile = 4 << 20

// Set stores a Secret message: one pushed by SDS or listed among the
// bootstrap's static secrets. An error leaves the old value in place.
func (s *Store) Set(msg *tlsv3.Secret) error {
	name := msg.GetName()
	if name == "" {
		return errors.New("secret: name is empty: set name")
	}
	switch t := msg.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		return s.setKeyPair(name, t.TlsCertificate, false)
	case *tlsv3.Secret_ValidationContext:
		return s.setTrust(name, t.ValidationContext, false)
	case nil:
		return fmt.Errorf("secret %q: type is not set: give tls_certificate or validation_context", name)
	default:
		return fmt.Errorf("secret %q: %T is not supported: give tls_certificate or validation_context", name, t)
	}
}

// Remove takes the secret of that name away: what needs it fails closed.
func (s *Store) Remove(name string) {
	s.mu.Lock()
	pair, trust := s.pairs[name], s.trusts[name]
	s.mu.Unlock()
	now := time.Now()
	if pair != nil {
		pair.Set(nil, now)
	}
	if trust != nil {
		trust.Set(nil, now)
	}
}

// setKeyPair stores a certificate and follows its files. late says that they
// may come later: until then the secret has no value.
func (s *Store) setKeyPair(name string, msg *tlsv3.TlsCertificate, late bool) error {
	load := func() error {
		kp, err := DecodeKeyPair(msg)
		if err != nil {
			return fmt.Errorf("secret %q: %w", name, err)
		}
		s.KeyPair(name).Set(kp, time.Now())
		return nil
	}
	if err := load(); err != nil && !(late && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	s.watch("pair/"+name, load, msg.GetCertificateChain(), msg.GetPrivateKey())
	return nil
}

// setTrust is setKeyPair for a validation context.
func (s *Store) setTrust(name string, msg *tlsv3.CertificateValidationContext, late bool) error {
	load := func() error {
		t, err := DecodeTrust(msg)
		if err != nil {
			return fmt.Errorf("secret %q: %w", name, err)
		}
		s.Trust(name).Set(t, time.Now())
		return nil
	}
	if err := load(); err != nil && !(late && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	s.watch("trust/"+name, load, msg.GetTrustedCa(), msg.GetCrl())
	return nil
}

// DecodeKeyPair reads a certificate and its key. Errors never hold key bytes.
func DecodeKeyPair(msg *tlsv3.TlsCertificate) (*KeyPair, error) {
	switch {
	case msg.GetPrivateKeyProvider() != nil:
		return nil, errors.New("tls_certificate.private_key_provider is not supported: give private_key")
	case msg.GetPkcs12() != nil:
		return nil, errors.New("tls_certificate.pkcs12 is not supported: give certificate_chain and private_key")
	case msg.GetPassword() != nil:
		return nil, errors.New("tls_certificate.password is not supported: give an unencrypted private_key")
	}
	chain, source, err := read(msg.GetCertificateChain())
	if err != nil {
		return nil, fmt.Errorf("tls_certificate.certificate_chain: %w", err)
	}
	key, _, err := read(msg.GetPrivateKey())
	if err != nil {
		return nil, fmt.Errorf("tls_certificate.private_key: %w", err)
	}
	return ParseKeyPair(chain, key, source)
}

// ParseKeyPair reads PEM of a chain, leaf first, and of its key.
func ParseKeyPair(chain, key []byte, source string) (*KeyPair, error) {
	c, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	return &KeyPair{TLS: c, Source: source}, nil
}

// DecodeTrust reads a validation context. That it names no authority is not an
// error here: the default part of a combined context does not.
func DecodeTrust(msg *tlsv3.CertificateValidationContext) (*Trust, error) {
	t := &Trust{Source: "inline", System: msg.GetSystemRootCerts() != nil}
	if msg.GetTrustedCa() != nil {
		b, source, err := read(msg.GetTrustedCa())
		if err != nil {
			return nil, fmt.Errorf("trusted_ca: %w", err)
		}
		t.Source = source
		if t.CAs, err = ParseCertificates(b); err != nil {
			return nil, fmt.Errorf("trusted_ca: %w", err)
		}
		t.Roots = pool(t.CAs)
	}
	if msg.GetCrl() != nil {
		b, _, err := read(msg.GetCrl())
		if err != nil {
			return nil, fmt.Errorf("crl: %w", err)
		}
		if t.CRLs, err = parseCRLs(b); err != nil {
			return nil, fmt.Errorf("crl: %w", err)
		}
	}
	rest := proto.CloneOf(msg)
	rest.TrustedCa, rest.Crl, rest.WatchedDirectory = nil, nil, nil
	if proto.Size(rest) > 0 {
		t.Context = rest
	}
	t.sum()
	return t, nil
}

func (t *Trust) sum() {
	h := sha256.New()
	add := func(b []byte) {
		d := sha256.Sum256(b)
		h.Write(d[:])
	}
	for _, c := range t.CAs {
		add(c.Raw)
	}
	add(nil)
	for _, l := range t.CRLs {
		add(l.Raw)
	}
	add(nil)
	if t.Context != nil {
		// An error leaves b empty; the context was just unmarshalled, so there is none.
		b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(t.Context)
		add(b)
	}
	h.Sum(t.Sum[:0])
}

// TrustOf is a validation context of these authorities alone.
func TrustOf(source string, cas ...*x509.Certificate) *Trust {
	t := &Trust{Roots: pool(cas), CAs: cas, Source: source}
	t.sum()
	return t
}

func pool(cas []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range cas {
		p.AddCert(c)
	}
	return p
}

// ParseCertificates reads every CERTIFICATE block of a PEM bundle. Text between
// blocks is allowed, as in distribution bundles; other block types are not.
func ParseCertificates(b []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q: only CERTIFICATE blocks belong here", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate found: give PEM")
	}
	return out, nil
}

func parseCRLs(b []byte) ([]*x509.RevocationList, error) {
	var out []*x509.RevocationList
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("PEM block %q: only X509 CRL blocks belong here", block.Type)
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("list %d: %w", len(out)+1, err)
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, errors.New("no revocation list found: give PEM")
	}
	return out, nil
}

// read gives a data source's bytes and where they came from.
func read(src *corev3.DataSource) (b []byte, source string, err error) {
	switch s := src.GetSpecifier().(type) {
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), "inline", nil
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, "inline", nil
	case *corev3.DataSource_EnvironmentVariable:
		v, ok := os.LookupEnv(s.EnvironmentVariable)
		if !ok {
			return nil, "", fmt.Errorf("environment variable %s is not set", s.EnvironmentVariable)
		}
		return []byte(v), "environment " + s.EnvironmentVariable, nil
	case *corev3.DataSource_Filename:
		b, err := readFile(s.Filename)
		return b, "file " + s.Filename, err
	default:
		return nil, "", errors.New("no data: give inline_bytes, inline_string, filename or environment_variable")
	}
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(&limited{f, maxFile}); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return buf.Bytes(), nil
}

// limited is an io.LimitedReader that errs past its limit instead of ending.
type limited struct {
	f *os.File
	n int
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.f.Read(p)
	if l.n -= n; l.n < 0 {
		return 0, fmt.Errorf("larger than %d bytes", maxFile)
	}
	return n, err
}
