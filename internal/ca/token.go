// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"strings"
	"time"

	"github.com/lateen-mesh/lateen/internal/identity"
)

const (
	tokenIssuer = "lateen"
	maxToken    = 8 << 10
	// tokenSkew is how far clocks may differ for nbf and iat. exp has none.
	tokenSkew = 30 * time.Second
)

// Tokens issues and verifies the tokens of a local mesh: JWTs (RFC 7519) signed
// with ES256 (RFC 7518 section 3.4), in the shape of Kubernetes' service account
// tokens.
type Tokens struct {
	key *ecdsa.PrivateKey
	now func() time.Time
}

// loadTokens reads the token key and makes it when there is none, as in a
// directory that holds a plugged-in authority.
func loadTokens(dir string, o Options) (*Tokens, error) {
	name := filepath.Join(dir, tokenFile)
	k, err := readKey(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(name); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		k, err = readKey(name)
	}
	if err != nil {
		return nil, err
	}
	return newTokens(k, o)
}

func newTokens(k any, o Options) (*Tokens, error) {
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s: want a P-256 key", tokenFile)
	}
	return &Tokens{key: key, now: o.Now}, nil
}

// NewTokens makes a token key kept nowhere.
func NewTokens(o Options) (*Tokens, error) {
	k, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	return newTokens(k, o.withDefaults())
}

type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience audience `json:"aud"`
	Expires  int64    `json:"exp"`
	NotPast  int64    `json:"nbf"`
	IssuedAt int64    `json:"iat"`
}

// audience is a list that may be written as a single string (RFC 7519 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

const es256Header = `{"alg":"ES256","typ":"JWT"}`

var b64 = base64.RawURLEncoding.Strict()

// Issue gives a token for a workload's service account, valid from now for ttl
// and for the authority alone.
func (t *Tokens) Issue(namespace, serviceAccount string, ttl time.Duration) (string, error) {
	sub := "system:serviceaccount:" + namespace + ":" + serviceAccount
	if _, err := identity.FromSubject("t", sub); err != nil {
		return "", fmt.Errorf("token for %s/%s: %w", namespace, serviceAccount, err)
	}
	now := t.now()
	body, err := json.Marshal(claims{Issuer: tokenIssuer, Subject: sub, Audience: audience{identity.TokenAudience},
		Expires: now.Add(ttl).Unix(), NotPast: now.Unix(), IssuedAt: now.Unix()})
	if err != nil {
		return "", err
	}
	signed := b64.EncodeToString([]byte(es256Header)) + "." + b64.EncodeToString(body)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, t.key, sum[:])
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + b64.EncodeToString(sig), nil
}

// Verify checks a token that Issue gave and returns its subject and audiences.
// It is a VerifyToken. The algorithm is fixed by the key, never by the token.
func (t *Tokens) Verify(_ context.Context, token string) (subject string, audiences []string, err error) {
	if len(token) > maxToken {
		return "", nil, fmt.Errorf("token: %d bytes are more than %d", len(token), maxToken)
	}
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return "", nil, errors.New("token: is no JWT of three parts")
	}
	var header struct {
		Alg  string          `json:"alg"`
		Crit json.RawMessage `json:"crit"`
	}
	if err := decodePart(part[0], &header); err != nil {
		return "", nil, fmt.Errorf("token header: %w", err)
	}
	if header.Alg != "ES256" || header.Crit != nil {
		return "", nil, errors.New("token header: want alg ES256 and no crit")
	}
	sig, err := b64.DecodeString(part[2])
	if err != nil || len(sig) != 64 {
		return "", nil, errors.New("token signature: malformed")
	}
	sum := sha256.Sum256([]byte(part[0] + "." + part[1]))
	if !ecdsa.Verify(&t.key.PublicKey, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return "", nil, errors.New("token signature: is not ours")
	}
	var c claims
	if err := decodePart(part[1], &c); err != nil {
		return "", nil, fmt.Errorf("token claims: %w", err)
	}
	now := t.now()
	switch {
	case c.Issuer != tokenIssuer:
		return "", nil, errors.New("token: foreign issuer")
	case !now.Before(time.Unix(c.Expires, 0)):
		return "", nil, errors.New("token: expired")
	case now.Add(tokenSkew).Before(time.Unix(c.NotPast, 0)):
		return "", nil, errors.New("token: not valid yet")
	}
	return c.Subject, c.Audience, nil
}

func decodePart(s string, into any) error {
	b, err := b64.DecodeString(s)
	if err != nil {
		return errors.New("malformed base64url")
	}
	if json.Unmarshal(b, into) != nil {
		return errors.New("malformed JSON")
	}
	return nil
}
