// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"reflect"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/compile/gatewayapi"
	"github.com/lateen-mesh/lateen/internal/config"
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// deployed watches what was deployed, so that what somebody else changes or
// deletes is put right, and whether the API is defined.
type deployed struct {
	deployments appslisters.DeploymentLister
	definition  cache.Store
	synced      []cache.InformerSynced
	stop        func()
}

func (c *Controller) watchDeployed(ctx context.Context) *deployed {
	ours := informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = managedLabel + "=" + managedBy
	}))
	class := config.GatewayClass.Plural + "." + config.GatewayClass.Group
	defined := dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.Dynamic, 0, "", func(o *metav1.ListOptions) {
		o.FieldSelector = metav1.ObjectNameField + "=" + class
	})
	d := &deployed{deployments: ours.Apps().V1().Deployments().Lister()}
	definition := defined.ForResource(definitions).Informer()
	d.definition = definition.GetStore()
	informers := []cache.SharedIndexInformer{ours.Apps().V1().Deployments().Informer(), ours.Core().V1().Services().Informer(), ours.Core().V1().ServiceAccounts().Informer()}
	for _, i := range informers {
		// They fail only for informers that were stopped.
		_, _ = i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { c.rouse() },
			UpdateFunc: func(old, now any) { c.drifted(old, now) },
			DeleteFunc: func(o any) { c.drifted(nil, o) },
		})
		d.synced = append(d.synced, i.HasSynced)
	}
	made := func(any) { c.classes.Add(gatewayapi.ClassName) }
	_, _ = definition.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: made, UpdateFunc: func(_, o any) { made(o) }})
	d.synced = append(d.synced, definition.HasSynced)
	ours.StartWithContext(ctx)
	defined.Start(ctx.Done())
	d.stop = func() { ours.Shutdown(); defined.Shutdown() }
	return d
}

func (d *deployed) wait(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(), d.synced...)
}

// available tells whether a pod of the Deployment can serve.
func (d *deployed) available(ref compile.Ref) bool {
	o, err := d.deployments.Deployments(ref.Namespace).Get(ref.Name)
	return err == nil && o.Status.AvailableReplicas > 0
}

// defined tells whether the cluster knows the Gateway API.
func (d *deployed) defined() bool {
	for _, o := range d.definition.List() {
		if u, ok := o.(*unstructured.Unstructured); ok && u.GetName() == config.GatewayClass.Plural+"."+config.GatewayClass.Group {
			return true
		}
	}
	return false
}

func (c *Controller) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// drifted has a Gateway deployed again when what was deployed for it is other
// than it was (old nil: gone), not only its status.
func (c *Controller) drifted(old, now any) {
	if gone, ok := now.(cache.DeletedFinalStateUnknown); ok {
		now = gone.Obj
	}
	o, ok := now.(metav1.Object)
	if !ok {
		return
	}
	c.rouse()
	if old != nil {
		was, ok := old.(metav1.Object)
		if ok && reflect.DeepEqual(was.GetLabels(), o.GetLabels()) && reflect.DeepEqual(was.GetOwnerReferences(), o.GetOwnerReferences()) && sameSpec(old, now) {
			return
		}
	}
	c.deploys.Add(compile.Ref{Namespace: o.GetNamespace(), Name: o.GetLabels()[gatewayapi.NameLabel]})
}

func sameSpec(a, b any) bool {
	switch x := a.(type) {
	case *appsv1.Deployment:
		y, ok := b.(*appsv1.Deployment)
		return ok && x.Generation == y.Generation
	case *corev1.Service:
		y, ok := b.(*corev1.Service)
		return ok && reflect.DeepEqual(x.Spec, y.Spec)
	}
	return true
}
