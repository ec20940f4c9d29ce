// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// apply applies a patch with the library the API server itself uses.
func apply(t *testing.T, document, patch []byte) []byte {
	t.Helper()
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Apply(document)
	if err != nil {
		t.Fatalf("%v\n%s", err, patch)
	}
	return out
}

func checkDiff(t *testing.T, before, after string) []operation {
	t.Helper()
	patch, err := Diff([]byte(before), []byte(after))
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(apply(t, []byte(before), patch), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(after), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s\nto\n%s\nby\n%s:\n%s", before, after, patch, diff)
	}
	var ops []operation
	if err := json.Unmarshal(patch, &ops); err != nil {
		t.Fatal(err)
	}
	return ops
}

// TestDiffIsMinimal counts what a change comes to.
func TestDiffIsMinimal(t *testing.T) {
	for _, c := range []struct {
		before, after string
		ops           int
	}{
		{`{"a":1}`, `{"a":1}`, 0},
		{`{"a":{"b":null}}`, `{"a":{"b":false}}`, 1},
		{`{"a/b~c":1,"d":2}`, `{"a/b~c":2}`, 2},
		{`{"l":[{"name":"a","x":1},{"name":"b"}]}`, `{"l":[{"name":"new"},{"name":"a","x":2},{"name":"b"},{"name":"z"}]}`, 3},
		{`{"l":["a","b","c"]}`, `{"l":["a","c"]}`, 1},
		{`{"l":[1,2]}`, `{}`, 1},
	} {
		if ops := checkDiff(t, c.before, c.after); len(ops) != c.ops {
			t.Errorf("%s to %s: %d operations, want %d: %v", c.before, c.after, len(ops), c.ops, ops)
		}
	}
}

// TestDiffOfAnything applies the patches between random documents.
func TestDiffOfAnything(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		a, _ := json.Marshal(map[string]any{"x": random(r, 4)})
		b, _ := json.Marshal(map[string]any{"x": random(r, 4)})
		checkDiff(t, string(a), string(b))
	}
}

func random(r *rand.Rand, depth int) any {
	switch n := r.IntN(6); {
	case n == 0 || depth == 0:
		return r.IntN(3)
	case n == 1:
		return []any{nil, true, "s", 1.5}[r.IntN(4)]
	case n <= 3:
		list := []any{}
		for range r.IntN(4) {
			list = append(list, random(r, depth-1))
		}
		return list
	default:
		m := map[string]any{}
		for range r.IntN(4) {
			m[[]string{"name", "a", "b/", "~"}[r.IntN(4)]] = random(r, depth-1)
		}
		if r.IntN(2) == 0 {
			m["name"] = "n" + strconv.Itoa(r.IntN(3))
		}
		return m
	}
}

func FuzzDiff(f *testing.F) {
	f.Add(`{"a":[1,{"name":"x"}]}`, `{"a":[{"name":"x","b":1}]}`)
	f.Fuzz(func(t *testing.T, a, b string) {
		var x, y map[string]any
		if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil || x == nil || y == nil {
			t.Skip()
		}
		// Duplicate keys and invalid UTF-8 are gone once decoded.
		before, _ := json.Marshal(x)
		after, _ := json.Marshal(y)
		if len(before)+len(after) > 4<<10 {
			t.Skip()
		}
		checkDiff(t, string(before), string(after))
	})
}
