// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"maps"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/lateen-mesh/lateen/internal/config"
)

// item is one stored object as it was last seen.
type item struct {
	key             config.Key
	uid             types.UID
	resourceVersion string
	generation      int64
	apiVersion      string
	// object is the one in force: this version, or the last good one; nil
	// while there has been none.
	object   *config.Object
	problems []*config.Problem
	status   map[string]any // of a kind that users write; not to be changed
}

// source keeps the items of one resource current. It is the store of a
// client-go reflector: what that reads goes straight to the Store, and no
// second copy of it is kept.
type source struct {
	store *Store
	name  string
	kind  *config.Kind // nil: the definitions of kinds
	list  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error)
	watch func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
	// expected is an empty object of the type that is listed.
	expected runtime.Object
	// read makes an item of what was listed or watched; nil: it is not kept.
	// prior is the item there was.
	read func(raw any, prior *item) *item
	// key of the item that read makes of a raw object.
	key func(m metav1.Object) config.Key
	// version is the API's version that is watched.
	version string
	// into takes what was read; nil: the source itself.
	into   cache.ReflectorStore
	cancel context.CancelFunc
}

var _ cache.TransformingStore = (*source)(nil)

// transformed carries an item through the reflector, which wants to see an
// object with metadata.
type transformed struct {
	metav1.ObjectMeta
	item *item
}

// run reads and watches until ctx ends.
func (c *source) run(ctx context.Context) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l, err := c.list(ctx, o)
			c.store.heard(ctx, c.name, err)
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := c.watch(ctx, o)
			c.store.heard(ctx, c.name, err)
			return w, err
		},
	}
	var into cache.ReflectorStore = c
	if c.into != nil {
		into = c.into
	}
	r := cache.NewReflectorWithOptions(lw, c.expected, into, cache.ReflectorOptions{Name: c.name, TypeDescription: c.name})
	// What goes wrong is logged by heard, once and in this program's words.
	r.RunWithContext(klog.NewContext(ctx, klog.Logger{}))
}

// Transformer lets the reflector shed what is not kept while it still reads a list.
func (c *source) Transformer() cache.TransformFunc {
	return func(raw any) (any, error) {
		if _, done := raw.(*transformed); done {
			return raw, nil
		}
		m, err := meta.Accessor(raw)
		if err != nil {
			return nil, err
		}
		return &transformed{
			ObjectMeta: metav1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName(), ResourceVersion: m.GetResourceVersion()},
			item:       c.item(raw, m),
		}, nil
	}
}

// item reads an object; nil: it is not kept.
func (c *source) item(raw any, m metav1.Object) *item {
	if t, ok := raw.(*transformed); ok {
		return t.item
	}
	c.store.mu.RLock()
	prior := c.store.items[c.key(m)]
	c.store.mu.RUnlock()
	return c.read(raw, prior)
}

// Add implements cache.ReflectorStore.
func (c *source) Add(raw any) error { return c.Update(raw) }

// Update implements cache.ReflectorStore.
func (c *source) Update(raw any) error {
	m, err := meta.Accessor(raw)
	if err != nil {
		return err
	}
	it := c.item(raw, m)
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if it == nil {
		c.store.change(map[config.Key]*item{c.key(m): nil})
		return nil
	}
	c.store.change(map[config.Key]*item{it.key: it})
	return nil
}

// Delete implements cache.ReflectorStore.
func (c *source) Delete(raw any) error {
	if d, ok := raw.(cache.DeletedFinalStateUnknown); ok {
		raw = d.Obj
	}
	m, err := meta.Accessor(raw)
	if err != nil {
		return err
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.store.change(map[config.Key]*item{c.key(m): nil})
	return nil
}

// Replace implements cache.ReflectorStore: raw is all there is.
func (c *source) Replace(raw []any, _ string) error {
	changes := make(map[config.Key]*item, len(raw))
	for _, r := range raw {
		m, err := meta.Accessor(r)
		if err != nil {
			return err
		}
		if it := c.item(r, m); it != nil {
			changes[it.key] = it
		}
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	for k := range c.store.items {
		if _, there := changes[k]; !there && k.Kind == c.kind {
			changes[k] = nil
		}
	}
	c.store.change(changes)
	c.store.wasRead(c.name)
	return nil
}

// Resync implements cache.ReflectorStore.
func (c *source) Resync() error { return nil }

// readObject makes the item of an object of a kind that users write, by the
// decoder that reads files.
func (s *Store) readObject(kind *config.Kind, m map[string]any, meta metav1.Object, prior *item) *item {
	it := &item{
		key: config.Key{Kind: kind, Namespace: meta.GetNamespace(), Name: meta.GetName()},
		uid: meta.GetUID(), resourceVersion: meta.GetResourceVersion(), generation: meta.GetGeneration(),
	}
	it.apiVersion, _ = m["apiVersion"].(string)
	it.status, _ = m["status"].(map[string]any)
	if prior != nil && prior.uid == it.uid && it.generation > 0 && prior.generation == it.generation && prior.object != nil && len(prior.problems) == 0 {
		// Only metadata or status have changed.
		o := *prior.object
		o.Labels, o.Annotations, o.ResourceVersion = sameMap(o.Labels, meta.GetLabels()), sameMap(o.Annotations, kept(meta.GetAnnotations())), it.resourceVersion
		it.object = &o
		return it
	}
	delete(m, "status")
	if md, ok := m["metadata"].(map[string]any); ok {
		delete(md, "managedFields")
		if a, ok := md["annotations"].(map[string]any); ok {
			delete(a, lastApplied)
		}
	}
	r := config.DecodeMap(m)
	it.problems = r.Problems
	if len(r.Objects) == 1 {
		it.object = r.Objects[0]
		if prior != nil && prior.object != nil && config.SameSpec(it.object, prior.object) {
			it.object.Spec = prior.object.Spec
		}
		return it
	}
	if prior != nil && prior.uid == it.uid {
		it.object = prior.object
	}
	if len(it.problems) == 0 {
		it.problems = []*config.Problem{{Severity: config.SeverityError, Object: it.key.String(), Message: fmt.Sprintf("is no %s of one of the versions %v", kind, kind.Versions)}}
	}
	return it
}

// lastApplied is kubectl's own copy of an object.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func kept(annotations map[string]string) map[string]string {
	if _, there := annotations[lastApplied]; !there {
		return annotations
	}
	out := maps.Clone(annotations)
	delete(out, lastApplied)
	return out
}

// sameMap returns old if it equals now, so that there is one copy.
func sameMap(old, now map[string]string) map[string]string {
	if maps.Equal(old, now) {
		return old
	}
	return now
}

// sameObject reports whether a reader of the store would see no difference.
func sameObject(a, b *config.Object) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil || a.APIVersion != b.APIVersion || !a.CreationTimestamp.Equal(b.CreationTimestamp) || a.Generation != b.Generation ||
		!maps.Equal(a.Labels, b.Labels) || !maps.Equal(a.Annotations, b.Annotations) {
		return false
	}
	return a.Spec == b.Spec || reflect.DeepEqual(a.Spec, b.Spec)
}
