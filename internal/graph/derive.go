// SPDX-License-Identifier: Apache-2.0

package graph

import "slices"

// nodes holds one compute node for each key of the input collection. Out is what
// a node keeps of its last run.
type nodes[K comparable, I, Out any] struct {
	core  *core
	op    op
	in    *Table[K, I]
	byKey map[K]uint32
	slots []slot[K, Out]
	free  []uint32
	dirty []uint32
	edges int
}

type slot[K comparable, Out any] struct {
	key  K
	id   uint32 // in the dependency graph
	used bool
	due  bool
	deps []uint32
	out  Out
}

func (n *nodes[K, I, Out]) init(c *core, o op, in *Table[K, I]) {
	n.core, n.op, n.in, n.byKey = c, o, in, map[K]uint32{}
}

// touch says that the input of that key was added, changed or deleted.
func (n *nodes[K, I, Out]) touch(k K) {
	i, ok := n.byKey[k]
	if !ok {
		if f := len(n.free); f > 0 {
			i = n.free[f-1]
			n.free = n.free[:f-1]
		} else {
			n.slots = append(n.slots, slot[K, Out]{})
			i = uint32(len(n.slots) - 1)
		}
		n.slots[i] = slot[K, Out]{key: k, id: n.core.deps.newNode(n.op, i), used: true}
		n.byKey[k] = i
	}
	n.mark(i)
}

func (n *nodes[K, I, Out]) mark(i uint32) {
	if s := &n.slots[i]; s.used && !s.due {
		s.due = true
		n.dirty = append(n.dirty, i)
	}
}

// runDue runs every node that is due, once, and forgets those whose input is
// gone after forget has withdrawn what they gave.
func (n *nodes[K, I, Out]) runDue(compute func(c *Ctx, s *slot[K, Out], in I), forget func(s *slot[K, Out])) {
	c, d := &n.core.ctx, &n.core.deps
	var s *slot[K, Out]
	c.core, c.op, c.key = n.core, n.op, func() any { return s.key }
	for _, i := range n.dirty {
		s = &n.slots[i]
		s.due = false
		e := n.in.entries[s.key]
		d.stamp += 2
		if e == nil || !e.present {
			forget(s)
			n.forgetNode(i)
			continue
		}
		n.op.info().computed++
		c.deps = c.deps[:0]
		compute(c, s, e.val)
		n.edges -= len(s.deps)
		s.deps = d.replace(s.id, s.deps, c.deps)
		n.edges += len(s.deps)
	}
	n.dirty = n.dirty[:0]
	c.op = nil
}

func (n *nodes[K, I, Out]) forgetNode(i uint32) {
	s := &n.slots[i]
	n.edges -= len(s.deps)
	n.core.deps.dropNode(s.id, s.deps)
	delete(n.byKey, s.key)
	*s = slot[K, Out]{}
	n.free = append(n.free, i)
}

func (n *nodes[K, I, Out]) dropAll() {
	for i := range n.slots {
		if n.slots[i].used {
			n.forgetNode(uint32(i))
		}
	}
	n.slots, n.free, n.dirty = nil, nil, nil
}

func (n *nodes[K, I, Out]) sizes(i *Info) { i.Nodes, i.Dependencies = len(n.byKey), n.edges }

// mapped is the collection of Map.
type mapped[K comparable, I, O any] struct {
	nodes[K, I, struct{}]
	opInfo
	out *Table[K, O]
	f   func(c *Ctx, k K, in I) (O, bool)
}

// Map derives a collection with at most one output for each input, under the
// same key. The function is pure: it reads its arguments and what it fetches,
// nothing else, and changes none of it. When it returns false the key is absent.
// Outputs for which equal holds change nothing further; nil compares with ==.
// The collection is filled by the next Commit.
func Map[K comparable, I, O any](g *Graph, name string, in Collection[K, I], f func(c *Ctx, k K, in I) (O, bool), equal func(a, b O) bool) *Table[K, O] {
	m := &mapped[K, I, O]{f: f}
	m.out = newTable[K](g.core, &m.opInfo, equal)
	m.init(g.core, m, in.table())
	g.add(m, "map", name, func(*core) { m.in.derive(m) })
	return m.out
}

func (m *mapped[K, I, O]) run(*core) {
	if len(m.dirty) == 0 {
		return
	}
	forget := func(s *slot[K, struct{}]) {
		if e := m.out.entries[s.key]; e != nil {
			m.out.unset(e)
		}
	}
	m.runDue(func(c *Ctx, s *slot[K, struct{}], in I) {
		if v, ok := m.f(c, s.key, in); ok {
			m.out.set(m.out.entry(s.key), v)
		} else {
			forget(s)
		}
	}, forget)
}

func (m *mapped[K, I, O]) info() *opInfo          { return &m.opInfo }
func (m *mapped[K, I, O]) publish(e Epoch) func() { return m.out.publish(e) }
func (m *mapped[K, I, O]) drop(*core)             { m.dropAll(); m.in.underive(m) }
func (m *mapped[K, I, O]) sizes(i *Info)          { m.nodes.sizes(i); i.Entries = m.out.size }

// flat is the collection of FlatMap. A node keeps the keys it has emitted.
type flat[K comparable, I any, K2 comparable, O any] struct {
	nodes[K, I, []K2]
	opInfo
	out     *Table[K2, O]
	f       func(c *Ctx, k K, in I, emit func(K2, O))
	given   map[K2][]gift[K, O] // by whom, in the order of the input keys
	touched map[K2]struct{}     // in this epoch
}

type gift[K comparable, O any] struct {
	by  K
	val O
	run uint64 // that gave it last
}

// FlatMap derives a collection with any number of outputs for each input, under
// keys of its own. When several inputs emit one key, the one whose key is least
// wins; when one input emits a key twice, its last value. For the rest see Map.
func FlatMap[K comparable, I any, K2 comparable, O any](g *Graph, name string, in Collection[K, I], f func(c *Ctx, k K, in I, emit func(K2, O)), equal func(a, b O) bool) *Table[K2, O] {
	m := &flat[K, I, K2, O]{f: f, given: map[K2][]gift[K, O]{}, touched: map[K2]struct{}{}}
	m.out = newTable[K2](g.core, &m.opInfo, equal)
	m.init(g.core, m, in.table())
	g.add(m, "flatmap", name, func(*core) { m.in.derive(m) })
	return m.out
}

func (m *flat[K, I, K2, O]) run(*core) {
	if len(m.dirty) == 0 {
		return
	}
	m.runDue(func(c *Ctx, s *slot[K, []K2], in I) {
		var now []K2
		m.f(c, s.key, in, func(k K2, v O) {
			if m.give(k, s.key, v) {
				now = append(now, k)
			}
		})
		m.takeBack(s, now)
	}, func(s *slot[K, []K2]) { m.takeBack(s, nil) })
	for k := range m.touched {
		if g := m.given[k]; len(g) > 0 {
			m.out.set(m.out.entry(k), g[0].val)
		} else if e := m.out.entries[k]; e != nil {
			m.out.unset(e)
		}
	}
	clear(m.touched)
}

// give records what an input emits and reports whether it is the first time in
// this run.
func (m *flat[K, I, K2, O]) give(k K2, by K, v O) bool {
	m.touched[k] = struct{}{}
	g, run := m.given[k], m.core.deps.stamp
	i, ok := m.find(g, by)
	if !ok {
		m.given[k] = slices.Insert(g, i, gift[K, O]{by, v, run})
		return true
	}
	first := g[i].run != run
	g[i].val, g[i].run = v, run
	return first
}

// takeBack withdraws what the node gave before and has not given again in this
// run.
func (m *flat[K, I, K2, O]) takeBack(s *slot[K, []K2], now []K2) {
	for _, k := range s.out {
		g := m.given[k]
		i, ok := m.find(g, s.key)
		if !ok || g[i].run == m.core.deps.stamp {
			continue
		}
		m.touched[k] = struct{}{}
		if len(g) == 1 {
			delete(m.given, k)
		} else {
			m.given[k] = slices.Delete(g, i, i+1)
		}
	}
	s.out = slices.Clip(now)
}

func (m *flat[K, I, K2, O]) find(g []gift[K, O], by K) (int, bool) {
	return slices.BinarySearchFunc(g, by, func(a gift[K, O], b K) int { return m.in.compare(&a.by, &b) })
}

func (m *flat[K, I, K2, O]) info() *opInfo          { return &m.opInfo }
func (m *flat[K, I, K2, O]) publish(e Epoch) func() { return m.out.publish(e) }
func (m *flat[K, I, K2, O]) drop(*core)             { m.dropAll(); m.in.underive(m) }
func (m *flat[K, I, K2, O]) sizes(i *Info)          { m.nodes.sizes(i); i.Entries = m.out.size }

// union is the collection of Union. A node keeps the entries it wants; an entry
// counts who wants it.
type union[K comparable, I any, K2 comparable] struct {
	nodes[K, I, []*entry[K2, struct{}]]
	opInfo
	out     *Table[K2, struct{}]
	f       func(c *Ctx, k K, in I, want func(K2))
	touched map[*entry[K2, struct{}]]uint64 // in this epoch, by the run that wanted it last
}

// Union derives the set of keys that any input wants: what is derived from it
// exists only while it is needed. For the rest see Map.
func Union[K comparable, I any, K2 comparable](g *Graph, name string, in Collection[K, I], f func(c *Ctx, k K, in I, want func(K2))) *Table[K2, struct{}] {
	m := &union[K, I, K2]{f: f, touched: map[*entry[K2, struct{}]]uint64{}}
	m.out = newTable[K2](g.core, &m.opInfo, func(struct{}, struct{}) bool { return true })
	m.init(g.core, m, in.table())
	g.add(m, "union", name, func(*core) { m.in.derive(m) })
	return m.out
}

func (m *union[K, I, K2]) run(*core) {
	if len(m.dirty) == 0 {
		return
	}
	release := func(s *slot[K, []*entry[K2, struct{}]]) {
		for _, e := range s.out {
			e.refs--
			m.touched[e] = 0
		}
	}
	var now []*entry[K2, struct{}] // reused: the node keeps an exact copy
	m.runDue(func(c *Ctx, s *slot[K, []*entry[K2, struct{}]], in I) {
		now = now[:0]
		run := m.core.deps.stamp
		m.f(c, s.key, in, func(k K2) {
			e := m.out.entry(k)
			if m.touched[e] != run {
				m.touched[e] = run
				e.refs++
				now = append(now, e)
			}
		})
		release(s)
		if !slices.Equal(s.out, now) {
			s.out = append(make([]*entry[K2, struct{}], 0, len(now)), now...)
		}
	}, release)
	for e := range m.touched {
		if e.refs > 0 {
			m.out.set(e, struct{}{})
		} else {
			m.out.unset(e)
		}
	}
	clear(m.touched)
}

func (m *union[K, I, K2]) info() *opInfo          { return &m.opInfo }
func (m *union[K, I, K2]) publish(e Epoch) func() { return m.out.publish(e) }
func (m *union[K, I, K2]) drop(*core)             { m.dropAll(); m.in.underive(m) }
func (m *union[K, I, K2]) sizes(i *Info)          { m.nodes.sizes(i); i.Entries = m.out.size }
