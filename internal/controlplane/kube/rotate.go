// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/lateen-mesh/lateen/internal/ca"
)

// Follow has the authority sign with what its Secret holds now, until ctx
// ends. A Secret that does not hold an authority is reported, and one that is
// deleted changes nothing: the authority goes on with what it has. Every
// replica follows.
func (a *Authority) Follow(ctx context.Context) {
	a.watch(ctx, func(s *corev1.Secret) {
		if s != nil {
			a.take(s)
		}
	})
}

// Guard writes the Secret back whenever somebody deletes it, until ctx ends;
// see Restore. Only a leader guards.
func (a *Authority) Guard(ctx context.Context) {
	q := newQueue()
	go a.watch(ctx, func(s *corev1.Secret) {
		if s == nil {
			q.Add(a.Secret)
		}
	})
	q.Add(a.Secret)
	work(ctx, q, a.log, "the authority's Secret is not written back", func(ctx context.Context, _ string) error {
		_, err := a.Restore(ctx)
		return err
	})
}

// WithRoots runs do with the root certificates that the mesh trusts, and again
// with others when they change, until ctx ends. The context that do is given
// ends when its roots are no longer right.
func (a *Authority) WithRoots(ctx context.Context, do func(ctx context.Context, pem []byte)) {
	for ctx.Err() == nil {
		a.mu.Lock()
		pem, changed := a.RootPEM(), a.changed
		a.mu.Unlock()
		with, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			do(with, pem)
		}()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		cancel()
		<-done
	}
}

// take makes the authority that of the Secret.
func (a *Authority) take(s *corev1.Secret) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if maps.EqualFunc(a.data, s.Data, bytes.Equal) {
		return
	}
	next, err := ca.FromData(s.Data, a.options)
	if err != nil {
		a.log.Error("the authority's Secret holds no authority; the one in use goes on", "secret", s.Name, "error", err)
		return
	}
	a.data = maps.Clone(s.Data)
	if a.Same(next) {
		return
	}
	roots := a.RootPEM()
	a.Replace(next)
	a.log.Info("authority replaced", "secret", s.Name, "root_expires", a.Root().NotAfter)
	if !bytes.Equal(roots, a.RootPEM()) {
		close(a.changed)
		a.changed = make(chan struct{})
	}
}

// watch calls f with the Secret whenever it changes, with nil when it is gone.
func (a *Authority) watch(ctx context.Context, f func(*corev1.Secret)) {
	factory := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithNamespace(a.namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = metav1.ObjectNameField + "=" + a.Secret }))
	// It fails only for an informer that was stopped.
	_, _ = factory.Core().V1().Secrets().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { f(o.(*corev1.Secret)) }, UpdateFunc: func(_, o any) { f(o.(*corev1.Secret)) },
		DeleteFunc: func(any) { f(nil) },
	})
	factory.StartWithContext(ctx)
	<-ctx.Done()
	factory.Shutdown()
}
