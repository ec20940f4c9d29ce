// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Apply brings the cluster to the plan: definitions, control plane, webhooks,
// gateways, each step when the one before works, and then removes what an
// earlier version left. ctx bounds the whole. A failure names the object and
// comes as a *Failure when there is something to look at.
func (p *Plan) Apply(ctx context.Context, c *Cluster) error {
	if err := c.ensureNamespace(ctx, p.Namespace); err != nil {
		return err
	}
	byPhase := map[phase][]*unstructured.Unstructured{}
	for _, o := range p.Objects {
		ph := phaseOf(o)
		byPhase[ph] = append(byPhase[ph], o)
	}
	for ph := phaseDefinitions; ph <= phaseGateways; ph++ {
		if err := p.applyPhase(ctx, c, ph, byPhase[ph]); err != nil {
			return err
		}
	}
	removed, err := p.prune(ctx, c)
	if err != nil {
		return err
	}
	if removed > 0 {
		c.done(fmt.Sprintf("%d objects of an earlier installation removed", removed))
	}
	c.done("Installation complete")
	return nil
}

func (p *Plan) applyPhase(ctx context.Context, c *Cluster, ph phase, objects []*unstructured.Unstructured) error {
	if len(objects) == 0 {
		return nil
	}
	for _, o := range objects {
		if err := c.applyObject(ctx, o); err != nil {
			return err
		}
	}
	for _, o := range objects {
		if err := c.awaitObject(ctx, o); err != nil {
			return c.explain(ctx, o, err)
		}
		if o.GetKind() == "Deployment" && ph == phaseGateways {
			c.done(map[bool]string{true: "Egress", false: "Ingress"}[o.GetLabels()["istio"] == "egressgateway"] + " gateway installed (" + o.GetName() + ")")
		}
	}
	switch ph {
	case phaseDefinitions:
		c.done("Custom resource definitions installed")
	case phaseControlPlane:
		c.done("Control plane installed (" + p.Namespace + "/istiod" + suffix(p.Revision) + ")")
	case phaseWebhooks:
		c.done("Webhooks installed")
	}
	return nil
}

func suffix(revision string) string {
	if revision == "" {
		return ""
	}
	return "-" + revision
}

// awaitObject waits until an object does what it is there for.
func (c *Cluster) awaitObject(ctx context.Context, o *unstructured.Unstructured) error {
	k, _ := kindOf(o)
	switch k.GroupVersionResource {
	case definitionsResource:
		return c.await(ctx, k.GroupVersionResource, "", o.GetName(), established)
	case deployments:
		return c.await(ctx, k.GroupVersionResource, o.GetNamespace(), o.GetName(), rolledOut)
	case mutatingWebhooks:
		return c.await(ctx, k.GroupVersionResource, "", o.GetName(), trusted)
	}
	return nil
}

// ensureNamespace creates the namespace when it is not there; one that is
// there is the user's, and stays as it is.
func (c *Cluster) ensureNamespace(ctx context.Context, name string) error {
	r := c.resource(namespaces, "")
	ns, err := r.Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		if ns.GetDeletionTimestamp() != nil {
			return fmt.Errorf("namespace %s is being deleted: wait until it is gone (kubectl get namespace %s)", name, name)
		}
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	ns = &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name},
	}}
	if _, err := r.Create(ctx, ns, metav1.CreateOptions{FieldManager: FieldManager}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	return nil
}

// prune deletes the objects of this revision that the plan no longer has.
// Definitions stay: with them would go what users wrote.
func (p *Plan) prune(ctx context.Context, c *Cluster) (int, error) {
	wanted := map[string]bool{}
	for _, o := range p.Objects {
		wanted[Describe(o)] = true
	}
	found, err := c.owned(ctx, p.RevisionLabel())
	if err != nil {
		return 0, err
	}
	var stale []*unstructured.Unstructured
	for _, o := range found {
		// Another namespace's installation of the same revision is not ours to judge.
		if !wanted[Describe(o)] && (o.GetNamespace() == "" || o.GetNamespace() == p.Namespace) {
			stale = append(stale, o)
		}
	}
	slices.Reverse(stale)
	for _, o := range stale {
		if err := c.remove(ctx, o); err != nil {
			return 0, err
		}
	}
	return len(stale), nil
}

// owned lists the objects with our label, in the order of kinds. An empty
// revision means all. Definitions belong to no revision and are left out.
func (c *Cluster) owned(ctx context.Context, revision string) ([]*unstructured.Unstructured, error) {
	selector := OwnerLabel + "=" + Owner
	if revision != "" {
		selector += "," + revLabel + "=" + revision
	}
	var out []*unstructured.Unstructured
	for _, k := range kinds {
		if k.GroupVersionResource == definitionsResource {
			continue
		}
		list, err := c.resource(k.GroupVersionResource, "").List(ctx, metav1.ListOptions{LabelSelector: selector})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", k.Resource, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			o.SetGroupVersionKind(k.gvk())
			out = append(out, o)
		}
	}
	return out, nil
}

// remove deletes an object; that it is gone already is fine.
func (c *Cluster) remove(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := c.of(o)
	if err != nil {
		return err
	}
	background := metav1.DeletePropagationBackground
	err = r.Delete(ctx, o.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %s: %w", Describe(o), err)
	}
	return nil
}

// Failure is an object that does not come to work, and what is known about why.
type Failure struct {
	Err error
	// Details are lines for the user: states of pods, events, logs.
	Details []string
	// Commands are kubectl commands that show more.
	Commands []string
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// TimedOut reports whether the failure was that the time was over.
func (f *Failure) TimedOut() bool { return errors.Is(f.Err, errTimeout) }
