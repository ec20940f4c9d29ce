// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Run keeps status.loadBalancer of all Services until ctx ends. Services with a
// loadBalancerClass belong to someone else.
func Run(ctx context.Context, client kubernetes.Interface, prefix netip.Prefix, log *slog.Logger) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services()
	c := &controller{
		client: client, pool: NewPool(prefix), log: log, services: services.Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[cache.ObjectName]()),
	}
	enqueue := func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			c.queue.Add(name)
		}
	}
	_, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, DeleteFunc: enqueue,
		UpdateFunc: func(_, obj any) { enqueue(obj) },
	})
	if err != nil {
		return fmt.Errorf("watch services: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), services.Informer().HasSynced) {
		return ctx.Err()
	}
	// What earlier runs gave away stays with its owner.
	all, err := services.Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	for _, s := range all {
		if a := given(s); ours(s) && a.IsValid() {
			if _, err := c.pool.Get(s.Namespace+"/"+s.Name, a); err != nil {
				log.Error("address of a service is lost", "service", s.Namespace+"/"+s.Name, "err", err)
			}
		}
	}
	context.AfterFunc(ctx, c.queue.ShutDown)
	for c.next(ctx) {
	}
	return nil
}

type controller struct {
	client   kubernetes.Interface
	pool     *Pool
	log      *slog.Logger
	services listers.ServiceLister
	queue    workqueue.TypedRateLimitingInterface[cache.ObjectName]
}

func (c *controller) next(ctx context.Context) bool {
	name, stop := c.queue.Get()
	if stop {
		return false
	}
	defer c.queue.Done(name)
	if err := c.sync(ctx, name); err != nil && ctx.Err() == nil {
		c.log.Warn("service has no address yet", "service", name.String(), "err", err)
		c.queue.AddRateLimited(name)
		return true
	}
	c.queue.Forget(name)
	return true
}

// sync brings one Service's status to what it should be.
func (c *controller) sync(ctx context.Context, name cache.ObjectName) error {
	s, err := c.services.Services(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		c.pool.Release(name.String())
		return nil
	}
	if err != nil {
		return err
	}
	var want []corev1.LoadBalancerIngress
	switch {
	case s.Spec.LoadBalancerClass != nil:
		return nil
	case ours(s):
		asked, _ := netip.ParseAddr(s.Spec.LoadBalancerIP) // none or nonsense: any will do
		a, err := c.pool.Get(name.String(), asked)
		if err != nil {
			return err
		}
		mode := corev1.LoadBalancerIPModeVIP
		want = []corev1.LoadBalancerIngress{{IP: a.String(), IPMode: &mode}}
	default:
		c.pool.Release(name.String())
	}
	if slices.EqualFunc(want, s.Status.LoadBalancer.Ingress, func(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP && a.Hostname == b.Hostname }) {
		return nil
	}
	s = s.DeepCopy()
	s.Status.LoadBalancer.Ingress = want
	_, err = c.client.CoreV1().Services(name.Namespace).UpdateStatus(ctx, s, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil // deleted meanwhile; its event follows
	}
	if err == nil {
		c.log.Info("service address", "service", name.String(), "ingress", len(want), "address", first(want))
	}
	return err
}

func first(in []corev1.LoadBalancerIngress) string {
	if len(in) == 0 {
		return ""
	}
	return in[0].IP
}

func ours(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil && s.DeletionTimestamp == nil
}

func given(s *corev1.Service) netip.Addr {
	a, _ := netip.ParseAddr(first(s.Status.LoadBalancer.Ingress))
	return a
}
