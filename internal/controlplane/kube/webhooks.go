// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"log/slog"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Bundles keeps the CA bundle of our webhooks' configurations, by which the
// API server knows the control plane. With it, what cannot be validated is
// refused from then on.
type Bundles struct {
	Client kubernetes.Interface
	// Mutating and Validating name the two configurations.
	Mutating, Validating string
	// PEM is the bundle.
	PEM []byte
	Log *slog.Logger
}

// Run patches until ctx ends. Configurations that are not there are waited for.
func (b *Bundles) Run(ctx context.Context) {
	q := newQueue()
	factory := informers.NewSharedInformerFactory(b.Client, 0)
	mutating, validating := factory.Admissionregistration().V1().MutatingWebhookConfigurations(), factory.Admissionregistration().V1().ValidatingWebhookConfigurations()
	ours := handler(func(o metav1.Object) {
		if o.GetName() == b.Mutating || o.GetName() == b.Validating {
			q.Add(o.GetName())
		}
	})
	// They fail only for informers that were stopped.
	_, _ = mutating.Informer().AddEventHandler(ours)
	_, _ = validating.Informer().AddEventHandler(ours)
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), mutating.Informer().HasSynced, validating.Informer().HasSynced) {
		return
	}
	work(ctx, q, b.Log, "CA bundle of a webhook not written", func(ctx context.Context, name string) error {
		if name == b.Mutating {
			return b.mutating(ctx)
		}
		return b.validating(ctx)
	})
}

func (b *Bundles) mutating(ctx context.Context) error {
	api := b.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	c, err := api.Get(ctx, b.Mutating, metav1.GetOptions{})
	if err != nil {
		return ignoreNotFound(err)
	}
	changed := false
	for i := range c.Webhooks {
		if w := &c.Webhooks[i].ClientConfig; !bytes.Equal(w.CABundle, b.PEM) {
			w.CABundle, changed = b.PEM, true
		}
	}
	if !changed {
		return nil
	}
	_, err = api.Update(ctx, c, metav1.UpdateOptions{})
	return ignoreNotFound(err)
}

func (b *Bundles) validating(ctx context.Context) error {
	api := b.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	c, err := api.Get(ctx, b.Validating, metav1.GetOptions{})
	if err != nil {
		return ignoreNotFound(err)
	}
	changed := false
	for i := range c.Webhooks {
		if w := &c.Webhooks[i].ClientConfig; !bytes.Equal(w.CABundle, b.PEM) {
			w.CABundle, changed = b.PEM, true
		}
		// Until now nobody could answer, and no configuration could have been
		// written if that had failed.
		if p := c.Webhooks[i].FailurePolicy; p == nil || *p != admissionregistrationv1.Fail {
			c.Webhooks[i].FailurePolicy, changed = new(admissionregistrationv1.Fail), true
		}
	}
	if !changed {
		return nil
	}
	_, err = api.Update(ctx, c, metav1.UpdateOptions{})
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
