// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// NewKey makes a P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// NewCSR makes a PEM certificate request for key. The authority takes the
// public key from it and nothing else; id is put in, as Istio's agent does, for
// authorities that compare.
func NewCSR(key crypto.Signer, id ID) ([]byte, error) {
	t := &x509.CertificateRequest{}
	if id != (ID{}) {
		if err := id.Check(); err != nil {
			return nil, fmt.Errorf("certificate request: %w", err)
		}
		u, err := url.Parse(id.String())
		if err != nil {
			return nil, fmt.Errorf("certificate request: %w", err)
		}
		t.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// Bundle is what the authority answered: a verified leaf with its chain, and
// the root to trust.
type Bundle struct {
	Leaf  *x509.Certificate
	Chain [][]byte // DER, leaf first, without the root
	Root  *x509.Certificate
}

// NewBundle checks an answer of CreateCertificate: PEM certificates, leaf
// first, root last. The leaf must be for pub, chain up to the root, be usable
// for client and server, and carry want unless that is zero.
func NewBundle(certs []string, pub crypto.PublicKey, want ID, now time.Time) (*Bundle, error) {
	var all []*x509.Certificate
	for i, s := range certs {
		// Some authorities put several certificates into one element.
		for rest := []byte(s); len(bytes.TrimSpace(rest)) > 0; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
				return nil, fmt.Errorf("certificate chain: element %d is no PEM certificate", i)
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("certificate chain: element %d: %w", i, err)
			}
			all = append(all, c)
		}
	}
	if len(all) < 2 {
		return nil, fmt.Errorf("certificate chain: %d certificates, want a leaf and a root at least", len(all))
	}
	b := &Bundle{Leaf: all[0], Root: all[len(all)-1]}
	if k, ok := pub.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(b.Leaf.PublicKey) {
		return nil, errors.New("certificate chain: the leaf is not for the requested key")
	}
	id, err := FromCertificate(b.Leaf)
	if err != nil {
		return nil, err
	}
	if want != (ID{}) && id != want {
		return nil, fmt.Errorf("certificate chain: the leaf is for %s, want %s", id, want)
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(b.Root)
	for _, c := range all[1 : len(all)-1] {
		inter.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := b.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return nil, fmt.Errorf("certificate chain: %w", err)
		}
	}
	for _, c := range all[:len(all)-1] {
		b.Chain = append(b.Chain, c.Raw)
	}
	return b, nil
}

// RenewAt is when a certificate is to be renewed: at the middle of its life, a
// part of it in up to jitter (0..1 of the life, Istio's 0.01) earlier or later
// as random, in [0,1), says.
func RenewAt(c *x509.Certificate, jitter, random float64) time.Time {
	life := c.NotAfter.Sub(c.NotBefore)
	part := 0.5 + jitter*(2*random-1)
	return c.NotBefore.Add(time.Duration(float64(life) * part))
}
