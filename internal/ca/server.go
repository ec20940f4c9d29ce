// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lateen-mesh/lateen/internal/identity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	securityv1alpha1 "istio.io/api/security/v1alpha1"
)

// Server is Istio's certificate service over an Authority.
type Server struct {
	securityv1alpha1.UnimplementedIstioCertificateServiceServer
	authority *Authority
	auth      []Authenticator
	log       *slog.Logger
	requests  atomic.Int64
	issued    atomic.Int64
	refused   atomic.Int64
}

// NewServer makes the service; callers prove themselves to one of auth.
func NewServer(a *Authority, log *slog.Logger, auth ...Authenticator) *Server {
	return &Server{authority: a, auth: auth, log: log}
}

// Register adds the service to a gRPC server. That server must be on TLS: the
// tokens callers send are secrets.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	securityv1alpha1.RegisterIstioCertificateServiceServer(r, s)
}

// Counts are the requests so far, for metrics
// (citadel_server_csr_count and its sisters).
func (s *Server) Counts() (requests, issued, refused int64) {
	return s.requests.Load(), s.issued.Load(), s.refused.Load()
}

// CreateCertificate certifies the request's key for the authenticated caller,
// whatever names the request asks for.
func (s *Server) CreateCertificate(ctx context.Context, req *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
	s.requests.Add(1)
	chain, caller, err := s.create(ctx, req)
	if err != nil {
		s.refused.Add(1)
		s.log.Warn("certificate refused", "caller", caller, "error", err)
		return nil, err
	}
	s.issued.Add(1)
	s.log.Info("certificate issued", "caller", caller)
	return &securityv1alpha1.IstioCertificateResponse{CertChain: chain}, nil
}

func (s *Server) create(ctx context.Context, req *securityv1alpha1.IstioCertificateRequest) ([]string, Caller, error) {
	caller, err := Authenticate(ctx, s.auth...)
	if err != nil {
		return nil, caller, err
	}
	if v := req.GetMetadata().GetFields()["ImpersonatedIdentity"]; v.GetStringValue() != "" {
		return nil, caller, status.Error(codes.PermissionDenied, "impersonation is not allowed")
	}
	if d := req.GetValidityDuration(); d < 0 || d > int64(MaxTTL/time.Second) {
		return nil, caller, status.Errorf(codes.InvalidArgument, "validity_duration %d s is not in 0..%d", d, int64(MaxTTL/time.Second))
	}
	chain, err := s.authority.SignCSR([]byte(req.GetCsr()), caller.ID, time.Duration(req.GetValidityDuration())*time.Second)
	if err != nil {
		return nil, caller, status.Error(codes.InvalidArgument, err.Error())
	}
	return chain, caller, nil
}

// Serving is the control plane's own certificate, made by its authority and
// renewed at half its life, when a handshake finds it that old.
type Serving struct {
	a     *Authority
	names Names
	mu    sync.Mutex // guards what follows
	cert  *tls.Certificate
	by    *keys // that signed cert
}

// NewServing makes the first certificate for names.
func NewServing(a *Authority, names Names) (*Serving, error) {
	s := &Serving{a: a, names: names}
	if _, err := s.Certificate(); err != nil {
		return nil, err
	}
	return s, nil
}

// Certificate gives the certificate in use now.
func (s *Serving) Certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, k := s.a.now(), s.a.keys.Load()
	if s.cert != nil && s.by == k && now.Before(identity.RenewAt(s.cert.Leaf, 0, 0)) {
		return s.cert, nil
	}
	c, err := s.issue(k)
	switch {
	case err == nil:
		s.cert, s.by = c, k
	case s.cert == nil || !now.Before(s.cert.Leaf.NotAfter):
		return nil, fmt.Errorf("control plane certificate: %w", err)
	}
	return s.cert, nil
}

func (s *Serving) issue(k *keys) (*tls.Certificate, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	der, err := s.a.sign(k, key.Public(), &x509.Certificate{DNSNames: s.names.DNS, IPAddresses: s.names.IPs}, 0)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	for _, p := range k.chain {
		c.Certificate = append(c.Certificate, p.Raw)
	}
	return c, nil
}

// TLSConfig is for the control plane's secure port: its certificate, and client
// certificates verified against the mesh's root when they are given. Whether a
// caller without one may go on is the authenticators' decision.
func (s *Serving) TLSConfig() *tls.Config {
	c := &tls.Config{
		MinVersion:       tls.VersionTLS12,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Certificate() },
		ClientAuth:       tls.VerifyClientCertIfGiven,
		ClientCAs:        s.a.keys.Load().pool(),
		// gRPC demands its protocol.
		NextProtos: []string{"h2"},
	}
	var mu sync.Mutex
	current, by := c, s.a.keys.Load()
	// The roots may be replaced while the port is open.
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		k := s.a.keys.Load()
		mu.Lock()
		defer mu.Unlock()
		if by != k {
			current, by = c.Clone(), k
			current.ClientCAs, current.GetConfigForClient = k.pool(), nil
		}
		return current, nil
	}
	return c
}
