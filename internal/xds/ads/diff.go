// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"encoding/binary"
	"encoding/hex"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/lateen-mesh/lateen/internal/xds"
)

// same says whether two sets are one and the same slice.
func same(a, b xds.Set) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// equal says whether two sets hold the same resources.
func equal(a, b xds.Set) bool { return same(a, b) || slices.Equal(a, b) }

// diff walks two sets: put gets each resource of now that is not in old as it
// is, gone each of old whose name is not in now.
func diff(old, now xds.Set, put, gone func(*xds.Resource)) {
	if same(old, now) {
		return
	}
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(old) > 0 && len(now) > 0 && old[0] == now[0]: // nearly all, without looking at them
			old, now = old[1:], now[1:]
		case len(old) == 0 || len(now) > 0 && now[0].Name < old[0].Name:
			put(now[0])
			now = now[1:]
		case len(now) == 0 || old[0].Name < now[0].Name:
			gone(old[0])
			old = old[1:]
		default:
			// What a reconnecting client says it holds is known by its version only.
			if old[0].Version != now[0].Version {
				put(now[0])
			}
			old, now = old[1:], now[1:]
		}
	}
}

// keep returns now with what old has besides: an update without removals.
func keep(old, now xds.Set) xds.Set {
	extra := 0
	diff(old, now, func(*xds.Resource) {}, func(*xds.Resource) { extra++ })
	if extra == 0 {
		return now
	}
	out := make(xds.Set, 0, len(now)+extra)
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(old) == 0 || len(now) > 0 && now[0].Name < old[0].Name:
			out, now = append(out, now[0]), now[1:]
		case len(now) == 0 || old[0].Name < now[0].Name:
			out, old = append(out, old[0]), old[1:]
		default:
			out, old, now = append(out, now[0]), old[1:], now[1:]
		}
	}
	return out
}

// overlay returns old with the named resources as they are in now.
func overlay(old, now xds.Set, names []string) xds.Set {
	var picked xds.Set
	for _, n := range names {
		if r := now.Get(n); r != nil {
			picked = append(picked, r)
		}
	}
	slices.SortFunc(picked, byName)
	return keep(old, picked)
}

// without returns a set without the sorted names.
func without(s xds.Set, names []string) xds.Set {
	gone := func(r *xds.Resource) bool {
		_, ok := slices.BinarySearch(names, r.Name)
		return ok
	}
	if len(names) == 0 || !slices.ContainsFunc(s, gone) {
		return s
	}
	return slices.DeleteFunc(slices.Clone(s), gone)
}

func byName(a, b *xds.Resource) int {
	if a.Name < b.Name {
		return -1
	}
	if a.Name > b.Name {
		return 1
	}
	return 0
}

// setVersion is a hash over the names and versions of resources, the same on
// every replica.
func setVersion(s xds.Set, covers func(name string) bool) string {
	var d xxhash.Digest
	d.Reset()
	for _, r := range s {
		if covers(r.Name) {
			_, _ = d.WriteString(r.Name) // never fails
			_, _ = d.Write([]byte{0})
			_, _ = d.WriteString(r.Version)
		}
	}
	var sum [8]byte
	binary.BigEndian.PutUint64(sum[:], d.Sum64())
	return hex.EncodeToString(sum[:])
}
