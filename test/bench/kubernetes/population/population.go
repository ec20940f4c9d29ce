// SPDX-License-Identifier: Apache-2.0

// Package population fills a cluster with Services and EndpointSlices that have
// no pods, and changes one of them, for measurements.
package population

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Host is the service whose endpoints and routes are changed.
const Host = "svc-0.ns-0.svc.cluster.local"

// label is on every namespace made here.
const label = "lateen-bench"

// removal is how long a cluster may take to remove everything.
const removal = 5 * time.Minute

var virtualServices = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}

// Size is how much there is.
type Size struct {
	Services   int
	Endpoints  int // of each service, at most 250
	Namespaces int // ns-0, ns-1 and so on, the services in turn
}

// Population is what was made in a cluster.
type Population struct {
	Size
	client  kubernetes.Interface
	dynamic dynamic.Interface
}

// Create makes the namespaces, services and endpoints. A namespace that is
// there already is an error, for what is in it would be measured too. What was
// made before an error is removed again.
func Create(ctx context.Context, cfg *rest.Config, size Size) (*Population, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = 1000, 1000
	p := &Population{Size: size}
	var err error
	if p.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return nil, err
	}
	if p.dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		return nil, err
	}
	if err := each(size.Namespaces, func(i int) error { return p.namespace(ctx, i) }); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	if err := each(size.Services, func(i int) error { return p.service(ctx, i) }); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	return p, nil
}

// each calls f for 0 to n-1, sixteen at a time.
func each(n int, f func(i int) error) error {
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		all     error
	)
	next := make(chan int)
	for range 16 {
		running.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					mu.Lock()
					all = errors.Join(all, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	running.Wait()
	return all
}

func (p *Population) namespace(ctx context.Context, i int) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("ns-", i), Labels: map[string]string{label: ""}}}
	_, err := p.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w; an earlier run's: kubectl delete namespaces -l %s", err, label)
	}
	return err
}

func (p *Population) service(ctx context.Context, i int) error {
	ns, name := fmt.Sprint("ns-", i%p.Namespaces), fmt.Sprint("svc-", i)
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	if _, err := p.client.CoreV1().Services(ns).Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return err
	}
	port, portName := int32(8080), "http"
	e := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   p.endpoints(i, 0),
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}
	_, err := p.client.DiscoveryV1().EndpointSlices(ns).Create(ctx, e, metav1.CreateOptions{})
	return err
}

// endpoints are those of service i; each version has another first one.
func (p *Population) endpoints(i, version int) []discoveryv1.Endpoint {
	var out []discoveryv1.Endpoint
	ready := true
	for e := range p.Endpoints {
		address := fmt.Sprintf("10.%d.%d.%d", 100+e%100, i/250, 1+i%250)
		if e == 0 && version > 0 {
			address = fmt.Sprintf("10.200.%d.%d", version/250, 1+version%250)
		}
		out = append(out, discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return out
}

// ChangeEndpoint gives Host another first endpoint; n differs from call to call.
func (p *Population) ChangeEndpoint(ctx context.Context, n int) error {
	patch, err := json.Marshal(map[string]any{"endpoints": p.endpoints(0, n+1)})
	if err != nil {
		return err
	}
	_, err = p.client.DiscoveryV1().EndpointSlices("ns-0").Patch(ctx, "svc-0", types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// CreateRoute makes a VirtualService for Host.
func (p *Population) CreateRoute(ctx context.Context) error {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": virtualServices.GroupVersion().String(), "kind": "VirtualService",
		"metadata": map[string]any{"name": "svc-0"}, "spec": route(0),
	}}
	_, err := p.dynamic.Resource(virtualServices).Namespace("ns-0").Create(ctx, o, metav1.CreateOptions{})
	return err
}

// ChangeRoute changes the weights in that VirtualService; n differs from call to call.
func (p *Population) ChangeRoute(ctx context.Context, n int) error {
	patch, err := json.Marshal(map[string]any{"spec": route(n + 1)})
	if err != nil {
		return err
	}
	_, err = p.dynamic.Resource(virtualServices).Namespace("ns-0").Patch(ctx, "svc-0", types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

func route(version int) map[string]any {
	to := func(host string, weight int) any {
		return map[string]any{"destination": map[string]any{"host": host}, "weight": int64(weight)}
	}
	share := 1 + version%98
	return map[string]any{
		"hosts": []any{Host},
		"http":  []any{map[string]any{"route": []any{to(Host, 100-share), to("svc-1.ns-1.svc.cluster.local", share)}}},
	}
}

// Remove deletes the namespaces and waits until they are gone.
func (p *Population) Remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), removal)
	defer cancel()
	all, err := p.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: label})
	if err != nil {
		return err
	}
	now := int64(0)
	for _, ns := range all.Items {
		if err := p.client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	for {
		all, err := p.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: label})
		if err != nil || len(all.Items) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d namespaces with label %s are still there", len(all.Items), label)
		case <-time.After(time.Second):
		}
	}
}
