// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/dir"
	"github.com/lateen-mesh/lateen/internal/config/storetest"
	networking "istio.io/api/networking/v1alpha3"
)

func open(t *testing.T, path string) *dir.Store {
	t.Helper()
	s, err := dir.Open(path, dir.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) config.Store { return open(t, t.TempDir()) })
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	// In one step, so that the store's own watch sees no half of it.
	tmp := filepath.Join(filepath.Dir(path), ".tmp")
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func vs(name, subset string) string {
	return fmt.Sprintf(`---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: %s
spec:
  hosts:
  - %[1]s
  http:
  - route:
    - destination:
        host: %[1]s
        subset: %s
`, name, subset)
}

func key(name string) config.Key {
	return config.Key{Kind: config.VirtualService, Namespace: "default", Name: name}
}

// subset returns the subset that the object routes to, or "" if it is absent.
func subset(t *testing.T, s *dir.Store, name string) string {
	t.Helper()
	o, err := s.Get(t.Context(), key(name))
	if errors.Is(err, config.ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return o.Spec.(*networking.VirtualService).Http[0].Route[0].Destination.Subset
}

func want(t *testing.T, s *dir.Store, name, wantSubset string) {
	t.Helper()
	if got := subset(t, s, name); got != wantSubset {
		t.Errorf("%s routes to %q, want %q; problems: %v", name, got, wantSubset, s.Problems())
	}
}

func wantProblem(t *testing.T, s *dir.Store, parts ...string) {
	t.Helper()
	for _, p := range s.Problems() {
		found := true
		for _, part := range parts {
			found = found && strings.Contains(string(p.Severity)+": "+p.Error(), part)
		}
		if found {
			return
		}
	}
	t.Errorf("no problem says %q; there are %v", parts, s.Problems())
}

func noProblems(t *testing.T, s *dir.Store) {
	t.Helper()
	if p := s.Problems(); len(p) != 0 {
		t.Errorf("problems: %v", p)
	}
}

// TestNotifications edits the files as a user does and waits for the watch.
func TestNotifications(t *testing.T) {
	d := t.TempDir()
	write(t, filepath.Join(d, "a.yaml"), vs("reviews", "v1")+vs("ratings", "v1"))
	s := open(t, d)
	c := s.Watch(t.Context())
	if b := storetest.Next(t, c); !b.Initial || len(b.Events) != 2 {
		t.Fatalf("first batch: %+v", b)
	}
	until := func(name, subset string) {
		t.Helper()
		for {
			for _, e := range storetest.Next(t, c).Events {
				if e.Key != key(name) {
					continue
				}
				if got := ""; e.Object == nil && subset == got {
					return
				}
				if e.Object != nil && e.Object.Spec.(*networking.VirtualService).Http[0].Route[0].Destination.Subset == subset {
					return
				}
			}
		}
	}
	write(t, filepath.Join(d, "a.yaml"), vs("reviews", "v2")+vs("ratings", "v1"))
	until("reviews", "v2")
	write(t, filepath.Join(d, "new", "deep", "b.yaml"), vs("details", "v1"))
	until("details", "v1")
	// As editors do: write beside, rename over.
	write(t, filepath.Join(d, ".a.yaml.swp"), vs("reviews", "v3"))
	if err := os.Rename(filepath.Join(d, ".a.yaml.swp"), filepath.Join(d, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	until("reviews", "v3")
	if err := os.RemoveAll(filepath.Join(d, "new")); err != nil {
		t.Fatal(err)
	}
	until("details", "")
	want(t, s, "reviews", "v3")
	want(t, s, "ratings", "")
}

func TestOneSaveIsOneBatch(t *testing.T) {
	d := t.TempDir()
	s := open(t, d)
	c := s.Watch(t.Context())
	storetest.Next(t, c)
	var text strings.Builder
	for i := range 100 {
		text.WriteString(vs(fmt.Sprintf("s%d", i), "v1"))
	}
	write(t, filepath.Join(d, "all.yaml"), text.String())
	if b := storetest.Next(t, c); len(b.Events) != 100 {
		t.Errorf("a batch of %d events, want all 100", len(b.Events))
	}
}

func TestBadFileKeepsLastGood(t *testing.T) {
	d := t.TempDir()
	f := filepath.Join(d, "a.yaml")
	write(t, f, vs("reviews", "v1")+vs("ratings", "v1"))
	s := open(t, d)
	noProblems(t, s)

	// One object is spoilt, the other changed: the change counts.
	write(t, f, strings.Replace(vs("reviews", "v2"), "subset", "subst", 1)+vs("ratings", "v2"))
	s.Rescan()
	want(t, s, "reviews", "v1")
	want(t, s, "ratings", "v2")
	wantProblem(t, s, "error", "a.yaml:13", "VirtualService/default/reviews", "spec.http[0].route[0].destination.subst", `did you mean "subset"?`)
	wantProblem(t, s, "warning", "reviews", "an earlier version stays in force")

	// A document that does not even parse.
	write(t, f, vs("reviews", "v2")+"---\nkind: [\n")
	s.Rescan()
	want(t, s, "reviews", "v2")
	want(t, s, "ratings", "v2")

	// After a restart there is no earlier version.
	restarted := open(t, d)
	want(t, restarted, "reviews", "v2")
	want(t, restarted, "ratings", "")
	wantProblem(t, restarted, "error", "malformed YAML")

	write(t, f, vs("reviews", "v3"))
	s.Rescan()
	want(t, s, "reviews", "v3")
	want(t, s, "ratings", "")
	noProblems(t, s)
}

func apply(t *testing.T, s *dir.Store, name, subset string, outcome config.Outcome) *config.Object {
	t.Helper()
	a, err := s.Apply(t.Context(), storetest.VirtualService(t, "default", name, subset))
	if err != nil {
		t.Fatal(err)
	}
	if a.Outcome != outcome {
		t.Errorf("apply: %s, want %s", a.Outcome, outcome)
	}
	return a.Object
}

func TestAppliedWinsAndSurvives(t *testing.T) {
	d := t.TempDir()
	f := filepath.Join(d, "a.yaml")
	text := "# mine\n" + vs("reviews", "v1")
	write(t, f, text)
	old := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.Chtimes(f, old, old); err != nil {
		t.Fatal(err)
	}
	s := open(t, d)
	apply(t, s, "reviews", "v1", config.Unchanged)
	if _, err := os.Stat(filepath.Join(d, "applied")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an apply that changes nothing writes: %v", err)
	}
	o := apply(t, s, "reviews", "v2", config.Configured)
	if !o.CreationTimestamp.Equal(old) {
		t.Errorf("created %v, want the time of the file, %v", o.CreationTimestamp, old)
	}
	wantProblem(t, s, "info", "a.yaml:3", "is overridden by an applied object", "applied/virtualservices.default.reviews.yaml")
	for _, s := range []*dir.Store{s, open(t, d)} {
		want(t, s, "reviews", "v2")
		again, err := s.Get(t.Context(), key("reviews"))
		if err != nil || again.ResourceVersion != o.ResourceVersion || again.Generation != o.Generation || !again.CreationTimestamp.Equal(o.CreationTimestamp) {
			t.Errorf("%+v, %v; want the metadata of %+v", again, err, o)
		}
	}
	if got, err := os.ReadFile(f); err != nil || string(got) != text {
		t.Errorf("the user's file was changed: %s, %v", got, err)
	}
	left, err := filepath.Glob(filepath.Join(d, "applied", ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTombstones(t *testing.T) {
	d := t.TempDir()
	f := filepath.Join(d, "a.yaml")
	write(t, f, vs("reviews", "v1")+vs("ratings", "v1"))
	s := open(t, d)
	apply(t, s, "reviews", "v2", config.Configured)
	del := func() {
		t.Helper()
		if err := s.Delete(t.Context(), key("reviews"), ""); err != nil {
			t.Fatal(err)
		}
	}
	del()
	for _, s := range []*dir.Store{s, open(t, d)} {
		want(t, s, "reviews", "")
		want(t, s, "ratings", "v1")
		wantProblem(t, s, "info", "was deleted and is hidden")
	}
	// Another object of the file changes: the deleted one stays deleted.
	write(t, f, vs("reviews", "v1")+vs("ratings", "v2"))
	s.Rescan()
	want(t, s, "reviews", "")
	want(t, s, "ratings", "v2")
	// The deleted object is written anew.
	write(t, f, vs("reviews", "v3"))
	s.Rescan()
	want(t, s, "reviews", "v3")
	noProblems(t, s)
	// Applying the deleted text itself brings it back too.
	del()
	want(t, s, "reviews", "")
	apply(t, s, "reviews", "v3", config.Created)
	want(t, s, "reviews", "v3")
	// And removing it from the file, then putting it back.
	del()
	write(t, f, "# nothing\n")
	s.Rescan()
	write(t, f, vs("reviews", "v3"))
	s.Rescan()
	want(t, s, "reviews", "v3")
	if left, _ := filepath.Glob(filepath.Join(d, "applied", "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDuplicatesAcrossFiles(t *testing.T) {
	d := t.TempDir()
	write(t, filepath.Join(d, "a.yaml"), vs("reviews", "v1"))
	write(t, filepath.Join(d, "b.yaml"), vs("reviews", "v2"))
	s := open(t, d)
	want(t, s, "reviews", "v1")
	wantProblem(t, s, "error", "b.yaml:2", "VirtualService/default/reviews", "is there already, in "+filepath.Join(d, "a.yaml")+":2")
}

// TestEmptied holds that a file is not believed at once when it is empty, as it
// is while it is written in place, but is in the end.
func TestEmptied(t *testing.T) {
	emptied := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	var now atomic.Int64 // seconds after
	d := t.TempDir()
	write(t, filepath.Join(d, "a.yaml"), vs("reviews", "v1"))
	s, err := dir.Open(d, dir.Options{Now: func() time.Time { return emptied.Add(time.Duration(now.Load()) * time.Second) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	empty := filepath.Join(d, ".empty")
	if err := errors.Join(os.WriteFile(empty, nil, 0o644), os.Chtimes(empty, emptied, emptied), os.Rename(empty, filepath.Join(d, "a.yaml"))); err != nil {
		t.Fatal(err)
	}
	s.Rescan()
	want(t, s, "reviews", "v1")
	now.Store(1)
	s.Rescan()
	want(t, s, "reviews", "")
}

func TestMeshConfig(t *testing.T) {
	d := t.TempDir()
	write(t, filepath.Join(d, "mesh.yaml"), "rootNamespace: mesh-root\ndefaultConfig:\n  statusPort: 1234\n")
	s := open(t, d)
	noProblems(t, s)
	o, err := s.Get(t.Context(), config.MeshConfigKey)
	if err != nil {
		t.Fatal(err)
	}
	changed := o.Clone()
	changed.Labels = map[string]string{"a": "b"}
	if a, err := s.Apply(t.Context(), changed); err != nil || a.Outcome != config.Configured {
		t.Errorf("%+v, %v", a, err)
	}
	again, err := open(t, d).Get(t.Context(), config.MeshConfigKey)
	if err != nil || !config.SameSpec(o, again) {
		t.Errorf("%+v, %v; want the spec of %+v", again, err, o)
	}
}

func TestEditKeepsAge(t *testing.T) {
	d := t.TempDir()
	f := filepath.Join(d, "a.yaml")
	write(t, f, vs("reviews", "v1"))
	old := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.Chtimes(f, old, old); err != nil {
		t.Fatal(err)
	}
	s := open(t, d)
	write(t, f, vs("reviews", "v2"))
	s.Rescan()
	o, err := s.Get(t.Context(), key("reviews"))
	if err != nil || !o.CreationTimestamp.Equal(old) || o.Generation != 2 {
		t.Errorf("created %v, generation %d, %v; want %v, 2", o.CreationTimestamp, o.Generation, err, old)
	}
}

// TestMovedObjects holds that an edit elsewhere in a file moves the lines of an
// object and is no change of it.
func TestMovedObjects(t *testing.T) {
	d := t.TempDir()
	f := filepath.Join(d, "a.yaml")
	write(t, f, vs("reviews", "v1")+vs("ratings", "v1"))
	s := open(t, d)
	before, err := s.Get(t.Context(), key("ratings"))
	if err != nil {
		t.Fatal(err)
	}
	c := s.Watch(t.Context())
	storetest.Next(t, c)
	write(t, f, "# a comment\n"+vs("reviews", "v2")+vs("ratings", "v1"))
	s.Rescan()
	if b := storetest.Next(t, c); len(b.Events) != 1 || b.Events[0].Key != key("reviews") {
		t.Errorf("batch %+v, want reviews alone", b)
	}
	after, err := s.Get(t.Context(), key("ratings"))
	if err != nil || after.Spec != before.Spec || after.Source.Line != before.Source.Line+1 || after.Generation != 1 {
		t.Errorf("was %+v, is %+v, %v; want the same, one line below", before, after, err)
	}
}

func BenchmarkApply(b *testing.B) {
	d := b.TempDir()
	var all strings.Builder
	for i := range 1000 {
		all.WriteString(vs(fmt.Sprintf("s%d", i), "v1"))
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("f%d.yaml", i)), []byte(vs(fmt.Sprintf("f%d", i), "v1")), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	edited := filepath.Join(d, "all.yaml")
	if err := os.WriteFile(edited, []byte(all.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	s, err := dir.Open(d, dir.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.Run("apply", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			r := config.Decode([]byte(vs("s1", fmt.Sprintf("v%d", i))), "", config.DefaultNamespace)
			if _, err := s.Apply(b.Context(), r.Objects[0]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("edit", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			text := strings.Replace(all.String(), "subset: v1", fmt.Sprintf("subset: v%d", i), 1)
			if err := os.WriteFile(edited, []byte(text), 0o644); err != nil {
				b.Fatal(err)
			}
			s.Rescan()
		}
	})
}

func TestLongNames(t *testing.T) {
	s := open(t, t.TempDir())
	long := strings.Repeat("a", 60) + strings.Repeat("."+strings.Repeat("b", 60), 3)
	o := storetest.VirtualService(t, strings.Repeat("n", 63), long, "v1")
	if a, err := s.Apply(t.Context(), o); err != nil || a.Outcome != config.Created {
		t.Fatalf("%v, %v", a, err)
	}
	if err := s.Delete(t.Context(), o.Key, ""); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	d := t.TempDir()
	write(t, filepath.Join(d, "f"), "")
	for _, path := range []string{filepath.Join(d, "absent"), filepath.Join(d, "f")} {
		if s, err := dir.Open(path, dir.Options{}); err == nil {
			t.Errorf("%s: opened", path)
			s.Close()
		}
	}
}
