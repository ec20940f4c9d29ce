// SPDX-License-Identifier: Apache-2.0

package graph

// depGraph records which compute nodes have fetched which cells. A cell is
// something that can be fetched and change: a key of a collection, a key of an
// index, a whole collection. Nodes and cells are numbered, so that an edge costs
// four bytes at each end; cell 0 is no cell.
type depGraph struct {
	nodes     []nodeRef
	freeNodes []uint32
	cells     []cell
	freeCells []uint32
	stamp     uint64 // of the current run; odd steps mark cells kept from the run before
	changed   bool   // whether any collection changed in this epoch
}

// nodeRef finds the compute node: a slot of a collection.
type nodeRef struct {
	op   op
	slot uint32
}

type cell struct {
	users nodeSet
	stamp uint64
	owner interface{ dropCell() }
}

func (d *depGraph) init() { d.cells = make([]cell, 1) }

func (d *depGraph) newNode(o op, slot uint32) uint32 {
	if n := len(d.freeNodes); n > 0 {
		id := d.freeNodes[n-1]
		d.freeNodes = d.freeNodes[:n-1]
		d.nodes[id] = nodeRef{o, slot}
		return id
	}
	d.nodes = append(d.nodes, nodeRef{o, slot})
	return uint32(len(d.nodes) - 1)
}

func (d *depGraph) newCell(owner interface{ dropCell() }) uint32 {
	if n := len(d.freeCells); n > 0 {
		id := d.freeCells[n-1]
		d.freeCells = d.freeCells[:n-1]
		d.cells[id].owner = owner
		return id
	}
	d.cells = append(d.cells, cell{owner: owner})
	return uint32(len(d.cells) - 1)
}

// touch marks every node that has fetched the cell.
func (d *depGraph) touch(id uint32) {
	if id == 0 {
		return
	}
	for n := range d.cells[id].users.all() {
		ref := d.nodes[n]
		ref.op.mark(ref.slot)
	}
}

// replace makes now the dependencies of the node in place of old, and returns
// the slice to keep. The cells of now carry the current stamp.
func (d *depGraph) replace(node uint32, old, now []uint32) []uint32 {
	same := len(old) == len(now)
	for i, id := range old {
		same = same && now[i] == id
		if c := &d.cells[id]; c.stamp == d.stamp {
			c.stamp = d.stamp + 1
		} else {
			d.unuse(id, node)
		}
	}
	if same {
		return old
	}
	for _, id := range now {
		if c := &d.cells[id]; c.stamp == d.stamp {
			c.users.add(node)
		}
	}
	if len(now) == 0 {
		return nil
	}
	return append(make([]uint32, 0, len(now)), now...)
}

func (d *depGraph) unuse(id, node uint32) {
	c := &d.cells[id]
	c.users.remove(node)
	if c.users.len() == 0 {
		c.owner.dropCell()
		*c = cell{}
		d.freeCells = append(d.freeCells, id)
	}
}

// dropNode forgets a node and its dependencies.
func (d *depGraph) dropNode(node uint32, deps []uint32) {
	for _, id := range deps {
		d.unuse(id, node)
	}
	d.nodes[node] = nodeRef{}
	d.freeNodes = append(d.freeNodes, node)
}

// nodeSet is a set of node numbers: a slice while small, a map beyond.
type nodeSet struct {
	few  []uint32
	many map[uint32]struct{}
}

const fewNodes = 32

func (s *nodeSet) add(n uint32) {
	switch {
	case s.many != nil:
		s.many[n] = struct{}{}
	case len(s.few) < fewNodes:
		s.few = append(s.few, n)
	default:
		s.many = make(map[uint32]struct{}, 2*fewNodes)
		for _, m := range s.few {
			s.many[m] = struct{}{}
		}
		s.many[n] = struct{}{}
		s.few = nil
	}
}

func (s *nodeSet) remove(n uint32) {
	if s.many != nil {
		delete(s.many, n)
		return
	}
	for i, m := range s.few {
		if m == n {
			last := len(s.few) - 1
			s.few[i] = s.few[last]
			s.few = s.few[:last]
			return
		}
	}
}

func (s *nodeSet) len() int { return len(s.few) + len(s.many) }

func (s *nodeSet) all() func(yield func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for _, n := range s.few {
			if !yield(n) {
				return
			}
		}
		for n := range s.many {
			if !yield(n) {
				return
			}
		}
	}
}
