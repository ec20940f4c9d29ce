// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"fmt"
	"reflect"
	"slices"
)

// Collection is a keyed set of values, a *Source or a derived *Table.
type Collection[K comparable, V any] interface {
	table() *Table[K, V]
}

// Table is a collection as the world outside the compute functions sees it: as
// of the last epoch.
type Table[K comparable, V any] struct {
	core    *core
	opInfo  *opInfo
	equal   func(a, b V) bool
	compare func(a, b *K) int

	entries   map[K]*entry[K, V]
	size      int                     // entries that are present
	all       *ordered[K, V]          // made by the first FetchAll
	allCell   uint32                  // fetched as a whole
	consumers []interface{ touch(K) } // collections derived from this one
	indexes   []changeSink[K, V]
	subs      []*subscription[K, V]
	changes   []Change[K, V] // of this epoch, when there are subscribers
}

// changeSink is told of every change before it is made.
type changeSink[K comparable, V any] interface {
	change(e *entry[K, V], c Change[K, V])
}

// entry is one key of a collection. An absent entry exists only while some node
// depends on its absence.
type entry[K comparable, V any] struct {
	key     K
	val     V
	table   *Table[K, V]
	cell    uint32
	refs    int32 // of a union: how many want it
	present bool
}

// Kind says what happened to a key.
type Kind uint8

// The kinds of change.
const (
	Added Kind = iota
	Updated
	Deleted
)

// Change is what one epoch did to one key of a collection.
type Change[K comparable, V any] struct {
	Kind Kind
	Key  K
	Old  V // zero when added
	New  V // zero when deleted
}

// Entry is one key and its value.
type Entry[K comparable, V any] struct {
	Key   K
	Value V
}

type subscription[K comparable, V any] struct {
	call func(Epoch, []Change[K, V])
}

func newTable[K comparable, V any](c *core, in *opInfo, equal func(a, b V) bool) *Table[K, V] {
	if equal == nil {
		if t := reflect.TypeFor[V](); !t.Comparable() {
			panic(fmt.Sprintf("graph: values of type %v need an equal function", t))
		}
		equal = func(a, b V) bool { return any(a) == any(b) }
	}
	return &Table[K, V]{core: c, opInfo: in, equal: equal, compare: compareFor[K](), entries: map[K]*entry[K, V]{}}
}

func (t *Table[K, V]) table() *Table[K, V] { return t }

// Name returns the name the collection was made with.
func (t *Table[K, V]) Name() string { return t.opInfo.name }

// Get returns the value of a key.
func (t *Table[K, V]) Get(k K) (V, bool) {
	t.core.mu.RLock()
	defer t.core.mu.RUnlock()
	if e := t.entries[k]; e != nil && e.present {
		return e.val, true
	}
	var zero V
	return zero, false
}

// Len returns the number of keys.
func (t *Table[K, V]) Len() int {
	t.core.mu.RLock()
	defer t.core.mu.RUnlock()
	return t.size
}

// List returns all entries in key order.
func (t *Table[K, V]) List() []Entry[K, V] {
	t.core.mu.RLock()
	defer t.core.mu.RUnlock()
	return t.list()
}

func (t *Table[K, V]) list() []Entry[K, V] {
	out := make([]Entry[K, V], 0, t.size)
	for _, e := range t.entries {
		if e.present {
			out = append(out, Entry[K, V]{e.key, e.val})
		}
	}
	slices.SortFunc(out, func(a, b Entry[K, V]) int { return t.compare(&a.Key, &b.Key) })
	return out
}

// Subscribe has call called after every epoch that changed the collection, once,
// with all its changes, each key once, in no order. The call is made by the
// goroutine that commits: it may read any collection and stage changes, but must
// neither commit nor wait for one. The slice may be kept. The returned function
// ends the subscription.
func (t *Table[K, V]) Subscribe(call func(Epoch, []Change[K, V])) (cancel func()) {
	s := &subscription[K, V]{call}
	t.core.mu.Lock()
	defer t.core.mu.Unlock()
	t.subs = append(slices.Clip(t.subs), s)
	return func() {
		t.core.mu.Lock()
		defer t.core.mu.Unlock()
		t.subs = slices.DeleteFunc(slices.Clone(t.subs), func(o *subscription[K, V]) bool { return o == s })
	}
}

// entry returns the entry of a key, made absent if need be.
func (t *Table[K, V]) entry(k K) *entry[K, V] {
	e := t.entries[k]
	if e == nil {
		e = &entry[K, V]{key: k, table: t}
		t.entries[k] = e
	}
	return e
}

// set gives a key its value and marks everything that depends on it. At most one
// of set and unset is called for a key in an epoch.
func (t *Table[K, V]) set(e *entry[K, V], v V) {
	ch := Change[K, V]{Kind: Added, Key: e.key, New: v}
	if e.present {
		if t.equal(e.val, v) {
			return
		}
		ch.Kind, ch.Old = Updated, e.val
	} else {
		t.size++
	}
	t.apply(e, ch)
	e.val, e.present = v, true
	if ch.Kind == Added && t.all != nil {
		t.all.add(e)
	}
}

// unset removes a key.
func (t *Table[K, V]) unset(e *entry[K, V]) {
	if e.present {
		t.size--
		t.apply(e, Change[K, V]{Kind: Deleted, Key: e.key, Old: e.val})
		if t.all != nil {
			t.all.remove(t, e)
		}
		var zero V
		e.val, e.present = zero, false
	}
	e.collect()
}

func (t *Table[K, V]) apply(e *entry[K, V], ch Change[K, V]) {
	d := &t.core.deps
	d.changed = true
	for _, i := range t.indexes {
		i.change(e, ch)
	}
	d.touch(e.cell)
	d.touch(t.allCell)
	for _, c := range t.consumers {
		c.touch(e.key)
	}
	if len(t.subs) > 0 {
		t.changes = append(t.changes, ch)
	}
}

// collect forgets an entry that nobody needs.
func (e *entry[K, V]) collect() {
	if !e.present && e.cell == 0 && e.refs == 0 && e.table.entries[e.key] == e {
		delete(e.table.entries, e.key)
	}
}

func (e *entry[K, V]) dropCell() {
	e.cell = 0
	e.collect()
}

// wholeTable owns the cell of a collection fetched as a whole.
type wholeTable[K comparable, V any] struct{ t *Table[K, V] }

func (w wholeTable[K, V]) dropCell() { w.t.allCell = 0 }

func (t *Table[K, V]) publish(e Epoch) func() {
	if len(t.changes) == 0 {
		return nil
	}
	changes, subs := t.changes, t.subs
	t.changes = nil
	return func() {
		for _, s := range subs {
			s.call(e, changes)
		}
	}
}

// derive hooks a collection computed from this one in and marks what is there.
func (t *Table[K, V]) derive(c interface{ touch(K) }) {
	t.opInfo.users++
	t.consumers = append(t.consumers, c)
	for _, e := range t.list() {
		c.touch(e.Key)
	}
}

func (t *Table[K, V]) underive(c interface{ touch(K) }) {
	t.opInfo.users--
	t.consumers = slices.DeleteFunc(t.consumers, func(o interface{ touch(K) }) bool { return o == c })
}
