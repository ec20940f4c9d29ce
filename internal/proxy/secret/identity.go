// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/lateen-mesh/lateen/internal/identity"
)

// The names under which Istio's configurations refer to the workload's own
// certificate and to the mesh's root.
const (
	DefaultName = "default"
	RootName    = "ROOTCA"
)

// Envoy's agents in Istio retry from 50 ms; the bound keeps a fleet from
// hammering an authority that is down.
const (
	retryFirst  = 50 * time.Millisecond
	retryMax    = 30 * time.Second
	renewJitter = 0.01 // of the life, Istio's SECRET_GRACE_PERIOD_RATIO_JITTER
)

// Signer certifies a key: identity.Client.Sign, or a fake of it.
type Signer func(ctx context.Context, csr []byte, pub crypto.PublicKey, want identity.ID, ttl time.Duration, now time.Time) (*identity.Bundle, error)

// Identity keeps the workload's certificate and the mesh's root in a Store,
// under DefaultName and RootName. The key is made here and never leaves the
// process; each renewal makes a new one.
type Identity struct {
	Store *Store
	Sign  Signer
	ID    identity.ID   // what to be certified for; zero: whatever the authority says
	TTL   time.Duration // asked for; 0: the authority's choice
	Log   *slog.Logger
	// ExtraRoots are trusted beside the authority's root.
	ExtraRoots []*x509.Certificate
	// Random gives [0,1) for jitter; nil means math/rand/v2.
	Random func() float64

	once  sync.Once
	first chan struct{}
}

// Ready is closed once the first certificate is there.
func (i *Identity) Ready() <-chan struct{} {
	i.once.Do(func() { i.first = make(chan struct{}) })
	return i.first
}

// Run gets the first certificate and renews it at half of its life until ctx is
// done. While the authority cannot be reached the old certificate stays; when
// there is none yet, handshakes that need it fail.
func (i *Identity) Run(ctx context.Context) {
	if i.Random == nil {
		i.Random = rand.Float64
	}
	var next time.Time
	backoff := retryFirst
	ready := i.Ready()
	for sleepUntil(ctx, next) {
		begin := time.Now()
		leaf, err := i.renew(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			// Half fixed, half random, so that a fleet does not come back in step.
			wait := backoff/2 + time.Duration(i.Random()*float64(backoff/2))
			backoff = min(2*backoff, retryMax)
			next = time.Now().Add(wait)
			i.Log.Warn("workload certificate not renewed, trying again", "error", err, "wait", wait)
			continue
		}
		select {
		case <-ready:
		default:
			close(i.first)
		}
		backoff = retryFirst
		next = identity.RenewAt(leaf, renewJitter, i.Random())
		if soon := time.Now().Add(retryFirst); next.Before(soon) {
			next = soon // an authority that gives old certificates is not hammered
		}
		i.Log.Info("generated new workload certificate", "latency", time.Since(begin), "ttl", time.Until(leaf.NotAfter), "next", next)
	}
}

// clockCheck bounds one sleep: timers stand still while a machine is suspended,
// the validity of certificates does not.
const clockCheck = 5 * time.Minute

// sleepUntil waits for a time of the wall clock; false means ctx is done.
func sleepUntil(ctx context.Context, at time.Time) bool {
	for {
		t := time.NewTimer(min(time.Until(at), clockCheck))
		select {
		case <-ctx.Done():
			t.Stop()
			return false
		case <-t.C:
		}
		if !time.Now().Before(at) {
			return true
		}
	}
}

func (i *Identity) renew(ctx context.Context) (*x509.Certificate, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := identity.NewCSR(key, i.ID)
	if err != nil {
		return nil, err
	}
	b, err := i.Sign(ctx, csr, key.Public(), i.ID, i.TTL, time.Now())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	// Trust first: a peer that already uses the new root must find it known.
	trust := TrustOf("identity", append([]*x509.Certificate{b.Root}, i.ExtraRoots...)...)
	if old := i.Store.Trust(RootName).Load(); old == nil || old.Sum != trust.Sum {
		i.Store.Trust(RootName).Set(trust, now)
	}
	i.Store.KeyPair(DefaultName).Set(&KeyPair{
		TLS:    tls.Certificate{Certificate: b.Chain, PrivateKey: key, Leaf: b.Leaf},
		Source: "identity",
	}, now)
	return b.Leaf, nil
}

// Certificate gives the workload's certificate while it is valid, to prove the
// proxy to the control plane; nil when there is none.
func (s *Store) Certificate() *tls.Certificate {
	kp := s.KeyPair(DefaultName).Load()
	if kp == nil || time.Now().After(kp.TLS.Leaf.NotAfter) {
		return nil
	}
	return &kp.TLS
}
