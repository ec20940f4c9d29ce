// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/lateen-mesh/lateen/internal/identity"
)

// NewData makes a fresh self-signed authority in the shape in which Istio
// keeps one in a Secret: PEM by file name. It is a secret.
func NewData(o Options) (map[string][]byte, error) {
	o = o.withDefaults()
	key, err := identity.NewKey()
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	root, err := newRoot(key, o)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	cert := encode(root.Raw)
	return map[string][]byte{
		certFile: cert, chainFile: cert, RootFile: cert,
		keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	}, nil
}

// FromData opens an authority kept as Istio's Secrets istio-ca-secret and
// cacerts keep it: ca-cert.pem, ca-key.pem, and, unless it is its own root,
// cert-chain.pem and root-cert.pem, which may hold several roots. The error never holds the key.
func FromData(data map[string][]byte, o Options) (*Authority, error) {
	o = o.withDefaults()
	key, err := parseKey(keyFile, data[keyFile])
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(certFile, data[certFile])
	if err != nil {
		return nil, err
	}
	root := certs[len(certs)-1:]
	if len(data[RootFile]) > 0 {
		if root, err = parseCertificates(RootFile, data[RootFile]); err != nil {
			return nil, err
		}
	}
	full := certs[:1:1]
	if len(data[chainFile]) > 0 {
		chain, err := parseCertificates(chainFile, data[chainFile])
		if err != nil {
			return nil, err
		}
		for _, c := range chain {
			if !c.Equal(certs[0]) {
				full = append(full, c)
			}
		}
	}
	return newAuthority(key, full, root, o)
}

// parseKey reads a private key in any of the PEM forms that openssl writes.
func parseKey(name string, b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM", name)
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		err = fmt.Errorf("PEM block %q is no private key", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: key cannot sign", name)
	}
	return s, nil
}

func parseCertificates(name string, b []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New(name + ": no certificate")
	}
	return out, nil
}
