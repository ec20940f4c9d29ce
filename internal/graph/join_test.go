// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestJoin: of a key that several collections have the first one counts, and
// the next one takes over when it goes.
func TestJoin(t *testing.T) {
	g := New()
	written := NewSource[string, int](g, "written", nil)
	seeds := NewSource[string, int](g, "seeds", nil)
	derived := Map(g, "derived", seeds, func(_ *Ctx, _ string, n int) (int, bool) { return n * 10, n > 0 }, nil)
	all := Join[string, int](g, "all", nil, written, derived)
	doubled := Map(g, "doubled", all, func(_ *Ctx, _ string, n int) (int, bool) { return 2 * n, true }, nil)
	want := func(entries ...Entry[string, int]) {
		t.Helper()
		g.Commit()
		if diff := cmp.Diff(entries, doubled.List()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	type e = Entry[string, int]
	written.Set("a", 1)
	seeds.Set("a", 5)
	seeds.Set("b", 6)
	want(e{"a", 2}, e{"b", 120})
	seeds.Set("a", 7) // hidden
	want(e{"a", 2}, e{"b", 120})
	written.Delete("a")
	want(e{"a", 140}, e{"b", 120})
	seeds.Set("b", 0)
	written.Set("c", 3)
	want(e{"a", 140}, e{"c", 6})
	seeds.Delete("a")
	want(e{"c", 6})
}
