// SPDX-License-Identifier: Apache-2.0

// Package kube does the chores of a control plane in a cluster: it keeps the
// authority's key in a Secret, has callers' tokens reviewed, publishes the root
// certificate, writes status, and says which replica may do what only one may.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lateen-mesh/lateen/internal/ca"
)

// The Secrets an authority is kept in, Istio's.
const (
	// PluggedSecret is the user's own authority; it wins when it is there.
	PluggedSecret = "cacerts"
	// SelfSignedSecret is the one we make.
	SelfSignedSecret     = "istio-ca-secret"
	selfSignedSecretType = "istio.io/ca-root"
)

// Authority is the cluster's certificate authority and where it is kept.
type Authority struct {
	*ca.Authority
	// Secret is the name of the Secret that holds it.
	Secret string

	client    kubernetes.Interface
	namespace string
	options   ca.Options
	log       *slog.Logger

	mu      sync.Mutex        // guards what follows
	data    map[string][]byte // what the Secret holds; never logged
	changed chan struct{}     // closed and replaced when other roots are trusted
}

// OpenAuthority reads the authority of the Secret cacerts, else that of
// istio-ca-secret, which it makes when there is none. Of replicas that start
// together one makes it and all use it.
func OpenAuthority(ctx context.Context, client kubernetes.Interface, namespace string, o ca.Options, log *slog.Logger) (*Authority, error) {
	for _, name := range []string{PluggedSecret, SelfSignedSecret} {
		s, err := client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("authority: %w", err)
		}
		return fromSecret(s, client, o, log)
	}
	data, err := ca.NewData(o)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	s, err := client.CoreV1().Secrets(namespace).Create(ctx, selfSigned(namespace, data), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		s, err = client.CoreV1().Secrets(namespace).Get(ctx, SelfSignedSecret, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	return fromSecret(s, client, o, log)
}

func selfSigned(namespace string, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SelfSignedSecret, Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/managed-by": "lateend"}},
		Type:       selfSignedSecretType, Data: data,
	}
}

func fromSecret(s *corev1.Secret, client kubernetes.Interface, o ca.Options, log *slog.Logger) (*Authority, error) {
	a, err := ca.FromData(s.Data, o)
	if err != nil {
		return nil, fmt.Errorf("authority in Secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	log.Info("authority opened", "secret", s.Name, "root_expires", a.Root().NotAfter)
	return &Authority{Authority: a, Secret: s.Name, client: client, namespace: s.Namespace, options: o, log: log,
		data: maps.Clone(s.Data), changed: make(chan struct{})}, nil
}

// Restore writes the Secret of a self-signed authority back when somebody has
// deleted it: a control plane that starts without it would make a new root, and
// cut off every workload that trusts this one. It reports whether it wrote.
func (a *Authority) Restore(ctx context.Context) (bool, error) {
	if a.Secret != SelfSignedSecret {
		return false, nil // the user's own is the user's
	}
	_, err := a.client.CoreV1().Secrets(a.namespace).Get(ctx, a.Secret, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return false, err
	}
	a.mu.Lock()
	data := a.data
	a.mu.Unlock()
	_, err = a.client.CoreV1().Secrets(a.namespace).Create(ctx, selfSigned(a.namespace, data), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return false, errors.Join(errors.New("the authority's Secret is gone and cannot be written back"), err)
	}
	a.log.Warn("the authority's Secret was deleted and is written back", "secret", a.Secret)
	return true, nil
}
