// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// The ConfigMap in which every namespace finds the mesh's root, Istio's.
const (
	RootConfigMap = "istio-ca-root-cert"
	RootKey       = "root-cert.pem"
)

// maxRetryDelay bounds the pause before an object is tried again.
const maxRetryDelay = 30 * time.Second

func newQueue() workqueue.TypedRateLimitingInterface[string] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, maxRetryDelay))
}

// work hands the queue's names to do until ctx ends; a failed one comes again.
func work(ctx context.Context, q workqueue.TypedRateLimitingInterface[string], log *slog.Logger, what string, do func(context.Context, string) error) {
	stop := context.AfterFunc(ctx, q.ShutDown)
	defer stop()
	for {
		name, closed := q.Get()
		if closed {
			return
		}
		if err := do(ctx, name); err != nil && ctx.Err() == nil {
			log.Warn(what, "name", name, "error", err)
			q.AddRateLimited(name)
		} else {
			q.Forget(name)
		}
		q.Done(name)
	}
}

// Roots keeps the mesh's root certificate in a ConfigMap of every namespace
// that is not ending.
type Roots struct {
	Client kubernetes.Interface
	// PEM are the root certificates to publish.
	PEM []byte
	Log *slog.Logger
}

// Run publishes until ctx ends.
func (r *Roots) Run(ctx context.Context) {
	q := newQueue()
	all := informers.NewSharedInformerFactory(r.Client, 0)
	named := informers.NewSharedInformerFactoryWithOptions(r.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = metav1.ObjectNameField + "=" + RootConfigMap
	}))
	namespaces, maps := all.Core().V1().Namespaces(), named.Core().V1().ConfigMaps()
	// They fail only for informers that were stopped.
	_, _ = namespaces.Informer().AddEventHandler(handler(func(o metav1.Object) { q.Add(o.GetName()) }))
	_, _ = maps.Informer().AddEventHandler(handler(func(o metav1.Object) { q.Add(o.GetNamespace()) }))
	all.StartWithContext(ctx)
	named.StartWithContext(ctx)
	defer all.Shutdown()
	defer named.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), namespaces.Informer().HasSynced, maps.Informer().HasSynced) {
		return
	}
	work(ctx, q, r.Log, "root certificate not published", func(ctx context.Context, namespace string) error {
		ns, err := namespaces.Lister().Get(namespace)
		if err != nil || ns.Status.Phase == corev1.NamespaceTerminating {
			return nil // gone, or going
		}
		have, err := maps.Lister().ConfigMaps(namespace).Get(RootConfigMap)
		if err != nil {
			have = nil
		}
		return r.publish(ctx, namespace, have)
	})
}

func (r *Roots) publish(ctx context.Context, namespace string, have *corev1.ConfigMap) error {
	maps := r.Client.CoreV1().ConfigMaps(namespace)
	if have == nil {
		_, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: RootConfigMap, Namespace: namespace, Labels: map[string]string{"istio.io/config": "true"}},
			Data:       map[string]string{RootKey: string(r.PEM)},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if have.Data[RootKey] == string(r.PEM) {
		return nil
	}
	want := have.DeepCopy()
	if want.Data == nil {
		want.Data = map[string]string{}
	}
	want.Data[RootKey] = string(r.PEM)
	if _, err := maps.Update(ctx, want, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return nil
}

// handler calls f for every object that is added, changed or deleted.
func handler(f func(metav1.Object)) cache.ResourceEventHandlerFuncs {
	call := func(o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		if m, ok := o.(metav1.Object); ok {
			f(m)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: call, UpdateFunc: func(_, o any) { call(o) }, DeleteFunc: call}
}
