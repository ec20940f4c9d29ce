// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

func service(name string, kind corev1.ServiceType) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       corev1.ServiceSpec{Type: kind},
	}
}

// Each step changes one Service and runs the controller's own reaction to it.
func TestSync(t *testing.T) {
	ctx := t.Context()
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Services()
	c := &controller{
		client: client, pool: NewPool(netip.MustParsePrefix("172.30.1.0/29")), log: slog.New(slog.DiscardHandler), services: informer.Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]()),
	}
	store := informer.Informer().GetStore()
	apply := func(s *corev1.Service, want string) {
		t.Helper()
		api := client.CoreV1().Services("ns")
		if _, err := api.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			if _, err := api.Create(ctx, s, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := store.Add(s); err != nil {
			t.Fatal(err)
		}
		if err := c.sync(ctx, cache.ObjectName{Namespace: "ns", Name: s.Name}); err != nil {
			t.Fatal(err)
		}
		got, err := api.Get(ctx, s.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if first(got.Status.LoadBalancer.Ingress) != want {
			t.Errorf("%s has %q, want %q", s.Name, first(got.Status.LoadBalancer.Ingress), want)
		}
		if err := store.Update(got); err != nil {
			t.Fatal(err)
		}
	}
	a := service("a", corev1.ServiceTypeLoadBalancer)
	apply(a, "172.30.1.1")
	apply(service("plain", corev1.ServiceTypeClusterIP), "")
	other := service("other", corev1.ServiceTypeLoadBalancer)
	class := "example.com/theirs"
	other.Spec.LoadBalancerClass = &class
	apply(other, "")
	asked := service("asked", corev1.ServiceTypeLoadBalancer)
	asked.Spec.LoadBalancerIP = "172.30.1.5"
	apply(asked, "172.30.1.5")

	// No longer of the type: its address is taken from it, and free.
	was := service("a", corev1.ServiceTypeClusterIP)
	was.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.30.1.1"}}
	apply(was, "")
	apply(service("b", corev1.ServiceTypeLoadBalancer), "172.30.1.1")

	// Deleted: the same.
	if err := store.Delete(service("b", "")); err != nil {
		t.Fatal(err)
	}
	if err := c.sync(ctx, cache.ObjectName{Namespace: "ns", Name: "b"}); err != nil {
		t.Fatal(err)
	}
	apply(service("c", corev1.ServiceTypeLoadBalancer), "172.30.1.1")
}
