// SPDX-License-Identifier: Apache-2.0

package graph

// Source is a collection written from outside.
type Source[K comparable, V any] struct {
	*Table[K, V]
	opInfo opInfo
	staged map[K]staged[V] // guarded by core.stageMu
}

type staged[V any] struct {
	val     V
	present bool
}

// NewSource makes a source. Values for which equal holds are one and the same to
// everything derived from it; nil compares with ==.
func NewSource[K comparable, V any](g *Graph, name string, equal func(a, b V) bool) *Source[K, V] {
	s := &Source[K, V]{staged: map[K]staged[V]{}}
	s.Table = newTable[K](g.core, &s.opInfo, equal)
	g.add(s, "source", name, nil)
	return s
}

// Set stages a value, which must not be changed afterwards. The next Commit
// applies it; of several for one key, the last.
func (s *Source[K, V]) Set(k K, v V) { s.stage(k, staged[V]{v, true}) }

// Delete stages the removal of a key.
func (s *Source[K, V]) Delete(k K) { s.stage(k, staged[V]{}) }

func (s *Source[K, V]) stage(k K, v staged[V]) {
	s.core.stageMu.Lock()
	defer s.core.stageMu.Unlock()
	s.staged[k] = v
}

func (s *Source[K, V]) run(c *core) {
	c.stageMu.Lock()
	batch := s.staged
	if len(batch) > 0 {
		s.staged = map[K]staged[V]{}
	}
	c.stageMu.Unlock()
	for k, v := range batch {
		s.opInfo.computed++
		switch e := s.entries[k]; {
		case v.present:
			s.set(s.entry(k), v.val)
		case e != nil:
			s.unset(e)
		}
	}
}

func (s *Source[K, V]) info() *opInfo { return &s.opInfo }
func (s *Source[K, V]) mark(uint32)   {}
func (s *Source[K, V]) drop(*core)    { s.entries, s.size = nil, 0 }
func (s *Source[K, V]) sizes(i *Info) { i.Entries = s.size }
