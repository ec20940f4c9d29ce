// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"log/slog"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// An Ingress of class istio shows the ingress gateway's address as soon as the
// gateway has one; another controller's is left alone.
func TestIngressesShowTheGatewaysAddress(t *testing.T) {
	class := "nginx"
	ours := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "ours"}}
	others := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: "others"}}
	client := fake.NewClientset(ours, others)
	s := &ingressStatus{
		client: client, namespace: "istio-system", log: slog.New(slog.DiscardHandler), mesh: config.DefaultMeshConfig(),
		ingresses: map[config.Key]*config.Object{}, classes: map[string]*config.Object{}, services: map[string]*config.Object{}, written: map[config.Key][]string{},
	}
	key := func(k *config.Kind, namespace, name string) config.Key {
		return config.Key{Kind: k, Namespace: namespace, Name: name}
	}
	gateway := func(addresses ...string) []config.Event {
		k := key(config.Service, "istio-system", "istio-ingressgateway")
		return []config.Event{{Key: k, Object: &config.Object{Key: k, Spec: &k8s.Service{Ingress: addresses}}}}
	}
	k1, k2 := key(config.Ingress, "web", "ours"), key(config.Ingress, "web", "others")
	shown := func(name string) []networkingv1.IngressLoadBalancerIngress {
		t.Helper()
		o, err := client.NetworkingV1().Ingresses("web").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return o.Status.LoadBalancer.Ingress
	}
	step := func(events []config.Event) {
		t.Helper()
		if !s.take(events) {
			t.Fatal("the events were passed over")
		}
		s.writeAll(t.Context())
	}

	step([]config.Event{
		{Key: k1, Object: &config.Object{Key: k1, Annotations: map[string]string{"kubernetes.io/ingress.class": "istio"}, Spec: &networkingv1.IngressSpec{}}},
		{Key: k2, Object: &config.Object{Key: k2, Spec: &networkingv1.IngressSpec{IngressClassName: &class}}},
	})
	step(gateway("10.1.2.3", "lb.example"))
	if got := shown("ours"); len(got) != 2 || got[0].IP != "10.1.2.3" || got[1].Hostname != "lb.example" {
		t.Errorf("ours shows %+v", got)
	}
	if got := shown("others"); len(got) != 0 {
		t.Errorf("another controller's Ingress shows %+v", got)
	}
	step(gateway())
	if got := shown("ours"); len(got) != 0 {
		t.Errorf("after the gateway lost its address ours shows %+v", got)
	}
	if s.take([]config.Event{{Key: key(config.Pod, "web", "p")}}) {
		t.Error("a pod moved the status")
	}
}
