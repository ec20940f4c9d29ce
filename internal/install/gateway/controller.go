// SPDX-License-Identifier: Apache-2.0

// Package gateway is the controller of the Gateway API: it deploys what serves
// each Gateway, and writes the statuses of classes, Gateways and routes. One
// replica of the control plane runs it.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/compile/gatewayapi"
	"github.com/lateen-mesh/lateen/internal/config"
)

// manager is our name in the fields that we set.
const manager = "istio.io/gateway-controller"

// Objects is what the controller reads; the store of a cluster is one.
type Objects interface {
	Watch(ctx context.Context) <-chan config.Batch
	// Status is the stored status of an object and its generation.
	Status(key config.Key) (status map[string]any, generation int64, ok bool)
}

// StatusWriter writes statuses.
type StatusWriter interface {
	// WriteStatus replaces the status of an object by what merge makes of it;
	// nil from merge leaves it. It does nothing when the object is gone or of
	// another generation.
	WriteStatus(ctx context.Context, key config.Key, generation int64, merge Merge) error
}

// Merge makes an object's new status of the stored one, or returns nil when
// there is nothing to change.
type Merge func(stored map[string]any) map[string]any

// Controller is described by the package. All fields but Status, Now and
// Revision are required.
type Controller struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	Objects Objects
	// Status is where statuses are written; default: the cluster.
	Status   StatusWriter
	Revision string
	Log      *slog.Logger
	Now      func() time.Time

	deploys  workqueue.TypedRateLimitingInterface[compile.Ref]
	statuses workqueue.TypedRateLimitingInterface[config.Key]
	classes  workqueue.TypedRateLimitingInterface[string]
	wake     chan struct{}
	deployed *deployed

	mu      sync.Mutex // guards what follows
	objects map[config.Key]*config.Object
	changed []compile.Ref // Gateways to deploy after the next judgement
	out     *gatewayapi.Output
	wanted  map[config.Key]wanted
}

// wanted is the status that an object is to have.
type wanted struct {
	generation int64
	merge      Merge
}

// maxRetryDelay is the pause before something is tried again.
const maxRetryDelay = 30 * time.Second

func newQueue[T comparable]() workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[T](50*time.Millisecond, maxRetryDelay))
}

// Run controls until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Status == nil {
		c.Status = &clusterStatus{c.Dynamic}
	}
	c.deploys, c.statuses, c.classes = newQueue[compile.Ref](), newQueue[config.Key](), newQueue[string]()
	c.wake = make(chan struct{}, 1)
	c.objects, c.wanted, c.out = map[config.Key]*config.Object{}, map[config.Key]wanted{}, &gatewayapi.Output{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.deployed = c.watchDeployed(ctx)
	defer c.deployed.stop()
	if !c.deployed.wait(ctx) {
		return
	}
	var running sync.WaitGroup
	running.Go(func() { c.follow(ctx) })
	running.Go(func() { work(ctx, c.deploys, c.Log, "gateway not deployed", c.deploy) })
	running.Go(func() { work(ctx, c.statuses, c.Log, "status not written", c.writeStatus) })
	running.Go(func() { work(ctx, c.classes, c.Log, "gateway class not made", c.ensureClass) })
	running.Wait()
}

// work hands a queue's keys to do until ctx ends; a failed one comes again.
func work[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], log *slog.Logger, failed string, do func(context.Context, T) error) {
	stop := context.AfterFunc(ctx, q.ShutDown)
	defer stop()
	for {
		k, closed := q.Get()
		if closed {
			return
		}
		switch err := do(ctx, k); {
		case err == nil:
			q.Forget(k)
		case ctx.Err() == nil:
			if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // these pass by themselves
				log.Warn(failed, "object", fmt.Sprint(k), "error", err)
			}
			q.AddRateLimited(k)
		}
		q.Done(k)
	}
}

// watched are the kinds that matter here.
var watched = []*config.Kind{
	config.GatewayClass, config.KubeGateway, config.HTTPRoute, config.GRPCRoute, config.ReferenceGrant, config.Service, config.Secret, config.Namespace,
}

// follow takes changes and says what they ask for.
func (c *Controller) follow(ctx context.Context) {
	batches := c.Objects.Watch(ctx)
	for {
		select {
		case b, ok := <-batches:
			if !ok {
				return
			}
			if !c.take(b) {
				continue
			}
		case <-c.wake: // what is deployed has changed
		case <-ctx.Done():
			return
		}
		c.judge()
	}
}

// take remembers a batch and tells whether anything in it matters.
func (c *Controller) take(b config.Batch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	matters := b.Initial
	for _, e := range b.Events {
		if !slices.Contains(watched, e.Key.Kind) {
			continue
		}
		matters = true
		if e.Object == nil {
			delete(c.objects, e.Key)
			delete(c.wanted, e.Key)
		} else {
			c.objects[e.Key] = e.Object
		}
		switch {
		case e.Key.Kind == config.KubeGateway:
			c.changed = append(c.changed, compile.Ref{Namespace: e.Key.Namespace, Name: e.Key.Name})
		case e.Key.Kind == config.GatewayClass && e.Key.Name == gatewayapi.ClassName && e.Object == nil:
			c.classes.Add(gatewayapi.ClassName)
		case e.Key.Kind == config.GatewayClass:
			// Its Gateways may be ours from now on.
			for k, o := range c.objects {
				if k.Kind == config.KubeGateway && gatewayapi.ClassOf(o) == e.Key.Name {
					c.changed = append(c.changed, compile.Ref{Namespace: k.Namespace, Name: k.Name})
				}
			}
		}
	}
	return matters
}

// judge works out all statuses. That is everything at once, and yet little: a
// thousand routes take some milliseconds.
func (c *Controller) judge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := gatewayapi.Input{
		Classes: map[string]*config.Object{}, Namespaces: map[string]map[string]string{},
		Services: map[compile.Ref]*config.Object{}, Secrets: map[compile.Ref]*config.Object{},
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.objects), config.Key.Compare) {
		o, ref := c.objects[k], compile.Ref{Namespace: k.Namespace, Name: k.Name}
		switch k.Kind {
		case config.GatewayClass:
			in.Classes[k.Name] = o
			if gatewayapi.Ours(o) {
				c.want(o, classMerge(gatewayapi.ClassStatus(o), c.Now))
			}
		case config.KubeGateway:
			in.Gateways = append(in.Gateways, o)
		case config.HTTPRoute, config.GRPCRoute:
			in.Routes = append(in.Routes, o)
		case config.ReferenceGrant:
			in.Grants = append(in.Grants, o)
		case config.Service:
			in.Services[ref] = o
		case config.Secret:
			in.Secrets[ref] = o
		case config.Namespace:
			in.Namespaces[k.Name] = o.Labels
		}
	}
	c.out = gatewayapi.Translate(in)
	for ref, g := range c.out.Gateways {
		ready := !g.Managed || c.deployed.available(g.Service)
		status := g.Status(in.Services[g.Service], ready, c.out.Attached[ref])
		c.want(c.objects[config.Key{Kind: config.KubeGateway, Namespace: ref.Namespace, Name: ref.Name}], gatewayMerge(status, c.Now))
	}
	for k, r := range c.out.Routes {
		c.want(c.objects[k], routeMerge(r.Parents, c.Now))
	}
	for _, ref := range c.changed {
		c.deploys.Add(ref)
	}
	c.changed = nil
}

// want has a status written unless it is there already. The caller holds mu.
func (c *Controller) want(o *config.Object, merge Merge) {
	c.wanted[o.Key] = wanted{o.Generation, merge}
	if stored, _, ok := c.Objects.Status(o.Key); !ok || merge(stored) != nil {
		c.statuses.Add(o.Key)
	}
}

func (c *Controller) writeStatus(ctx context.Context, k config.Key) error {
	c.mu.Lock()
	w, ok := c.wanted[k]
	c.mu.Unlock()
	if !ok {
		return nil
	}
	return c.Status.WriteStatus(ctx, k, w.generation, w.merge)
}

func resourceOf(k *config.Kind, version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: version, Resource: k.Plural}
}

// ensureClass makes the class that users name; one that is there is theirs.
func (c *Controller) ensureClass(ctx context.Context, name string) error {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": config.GatewayClass.APIVersion(), "kind": config.GatewayClass.Name,
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"controllerName": gatewayapi.Controller, "description": "The default Istio GatewayClass"},
	}}
	_, err := c.Dynamic.Resource(resourceOf(config.GatewayClass, "v1")).Create(ctx, o, metav1.CreateOptions{FieldManager: manager})
	switch {
	case err == nil:
		c.Log.Info("gateway class made", "name", name)
	case apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) && !c.deployed.defined():
		return nil
	}
	return err
}

// deploy brings what is deployed for a Gateway to what it asks for.
func (c *Controller) deploy(ctx context.Context, ref compile.Ref) error {
	c.mu.Lock()
	g := c.out.Gateways[ref]
	o := c.objects[config.Key{Kind: config.KubeGateway, Namespace: ref.Namespace, Name: ref.Name}]
	c.mu.Unlock()
	if g == nil || o == nil || !g.Managed || g.Refused {
		return nil
	}
	live, err := c.Dynamic.Resource(resourceOf(config.KubeGateway, "v1")).Namespace(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if live.GetDeletionTimestamp() != nil {
		return nil
	}
	objects, err := Render(o, live.GetUID(), c.Revision)
	if err != nil {
		return err
	}
	for _, u := range objects {
		if err := c.apply(ctx, u); err != nil {
			return fmt.Errorf("%s %s/%s: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err)
		}
	}
	c.Log.Debug("gateway deployed", "gateway", ref.String())
	return nil
}

var deployedResources = map[string]schema.GroupVersionResource{
	"ServiceAccount": {Version: "v1", Resource: "serviceaccounts"},
	"Service":        {Version: "v1", Resource: "services"},
	"Deployment":     {Group: "apps", Version: "v1", Resource: "deployments"},
}

// apply writes one object, but never over one that is not ours: whoever may
// make a Gateway may not thereby change a Deployment of that name.
func (c *Controller) apply(ctx context.Context, u *unstructured.Unstructured) error {
	client := c.Dynamic.Resource(deployedResources[u.GetKind()]).Namespace(u.GetNamespace())
	old, err := client.Get(ctx, u.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case old.GetLabels()[managedLabel] != managedBy:
		return fmt.Errorf("there is one that was not made for a Gateway; rename it or the Gateway")
	}
	_, err = client.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: manager, Force: true})
	return err
}
