// SPDX-License-Identifier: Apache-2.0

// Package ca is the mesh's certificate authority: it keeps the root, signs leaf
// certificates for authenticated workloads over Istio's CreateCertificate API,
// issues the tokens workloads of a local mesh authenticate with, and certifies
// the control plane itself. It never sees a workload's private key.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lateen-mesh/lateen/internal/identity"
)

// The lifetimes, Istio's unless said.
const (
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 90 * 24 * time.Hour
	rootTTL    = 10 * 365 * 24 * time.Hour
	// backdate makes a new certificate valid for peers whose clocks are behind.
	backdate = 2 * time.Minute
	// maxCSR bounds a certificate request in bytes of PEM.
	maxCSR = 16 << 10
)

// Authority signs certificates with the mesh's key. It is safe for concurrent use.
type Authority struct {
	keys        atomic.Pointer[keys]
	trustDomain string
	now         func() time.Time
}

// keys is what an authority signs with; it is immutable.
type keys struct {
	signer crypto.Signer
	cert   *x509.Certificate   // of signer
	chain  []*x509.Certificate // cert and its parents up to, without, the root; empty when cert is the root
	root   *x509.Certificate   // that cert chains to
	others []*x509.Certificate // further roots to trust, while one takes over from another
}

// pool holds every root that the mesh trusts.
func (k *keys) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(k.root)
	for _, c := range k.others {
		p.AddCert(c)
	}
	return p
}

// Replace makes the authority sign with what another one does from now on.
func (a *Authority) Replace(other *Authority) { a.keys.Store(other.keys.Load()) }

// Same reports whether two authorities sign with the same key, certificate and roots.
func (a *Authority) Same(other *Authority) bool {
	x, y := a.keys.Load(), other.keys.Load()
	return x.cert.Equal(y.cert) && bytes.Equal(a.RootPEM(), other.RootPEM()) &&
		slices.EqualFunc(x.chain, y.chain, (*x509.Certificate).Equal)
}

// Options describe an authority. The zero value holds the defaults.
type Options struct {
	TrustDomain string           // default cluster.local
	Now         func() time.Time // default time.Now
}

func (o Options) withDefaults() Options {
	if o.TrustDomain == "" {
		o.TrustDomain = "cluster.local"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// New makes an authority with a fresh self-signed P-256 root, kept nowhere.
func New(o Options) (*Authority, error) {
	o = o.withDefaults()
	key, err := identity.NewKey()
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	cert, err := newRoot(key, o)
	if err != nil {
		return nil, err
	}
	return newAuthority(key, []*x509.Certificate{cert}, []*x509.Certificate{cert}, o)
}

func newRoot(key *ecdsa.PrivateKey, o Options) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := o.Now()
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{o.TrustDomain}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootTTL),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	return x509.ParseCertificate(der)
}

// newAuthority checks that key, chain and roots fit together. chain begins with
// the key's certificate, which chains to one of the roots.
func newAuthority(key crypto.Signer, chain, trusted []*x509.Certificate, o Options) (*Authority, error) {
	k := &keys{signer: key, cert: chain[0]}
	if p, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !p.Equal(k.cert.PublicKey) {
		return nil, errors.New("the authority's key does not belong to its certificate")
	}
	if !k.cert.IsCA {
		return nil, errors.New("the authority's certificate may not sign others: it is no CA certificate")
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range trusted {
		roots.AddCert(r)
	}
	for _, c := range chain {
		if !slices.ContainsFunc(trusted, c.Equal) {
			k.chain = append(k.chain, c)
			inter.AddCert(c)
		}
	}
	chains, err := k.cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: o.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate does not chain to its root: %w", err)
	}
	k.root = chains[0][len(chains[0])-1]
	for _, r := range trusted {
		if !r.Equal(k.root) {
			k.others = append(k.others, r)
		}
	}
	a := &Authority{trustDomain: o.TrustDomain, now: o.Now}
	a.keys.Store(k)
	return a, nil
}

// TrustDomain is the mesh's trust domain.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// Root is the certificate that what is signed chains to.
func (a *Authority) Root() *x509.Certificate { return a.keys.Load().root }

// RootPEM are the certificates that the mesh trusts, Root first, in PEM.
func (a *Authority) RootPEM() []byte {
	k := a.keys.Load()
	out := encode(k.root.Raw)
	for _, c := range k.others {
		out = append(out, encode(c.Raw)...)
	}
	return out
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ErrTTL is returned for a lifetime above MaxTTL.
var ErrTTL = fmt.Errorf("requested lifetime is above %v", MaxTTL)

// SignCSR certifies the public key of a PEM certificate request for id. Nothing
// else of the request is used. ttl 0 means DefaultTTL; the result never outlives
// the authority. The chain is PEM: leaf, intermediates, root.
func (a *Authority) SignCSR(csr []byte, id identity.ID, ttl time.Duration) ([]string, error) {
	pub, err := parseCSR(csr)
	if err != nil {
		return nil, err
	}
	if err := id.Check(); err != nil {
		return nil, err
	}
	u, err := url.Parse(id.String())
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	k := a.keys.Load()
	der, err := a.sign(k, pub, &x509.Certificate{URIs: []*url.URL{u}}, ttl)
	if err != nil {
		return nil, err
	}
	out := []string{string(encode(der))}
	for _, c := range k.chain {
		out = append(out, string(encode(c.Raw)))
	}
	return append(out, string(encode(k.root.Raw))), nil
}

// sign fills in a leaf template's names with all the rest and signs it.
func (a *Authority) sign(k *keys, pub crypto.PublicKey, t *x509.Certificate, ttl time.Duration) ([]byte, error) {
	switch {
	case ttl < 0:
		return nil, errors.New("requested lifetime is negative")
	case ttl == 0:
		ttl = DefaultTTL
	case ttl > MaxTTL:
		return nil, ErrTTL
	}
	now := a.now()
	if !now.Before(k.cert.NotAfter) {
		return nil, errors.New("the authority's own certificate has expired")
	}
	var err error
	if t.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	t.NotBefore, t.NotAfter = now.Add(-backdate), now.Add(ttl)
	if t.NotAfter.After(k.cert.NotAfter) {
		t.NotAfter = k.cert.NotAfter
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	if _, ok := pub.(*rsa.PublicKey); ok {
		t.KeyUsage |= x509.KeyUsageKeyEncipherment // RSA key exchange names need it
	}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	t.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, t, k.cert, pub, k.signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return der, nil
}

// newSerial is 127 random bits: positive, unique without a record.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// parseCSR gives the public key of a request whose sender holds the private
// one.
func parseCSR(csr []byte) (crypto.PublicKey, error) {
	if len(csr) > maxCSR {
		return nil, fmt.Errorf("certificate request: %d bytes are more than %d", len(csr), maxCSR)
	}
	block, _ := pem.Decode(csr)
	if block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST" {
		return nil, errors.New("certificate request: is not PEM of type CERTIFICATE REQUEST")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	switch k := r.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, errors.New("certificate request: curve is neither P-256 nor P-384")
		}
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return nil, fmt.Errorf("certificate request: RSA key of %d bits: want 2048 to 4096", n)
		}
	default:
		return nil, errors.New("certificate request: key is neither ECDSA nor RSA")
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return r.PublicKey, nil
}

// Names are what the control plane's certificate is for.
type Names struct {
	DNS []string
	IPs []net.IP
}

// ControlPlaneNames are the names Istio's proxies and webhooks know the control
// plane by, and those of the machine itself.
func ControlPlaneNames() Names {
	return Names{
		DNS: []string{identity.ServerName, "istiod.istio-system", "istiod.istio-system.svc.cluster.local", "istiod-remote.istio-system.svc", "istio-pilot.istio-system.svc", "localhost"},
		IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
}
