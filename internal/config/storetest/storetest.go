// SPDX-License-Identifier: Apache-2.0

// Package storetest is the contract that every config.Store keeps.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
)

// patience is how long a watch may take before the test gives up.
const patience = 30 * time.Second

// Run tests a kind of store. open returns an empty store, closed at the test's end.
func Run(t *testing.T, open func(t *testing.T) config.Store) {
	tests := map[string]func(*testing.T, config.Store){
		"ApplyGetDelete": applyGetDelete,
		"Conflict":       conflict,
		"Invalid":        invalid,
		"List":           list,
		"Watch":          watch,
		"WatchSlowly":    watchSlowly,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// Object decodes one object, which must be good.
func Object(t *testing.T, text string) *config.Object {
	t.Helper()
	r := config.Decode([]byte(text), "test.yaml", config.DefaultNamespace)
	if err := config.Errors(r.Problems); err != nil || len(r.Objects) != 1 {
		t.Fatalf("%d objects, %v in:\n%s", len(r.Objects), err, text)
	}
	return r.Objects[0]
}

// VirtualService returns a good VirtualService that routes to the subset.
func VirtualService(t *testing.T, namespace, name, subset string) *config.Object {
	t.Helper()
	return Object(t, fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: %s, namespace: %s}
spec:
  hosts: [%[1]s]
  http:
  - route:
    - destination: {host: %[1]s, subset: %[3]s}
`, name, namespace, subset))
}

func key(namespace, name string) config.Key {
	return config.Key{Kind: config.VirtualService, Namespace: namespace, Name: name}
}

func apply(t *testing.T, s config.Store, o *config.Object, want config.Outcome) *config.Object {
	t.Helper()
	a, err := s.Apply(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if a.Outcome != want {
		t.Errorf("apply %s: %s, want %s", o.Key, a.Outcome, want)
	}
	return a.Object
}

func applyGetDelete(t *testing.T, s config.Store) {
	if _, err := s.Get(t.Context(), key("default", "reviews")); !errors.Is(err, config.ErrNotFound) {
		t.Errorf("get before apply: %v, want ErrNotFound", err)
	}
	v1 := VirtualService(t, "default", "reviews", "v1")
	first := apply(t, s, v1, config.Created)
	if first.ResourceVersion == "" || first.Generation != 1 || first.CreationTimestamp.IsZero() {
		t.Errorf("stored object lacks metadata: version %q, generation %d, created %v", first.ResourceVersion, first.Generation, first.CreationTimestamp)
	}
	if !config.SameSpec(first, v1) {
		t.Error("the stored spec is not the applied one")
	}
	if again := apply(t, s, v1, config.Unchanged); again.ResourceVersion != first.ResourceVersion {
		t.Error("an apply without change changes the resource version")
	}
	second := apply(t, s, VirtualService(t, "default", "reviews", "v2"), config.Configured)
	if second.ResourceVersion == first.ResourceVersion || second.Generation != 2 || !second.CreationTimestamp.Equal(first.CreationTimestamp) {
		t.Errorf("after a change: version %q (was %q), generation %d, created %v (was %v)",
			second.ResourceVersion, first.ResourceVersion, second.Generation, second.CreationTimestamp, first.CreationTimestamp)
	}
	got, err := s.Get(t.Context(), second.Key)
	if err != nil || got.ResourceVersion != second.ResourceVersion {
		t.Errorf("get: %v, %v; want version %s", got, err, second.ResourceVersion)
	}
	labelled := second.Clone()
	labelled.Labels = map[string]string{"team": "a"}
	if third := apply(t, s, labelled, config.Configured); third.Generation != 2 {
		t.Errorf("a change of labels makes generation %d, want 2", third.Generation)
	}
	if err := s.Delete(t.Context(), second.Key, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), second.Key); !errors.Is(err, config.ErrNotFound) {
		t.Errorf("get after delete: %v, want ErrNotFound", err)
	}
	if err := s.Delete(t.Context(), second.Key, ""); !errors.Is(err, config.ErrNotFound) {
		t.Errorf("delete again: %v, want ErrNotFound", err)
	}
	apply(t, s, v1, config.Created)
}

func conflict(t *testing.T, s config.Store) {
	first := apply(t, s, VirtualService(t, "default", "reviews", "v1"), config.Created)
	second := apply(t, s, VirtualService(t, "default", "reviews", "v2"), config.Configured)
	stale := VirtualService(t, "default", "reviews", "v3").Clone()
	stale.ResourceVersion = first.ResourceVersion
	if _, err := s.Apply(t.Context(), stale); !errors.Is(err, config.ErrConflict) {
		t.Errorf("apply of a stale version: %v, want ErrConflict", err)
	}
	if err := s.Delete(t.Context(), first.Key, first.ResourceVersion); !errors.Is(err, config.ErrConflict) {
		t.Errorf("delete of a stale version: %v, want ErrConflict", err)
	}
	absent := VirtualService(t, "default", "absent", "v1").Clone()
	absent.ResourceVersion = first.ResourceVersion
	if _, err := s.Apply(t.Context(), absent); !errors.Is(err, config.ErrConflict) {
		t.Errorf("apply of a version of an absent object: %v, want ErrConflict", err)
	}
	fresh := stale.Clone()
	fresh.ResourceVersion = second.ResourceVersion
	third := apply(t, s, fresh, config.Configured)
	if err := s.Delete(t.Context(), third.Key, third.ResourceVersion); err != nil {
		t.Error(err)
	}
}

func invalid(t *testing.T, s config.Store) {
	bad := VirtualService(t, "default", "reviews", "v1").Clone()
	bad.Spec = nil
	good := VirtualService(t, "default", "reviews", "v1").Clone()
	good.Spec = &networking.VirtualService{Hosts: []string{"reviews"}, Http: []*networking.HTTPRoute{{Route: []*networking.HTTPRouteDestination{{Weight: 1}}}}}
	if _, err := s.Apply(t.Context(), bad); err == nil {
		t.Error("an object without spec is accepted")
	}
	var p *config.Problem
	if _, err := s.Apply(t.Context(), good); !errors.Is(err, config.ErrInvalid) || !errors.As(err, &p) || p.Field == "" {
		t.Errorf("apply of an invalid object: %v, want ErrInvalid and a problem with a field", err)
	}
	if _, err := s.Get(t.Context(), good.Key); !errors.Is(err, config.ErrNotFound) {
		t.Errorf("get of an invalid object: %v, want ErrNotFound", err)
	}
}

func list(t *testing.T, s config.Store) {
	for _, k := range [][2]string{{"b", "w"}, {"a", "z"}, {"a", "x"}} {
		apply(t, s, VirtualService(t, k[0], k[1], "v1"), config.Created)
	}
	names := func(kind *config.Kind, namespace string) []string {
		t.Helper()
		l, err := s.List(t.Context(), kind, namespace)
		if err != nil {
			t.Fatal(err)
		}
		out := []string{}
		for _, o := range l {
			out = append(out, o.Namespace+"/"+o.Name)
		}
		return out
	}
	for _, tt := range []struct {
		kind      *config.Kind
		namespace string
		want      []string
	}{
		{config.VirtualService, "", []string{"a/x", "a/z", "b/w"}},
		{nil, "", []string{"a/x", "a/z", "b/w"}},
		{config.VirtualService, "a", []string{"a/x", "a/z"}},
		{config.Gateway, "", []string{}},
	} {
		if diff := cmp.Diff(tt.want, names(tt.kind, tt.namespace)); diff != "" {
			t.Errorf("list %v %q (-want +got):\n%s", tt.kind, tt.namespace, diff)
		}
	}
}

// Next receives one batch.
func Next(t *testing.T, c <-chan config.Batch) config.Batch {
	t.Helper()
	select {
	case b, ok := <-c:
		if !ok {
			t.Fatal("the watch has ended")
		}
		return b
	case <-time.After(patience):
		t.Fatal("no batch")
	}
	panic("unreachable")
}

func watch(t *testing.T, s config.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	empty := s.Watch(ctx)
	if b := Next(t, empty); !b.Initial || len(b.Events) != 0 {
		t.Errorf("first batch of an empty store: %+v, want initial and empty", b)
	}
	first := apply(t, s, VirtualService(t, "default", "reviews", "v1"), config.Created)
	if b := Next(t, empty); b.Initial || len(b.Events) != 1 || b.Events[0].Object.ResourceVersion != first.ResourceVersion {
		t.Errorf("batch after apply: %+v", b)
	}
	full := s.Watch(ctx)
	if b := Next(t, full); !b.Initial || len(b.Events) != 1 || b.Events[0].Key != first.Key {
		t.Errorf("first batch of a store with one object: %+v", b)
	}
	if err := s.Delete(ctx, first.Key, ""); err != nil {
		t.Fatal(err)
	}
	for _, c := range []<-chan config.Batch{empty, full} {
		if b := Next(t, c); b.Initial || len(b.Events) != 1 || b.Events[0].Key != first.Key || b.Events[0].Object != nil {
			t.Errorf("batch after delete: %+v", b)
		}
	}
	cancel()
	for range empty { // ends when the watch has
	}
}

// watchSlowly holds that a receiver that does not read loses nothing but
// intermediate states.
func watchSlowly(t *testing.T, s config.Store) {
	c := s.Watch(t.Context())
	Next(t, c)
	var last *config.Object
	for i := range 50 {
		o := VirtualService(t, "default", "reviews", fmt.Sprintf("v%d", i))
		a, err := s.Apply(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		last = a.Object
	}
	for batches := 1; ; batches++ {
		b := Next(t, c)
		if len(b.Events) != 1 {
			t.Fatalf("a batch with %d events of one key", len(b.Events))
		}
		if b.Events[0].Object.ResourceVersion == last.ResourceVersion {
			if batches > 3 {
				t.Errorf("%d batches were held for a receiver that did not read", batches)
			}
			return
		}
	}
}
