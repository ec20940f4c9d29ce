// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	kjson "sigs.k8s.io/json"
)

// operation is one of a JSON Patch (RFC 6902, section 4).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// Diff returns a JSON Patch that makes after of before. Elements of lists are
// told apart by their name, as containers and volumes are, so that what is added
// in front of something does not rewrite it.
func Diff(before, after []byte) ([]byte, error) {
	var a, b any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(before, &a); err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(after, &b); err != nil {
		return nil, fmt.Errorf("patch: %w", err)
	}
	ops := []operation{}
	diff(&ops, "", a, b)
	return json.Marshal(ops)
}

// MarshalJSON writes a value of null, false or 0 too: omitempty would lose it.
func (o operation) MarshalJSON() ([]byte, error) {
	if o.Op == "remove" {
		return json.Marshal(map[string]any{"op": o.Op, "path": o.Path})
	}
	return json.Marshal(map[string]any{"op": o.Op, "path": o.Path, "value": o.Value})
}

func diff(ops *[]operation, path string, a, b any) {
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			diffObjects(ops, path, a, b)
			return
		}
	case []any:
		if b, ok := b.([]any); ok {
			diffLists(ops, path, a, b)
			return
		}
	}
	if !reflect.DeepEqual(a, b) {
		*ops = append(*ops, operation{"replace", path, b})
	}
}

var escaper = strings.NewReplacer("~", "~0", "/", "~1") // RFC 6901, section 3

func diffObjects(ops *[]operation, path string, a, b map[string]any) {
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		at := path + "/" + escaper.Replace(k)
		was, had := a[k]
		is, has := b[k]
		switch {
		case had && has:
			diff(ops, at, was, is)
		case had:
			*ops = append(*ops, operation{"remove", at, nil})
		default:
			*ops = append(*ops, operation{"add", at, is})
		}
	}
}

// same tells whether two elements are one that changed.
func same(a, b any) bool {
	x, ok1 := a.(map[string]any)
	y, ok2 := b.(map[string]any)
	if ok1 && ok2 && x["name"] != nil {
		return x["name"] == y["name"]
	}
	return reflect.DeepEqual(a, b)
}

// maxAligned bounds the table by which elements are matched, which grows with
// the square of the length; no pod has lists that long.
const maxAligned = 500

func diffLists(ops *[]operation, path string, a, b []any) {
	if reflect.DeepEqual(a, b) {
		return
	}
	if len(a) > maxAligned || len(b) > maxAligned {
		*ops = append(*ops, operation{"replace", path, b})
		return
	}
	// common[i][j] is how many elements of a[i:] and b[j:] can be matched in order.
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if same(a[i], b[j]) {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		at := path + "/" + strconv.Itoa(j) // b[:j] is in place already
		switch {
		case i < len(a) && j < len(b) && same(a[i], b[j]):
			diff(ops, at, a[i], b[j])
			i, j = i+1, j+1
		case j < len(b) && (i == len(a) || common[i][j+1] >= common[i+1][j]):
			*ops = append(*ops, operation{"add", at, b[j]})
			j++
		default:
			*ops = append(*ops, operation{"remove", at, nil})
			i++
		}
	}
}
