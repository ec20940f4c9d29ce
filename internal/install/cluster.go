// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// FieldManager is the owner of the fields that an installation sets.
const FieldManager = "lateen"

// Cluster is what an installation needs of a cluster.
type Cluster struct {
	Dynamic dynamic.Interface
	// Logs returns the last lines of a container's log.
	Logs func(ctx context.Context, namespace, pod, container string, lines int64) (string, error)
	// Progress gets one line for each step done and for what is waited for.
	Progress io.Writer
}

func (c *Cluster) say(format string, args ...any) { fmt.Fprintf(c.Progress, format+"\n", args...) }

// done reports a finished step, in the manner of istioctl.
func (c *Cluster) done(what string) { c.say("✔ %s", what) }

func (c *Cluster) resource(r schema.GroupVersionResource, namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return c.Dynamic.Resource(r)
	}
	return c.Dynamic.Resource(r).Namespace(namespace)
}

// of is the resource of an object of a kind that the chart makes.
func (c *Cluster) of(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	k, ok := kindOf(o)
	if !ok {
		return nil, fmt.Errorf("%s: no kind that is installed", Describe(o))
	}
	if !k.namespaced {
		return c.resource(k.GroupVersionResource, ""), nil
	}
	return c.resource(k.GroupVersionResource, o.GetNamespace()), nil
}

// Describe names an object as istioctl does: Kind/namespace/name.
func Describe(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + "/" + o.GetName()
	}
	return o.GetKind() + "/" + o.GetNamespace() + "/" + o.GetName()
}

// applyObject creates or updates by server-side apply: what we set becomes
// ours, what others added stays.
func (c *Cluster) applyObject(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := c.of(o)
	if err != nil {
		return err
	}
	if _, err := r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: FieldManager, Force: true}); err != nil {
		return fmt.Errorf("%s: %w", Describe(o), err)
	}
	return nil
}

// state is what a condition says about an object: ready, or what is missing.
type state struct {
	ready   bool
	missing string
}

// condition judges an object, which is nil when there is none. An error ends the waiting.
type condition func(*unstructured.Unstructured) (state, error)

// errTimeout is wrapped by the error of a wait that was given up.
var errTimeout = errors.New("timed out waiting")

// await returns when the condition holds, watching the object rather than
// asking again and again. What is missing is reported as it changes.
func (c *Cluster) await(ctx context.Context, r schema.GroupVersionResource, namespace, name string, holds condition) error {
	last := ""
	judge := func(o *unstructured.Unstructured) (bool, error) {
		s, err := holds(o)
		if err != nil || s.ready {
			return s.ready, err
		}
		if s.missing != last {
			last = s.missing
			c.say("- waiting for %s: %s", name, last)
		}
		return false, nil
	}
	for {
		ok, err := c.follow(ctx, r, namespace, name, judge)
		switch {
		case ok:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%w for %s: %s", errTimeout, name, last)
		case err != nil && !transient(err):
			return err
		}
		// The watch ended or the API server is away: again in a moment.
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// follow looks at the object and then at its changes until the watch ends.
func (c *Cluster) follow(ctx context.Context, r schema.GroupVersionResource, namespace, name string, judge func(*unstructured.Unstructured) (bool, error)) (bool, error) {
	ri := c.resource(r, namespace)
	byName := metav1.ListOptions{FieldSelector: "metadata.name=" + name}
	list, err := ri.List(ctx, byName)
	if err != nil {
		return false, err
	}
	var now *unstructured.Unstructured
	for i := range list.Items {
		if list.Items[i].GetName() == name {
			now = &list.Items[i]
		}
	}
	if ok, err := judge(now); ok || err != nil {
		return ok, err
	}
	byName.ResourceVersion = list.GetResourceVersion()
	w, err := ri.Watch(ctx, byName)
	if err != nil {
		return false, err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case e, open := <-w.ResultChan():
			if !open || e.Type == watch.Error {
				return false, nil
			}
			o, ok := e.Object.(*unstructured.Unstructured)
			if !ok || o.GetName() != name || e.Type == watch.Bookmark {
				continue
			}
			if e.Type == watch.Deleted {
				o = nil
			}
			if ok, err := judge(o); ok || err != nil {
				return ok, err
			}
		}
	}
}

// transient reports whether asking again may help. What the server decided
// about us does not change by asking.
func transient(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true // no connection
	}
	return apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
}
