// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubejson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/dynamic"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Get implements config.Store.
func (s *Store) Get(ctx context.Context, key config.Key) (*config.Object, error) {
	if err := s.waitSynced(ctx); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if it := s.items[key]; it != nil && it.object != nil && s.visible(key) {
		return it.object, nil
	}
	return nil, fmt.Errorf("%s: %w", key, config.ErrNotFound)
}

// List implements config.Store.
func (s *Store) List(ctx context.Context, kind *config.Kind, namespace string) ([]*config.Object, error) {
	if err := s.waitSynced(ctx); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*config.Object
	for k, it := range s.items {
		if (kind == nil || k.Kind == kind) && (namespace == "" || k.Namespace == namespace) && it.object != nil && s.visible(k) {
			out = append(out, it.object)
		}
	}
	slices.SortFunc(out, func(a, b *config.Object) int { return a.Key.Compare(b.Key) })
	return out, nil
}

func (s *Store) waitSynced(ctx context.Context) error {
	select {
	case <-s.synced:
		return nil
	default:
	}
	select {
	case <-s.synced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the cluster was not read yet: %w", context.Cause(ctx))
	}
}

// Watch implements config.Store. The first batch comes when every kind was
// read once.
func (s *Store) Watch(ctx context.Context) <-chan config.Batch {
	select {
	case <-s.synced:
		return s.watchNow(ctx)
	default:
	}
	out := make(chan config.Batch)
	go func() {
		defer close(out)
		select {
		case <-s.synced:
		case <-ctx.Done():
			return
		}
		for b := range s.watchNow(ctx) {
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (s *Store) watchNow(ctx context.Context) <-chan config.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var objects []*config.Object
	for k, it := range s.items {
		if it.object != nil && s.visible(k) {
			objects = append(objects, it.object)
		}
	}
	return s.feed.Watch(ctx, objects)
}

// client returns the way to write objects of a kind.
func (s *Store) client(key config.Key) (dynamic.ResourceInterface, schema.GroupVersion, error) {
	s.mu.RLock()
	c := s.sources[key.Kind]
	s.mu.RUnlock()
	switch {
	case key.Kind == config.MeshConfig:
		return nil, schema.GroupVersion{}, fmt.Errorf("%s: the mesh configuration is ConfigMap %s in namespace %s; change it there", key, s.meshConfigMap(), s.opts.Namespace)
	case isCluster(key.Kind):
		return nil, schema.GroupVersion{}, fmt.Errorf("%s: objects of Kubernetes' own are only read here; use kubectl", key)
	case c == nil:
		return nil, schema.GroupVersion{}, fmt.Errorf("%s: the cluster does not know kind %s.%s; install its CustomResourceDefinition", key, key.Kind, key.Kind.Group)
	}
	gv := schema.GroupVersion{Group: key.Kind.Group, Version: c.version}
	return s.clients.dynamic.Resource(gv.WithResource(key.Kind.Plural)).Namespace(key.Namespace), gv, nil
}

// attempts bounds how often Apply follows another writer of the same object.
const attempts = 5

// Apply implements config.Store: without a resource version the last writer
// wins.
func (s *Store) Apply(ctx context.Context, obj *config.Object) (config.Applied, error) {
	if err := s.waitSynced(ctx); err != nil {
		return config.Applied{}, err
	}
	client, gv, err := s.client(obj.Key)
	if err != nil {
		return config.Applied{}, err
	}
	warnings, errs := config.Validate(obj)
	if len(errs) > 0 {
		return config.Applied{}, fmt.Errorf("%w: %w", config.ErrInvalid, config.Errors(errs))
	}
	want, err := written(obj, gv)
	if err != nil {
		return config.Applied{}, err
	}
	for try := 1; ; try++ {
		a, err := applyOnce(ctx, client, obj, want)
		if err == nil {
			a.Notes = warnings
			s.waitFor(ctx, obj.Key, func(it *item) bool { return it != nil && !older(it.resourceVersion, a.Object.ResourceVersion) })
			return a, nil
		}
		raced := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)
		if !raced || obj.ResourceVersion != "" || try == attempts {
			return config.Applied{}, storeError("store", obj.Key, err)
		}
	}
}

// written is the object as the API server takes it.
func written(obj *config.Object, gv schema.GroupVersion) (*unstructured.Unstructured, error) {
	text, err := obj.JSON()
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	// Not encoding/json: the client wants int64 where a number is whole.
	if err := kubejson.Unmarshal(text, &u.Object); err != nil {
		return nil, fmt.Errorf("write %s: %w", obj.Key, err)
	}
	u.SetAPIVersion(gv.String())
	for _, f := range []string{"creationTimestamp", "generation", "resourceVersion"} {
		unstructured.RemoveNestedField(u.Object, "metadata", f)
	}
	if obj.Kind.ClusterScoped {
		unstructured.RemoveNestedField(u.Object, "metadata", "namespace")
	}
	return u, nil
}

func applyOnce(ctx context.Context, client dynamic.ResourceInterface, obj *config.Object, want *unstructured.Unstructured) (config.Applied, error) {
	live, err := client.Get(ctx, obj.Name, metav1.GetOptions{})
	outcome := config.Configured
	var stored *unstructured.Unstructured
	switch {
	case apierrors.IsNotFound(err):
		if obj.ResourceVersion != "" {
			return config.Applied{}, fmt.Errorf("%s: %w", obj.Key, config.ErrConflict)
		}
		outcome = config.Created
		stored, err = client.Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager})
	case err != nil:
	case obj.ResourceVersion != "" && obj.ResourceVersion != live.GetResourceVersion():
		return config.Applied{}, fmt.Errorf("%s: %w", obj.Key, config.ErrConflict)
	case sameWish(obj, live):
		outcome, stored = config.Unchanged, live
	default:
		next := live.DeepCopy()
		next.Object["spec"] = want.Object["spec"]
		next.SetLabels(want.GetLabels())
		annotations := maps.Clone(want.GetAnnotations())
		if v, ok := live.GetAnnotations()[lastApplied]; ok && annotations[lastApplied] == "" {
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[lastApplied] = v
		}
		next.SetAnnotations(annotations)
		stored, err = client.Update(ctx, next, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	if err != nil {
		return config.Applied{}, err
	}
	r := config.DecodeMap(stored.Object)
	if len(r.Objects) != 1 {
		return config.Applied{}, fmt.Errorf("what was stored does not read back: %w", config.Errors(r.Problems))
	}
	return config.Applied{Outcome: outcome, Object: r.Objects[0]}, nil
}

// fieldManager names this program in the objects it writes.
const fieldManager = "lateen"

// sameWish reports whether the live object is what the user wants already.
func sameWish(obj *config.Object, live *unstructured.Unstructured) bool {
	r := config.DecodeMap(live.DeepCopy().Object)
	if len(r.Objects) != 1 {
		return false
	}
	o := r.Objects[0]
	a, b := maps.Clone(o.Annotations), maps.Clone(obj.Annotations)
	delete(a, lastApplied)
	delete(b, lastApplied)
	return maps.Equal(o.Labels, obj.Labels) && maps.Equal(a, b) && config.SameSpec(o, obj)
}

// Delete implements config.Store.
func (s *Store) Delete(ctx context.Context, key config.Key, resourceVersion string) error {
	if err := s.waitSynced(ctx); err != nil {
		return err
	}
	client, _, err := s.client(key)
	if err != nil {
		return err
	}
	live, err := client.Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return storeError("delete", key, err)
	}
	uid := live.GetUID()
	o := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if resourceVersion != "" {
		o.Preconditions.ResourceVersion = &resourceVersion
	}
	if err := client.Delete(ctx, key.Name, o); err != nil {
		return storeError("delete", key, err)
	}
	if len(live.GetFinalizers()) == 0 { // else its owner decides when it goes
		s.waitFor(ctx, key, func(it *item) bool { return it == nil || it.uid != uid })
	}
	return nil
}

// waitFor returns when the store has seen what done asks for, ctx is done or
// patience is at its end: the change itself is made by then.
func (s *Store) waitFor(ctx context.Context, key config.Key, done func(*item) bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s.mu.RLock()
		ok, moved := done(s.items[key]), s.moved
		s.mu.RUnlock()
		if ok {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

// older compares resource versions, which are growing numbers
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions).
func older(a, b string) bool {
	return len(a) < len(b) || len(a) == len(b) && a < b
}

// storeError says what the API server's refusal means to a user of a Store.
func storeError(verb string, key config.Key, err error) error {
	var as error
	switch {
	case apierrors.IsNotFound(err):
		as = config.ErrNotFound
	case apierrors.IsConflict(err):
		as = config.ErrConflict
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		p := &config.Problem{Severity: config.SeverityError, Object: key.String(), Message: err.Error()}
		if st, ok := err.(apierrors.APIStatus); ok && st.Status().Details != nil && len(st.Status().Details.Causes) > 0 {
			p.Field, p.Message = st.Status().Details.Causes[0].Field, st.Status().Details.Causes[0].Message
		}
		return fmt.Errorf("%w: %w", config.ErrInvalid, p)
	default:
		return fmt.Errorf("%s %s: %w", verb, key, err)
	}
	return fmt.Errorf("%s: %w", key, as)
}
