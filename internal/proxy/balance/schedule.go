// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"math"
	"sync"
)

// schedule is an earliest-deadline-first queue: an entry of weight w is served
// every 1/w units of its virtual time, so entries are served in proportion to
// their weights and as evenly spread as possible (Envoy's EdfScheduler).
type schedule struct {
	mu   sync.Mutex // guards all fields
	heap []entry    // min-heap by (deadline, index)
	now  float64
}

type entry struct {
	deadline float64
	index    int32
}

// newSchedule starts every entry at a random point of its own period, so that
// proxies that start together do not serve hosts in step.
func newSchedule(n int, rand func() uint64, weight func(int) float64) *schedule {
	s := &schedule{heap: make([]entry, n)}
	for i := range s.heap {
		u := float64(rand()>>11) / (1 << 53)
		s.heap[i] = entry{deadline: u / weight(i), index: int32(i)}
	}
	for i := n/2 - 1; i >= 0; i-- {
		s.down(i)
	}
	return s
}

// first is the index of the entry to serve now. Callers hold mu.
func (s *schedule) first() int { return int(s.heap[0].index) }

// requeue moves the served entry one period of weight w on. Callers hold mu.
func (s *schedule) requeue(w float64) {
	s.now = s.heap[0].deadline
	s.heap[0].deadline = s.now + 1/w
	s.down(0)
}

func (s *schedule) less(a, b int) bool {
	x, y := s.heap[a], s.heap[b]
	return x.deadline < y.deadline || x.deadline == y.deadline && x.index < y.index
}

func (s *schedule) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(s.heap) {
			return
		}
		if c+1 < len(s.heap) && s.less(c+1, c) {
			c++
		}
		if !s.less(c, i) {
			return
		}
		s.heap[i], s.heap[c] = s.heap[c], s.heap[i]
		i = c
	}
}

// discount is least request's effective weight.
func discount(weight float64, active int64, bias float64) float64 {
	if bias == 0 || active <= 0 {
		return weight
	}
	d := float64(active + 1)
	if bias != 1 {
		d = math.Pow(d, bias)
	}
	return max(weight/d, 1e-9)
}

// Weighted serves the indices 0..n-1 in proportion to fixed weights, for
// choosing among localities. An index of weight 0 is never served.
type Weighted struct {
	s       *schedule
	index   []int32
	weights []float64
}

// NewWeighted makes a chooser; rand is as in Options.
func NewWeighted(weights []uint32, rand func() uint64) *Weighted {
	w := &Weighted{}
	for i, v := range weights {
		if v > 0 {
			w.index = append(w.index, int32(i))
			w.weights = append(w.weights, float64(v))
		}
	}
	w.s = newSchedule(len(w.index), rand, func(i int) float64 { return w.weights[i] })
	return w
}

// Pick gives the next index, -1 when every weight is 0. It is safe for
// concurrent use and allocates nothing.
func (w *Weighted) Pick() int {
	if len(w.index) == 0 {
		return -1
	}
	w.s.mu.Lock()
	i := w.s.first()
	w.s.requeue(w.weights[i])
	w.s.mu.Unlock()
	return int(w.index[i])
}
