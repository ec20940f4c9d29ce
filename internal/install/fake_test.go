// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/fake"
	k8stesting "k8s.io/client-go/testing"
)

// fakeCluster is a client-go fake that takes server-side applies, and a
// controller that lets objects become ready only once somebody watches them.
type fakeCluster struct {
	*fake.FakeDynamicClient
	mu sync.Mutex
	// log has one line for each write, and one for what became ready.
	log      []string
	progress strings.Builder
	// stuck objects never become ready; onStuck is called when one is watched.
	stuck   map[string]bool
	onStuck func()
}

func newFake(objects ...runtime.Object) *fakeCluster {
	lists := map[schema.GroupVersionResource]string{
		namespaces: "NamespaceList", pods: "PodList", events: "EventList",
		secrets: "SecretList", leases: "LeaseList", gatewayClasses: "GatewayClassList",
	}
	for _, k := range kinds {
		lists[k.GroupVersionResource] = k.name + "List"
	}
	f := &fakeCluster{FakeDynamicClient: fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists, objects...)}
	f.PrependReactor("patch", "*", f.apply)
	f.PrependReactor("create", "*", f.record)
	f.PrependReactor("delete", "*", f.record)
	f.PrependWatchReactor("*", f.watch)
	return f
}

func (f *fakeCluster) cluster() *Cluster { return &Cluster{Dynamic: f, Progress: f} }

func (f *fakeCluster) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.progress.Write(b)
}

func (f *fakeCluster) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf(format, args...))
}

func (f *fakeCluster) record(a k8stesting.Action) (bool, runtime.Object, error) {
	name := ""
	switch x := a.(type) {
	case k8stesting.DeleteAction:
		name = x.GetName()
	case k8stesting.CreateAction:
		name = x.GetObject().(*unstructured.Unstructured).GetName()
	}
	f.note("%s %s/%s", a.GetVerb(), a.GetResource().Resource, name)
	return false, nil, nil
}

// apply merges as far as these tests need it: what is applied replaces, a
// status and a CA bundle that are there stay.
func (f *fakeCluster) apply(a k8stesting.Action) (bool, runtime.Object, error) {
	p := a.(k8stesting.PatchActionImpl)
	if p.GetPatchType() != types.ApplyPatchType {
		return true, nil, fmt.Errorf("patch of type %s", p.GetPatchType())
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(p.GetPatch()); err != nil {
		return true, nil, err
	}
	f.note("apply %s/%s", p.GetResource().Resource, p.GetName())
	old, err := f.Tracker().Get(p.GetResource(), p.GetNamespace(), p.GetName())
	if apierrors.IsNotFound(err) {
		return true, o, f.Tracker().Create(p.GetResource(), o, p.GetNamespace())
	}
	if err != nil {
		return true, nil, err
	}
	if s, ok := old.(*unstructured.Unstructured).Object["status"]; ok {
		o.Object["status"] = s
	}
	return true, o, f.Tracker().Update(p.GetResource(), o, p.GetNamespace())
}

// watch opens a watch and then makes what is not ready ready, so that the
// change comes as an event.
func (f *fakeCluster) watch(a k8stesting.Action) (bool, watch.Interface, error) {
	w, err := f.Tracker().Watch(a.GetResource(), a.GetNamespace())
	if err != nil {
		return true, nil, err
	}
	name, _ := a.(k8stesting.WatchActionImpl).GetWatchRestrictions().Fields.RequiresExactMatch("metadata.name")
	if f.stuck[name] {
		f.onStuck()
		return true, w, nil
	}
	obj, err := f.Tracker().Get(a.GetResource(), a.GetNamespace(), name)
	if apierrors.IsNotFound(err) {
		return true, w, nil
	}
	if err != nil {
		return true, nil, err
	}
	go f.ready(a.GetResource(), obj.(*unstructured.Unstructured).DeepCopy())
	return true, w, nil
}

func (f *fakeCluster) ready(r schema.GroupVersionResource, o *unstructured.Unstructured) {
	f.note("ready %s/%s", r.Resource, o.GetName())
	switch r {
	case definitionsResource:
		o.Object["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}}
	case deployments:
		n, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
		o.Object["status"] = map[string]any{"observedGeneration": o.GetGeneration(), "replicas": n, "updatedReplicas": n, "availableReplicas": n}
	case mutatingWebhooks:
		hooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
		for _, h := range hooks {
			_ = unstructured.SetNestedField(h.(map[string]any), "Y2E=", "clientConfig", "caBundle")
		}
		_ = unstructured.SetNestedSlice(o.Object, hooks, "webhooks")
	}
	_ = f.Tracker().Update(r, o, o.GetNamespace())
}

// at is the place of a line in the log.
func (f *fakeCluster) at(t *testing.T, line string) int {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.log, line)
	if i < 0 {
		t.Fatalf("%q did not happen:\n%s", line, strings.Join(f.log, "\n"))
	}
	return i
}
