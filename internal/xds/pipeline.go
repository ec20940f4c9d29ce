// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"slices"
	"sync"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/graph"
)

// Pipeline is the way from configuration objects to the views of proxies. It
// holds one class as long as somebody holds on to it.
type Pipeline struct {
	graph   *graph.Graph
	sources *sources
	views   *views

	mu      sync.Mutex // serializes changes and commits
	holders map[Class]int
	changed func(Class, *View)
}

// NewPipeline makes an empty pipeline. When a commit changes the view of a
// class that is held, changed is called with it, before the commit returns;
// it must not call the pipeline.
func NewPipeline(changed func(Class, *View)) *Pipeline {
	g := graph.New()
	p := &Pipeline{graph: g, sources: newSources(g), holders: map[Class]int{}, changed: changed}
	p.views = newViews(g, p.sources, NewInterner())
	p.views.sets.Subscribe(func(e graph.Epoch, changes []graph.Change[Class, *viewSets]) {
		for _, c := range changes {
			if c.Kind != graph.Deleted && p.changed != nil {
				p.changed(c.Key, viewOf(e, c.New))
			}
		}
	})
	return p
}

func viewOf(e graph.Epoch, s *viewSets) *View {
	v := &View{Epoch: uint64(e), Sets: make(map[string]Set, len(viewTypes))}
	for i, t := range viewTypes {
		v.Sets[t] = s[i]
	}
	return v
}

// Apply puts one consistent batch of changes into force and returns the epoch
// that has it.
func (p *Pipeline) Apply(events []config.Event) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sources.stage(events)
	return uint64(p.graph.Commit())
}

// Hold keeps the view of a class up to date until Release is called as often
// as Hold. When the class was not held before, first is called with its view;
// no change can come between that call and those to changed. Like changed, it
// must not call the pipeline.
func (p *Pipeline) Hold(c Class, first func(*View)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holders[c]++
	if p.holders[c] > 1 {
		return
	}
	p.sources.classes.Set(c, true)
	p.graph.Commit()
	sets, ok := p.views.sets.Get(c)
	if !ok {
		sets = &viewSets{}
	}
	first(viewOf(p.graph.Epoch(), sets))
}

// Release undoes one Hold. When nobody holds the class any more, last is called.
func (p *Pipeline) Release(c Class, last func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holders[c]--; p.holders[c] > 0 {
		return
	}
	delete(p.holders, c)
	p.sources.classes.Delete(c)
	p.graph.Commit()
	last()
}

// View returns the current view of a class that is held, or nil.
func (p *Pipeline) View(c Class) *View {
	p.mu.Lock()
	defer p.mu.Unlock()
	sets, ok := p.views.sets.Get(c)
	if !ok {
		return nil
	}
	return viewOf(p.graph.Epoch(), sets)
}

// Origin returns the provenance of a resource that some held class has: the
// path of the object it was made from, or "" if it has none.
func (p *Pipeline) Origin(typ, name string) string {
	i := slices.Index(viewTypes[:], typ)
	if i < 0 {
		return ""
	}
	for _, e := range p.views.sets.List() {
		if r := e.Value[i].Get(name); r != nil {
			return originOf(r)
		}
	}
	return ""
}

// Epoch is the epoch in force.
func (p *Pipeline) Epoch() uint64 { return uint64(p.graph.Epoch()) }

// Dump describes the graph, for a debug endpoint.
func (p *Pipeline) Dump() []graph.Info { return p.graph.Dump() }
