// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/lateen-mesh/lateen/internal/identity"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Caller is an authenticated peer of a gRPC call.
type Caller struct {
	ID     identity.ID
	Method string // "token" or "certificate", for logs
}

// LogValue is the caller as logs show it.
func (c Caller) LogValue() slog.Value {
	if c == (Caller{}) {
		return slog.StringValue("unknown")
	}
	return slog.StringValue(c.ID.String() + " by " + c.Method)
}

// Authenticator finds out who makes a gRPC call. errNoCredentials means that
// the call carries nothing of its kind; other errors are refusals.
type Authenticator interface {
	Authenticate(ctx context.Context) (Caller, error)
}

var errNoCredentials = errors.New("no credentials of this kind")

// Authenticate asks each authenticator in turn; the first that knows the caller
// wins. The error is a gRPC status Unauthenticated which names no secret.
func Authenticate(ctx context.Context, as ...Authenticator) (Caller, error) {
	var reasons []string
	for _, a := range as {
		c, err := a.Authenticate(ctx)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, errNoCredentials) {
			reasons = append(reasons, err.Error())
		}
	}
	if len(reasons) == 0 {
		reasons = append(reasons, "neither a token nor a client certificate of the mesh was presented")
	}
	return Caller{}, status.Error(codes.Unauthenticated, "authentication failed: "+strings.Join(reasons, "; "))
}

// VerifyToken checks a token's signature and time and returns its subject,
// system:serviceaccount:<namespace>:<name>, and its audiences. Tokens.Verify is
// one.
type VerifyToken func(ctx context.Context, token string) (subject string, audiences []string, err error)

// TokenAuthenticator knows callers by their bearer token.
type TokenAuthenticator struct {
	Verify      VerifyToken
	TrustDomain string
}

// Authenticate implements Authenticator.
func (t *TokenAuthenticator) Authenticate(ctx context.Context) (Caller, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	switch {
	case len(values) == 0:
		return Caller{}, errNoCredentials
	case len(values) > 1:
		return Caller{}, errors.New("more than one authorization header")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return Caller{}, errors.New("authorization is no bearer token")
	}
	sub, aud, err := t.Verify(ctx, token)
	if err != nil {
		return Caller{}, err
	}
	if !slices.Contains(aud, identity.TokenAudience) {
		return Caller{}, fmt.Errorf("token: audience is not %s", identity.TokenAudience)
	}
	id, err := identity.FromSubject(t.TrustDomain, sub)
	if err != nil {
		return Caller{}, err
	}
	return Caller{ID: id, Method: "token"}, nil
}

// CertificateAuthenticator knows callers by the client certificate that the
// TLS handshake verified.
type CertificateAuthenticator struct {
	TrustDomain string
}

// Authenticate implements Authenticator.
func (c *CertificateAuthenticator) Authenticate(ctx context.Context) (Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, errNoCredentials
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return Caller{}, errNoCredentials
	}
	if len(info.State.VerifiedChains) == 0 {
		return Caller{}, errors.New("client certificate: not verified by the handshake")
	}
	id, err := identity.FromCertificate(info.State.VerifiedChains[0][0])
	if err != nil {
		return Caller{}, err
	}
	if id.TrustDomain != c.TrustDomain {
		return Caller{}, fmt.Errorf("client certificate: trust domain %s is not %s", id.TrustDomain, c.TrustDomain)
	}
	return Caller{ID: id, Method: "certificate"}, nil
}
