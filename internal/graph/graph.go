// SPDX-License-Identifier: Apache-2.0

// Package graph keeps derived collections up to date incrementally.
//
// A collection is a keyed set of values. Sources are written from outside;
// derived collections are pure functions of an input collection and of whatever
// they fetch from other collections. Every fetch is recorded as a dependency,
// also one that finds nothing. Changes are staged on sources and take effect in
// epochs: [Graph.Commit] marks what is affected, recomputes each affected key
// once in topological order, makes the new state visible at one moment and then
// tells the subscribers. A result equal to the one before goes no further.
//
//	services := graph.NewSource[Key, *Service](g, "services", nil)
//	byNS := graph.NewIndex(g, "services/namespace", services, func(k Key, _ *Service) []string { return []string{k.Namespace} })
//	sizes := graph.Map(g, "sizes", namespaces, func(c *graph.Ctx, ns string, _ Namespace) (int, bool) {
//		n := 0
//		for range graph.FetchIndex(c, byNS, ns) {
//			n++
//		}
//		return n, true
//	}, nil)
//
// Keys are made of strings, integers and booleans (structs and arrays of them
// too), so that they have an order: everything a compute function iterates comes
// in key order, and the same inputs give the same output on every replica.
package graph

import (
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Epoch counts the commits that changed something, from 1.
type Epoch uint64

// Graph is a handle on a set of collections, and the lifetime of those made
// through it: see Scope. All methods may be called from any goroutine, but none
// from within a compute function.
type Graph struct {
	core   *core
	mine   []op // guarded by core.commitMu
	closed bool
}

// core is what all scopes of one graph share.
// Lock order: commitMu, mu, stageMu.
type core struct {
	commitMu sync.Mutex   // held for a whole Commit, subscribers included, and to add or drop collections
	mu       sync.RWMutex // guards all values; written only by the holder of commitMu
	epoch    Epoch
	ops      []op // in creation order, which is a topological order
	nextSeq  int
	deps     depGraph
	ctx      Ctx

	stageMu sync.Mutex // guards what the sources have staged
}

// op is one collection with the way it is computed: source, map, flat map, union.
type op interface {
	info() *opInfo
	mark(slot uint32)       // the compute node in that slot has to run again
	run(c *core)            // applies what is staged, runs what is marked
	publish(e Epoch) func() // calls the subscribers with this epoch's changes; nil when there are none
	drop(c *core)           // forgets everything and unhooks from the inputs
}

// opInfo is what every collection has besides its types.
type opInfo struct {
	name      string
	kind      string
	seq       int // position in creation order, never reused
	users     int // collections derived from this one
	computed  uint64
	lastTook  time.Duration
	lastEpoch Epoch
}

// New returns an empty graph.
func New() *Graph {
	c := &core{}
	c.deps.init()
	return &Graph{core: c}
}

// Scope returns a handle on the same graph whose collections can be dropped
// together by Close.
func (g *Graph) Scope() *Graph { return &Graph{core: g.core} }

// Close drops the collections made through this handle. It panics when another
// collection is still derived from one of them: close that one's scope first.
func (g *Graph) Close() {
	c := g.core
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.closed {
		return
	}
	g.closed = true
	dropped := map[op]bool{}
	for i := len(g.mine) - 1; i >= 0; i-- {
		o := g.mine[i]
		if n := o.info().users; n > 0 {
			panic(fmt.Sprintf("graph: collection %q is dropped while %d others are derived from it", o.info().name, n))
		}
		o.drop(c)
		dropped[o] = true
	}
	kept := c.ops[:0]
	for _, o := range c.ops {
		if !dropped[o] {
			kept = append(kept, o)
		}
	}
	clear(c.ops[len(kept):])
	c.ops = kept
	g.mine = nil
}

// add hooks a new collection in. The hook runs under the locks; it marks what
// the inputs already hold, which the next Commit computes.
func (g *Graph) add(o op, kind, name string, hook func(c *core)) {
	c := g.core
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.closed {
		panic(fmt.Sprintf("graph: collection %q is made in a closed scope", name))
	}
	in := o.info()
	in.name, in.kind, in.seq = name, kind, c.nextSeq
	c.nextSeq++
	c.ops = append(c.ops, o)
	g.mine = append(g.mine, o)
	if hook != nil {
		hook(c)
	}
}

// Commit applies everything staged so far, recomputes what depends on it and
// publishes the result as one epoch. It returns the epoch that is now visible;
// when nothing was staged or nothing changed, that is the one before. Subscribers
// have been called when it returns. It must not be called by a subscriber.
func (g *Graph) Commit() Epoch {
	c := g.core
	c.commitMu.Lock()
	defer c.commitMu.Unlock()
	epoch, calls := c.recompute()
	for _, call := range calls {
		call()
	}
	return epoch
}

// recompute runs one epoch and returns the calls to make to subscribers.
func (c *core) recompute() (Epoch, []func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() {
		if r := recover(); r != nil {
			if c.ctx.op == nil {
				panic(r)
			}
			panic(fmt.Sprintf("graph: computing %s: %v\n\n%s", c.ctx.node(), r, debug.Stack()))
		}
	}()
	c.deps.changed = false
	next := c.epoch + 1
	for _, o := range c.ops {
		in := o.info()
		before, start := in.computed, time.Now()
		o.run(c)
		if in.computed != before {
			in.lastTook, in.lastEpoch = time.Since(start), next
		}
	}
	c.ctx.op = nil
	if !c.deps.changed {
		return c.epoch, nil
	}
	c.epoch = next
	var calls []func()
	for _, o := range c.ops {
		if call := o.publish(next); call != nil {
			calls = append(calls, call)
		}
	}
	return next, calls
}

// Epoch returns the epoch that is visible now.
func (g *Graph) Epoch() Epoch {
	g.core.mu.RLock()
	defer g.core.mu.RUnlock()
	return g.core.epoch
}

// Info describes one collection, for a debug endpoint.
type Info struct {
	Name         string        `json:"name"`
	Kind         string        `json:"kind"` // source, map, flatmap, union, join
	Entries      int           `json:"entries"`
	Nodes        int           `json:"nodes"`        // compute nodes, one for each input key
	Dependencies int           `json:"dependencies"` // recorded fetches of all nodes
	Computed     uint64        `json:"computed"`     // compute calls since the start
	LastEpoch    Epoch         `json:"lastEpoch"`    // epoch of the last computation
	LastTook     time.Duration `json:"lastTookNanos"`
}

// Dump describes all collections in topological order.
func (g *Graph) Dump() []Info {
	c := g.core
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]Info, 0, len(c.ops))
	for _, o := range c.ops {
		in := o.info()
		i := Info{Name: in.name, Kind: in.kind, Computed: in.computed, LastEpoch: in.lastEpoch, LastTook: in.lastTook}
		o.(interface{ sizes(*Info) }).sizes(&i)
		out = append(out, i)
	}
	return out
}
