// SPDX-License-Identifier: Apache-2.0

package graph

// joined is the collection of Join.
type joined[K comparable, V any] struct {
	opInfo
	in    []*Table[K, V]
	out   *Table[K, V]
	dirty map[K]struct{}
}

// Join presents several collections as one. Of a key that more than one has,
// the value of the first in the list counts. Outputs for which equal holds
// change nothing further; nil compares with ==.
func Join[K comparable, V any](g *Graph, name string, equal func(a, b V) bool, in ...Collection[K, V]) *Table[K, V] {
	j := &joined[K, V]{dirty: map[K]struct{}{}}
	j.out = newTable[K](g.core, &j.opInfo, equal)
	for _, c := range in {
		j.in = append(j.in, c.table())
	}
	g.add(j, "join", name, func(*core) {
		for _, t := range j.in {
			t.derive(j)
		}
	})
	return j.out
}

func (j *joined[K, V]) touch(k K) { j.dirty[k] = struct{}{} }

func (j *joined[K, V]) run(*core) {
	j.computed += uint64(len(j.dirty))
	for k := range j.dirty {
		if v, ok := j.first(k); ok {
			j.out.set(j.out.entry(k), v)
		} else if e := j.out.entries[k]; e != nil {
			j.out.unset(e)
		}
	}
	clear(j.dirty)
}

func (j *joined[K, V]) first(k K) (V, bool) {
	for _, t := range j.in {
		if e := t.entries[k]; e != nil && e.present {
			return e.val, true
		}
	}
	var zero V
	return zero, false
}

func (j *joined[K, V]) info() *opInfo          { return &j.opInfo }
func (j *joined[K, V]) mark(uint32)            {}
func (j *joined[K, V]) publish(e Epoch) func() { return j.out.publish(e) }
func (j *joined[K, V]) sizes(i *Info)          { i.Entries = j.out.size }

func (j *joined[K, V]) drop(*core) {
	for _, t := range j.in {
		t.underive(j)
	}
	j.dirty = nil
}
