// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"slices"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/lateen-mesh/lateen/internal/xds"
)

// nameSet is an immutable sorted list of subscribed names, shared by all streams
// that subscribe to the same. The nil set is empty.
type nameSet struct {
	names []string
	hash  uint64
	refs  int // guarded by interner.mu
}

func (s *nameSet) all() []string {
	if s == nil {
		return nil
	}
	return s.names
}

func (s *nameSet) has(name string) bool {
	_, ok := slices.BinarySearch(s.all(), name)
	return ok
}

// covers says whether a resource of that name is subscribed to, by its name or,
// as a virtual host, by `<route configuration>/*`.
func (s *nameSet) covers(name string) bool {
	if s == nil {
		return false
	}
	if s.has(name) {
		return true
	}
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return false
	}
	// A binary search for name[:i]+"/*" without making the string.
	_, ok := slices.BinarySearchFunc(s.names, name[:i+1], func(have, prefix string) int {
		if rest, ok := strings.CutPrefix(have, prefix); ok {
			return strings.Compare(rest, "*")
		}
		return strings.Compare(have, prefix)
	})
	return ok
}

// isGroup says whether a name asks for all virtual hosts of a route configuration.
func isGroup(name string) bool { return strings.HasSuffix(name, "/*") }

// hasGroup says whether a set holds a resource that a group's name stands for.
func hasGroup(s xds.Set, group string) bool {
	prefix := strings.TrimSuffix(group, "*")
	i, _ := slices.BinarySearchFunc(s, prefix, func(r *xds.Resource, name string) int { return strings.Compare(r.Name, name) })
	for ; i < len(s) && strings.HasPrefix(s[i].Name, prefix); i++ {
		if strings.LastIndexByte(s[i].Name, '/') == len(prefix)-1 {
			return true
		}
	}
	return false
}

// interner holds one copy of each name set in use.
type interner struct {
	mu   sync.Mutex
	sets map[uint64][]*nameSet
}

// intern returns the set of these names, which must be sorted, each once. The
// slice may be kept. Each call is paired with one release.
func (in *interner) intern(names []string) *nameSet {
	if len(names) == 0 {
		return nil
	}
	var d xxhash.Digest
	d.Reset()
	for _, n := range names {
		_, _ = d.WriteString(n) // never fails
		_, _ = d.Write([]byte{0})
	}
	hash := d.Sum64()
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, s := range in.sets[hash] {
		if slices.Equal(s.names, names) {
			s.refs++
			return s
		}
	}
	s := &nameSet{names: slices.Clip(names), hash: hash, refs: 1}
	if in.sets == nil {
		in.sets = map[uint64][]*nameSet{}
	}
	in.sets[hash] = append(in.sets[hash], s)
	return s
}

func (in *interner) release(s *nameSet) {
	if s == nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if s.refs--; s.refs > 0 {
		return
	}
	rest := slices.DeleteFunc(in.sets[s.hash], func(o *nameSet) bool { return o == s })
	if len(rest) == 0 {
		delete(in.sets, s.hash)
	} else {
		in.sets[s.hash] = rest
	}
}

// edit returns the sorted names with some added and some removed, and those that
// were not there before.
func edit(names, add, remove []string) (now, fresh []string) {
	fresh = slices.Clone(add)
	slices.Sort(fresh)
	fresh = slices.Compact(fresh)
	fresh = slices.DeleteFunc(fresh, func(n string) bool {
		_, ok := slices.BinarySearch(names, n)
		return ok
	})
	now = make([]string, 0, len(names)+len(fresh))
	now = append(append(now, names...), fresh...)
	slices.Sort(now)
	if len(remove) > 0 {
		gone := make(map[string]bool, len(remove))
		for _, n := range remove {
			gone[n] = true
		}
		now = slices.DeleteFunc(now, func(n string) bool { return gone[n] })
	}
	return now, fresh
}
