// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// world is a graph that uses every way to derive and to fetch, three levels deep.
type world struct {
	g     *Graph
	texts *Source[string, string] // words, some of them names of texts
	nums  *Source[nsKey, int]
	runs  map[string]int // compute calls of this epoch
	views map[string]func() any
	byNS  *Index[string, nsKey, int]
}

type nsKey struct {
	NS string
	N  int
}

func newWorld() *world {
	w := &world{g: New(), runs: map[string]int{}, views: map[string]func() any{}}
	w.texts = NewSource[string, string](w.g, "texts", nil)
	w.nums = NewSource[nsKey, int](w.g, "nums", nil)
	w.byNS = NewIndex(w.g, "nums/ns", w.nums, func(k nsKey, v int) []string {
		return []string{k.NS, fmt.Sprint("mod", v%3), k.NS} // a key twice counts once
	})
	// Follows references; most of them lead nowhere.
	deref := Map(w.g, "deref", w.texts, func(c *Ctx, k, v string) (string, bool) {
		w.count("deref", k)
		var b strings.Builder
		for _, f := range strings.Fields(v) {
			s, ok := Fetch(c, w.texts, f)
			fmt.Fprint(&b, f, "=", s, ok, ";")
		}
		return b.String(), len(v)%4 != 0
	}, nil)
	// Several inputs emit the same word.
	words := FlatMap(w.g, "words", w.texts, func(c *Ctx, k, v string, emit func(string, string)) {
		w.count("words", k)
		for i, f := range strings.Fields(v) {
			emit(f, fmt.Sprint(k, i))
		}
	}, nil)
	wanted := Union(w.g, "wanted", w.texts, func(c *Ctx, k, v string, want func(nsKey)) {
		w.count("wanted", k)
		for _, f := range strings.Fields(v) {
			for nk := range FetchIndex(c, w.byNS, f) {
				want(nk)
			}
		}
	})
	sums := Map(w.g, "sums", wanted, func(c *Ctx, k nsKey, _ struct{}) (string, bool) {
		w.count("sums", k)
		n, _ := Fetch(c, w.nums, k)
		var b strings.Builder
		for o, v := range FetchIndex(c, w.byNS, fmt.Sprint("mod", n%3)) {
			fmt.Fprint(&b, o, v, " ")
		}
		return b.String(), true
	}, nil)
	total := Map(w.g, "total", words, func(c *Ctx, k, v string) (string, bool) {
		w.count("total", k)
		var b strings.Builder
		if len(k)%2 == 0 { // dependencies that come and go
			for o, v := range FetchAll(c, sums) {
				fmt.Fprint(&b, o, len(v), " ")
			}
		}
		d, _ := Fetch(c, deref, k)
		return b.String() + v + d, true
	}, nil)
	watch(w, w.texts.Table)
	watch(w, w.nums.Table)
	watch(w, deref)
	watch(w, words)
	watch(w, wanted)
	watch(w, sums)
	watch(w, total)
	return w
}

func (w *world) count(coll string, k any) { w.runs[fmt.Sprint(coll, k)]++ }

// watch compares the collection with what its subscriber has been told.
func watch[K comparable, V any](w *world, t *Table[K, V]) {
	told := map[K]V{}
	t.Subscribe(func(_ Epoch, changes []Change[K, V]) {
		seen := map[K]bool{}
		for _, ch := range changes {
			old, had := told[ch.Key]
			if seen[ch.Key] || had != (ch.Kind != Added) || any(old) != any(ch.Old) {
				panic(fmt.Sprintf("%s: change %+v after %v %v", t.Name(), ch, old, had))
			}
			seen[ch.Key] = true
			if ch.Kind == Deleted {
				delete(told, ch.Key)
			} else {
				told[ch.Key] = ch.New
			}
		}
	})
	w.views[t.Name()] = func() any {
		list := t.List()
		if len(list) != len(told) || len(list) != t.Len() {
			panic(fmt.Sprintf("%s: %d entries, told %d, Len %d", t.Name(), len(list), len(told), t.Len()))
		}
		for _, e := range list {
			if v, ok := told[e.Key]; !ok || any(v) != any(e.Value) {
				panic(fmt.Sprintf("%s[%v] is %v, told %v", t.Name(), e.Key, e.Value, v))
			}
		}
		return list
	}
}

func (w *world) edit(r *rand.Rand) {
	names := []string{"a", "b", "cc", "dd", "e", "ns1", "ns2", "mod0", "mod2"}
	name := func() string { return names[r.IntN(len(names))] }
	switch r.IntN(6) {
	case 0:
		w.texts.Delete(name())
	case 1, 2:
		var t []string
		for range r.IntN(4) {
			t = append(t, name())
		}
		w.texts.Set(name(), strings.Join(t, " "))
	case 3:
		w.nums.Delete(nsKey{name(), r.IntN(3)})
	default:
		w.nums.Set(nsKey{name(), r.IntN(3)}, r.IntN(6))
	}
}

func (w *world) check(t *testing.T, at string) {
	t.Helper()
	for k, n := range w.runs {
		if n > 1 {
			t.Errorf("%s: %s ran %d times in one epoch", at, k, n)
		}
	}
	clear(w.runs)
	fresh := newWorld()
	for _, e := range w.texts.List() {
		fresh.texts.Set(e.Key, e.Value)
	}
	for _, e := range w.nums.List() {
		fresh.nums.Set(e.Key, e.Value)
	}
	fresh.g.Commit()
	for name, view := range w.views {
		if d := cmp.Diff(fresh.views[name](), view()); d != "" {
			t.Errorf("%s: %s differs from a build from scratch (-scratch +incremental):\n%s", at, name, d)
		}
	}
	for _, x := range []string{"ns1", "mod0", "mod1"} {
		if d := cmp.Diff(fresh.byNS.Lookup(x), w.byNS.Lookup(x)); d != "" {
			t.Errorf("%s: index %s: %s", at, x, d)
		}
	}
}

func TestIncrementalEqualsFromScratch(t *testing.T) {
	for i := range 30 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		w := newWorld()
		for step := range 60 {
			for range 1 + r.IntN(4)*r.IntN(4) {
				w.edit(r)
			}
			w.g.Commit()
			w.check(t, fmt.Sprintf("seed %d,%d step %d", seed, i, step))
			if t.Failed() {
				return
			}
		}
		for _, e := range w.texts.List() {
			w.texts.Delete(e.Key)
		}
		w.g.Commit()
		d := &w.g.core.deps
		if n, c := len(d.nodes)-len(d.freeNodes), len(d.cells)-1-len(d.freeCells); n != 0 || c != 0 {
			t.Fatalf("seed %d,%d: %d nodes and %d cells left without inputs", seed, i, n, c)
		}
	}
}

// benchGraph is 10,000 nodes in two levels: each of 200 groups fetches 50 leaves.
func benchGraph(b *testing.B) (*Graph, *Source[int, int]) {
	g := New()
	leaves := NewSource[int, int](g, "leaves", nil)
	groups := NewSource[int, int](g, "groups", nil)
	mid := Map(g, "mid", leaves, func(_ *Ctx, _, v int) (int, bool) { return v, true }, nil)
	byGroup := NewIndex(g, "mid/group", mid, func(k, _ int) []int { return []int{k % 200} })
	sum := Map(g, "sum", groups, func(c *Ctx, k, _ int) (int, bool) {
		n := 0
		for _, v := range FetchIndex(c, byGroup, k) {
			n += v
		}
		return n, true
	}, nil)
	Map(g, "out", leaves, func(c *Ctx, k, _ int) (int, bool) {
		v, ok := Fetch(c, sum, k%200)
		return v, ok
	}, nil)
	for i := range 10000 {
		leaves.Set(i, i)
	}
	for i := range 200 {
		groups.Set(i, i)
	}
	g.Commit()
	return g, leaves
}

// BenchmarkOneChange is one source change that makes about 50 nodes run again.
func BenchmarkOneChange(b *testing.B) {
	g, leaves := benchGraph(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		leaves.Set(7, -i)
		g.Commit()
	}
}

func BenchmarkFirstBuild(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		benchGraph(b)
	}
}
