// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/lateen-mesh/lateen/internal/identity"
	"github.com/lateen-mesh/lateen/internal/identity/identitytest"
)

var reviews = identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "reviews"}

// issue gives PEM of a chain and its key.
func issue(t *testing.T, a *identitytest.Authority, id identity.ID) (chain, key []byte) {
	return a.IssuePEM(t, id.ServiceAccount)
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func tlsSecret(name string, chain, key []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(chain), PrivateKey: inline(key)}}}
}

func TestSetKeepsTheLastGoodSecret(t *testing.T) {
	var s Store
	a := identitytest.New(t)
	chain, key := issue(t, a, reviews)
	v := s.KeyPair("kubernetes://cred")
	if v.Load() != nil {
		t.Fatal("a secret nobody gave has a value")
	}
	if err := s.Set(tlsSecret("kubernetes://cred", chain, key)); err != nil {
		t.Fatal(err)
	}
	good := v.Load()
	_, otherKey := issue(t, a, reviews)
	for _, bad := range []*tlsv3.Secret{
		tlsSecret("kubernetes://cred", chain, otherKey),
		tlsSecret("kubernetes://cred", []byte("x"), key),
		{Name: "kubernetes://cred"},
		{},
	} {
		err := s.Set(bad)
		if err == nil {
			t.Errorf("%v: accepted", bad)
		} else if strings.Contains(err.Error(), "PRIVATE") {
			t.Error("the error shows key material")
		}
	}
	if v.Load() != good {
		t.Error("a refused secret replaced the good one")
	}
	s.Remove("kubernetes://cred")
	if v.Load() != nil {
		t.Error("a removed secret is still there")
	}
}

func TestWantTellsOncePerName(t *testing.T) {
	var s Store
	var told []string
	s.Want("a")
	if known := s.OnWant(func(n string) { told = append(told, n) }); len(known) != 1 || known[0] != "a" {
		t.Errorf("known %v", known)
	}
	s.Want("b")
	s.Want("b")
	s.Want("a")
	if len(told) != 1 || told[0] != "b" {
		t.Errorf("told %v", told)
	}
}

func TestFilesAreFollowed(t *testing.T) {
	dir := t.TempDir()
	a := identitytest.New(t)
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write := func(name string, b []byte) {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		var s Store
		name := "file-cert:" + cert + "~" + key
		if err := s.Local(name); err != nil {
			t.Fatal(err)
		}
		v := s.KeyPair(name)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.WatchFiles(ctx, slog.New(slog.DiscardHandler))
		wait := func() { time.Sleep(11 * time.Second); synctest.Wait() }
		if v.Load() != nil {
			t.Fatal("value without files")
		}
		c1, k1 := issue(t, a, reviews)
		write(cert, c1)
		write(key, k1)
		wait()
		first := v.Load()
		if first == nil {
			t.Fatal("files that came later were not read")
		}
		c2, k2 := issue(t, a, reviews)
		write(cert, c2) // half of a rotation: certificate and key do not fit
		wait()
		if v.Load() != first {
			t.Fatal("half a rotation replaced the good pair")
		}
		write(key, k2)
		wait()
		if got := v.Load(); got == first || !got.TLS.Leaf.Equal(parse(t, c2)) {
			t.Fatal("the rotated pair was not taken over")
		}
	})
}

func parse(t *testing.T, b []byte) *x509.Certificate {
	certs, err := ParseCertificates(b)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func TestIdentityRenewsAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := identitytest.New(t)
		var s Store
		var calls atomic.Int32
		var down atomic.Bool
		sign := func(_ context.Context, csr []byte, pub crypto.PublicKey, want identity.ID, ttl time.Duration, now time.Time) (*identity.Bundle, error) {
			calls.Add(1)
			if down.Load() {
				return nil, errors.New("down")
			}
			chain, err := a.SignCSR(csr, want, ttl)
			if err != nil {
				return nil, err
			}
			return identity.NewBundle(chain, pub, want, now)
		}
		ctx, cancel := context.WithCancel(t.Context())
		id := &Identity{Store: &s, Sign: sign, ID: reviews, Log: slog.New(slog.DiscardHandler), Random: func() float64 { return 0.5 }}
		done := make(chan struct{})
		go func() { id.Run(ctx); close(done) }()
		<-id.Ready()
		first := s.Certificate()
		if first == nil || s.Trust(RootName).Load() == nil {
			t.Fatal("certificate or root missing when ready")
		}
		time.Sleep(11 * time.Hour)
		if calls.Load() != 1 {
			t.Fatal("renewed early")
		}
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		second := s.Certificate()
		if calls.Load() != 2 || second == first || first.PrivateKey.(interface{ Equal(crypto.PrivateKey) bool }).Equal(second.PrivateKey) {
			t.Fatal("not renewed with a new key at half its life")
		}
		// The authority goes away: the certificate stays, with bounded tries.
		down.Store(true)
		time.Sleep(13 * time.Hour)
		synctest.Wait()
		n := calls.Load()
		if s.Certificate() != second || n < 10 || n > 13*3600/15 {
			t.Fatalf("%d tries in an hour of outage, certificate kept: %v", n, s.Certificate() == second)
		}
		time.Sleep(12 * time.Hour)
		if s.Certificate() != nil {
			t.Error("an expired certificate is still offered")
		}
		down.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if s.Certificate() == nil {
			t.Error("not renewed after the outage")
		}
		cancel()
		<-done
	})
}

func TestInfosShowNoKeys(t *testing.T) {
	var s Store
	chain, key := issue(t, identitytest.New(t), reviews)
	if err := s.Set(tlsSecret("x", chain, key)); err != nil {
		t.Fatal(err)
	}
	s.Trust("ROOTCA")
	in := s.Infos(time.Now())
	if len(in) != 2 || in[0].Name != "ROOTCA" || in[0].Active || in[1].Certs[0].SANs[0] != "uri:"+reviews.String() || in[1].Certs[0].DaysLeft != 0 {
		t.Errorf("%+v", in)
	}
}

func FuzzParseCertificates(f *testing.F) {
	f.Add(identitytest.New(f).RootPEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := ParseCertificates(b)
		if (err == nil) != (len(certs) > 0) {
			t.Fatal("certificates and error at once, or neither")
		}
	})
}
