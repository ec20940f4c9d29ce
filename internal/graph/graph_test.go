// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMapFollowsInputAndFetches(t *testing.T) {
	g := New()
	names := NewSource[int, string](g, "names", nil)
	greet := NewSource[string, string](g, "greetings", nil)
	runs := 0
	out := Map(g, "out", names, func(c *Ctx, _ int, n string) (string, bool) {
		runs++
		s, ok := Fetch(c, greet, n)
		return s + " " + n, ok
	}, nil)
	names.Set(1, "ann")
	names.Set(2, "bob")
	if e := g.Commit(); e != 1 {
		t.Fatalf("epoch %d", e)
	}
	if out.Len() != 0 || runs != 2 {
		t.Fatalf("len %d runs %d", out.Len(), runs)
	}
	var seen []Change[int, string]
	out.Subscribe(func(_ Epoch, ch []Change[int, string]) { seen = append(seen, ch...) })
	greet.Set("bob", "hello") // a negative look-up is a dependency
	g.Commit()
	if runs != 3 {
		t.Errorf("runs %d, want 3", runs)
	}
	greet.Set("bob", "hello") // equal: nothing happens
	if e := g.Commit(); e != 2 {
		t.Errorf("epoch %d, want 2", e)
	}
	greet.Set("bob", "hi")
	g.Commit()
	names.Delete(2)
	g.Commit()
	want := []Change[int, string]{{Added, 2, "", "hello bob"}, {Updated, 2, "hello bob", "hi bob"}, {Deleted, 2, "hi bob", ""}}
	if d := cmp.Diff(want, seen); d != "" {
		t.Error(d)
	}
	if n := len(greet.entries); n != 2 { // "ann" is still looked up, "bob" is present
		t.Errorf("%d entries", n)
	}
}

func TestComputePanicNamesNode(t *testing.T) {
	g := New()
	src := NewSource[string, int](g, "src", nil)
	Map(g, "bad", src, func(_ *Ctx, k string, v int) (int, bool) { return 1 / v, true }, nil)
	src.Set("zero", 0)
	defer func() {
		if r, _ := recover().(string); !strings.Contains(r, `computing "bad"[zero]`) {
			t.Errorf("panic %q", r)
		}
	}()
	g.Commit()
}

func TestFetchFromLaterCollectionPanics(t *testing.T) {
	g := New()
	src := NewSource[string, int](g, "src", nil)
	var later *Source[string, int]
	Map(g, "early", src, func(c *Ctx, k string, _ int) (int, bool) { return Fetch(c, later, k) }, nil)
	later = NewSource[string, int](g, "later", nil)
	src.Set("a", 1)
	defer func() {
		if r, _ := recover().(string); !strings.Contains(r, `fetches from "later"`) {
			t.Errorf("panic %q", r)
		}
	}()
	g.Commit()
}

func TestFlatMapLeastInputWins(t *testing.T) {
	g := New()
	src := NewSource[int, string](g, "src", nil)
	out := FlatMap(g, "out", src, func(_ *Ctx, k int, v string, emit func(string, int)) { emit(v, k) }, nil)
	src.Set(2, "x")
	src.Set(1, "x")
	g.Commit()
	if v, _ := out.Get("x"); v != 1 {
		t.Errorf("got %d", v)
	}
	src.Set(1, "y")
	g.Commit()
	want := []Entry[string, int]{{"x", 2}, {"y", 1}}
	if d := cmp.Diff(want, out.List()); d != "" {
		t.Error(d)
	}
}

func TestUnionCounts(t *testing.T) {
	g := New()
	src := NewSource[int, string](g, "src", nil)
	want := Union(g, "want", src, func(_ *Ctx, _ int, v string, want func(string)) {
		for _, w := range strings.Fields(v) {
			want(w)
		}
	})
	src.Set(1, "a b a")
	src.Set(2, "b c")
	g.Commit()
	events := 0
	want.Subscribe(func(_ Epoch, ch []Change[string, struct{}]) { events += len(ch) })
	src.Set(1, "a")
	g.Commit() // b is still wanted by 2
	if events != 0 || want.Len() != 3 {
		t.Errorf("events %d, len %d", events, want.Len())
	}
	src.Delete(2)
	g.Commit()
	if d := cmp.Diff([]Entry[string, struct{}]{{Key: "a"}}, want.List()); d != "" || events != 2 {
		t.Errorf("events %d\n%s", events, d)
	}
}

func TestScopeClose(t *testing.T) {
	g := New()
	src := NewSource[int, int](g, "src", nil)
	other := NewSource[int, int](g, "other", nil)
	src.Set(1, 1)
	g.Commit()
	s := g.Scope()
	runs := 0
	out := Map(s, "scoped", src, func(c *Ctx, k, v int) (int, bool) {
		runs++
		o, _ := Fetch(c, other, 9)
		return v + o, true
	}, nil)
	g.Commit()
	if v, ok := out.Get(1); !ok || v != 1 {
		t.Errorf("a new collection holds %d %v", v, ok)
	}
	s.Close()
	src.Set(1, 2)
	other.Set(9, 9)
	g.Commit()
	if runs != 1 || len(g.Dump()) != 2 {
		t.Errorf("runs %d, dump %v", runs, g.Dump())
	}
	if used := len(g.core.deps.cells) - 1 - len(g.core.deps.freeCells); used != 0 {
		t.Errorf("%d cells left", used)
	}
}

func TestCloseWhileUsedPanics(t *testing.T) {
	g := New()
	s := g.Scope()
	src := NewSource[int, int](s, "src", nil)
	Map(g, "user", src, func(_ *Ctx, _, v int) (int, bool) { return v, true }, nil)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s.Close()
}

type structKey struct {
	NS   string
	Port uint16
	A    [2]bool
}

type ownOrder struct{ p *int }

func (a ownOrder) Compare(b ownOrder) int { return *a.p - *b.p }

func TestKeyOrder(t *testing.T) {
	c := compareFor[structKey]()
	a, b := structKey{"a", 9, [2]bool{}}, structKey{"a", 10, [2]bool{}}
	if c(&a, &b) >= 0 || c(&b, &a) <= 0 || c(&a, &a) != 0 {
		t.Error("struct order")
	}
	b = structKey{"a", 9, [2]bool{false, true}}
	if c(&a, &b) >= 0 {
		t.Error("array order")
	}
	one, two := 1, 2
	if o, p := (ownOrder{&one}), (ownOrder{&two}); compareFor[ownOrder]()(&o, &p) >= 0 {
		t.Error("own order")
	}
	defer func() {
		if recover() == nil {
			t.Error("a pointer has no order")
		}
	}()
	compareFor[*int]()
}
