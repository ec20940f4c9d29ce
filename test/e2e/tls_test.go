// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
)

const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
`

// mutualTLS: everything still works when nothing but mutual TLS is let in,
// plain text is reset, and neither no certificate nor one of another authority
// opens the door.
func (m *mesh) mutualTLS(t *testing.T) {
	for workload, account := range map[string]string{reviewsV1Addr: "bookinfo-reviews", ratingsAddr: "bookinfo-ratings", productpageAddr: "bookinfo-productpage"} {
		want := "spiffe://cluster.local/ns/default/sa/" + account
		if got := serverIdentity(t, workload+":9080"); got != want {
			t.Errorf("%s shows %q, want %q", workload, got, want)
		}
	}
	plain := func() error { return speakPlain(reviewsV1Addr + ":9080") }
	if err := plain(); err != nil {
		t.Errorf("PERMISSIVE refuses plain text: %v", err)
	}
	m.applyText(t, strict)
	defer m.delete(t, "peerauthentication", "default", "-n", "istio-system")
	if err := plain(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("STRICT meets plain text with %v, want a reset", err)
	}
	for range 30 {
		page, err := m.page("")
		if err != nil || strings.Contains(page, reviewsUnavailable) || strings.Contains(page, detailsUnavailable) || strings.Contains(page, ratingsUnavailable) {
			t.Fatalf("the page under STRICT: %v", err)
		}
	}
	for name, cert := range map[string][]tls.Certificate{
		"no certificate":                     nil,
		"a certificate of another authority": {foreignCertificate(t)},
	} {
		if err := speakTLS(reviewsV1Addr+":9080", cert); err == nil {
			t.Errorf("%s is let in", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

const rawRequest = "GET /reviews/0 HTTP/1.1\r\nHost: reviews:9080\r\nConnection: close\r\n\r\n"

func speakPlain(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(c)
}

func exchange(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, rawRequest); err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(b), "HTTP/1.1 200") {
		return fmt.Errorf("answer %.80q", b)
	}
	return nil
}

// speakTLS makes a request as a sidecar would, with another certificate. The
// server's certificate is not what is tested here.
func speakTLS(addr string, cert []tls.Certificate) error {
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}, Certificates: cert})
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(c)
}

// serverIdentity is the SPIFFE id in the certificate that addr shows.
func serverIdentity(t *testing.T, addr string) string {
	t.Helper()
	var id string
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		leaf, err := x509.ParseCertificate(raw[0])
		if err == nil && len(leaf.URIs) == 1 {
			id = leaf.URIs[0].String()
		}
		return err
	}})
	if err == nil {
		c.Close()
	}
	return id
}

// foreignCertificate has a true name and the wrong signature.
func foreignCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, _ := url.Parse("spiffe://cluster.local/ns/default/sa/bookinfo-productpage")
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(7), URIs: []*url.URL{id},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
