// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// ingressStatus writes into each Ingress that is served here the addresses of
// the ingress gateway, as kubectl shows them.
type ingressStatus struct {
	client    kubernetes.Interface
	namespace string // of the ingress gateway's Service
	log       *slog.Logger

	mesh      *meshv1alpha1.MeshConfig
	ingresses map[config.Key]*config.Object
	classes   map[string]*config.Object
	services  map[string]*config.Object // of the namespace, by name
	written   map[config.Key][]string
}

// run writes until ctx ends.
func (s *ingressStatus) run(ctx context.Context, store config.Store) {
	s.mesh = config.DefaultMeshConfig()
	s.ingresses, s.classes = map[config.Key]*config.Object{}, map[string]*config.Object{}
	s.services, s.written = map[string]*config.Object{}, map[config.Key][]string{}
	for batch := range store.Watch(ctx) {
		if s.take(batch.Events) {
			s.writeAll(ctx)
		}
	}
}

// take keeps what an Ingress's addresses follow from, and tells whether any of
// it is in the events.
func (s *ingressStatus) take(events []config.Event) bool {
	changed := false
	for _, e := range events {
		switch {
		case e.Key.Kind == config.MeshConfig:
			s.mesh = config.DefaultMeshConfig()
			if e.Object != nil {
				s.mesh = e.Object.Spec.(*meshv1alpha1.MeshConfig)
			}
		case e.Key.Kind == config.Ingress:
			set(s.ingresses, e.Key, e.Object)
			if e.Object == nil {
				delete(s.written, e.Key)
			}
		case e.Key.Kind == config.IngressClass:
			set(s.classes, e.Key.Name, e.Object)
		case e.Key.Kind == config.Service && e.Key.Namespace == s.namespace:
			set(s.services, e.Key.Name, e.Object)
		default:
			continue
		}
		changed = true
	}
	return changed
}

func set[K comparable](m map[K]*config.Object, k K, o *config.Object) {
	if o == nil {
		delete(m, k)
	} else {
		m[k] = o
	}
}

func (s *ingressStatus) writeAll(ctx context.Context) {
	in := compile.IngressInput{Options: compile.NewOptions(s.mesh), Classes: s.classes}
	var addresses []string
	if svc := s.services[s.mesh.GetIngressService()]; svc != nil {
		addresses = svc.Spec.(*k8s.Service).Ingress
	}
	for key, o := range s.ingresses {
		if !in.Serves(o) {
			continue // another controller's, whose status is its own
		}
		if last, ok := s.written[key]; ok && slices.Equal(last, addresses) {
			continue
		}
		err := s.write(ctx, key, addresses)
		switch {
		case err == nil:
			s.written[key] = slices.Clone(addresses)
		case apierrors.IsNotFound(err) || apierrors.IsConflict(err) || ctx.Err() != nil: // a newer event comes
		default:
			s.log.Warn("status not written", "object", key.String(), "error", err)
		}
	}
}

func (s *ingressStatus) write(ctx context.Context, key config.Key, addresses []string) error {
	api := s.client.NetworkingV1().Ingresses(key.Namespace)
	have, err := api.Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	want := make([]networkingv1.IngressLoadBalancerIngress, 0, len(addresses))
	for _, a := range addresses {
		if _, err := netip.ParseAddr(a); err == nil {
			want = append(want, networkingv1.IngressLoadBalancerIngress{IP: a})
		} else {
			want = append(want, networkingv1.IngressLoadBalancerIngress{Hostname: a})
		}
	}
	same := func(a, b networkingv1.IngressLoadBalancerIngress) bool {
		return a.IP == b.IP && a.Hostname == b.Hostname
	}
	if slices.EqualFunc(have.Status.LoadBalancer.Ingress, want, same) {
		return nil
	}
	have.Status.LoadBalancer.Ingress = want
	if _, err := api.UpdateStatus(ctx, have, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return nil
}
