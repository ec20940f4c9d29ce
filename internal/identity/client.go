// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"
)

const (
	// ServerName is the name under which the control plane proves itself.
	ServerName = "istiod.istio-system.svc"
	// TokenAudience is the audience of tokens meant for the authority.
	TokenAudience = "istio-ca"

	maxToken    = 64 << 10
	callTimeout = 10 * time.Second // Istio's agent waits as long
)

// TokenSource gives the bearer token to present, read anew for each request
// since kubelet replaces it.
type TokenSource func() (string, error)

// TokenFile reads the token from a file; /dev/fd/N names an inherited
// descriptor.
func TokenFile(path string) TokenSource {
	return func() (string, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("token: %w", err)
		}
		s := strings.TrimSpace(string(b))
		if s == "" || len(s) > maxToken {
			return "", fmt.Errorf("token: %s holds %d bytes, want 1 to %d", path, len(s), maxToken)
		}
		return s, nil
	}
}

// TokenOnce reads the token now and gives it ever after, for a pipe inherited
// from the starting process.
func TokenOnce(path string) (TokenSource, error) {
	s, err := TokenFile(path)()
	if err != nil {
		return nil, err
	}
	return func() (string, error) { return s, nil }, nil
}

// Client asks the mesh's authority for certificates. It keeps no connection
// between requests, of which there are a few a day.
type Client struct {
	// Address is the authority's host:port.
	Address string
	// ServerName is what its certificate must be for; empty means ServerName.
	ServerName string
	// Roots gives the authorities that may vouch for it. nil roots fail the call.
	Roots func() *x509.CertPool
	// Token gives the bearer token; nil when only Certificate is used.
	Token TokenSource
	// Certificate gives the mesh certificate to authenticate with, nil when
	// there is none yet. It is tried before the token.
	Certificate func() *tls.Certificate
}

// Sign has the key behind csr certified for ttl (0: the authority's choice).
// The answer is checked as NewBundle does.
func (c *Client) Sign(ctx context.Context, csr []byte, pub crypto.PublicKey, want ID, ttl time.Duration, now time.Time) (*Bundle, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if c.Certificate != nil {
		if cert := c.Certificate(); cert != nil && cert.Leaf != nil && now.Before(cert.Leaf.NotAfter) {
			chain, err := c.call(ctx, csr, ttl, cert, "")
			if err == nil {
				return NewBundle(chain, pub, want, now)
			}
			if c.Token == nil || status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.Unavailable {
				return nil, fmt.Errorf("certificate from %s: %w", c.Address, err)
			}
		}
	}
	if c.Token == nil {
		return nil, errors.New("certificate: neither token nor valid certificate to authenticate with")
	}
	token, err := c.Token()
	if err != nil {
		return nil, err
	}
	chain, err := c.call(ctx, csr, ttl, nil, token)
	if err != nil {
		return nil, fmt.Errorf("certificate from %s: %w", c.Address, err)
	}
	return NewBundle(chain, pub, want, now)
}

func (c *Client) call(ctx context.Context, csr []byte, ttl time.Duration, cert *tls.Certificate, token string) ([]string, error) {
	roots := c.Roots()
	if roots == nil {
		return nil, errors.New("no root to check the authority against")
	}
	cfg := &tls.Config{RootCAs: roots, ServerName: c.ServerName, MinVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256}}
	if cfg.ServerName == "" {
		cfg.ServerName = ServerName
	}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	conn, err := grpc.NewClient("passthrough:///"+c.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<20)),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithNoProxy())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	resp, err := securityv1alpha1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx,
		&securityv1alpha1.IstioCertificateRequest{Csr: string(csr), ValidityDuration: int64(ttl / time.Second)})
	if err != nil {
		return nil, err
	}
	return resp.GetCertChain(), nil
}
