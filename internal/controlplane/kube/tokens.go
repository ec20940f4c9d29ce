// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lateen-mesh/lateen/internal/identity"
)

// A reviewed token is believed for this long, so that a proxy's streams and
// certificate requests cost one review, and a deleted account ends soon.
const (
	reviewLife = time.Minute
	maxReviews = 4096
)

// Tokens has service account tokens reviewed by the API server, which knows
// revoked ones; the cluster's published keys would not say that a pod is gone.
type Tokens struct {
	client kubernetes.Interface
	now    func() time.Time

	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]review
}

type review struct {
	subject   string
	audiences []string
	until     time.Time
}

// NewTokens returns a reviewer; a nil now is time.Now.
func NewTokens(client kubernetes.Interface, now func() time.Time) *Tokens {
	if now == nil {
		now = time.Now
	}
	return &Tokens{client: client, now: now, known: map[[sha256.Size]byte]review{}}
}

// Verify is a ca.VerifyToken: it returns the token's account and those
// audiences, of the one that is asked for, that it is valid for.
func (t *Tokens) Verify(ctx context.Context, token string) (subject string, audiences []string, err error) {
	key := sha256.Sum256([]byte(token)) // the token itself is kept nowhere
	now := t.now()
	t.mu.Lock()
	r, ok := t.known[key]
	t.mu.Unlock()
	if ok && now.Before(r.until) {
		return r.subject, r.audiences, nil
	}
	answer, err := t.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{identity.TokenAudience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", nil, fmt.Errorf("token review: %w", err)
	}
	switch s := answer.Status; {
	case s.Error != "":
		return "", nil, errors.New("token review: " + s.Error)
	case !s.Authenticated:
		return "", nil, errors.New("token review: not authenticated")
	default:
		r = review{subject: s.User.Username, audiences: s.Audiences, until: now.Add(reviewLife)}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= maxReviews {
		for k, old := range t.known {
			if !now.Before(old.until) {
				delete(t.known, k)
			}
		}
	}
	if len(t.known) < maxReviews {
		t.known[key] = r
	}
	return r.subject, r.audiences, nil
}
