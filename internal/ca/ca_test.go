// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/identity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

var bookinfo = identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "bookinfo-reviews"}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newCSR(t testing.TB, id identity.ID) ([]byte, *ecdsa.PrivateKey) {
	key := must[*ecdsa.PrivateKey](t)(identity.NewKey())
	return must[[]byte](t)(identity.NewCSR(key, id)), key
}

func leafOf(t testing.TB, chain []string) *x509.Certificate {
	block, _ := pem.Decode([]byte(chain[0]))
	return must[*x509.Certificate](t)(x509.ParseCertificate(block.Bytes))
}

func TestSignCSRTakesTheKeyAndNothingElse(t *testing.T) {
	clk := &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	a := must[*Authority](t)(New(Options{Now: clk.now}))
	csr, key := newCSR(t, identity.ID{TrustDomain: "cluster.local", Namespace: "kube-system", ServiceAccount: "admin"})
	chain := must[[]string](t)(a.SignCSR(csr, bookinfo, 0))
	leaf := leafOf(t, chain)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != bookinfo.String() || len(leaf.DNSNames) != 0 {
		t.Errorf("names %v %v, want only %v", leaf.URIs, leaf.DNSNames, bookinfo)
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("CA %v, usage %v", leaf.IsCA, leaf.KeyUsage)
	}
	if got := leaf.NotBefore; !got.Equal(clk.now().Add(-2 * time.Minute)) {
		t.Errorf("not before %v", got)
	}
	if got := leaf.NotAfter.Sub(clk.now()); got != 24*time.Hour {
		t.Errorf("lifetime %v, want 24 h", got)
	}
	if _, err := identity.NewBundle(chain, key.Public(), bookinfo, clk.now()); err != nil {
		t.Error(err)
	}
}

func TestLifetimes(t *testing.T) {
	clk := &clock{t: time.Now()}
	a := must[*Authority](t)(New(Options{Now: clk.now}))
	csr, _ := newCSR(t, bookinfo)
	if _, err := a.SignCSR(csr, bookinfo, MaxTTL+time.Second); !errors.Is(err, ErrTTL) {
		t.Errorf("above the maximum: %v", err)
	}
	if _, err := a.SignCSR(csr, bookinfo, -1); err == nil {
		t.Error("negative lifetime accepted")
	}
	clk.add(rootTTL - time.Hour)
	if leaf := leafOf(t, must[[]string](t)(a.SignCSR(csr, bookinfo, 0))); leaf.NotAfter.After(a.Root().NotAfter) {
		t.Error("the leaf outlives its root")
	}
	clk.add(2 * time.Hour)
	if _, err := a.SignCSR(csr, bookinfo, 0); err == nil {
		t.Error("an expired authority signed")
	}
}

func TestCSRsRefused(t *testing.T) {
	a := must[*Authority](t)(New(Options{}))
	request := func(key any) []byte {
		der := must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	p521 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	good, _ := newCSR(t, bookinfo)
	block, _ := pem.Decode(good)
	block.Bytes[len(block.Bytes)-1] ^= 1
	for name, csr := range map[string][]byte{
		"empty":         nil,
		"no PEM":        []byte("hello"),
		"certificate":   a.RootPEM(),
		"P-521":         request(p521),
		"bad signature": pem.EncodeToMemory(block),
		"too large":     append(good, make([]byte, maxCSR)...),
	} {
		if _, err := a.SignCSR(csr, bookinfo, 0); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := a.SignCSR(request(must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))), bookinfo, 0); err != nil {
		t.Errorf("RSA 2048: %v", err)
	}
	if _, err := a.SignCSR(good, identity.ID{TrustDomain: "cluster.local", Namespace: "a/b", ServiceAccount: "c"}, 0); err == nil {
		t.Error("signed for an identity that is none")
	}
}

func TestOpenDirKeepsTheRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lateen", "ca")
	var wg sync.WaitGroup
	roots := make([]string, 4)
	for i := range roots {
		wg.Go(func() {
			a, _, err := OpenDir(dir, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			roots[i] = string(a.RootPEM())
		})
	}
	wg.Wait()
	for _, r := range roots {
		if r != roots[0] {
			t.Fatal("racing starts made different roots")
		}
	}
	entries := must[[]os.DirEntry](t)(os.ReadDir(filepath.Dir(dir)))
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	files := must[[]os.DirEntry](t)(os.ReadDir(dir))
	for _, f := range files {
		if info, _ := f.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
	if err := os.Chmod(filepath.Join(dir, keyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenDir(dir, Options{}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key others can read: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, keyFile)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenDir(dir, Options{}); err == nil {
		t.Error("an authority without its key opened")
	}
}

func TestTokens(t *testing.T) {
	clk := &clock{t: time.Now()}
	o := Options{Now: clk.now}
	ours, theirs := must[*Tokens](t)(NewTokens(o)), must[*Tokens](t)(NewTokens(o))
	tok := must[string](t)(ours.Issue("default", "reviews", time.Hour))
	ctx := context.Background()
	sub, aud, err := ours.Verify(ctx, tok)
	if err != nil || sub != "system:serviceaccount:default:reviews" || len(aud) != 1 || aud[0] != "istio-ca" {
		t.Fatalf("%q %v %v", sub, aud, err)
	}
	if _, _, err := theirs.Verify(ctx, tok); err == nil {
		t.Error("a token of another key was accepted")
	}
	part := strings.Split(tok, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	admin := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"lateen","sub":"system:serviceaccount:kube-system:admin","aud":["istio-ca"],"exp":99999999999}`))
	for name, bad := range map[string]string{
		"alg none":        none + "." + part[1] + ".",
		"alg none signed": none + "." + part[1] + "." + part[2],
		"changed claims":  part[0] + "." + admin + "." + part[2],
		"two parts":       part[0] + "." + part[1],
		"no signature":    part[0] + "." + part[1] + ".",
		"huge":            tok + strings.Repeat("A", maxToken),
		"empty":           "",
	} {
		if _, _, err := ours.Verify(ctx, bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	clk.add(time.Hour)
	if _, _, err := ours.Verify(ctx, tok); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired token: %v", err)
	}
	if _, err := ours.Issue("a:b", "c", time.Hour); err == nil {
		t.Error("issued for a namespace with a colon")
	}
}

func TestAudienceMayBeAString(t *testing.T) {
	var c claims
	if err := json.Unmarshal([]byte(`{"aud":"istio-ca"}`), &c); err != nil || len(c.Audience) != 1 {
		t.Errorf("%v %v", c.Audience, err)
	}
}

// service runs the certificate service as lateend does and returns its address.
func service(t *testing.T, a *Authority, auth ...Authenticator) (string, *Server) {
	t.Helper()
	serving := must[*Serving](t)(NewServing(a, ControlPlaneNames()))
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(serving.TLSConfig())))
	s := NewServer(a, slog.New(slog.DiscardHandler), auth...)
	s.Register(g)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	return l.Addr().String(), s
}

func pool(a *Authority) func() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Root())
	return func() *x509.CertPool { return p }
}

func TestCreateCertificate(t *testing.T) {
	a := must[*Authority](t)(New(Options{}))
	tokens := must[*Tokens](t)(NewTokens(Options{}))
	addr, srv := service(t, a, &CertificateAuthenticator{TrustDomain: "cluster.local"}, &TokenAuthenticator{Verify: tokens.Verify, TrustDomain: "cluster.local"})
	ctx := context.Background()
	csr, key := newCSR(t, identity.ID{TrustDomain: "cluster.local", Namespace: "other", ServiceAccount: "thief"})
	token := must[string](t)(tokens.Issue("default", "bookinfo-reviews", time.Hour))
	c := &identity.Client{Address: addr, Roots: pool(a), Token: func() (string, error) { return token, nil }}
	b, err := c.Sign(ctx, csr, key.Public(), bookinfo, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := identity.FromCertificate(b.Leaf); got != bookinfo {
		t.Errorf("certified %v", got)
	}

	// From now on the certificate itself proves who we are.
	cert := &tls.Certificate{Certificate: b.Chain, PrivateKey: key, Leaf: b.Leaf}
	c.Token, c.Certificate = nil, func() *tls.Certificate { return cert }
	if _, err := c.Sign(ctx, csr, key.Public(), bookinfo, 0, time.Now()); err != nil {
		t.Errorf("with the mesh certificate: %v", err)
	}

	// Refusals.
	c.Certificate = nil
	for name, tok := range map[string]string{
		"expired": must[string](t)(tokens.Issue("default", "x", -time.Hour)),
		"garbage": "abc",
	} {
		c.Token = func() (string, error) { return tok, nil }
		if _, err := c.Sign(ctx, csr, key.Public(), identity.ID{}, 0, time.Now()); status.Code(errors.Unwrap(err)) != codes.Unauthenticated {
			t.Errorf("%s token: %v, want Unauthenticated", name, err)
		} else if strings.Contains(err.Error(), tok) {
			t.Errorf("%s: the error shows the token", name)
		}
	}
	other := must[*Authority](t)(New(Options{}))
	c.Token, c.Roots = func() (string, error) { return token, nil }, pool(other)
	if _, err := c.Sign(ctx, csr, key.Public(), bookinfo, 0, time.Now()); err == nil {
		t.Error("a control plane of another root was trusted with the token")
	}
	if req, issued, refused := srv.Counts(); req != 4 || issued != 2 || refused != 2 {
		t.Errorf("counts %d %d %d", req, issued, refused)
	}
}

func TestForeignClientCertificateIsRefused(t *testing.T) {
	a, foreign := must[*Authority](t)(New(Options{})), must[*Authority](t)(New(Options{}))
	addr, _ := service(t, a, &CertificateAuthenticator{TrustDomain: "cluster.local"})
	csr, key := newCSR(t, bookinfo)
	chain := must[[]string](t)(foreign.SignCSR(csr, bookinfo, 0))
	leaf := leafOf(t, chain)
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	c := &identity.Client{Address: addr, Roots: pool(a), Certificate: func() *tls.Certificate { return cert }}
	if _, err := c.Sign(context.Background(), csr, key.Public(), bookinfo, 0, time.Now()); err == nil {
		t.Error("a certificate of another authority was accepted")
	}
}

func TestWrongAudienceIsRefused(t *testing.T) {
	verify := func(context.Context, string) (string, []string, error) {
		return "system:serviceaccount:default:x", []string{"https://kubernetes.default.svc"}, nil
	}
	a := must[*Authority](t)(New(Options{}))
	addr, _ := service(t, a, &TokenAuthenticator{Verify: verify, TrustDomain: "cluster.local"})
	csr, key := newCSR(t, bookinfo)
	c := &identity.Client{Address: addr, Roots: pool(a), Token: func() (string, error) { return "t", nil }}
	_, err := c.Sign(context.Background(), csr, key.Public(), identity.ID{}, 0, time.Now())
	if err == nil || !strings.Contains(err.Error(), "audience") {
		t.Errorf("got %v", err)
	}
}

func TestServingCertificateIsRenewedAtHalfLife(t *testing.T) {
	clk := &clock{t: time.Now()}
	a := must[*Authority](t)(New(Options{Now: clk.now}))
	s := must[*Serving](t)(NewServing(a, ControlPlaneNames()))
	first := must[*tls.Certificate](t)(s.Certificate())
	if err := first.Leaf.VerifyHostname(identity.ServerName); err != nil {
		t.Error(err)
	}
	clk.add(11 * time.Hour)
	if must[*tls.Certificate](t)(s.Certificate()) != first {
		t.Error("renewed before half its life")
	}
	clk.add(2 * time.Hour)
	if must[*tls.Certificate](t)(s.Certificate()) == first {
		t.Error("not renewed after half its life")
	}
}

func FuzzSignCSR(f *testing.F) {
	a := must[*Authority](f)(New(Options{}))
	csr, _ := newCSR(f, bookinfo)
	f.Add(csr)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		chain, err := a.SignCSR(in, bookinfo, 0)
		if err != nil {
			return
		}
		if id, err := identity.FromCertificate(leafOf(t, chain)); err != nil || id != bookinfo {
			t.Fatalf("certified %v %v", id, err)
		}
	})
}

func FuzzVerifyToken(f *testing.F) {
	tokens := must[*Tokens](f)(NewTokens(Options{}))
	good := must[string](f)(tokens.Issue("default", "x", time.Hour))
	f.Add(good)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, in string) {
		if _, _, err := tokens.Verify(context.Background(), in); err == nil && in != good {
			// ECDSA signatures are malleable, claims are not.
			if in[:strings.LastIndexByte(in, '.')] != good[:strings.LastIndexByte(good, '.')] {
				t.Fatalf("accepted %q", in)
			}
		}
	})
}

func BenchmarkSignCSR(b *testing.B) {
	a := must[*Authority](b)(New(Options{}))
	csr, _ := newCSR(b, bookinfo)
	for b.Loop() {
		if _, err := a.SignCSR(csr, bookinfo, 0); err != nil {
			b.Fatal(err)
		}
	}
}
