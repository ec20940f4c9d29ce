// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"fmt"
	"iter"
	"slices"
)

// Ctx is what a compute function fetches with. It is valid only during the call.
type Ctx struct {
	core *core
	op   op         // that runs
	key  func() any // the key it runs for, for messages
	deps []uint32   // fetched so far in this run
}

func (c *Ctx) node() string {
	return fmt.Sprintf("%q[%v]", c.op.info().name, c.key())
}

func (c *Ctx) record(cell uint32) {
	if e := &c.core.deps.cells[cell]; e.stamp != c.core.deps.stamp {
		e.stamp = c.core.deps.stamp
		c.deps = append(c.deps, cell)
	}
}

// check refuses to read what is not yet computed in this epoch.
func (c *Ctx) check(in *opInfo) {
	if c.op == nil {
		panic("graph: fetch outside of a compute function")
	}
	if in.seq >= c.op.info().seq {
		panic(fmt.Sprintf("fetches from %q, which was made after it", in.name))
	}
}

// Fetch returns the value of a key. The calling node runs again when that key is
// added, changed or deleted.
func Fetch[K comparable, V any](c *Ctx, coll Collection[K, V], k K) (V, bool) {
	t := coll.table()
	c.check(t.opInfo)
	e := t.entry(k)
	if e.cell == 0 {
		e.cell = t.core.deps.newCell(e)
	}
	c.record(e.cell)
	return e.val, e.present
}

// FetchAll returns all entries in key order. The calling node runs again when
// anything in the collection changes.
func FetchAll[K comparable, V any](c *Ctx, coll Collection[K, V]) iter.Seq2[K, V] {
	t := coll.table()
	c.check(t.opInfo)
	if t.allCell == 0 {
		t.allCell = t.core.deps.newCell(wholeTable[K, V]{t})
	}
	c.record(t.allCell)
	if t.all == nil {
		t.all = &ordered[K, V]{}
		for _, e := range t.entries {
			if e.present {
				t.all.add(e)
			}
		}
	}
	return each(t.all.sorted(t))
}

func each[K comparable, V any](list []*entry[K, V]) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, e := range list {
			if !yield(e.key, e.val) {
				return
			}
		}
	}
}

// Index finds the entries of a collection by something computed from them.
type Index[X, K comparable, V any] struct {
	t       *Table[K, V]
	name    string
	of      func(k K, v V) []X
	buckets map[X]*bucket[X, K, V]
}

// bucket is one key of an index. It exists while it holds entries or some node
// depends on it.
type bucket[X, K comparable, V any] struct {
	ordered[K, V]
	x    X
	in   *Index[X, K, V]
	cell uint32
}

// NewIndex makes an index of a collection. The function is pure; an entry is
// found under each of the keys it returns. An index lives as long as its
// collection.
func NewIndex[X, K comparable, V any](g *Graph, name string, coll Collection[K, V], of func(k K, v V) []X) *Index[X, K, V] {
	t := coll.table()
	i := &Index[X, K, V]{t: t, name: name, of: of, buckets: map[X]*bucket[X, K, V]{}}
	g.core.commitMu.Lock()
	defer g.core.commitMu.Unlock()
	g.core.mu.Lock()
	defer g.core.mu.Unlock()
	t.indexes = append(t.indexes, i)
	for _, e := range t.entries {
		if e.present {
			i.change(e, Change[K, V]{Kind: Added, Key: e.key, New: e.val})
		}
	}
	return i
}

func (i *Index[X, K, V]) change(e *entry[K, V], ch Change[K, V]) {
	var was, now []X
	if ch.Kind != Added {
		was = i.of(ch.Key, ch.Old)
	}
	if ch.Kind != Deleted {
		now = i.of(ch.Key, ch.New)
	}
	d := &i.t.core.deps
	for n, x := range was {
		if slices.Contains(was[:n], x) {
			continue
		}
		b := i.buckets[x]
		d.touch(b.cell)
		if !slices.Contains(now, x) {
			b.remove(i.t, e)
			b.collect()
		}
	}
	for n, x := range now {
		if slices.Contains(now[:n], x) || slices.Contains(was, x) {
			continue
		}
		b := i.bucket(x)
		b.add(e)
		d.touch(b.cell)
	}
}

func (i *Index[X, K, V]) bucket(x X) *bucket[X, K, V] {
	b := i.buckets[x]
	if b == nil {
		b = &bucket[X, K, V]{x: x, in: i}
		i.buckets[x] = b
	}
	return b
}

func (b *bucket[X, K, V]) collect() {
	if b.len() == 0 && b.cell == 0 {
		delete(b.in.buckets, b.x)
	}
}

func (b *bucket[X, K, V]) dropCell() {
	b.cell = 0
	b.collect()
}

// FetchIndex returns the entries under x in key order. The calling node runs
// again when one of them is added, changed or deleted.
func FetchIndex[X, K comparable, V any](c *Ctx, i *Index[X, K, V], x X) iter.Seq2[K, V] {
	c.check(i.t.opInfo)
	b := i.bucket(x)
	if b.cell == 0 {
		b.cell = i.t.core.deps.newCell(b)
	}
	c.record(b.cell)
	return each(b.sorted(i.t))
}

// Lookup returns the entries under x in key order, as of the last epoch, for use
// outside of compute functions.
func (i *Index[X, K, V]) Lookup(x X) []Entry[K, V] {
	i.t.core.mu.RLock()
	defer i.t.core.mu.RUnlock()
	b := i.buckets[x]
	if b == nil {
		return nil
	}
	out := make([]Entry[K, V], 0, b.len())
	for _, part := range [][]*entry[K, V]{b.list, b.pending} {
		for _, e := range part {
			out = append(out, Entry[K, V]{e.key, e.val})
		}
	}
	slices.SortFunc(out, func(a, b Entry[K, V]) int { return i.t.compare(&a.Key, &b.Key) })
	return out
}
