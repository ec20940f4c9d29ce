// SPDX-License-Identifier: Apache-2.0

// Package identitytest is a small certificate authority for tests that need
// mesh certificates without the control plane.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/identity"
)

// Authority signs certificates under a root of its own.
type Authority struct {
	Root *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority valid for ten years from now.
func New(t testing.TB) *Authority {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"test"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{Root: root, key: key}
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

// RootPEM is the root in PEM.
func (a *Authority) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Root.Raw})
}

// Leaf certifies a key for id for ttl from now; names are further DNS names.
func (a *Authority) Leaf(pub crypto.PublicKey, id identity.ID, ttl time.Duration, names ...string) ([]byte, error) {
	u, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{SerialNumber: serial(), URIs: []*url.URL{u}, DNSNames: names,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(ttl), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true}
	return x509.CreateCertificate(rand.Reader, tmpl, a.Root, pub, a.key)
}

// Issue makes a key and a certificate of 24 hours for a service account in
// cluster.local, namespace default.
func (a *Authority) Issue(t testing.TB, serviceAccount string, names ...string) tls.Certificate {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.Leaf(key.Public(), identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: serviceAccount}, 24*time.Hour, names...)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// IssuePEM is Issue in PEM.
func (a *Authority) IssuePEM(t testing.TB, serviceAccount string, names ...string) (chain, key []byte) {
	t.Helper()
	c := a.Issue(t, serviceAccount, names...)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// SignCSR answers as the mesh's certificate service: PEM, leaf first, root
// last. It takes the identity as given.
func (a *Authority) SignCSR(csr []byte, id identity.ID, ttl time.Duration) ([]string, error) {
	block, _ := pem.Decode(csr)
	if block == nil {
		return nil, errors.New("certificate request: no PEM")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if ttl == 0 {
		ttl = 24 * time.Hour
	}
	der, err := a.Leaf(r.PublicKey, id, ttl)
	if err != nil {
		return nil, err
	}
	return []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(a.RootPEM())}, nil
}
