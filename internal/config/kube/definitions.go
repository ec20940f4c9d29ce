// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/lateen-mesh/lateen/internal/config"
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// definitions watches CustomResourceDefinitions and starts and stops the
// sources of the kinds they define. It is the store of a reflector.
type definitions struct {
	s   *Store
	ctx context.Context // of the sources it starts
}

var _ cache.TransformingStore = (*definitions)(nil)

// definition is what is kept of one.
type definition struct {
	metav1.ObjectMeta
	kind   *config.Kind // nil: no concern of ours
	served []string     // versions; none before it is established
}

func (d *definitions) source() *source {
	client := d.s.clients.dynamic.Resource(crdResource)
	return &source{
		store: d.s, name: crdResource.Resource, expected: &unstructured.Unstructured{}, into: d,
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, o)
		},
		watch: client.Watch,
	}
}

// Transformer implements cache.TransformingStore. Definitions are large, so
// each is shed while the list is still read.
func (d *definitions) Transformer() cache.TransformFunc {
	return func(raw any) (any, error) { return readDefinition(raw), nil }
}

func readDefinition(raw any) *definition {
	if d, ok := raw.(*definition); ok {
		return d
	}
	u := raw.(*unstructured.Unstructured)
	d := &definition{ObjectMeta: metav1.ObjectMeta{Name: u.GetName(), ResourceVersion: u.GetResourceVersion()}}
	for _, k := range Defined() {
		if u.GetName() == k.Plural+"."+k.Group {
			d.kind = k
		}
	}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	established := slices.ContainsFunc(conditions, func(c any) bool {
		m, _ := c.(map[string]any)
		return m["type"] == "Established" && m["status"] == "True"
	})
	if d.kind == nil || !established {
		return d
	}
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	for _, v := range versions {
		m, _ := v.(map[string]any)
		if name, ok := m["name"].(string); ok && m["served"] == true {
			d.served = append(d.served, name)
		}
	}
	return d
}

// Add implements cache.ReflectorStore.
func (d *definitions) Add(raw any) error { return d.Update(raw) }

// Update implements cache.ReflectorStore.
func (d *definitions) Update(raw any) error {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.apply(readDefinition(raw))
	return nil
}

// Delete implements cache.ReflectorStore.
func (d *definitions) Delete(raw any) error {
	if gone, ok := raw.(cache.DeletedFinalStateUnknown); ok {
		raw = gone.Obj
	}
	def := readDefinition(raw)
	def.served = nil
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.apply(def)
	return nil
}

// Replace implements cache.ReflectorStore.
func (d *definitions) Replace(raw []any, _ string) error {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	there := map[*config.Kind]bool{}
	for _, r := range raw {
		def := readDefinition(r)
		there[def.kind] = true
		d.apply(def)
	}
	for _, k := range Defined() {
		if !there[k] {
			d.apply(&definition{kind: k})
		}
	}
	d.s.wasRead(crdResource.Resource)
	return nil
}

// Resync implements cache.ReflectorStore.
func (d *definitions) Resync() error { return nil }

// apply starts or stops a kind's source. The caller holds the store's mu.
func (d *definitions) apply(def *definition) {
	s := d.s
	if def.kind == nil {
		return
	}
	version := ""
	for _, v := range def.kind.Versions {
		if version == "" && slices.Contains(def.served, v) {
			version = v
		}
	}
	old := s.sources[def.kind]
	if old != nil && old.version == version {
		return
	}
	if version == "" && len(def.served) > 0 {
		s.log.Warn("the cluster serves no version of a kind that is known here; its objects are not read", "kind", def.Name, "served", def.served, "known", def.kind.Versions)
	}
	if old != nil {
		old.cancel()
		delete(s.sources, def.kind)
		s.wasRead(old.name) // nobody waits for it any more
	}
	if version == "" {
		gone := map[config.Key]*item{}
		for k := range s.items {
			if k.Kind == def.kind {
				gone[k] = nil
			}
		}
		if len(gone) > 0 {
			s.change(gone)
		}
		return
	}
	c := s.objectSource(def.kind, version)
	ctx, cancel := context.WithCancel(d.ctx)
	c.cancel = cancel
	s.sources[def.kind] = c
	select {
	case <-s.synced:
	default:
		s.waiting[c.name] = true
	}
	s.log.Debug("reading a kind", "kind", c.name, "version", version)
	s.running.Go(func() { c.run(ctx) })
}
