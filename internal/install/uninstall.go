// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// RemoveOptions say what to uninstall.
type RemoveOptions struct {
	// Namespace is that of the control plane.
	Namespace string
	// Revision limits it to one control plane; empty: default, or all with Purge.
	Revision string
	// Purge also removes what outlives a control plane: the definitions and
	// with them everything users wrote, the CA's key, roots and leases.
	Purge bool
}

// Removal is what an uninstall will delete, in order.
type Removal struct {
	opts RemoveOptions
	// Objects are in the order in which they go: webhooks first, so that no pod
	// waits for an injector that has gone, then workloads, then the rest.
	Objects []*unstructured.Unstructured
	// last is true when no control plane stays.
	last bool
}

// ErrHelm says that the objects belong to a Helm release.
var ErrHelm = errors.New("installed by helm")

// FindInstalled looks up what an uninstall is to delete.
func FindInstalled(ctx context.Context, c *Cluster, o RemoveOptions) (*Removal, error) {
	revision := o.Revision
	if revision == "" && !o.Purge {
		revision = "default"
	}
	if revision != "" {
		o.Revision = revision
	}
	all, err := c.owned(ctx, "")
	if err != nil {
		return nil, err
	}
	r := &Removal{opts: o, last: true}
	for _, obj := range all {
		if revision != "" && obj.GetLabels()[revLabel] != revision {
			r.last = r.last && !isControlPlane(obj)
			continue
		}
		if name := obj.GetAnnotations()["meta.helm.sh/release-name"]; name != "" {
			ns := obj.GetAnnotations()["meta.helm.sh/release-namespace"]
			return nil, fmt.Errorf("%s: %w as release %s: run `helm uninstall %s -n %s`", Describe(obj), ErrHelm, name, name, ns)
		}
		r.Objects = append(r.Objects, obj)
	}
	sortObjects(r.Objects)
	// Everything in the opposite order of its coming, but the webhooks before all.
	slices.Reverse(r.Objects)
	slices.SortStableFunc(r.Objects, func(a, b *unstructured.Unstructured) int {
		return boolInt(phaseOf(b) == phaseWebhooks) - boolInt(phaseOf(a) == phaseWebhooks)
	})
	return r, nil
}

func isControlPlane(o *unstructured.Unstructured) bool {
	return o.GetKind() == "Deployment" && o.GetLabels()["app"] == "istiod"
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Apply deletes it all and waits until the control plane is gone, because it
// would put back what it keeps right.
func (r *Removal) Apply(ctx context.Context, c *Cluster) error {
	for _, o := range r.Objects {
		if err := c.remove(ctx, o); err != nil {
			return err
		}
		c.say("  Removed %s", Describe(o))
	}
	for _, o := range r.Objects {
		if isControlPlane(o) {
			if err := c.podsGone(ctx, o); err != nil {
				return err
			}
		}
	}
	if r.last {
		if err := c.removeRuntime(ctx, r.opts); err != nil {
			return err
		}
	}
	if r.opts.Purge {
		if err := c.removeDefinitions(ctx); err != nil {
			return err
		}
	}
	c.done("Uninstall complete")
	return nil
}

// podsGone waits until the pods of a deleted Deployment are gone.
func (c *Cluster) podsGone(ctx context.Context, deployment *unstructured.Unstructured) error {
	labels, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "selector", "matchLabels")
	selector := metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: labels})
	if len(labels) == 0 {
		return nil
	}
	list, err := c.resource(pods, deployment.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return fmt.Errorf("pods of %s: %w", Describe(deployment), err)
	}
	for _, p := range list.Items {
		if err := c.await(ctx, pods, p.GetNamespace(), p.GetName(), gone); err != nil {
			return err
		}
	}
	return nil
}

// removeRuntime deletes what control planes made while they ran. The CA's key
// and the election stay unless everything goes.
func (c *Cluster) removeRuntime(ctx context.Context, o RemoveOptions) error {
	const roots = "istio-ca-root-cert"
	list, err := c.resource(configMaps, "").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + roots})
	if err != nil {
		return fmt.Errorf("listing ConfigMaps %s: %w", roots, err)
	}
	removed := 0
	for _, m := range list.Items {
		if m.GetName() != roots {
			continue
		}
		if err := c.drop(ctx, configMaps, m.GetNamespace(), roots); err != nil {
			return err
		}
		removed++
	}
	if removed > 0 {
		c.say("  Removed ConfigMap %s from %d namespaces", roots, removed)
	}
	if !o.Purge {
		return nil
	}
	if err := c.drop(ctx, secrets, o.Namespace, "istio-ca-secret"); err != nil {
		return err
	}
	if err := c.removeLeases(ctx, o.Namespace); err != nil {
		return err
	}
	return c.removeGatewayClass(ctx)
}

// leasePrefix begins the names of the leases of our elections.
const leasePrefix = "istio-"

func (c *Cluster) removeLeases(ctx context.Context, namespace string) error {
	list, err := c.resource(leases, namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing leases in %s: %w", namespace, err)
	}
	for _, l := range list.Items {
		if strings.HasPrefix(l.GetName(), leasePrefix) {
			if err := c.drop(ctx, leases, namespace, l.GetName()); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeGatewayClass deletes the class istio when its controller is ours (and Istio's) name.
func (c *Cluster) removeGatewayClass(ctx context.Context) error {
	class, err := c.resource(gatewayClasses, "").Get(ctx, "istio", metav1.GetOptions{})
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("GatewayClass istio: %w", err)
	}
	if controller, _, _ := unstructured.NestedString(class.Object, "spec", "controllerName"); controller != "istio.io/gateway-controller" {
		return nil
	}
	return c.drop(ctx, gatewayClasses, "", "istio")
}

// removeDefinitions deletes our CRDs, and waits until what was defined by them is gone.
func (c *Cluster) removeDefinitions(ctx context.Context) error {
	r := c.resource(definitionsResource, "")
	list, err := r.List(ctx, metav1.ListOptions{LabelSelector: OwnerLabel + "=" + Owner})
	if err != nil {
		return fmt.Errorf("listing custom resource definitions: %w", err)
	}
	for _, d := range list.Items {
		if err := c.drop(ctx, definitionsResource, "", d.GetName()); err != nil {
			return err
		}
	}
	for _, d := range list.Items {
		if err := c.await(ctx, definitionsResource, "", d.GetName(), gone); err != nil {
			return err
		}
	}
	if n := len(list.Items); n > 0 {
		c.say("  Removed %d custom resource definitions", n)
	}
	return nil
}

// drop deletes one object by name; that it is gone already is fine.
func (c *Cluster) drop(ctx context.Context, r schema.GroupVersionResource, namespace, name string) error {
	err := c.resource(r, namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %s %s: %w", r.Resource, name, err)
	}
	return nil
}
