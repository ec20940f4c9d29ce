// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// of makes a priority of 100 hosts.
func of(healthy, degraded int) availability {
	return availability{factor: 140, total: 100, hosts: 100, healthy: uint64(healthy), degraded: uint64(degraded), healthyHosts: healthy + degraded}
}

// Envoy's documentation rounds some of these shares (7/93, 36/36/28); the
// expected values are those of its integer arithmetic, whose rounding rest goes
// to the first available priority.
func TestSpreadLoadIsEnvoys(t *testing.T) {
	for _, tt := range []struct {
		name      string
		healthy   []int
		threshold uint32
		load      []uint32
		panic     []bool
	}{
		{"first priority suffices", []int{72, 72}, 50, []uint32{100, 0}, []bool{false, false}},
		{"one percent spills", []int{71, 71}, 50, []uint32{99, 1}, []bool{false, false}},
		{"half", []int{50, 50}, 50, []uint32{70, 30}, []bool{false, false}},
		{"quarter, second whole", []int{25, 100}, 50, []uint32{35, 65}, []bool{false, false}},
		{"total panic spreads by hosts", []int{25, 25}, 50, []uint32{50, 50}, []bool{true, true}},
		{"one in panic", []int{5, 65}, 50, []uint32{8, 92}, []bool{true, false}},
		{"three priorities", []int{25, 25, 100}, 50, []uint32{35, 35, 30}, []bool{false, false, false}},
		{"three, total 98, no panic threshold", []int{25, 25, 20}, 0, []uint32{37, 35, 28}, []bool{false, false, false}},
		{"nobody, panic off", []int{0, 0}, 0, []uint32{100, 0}, []bool{false, false}},
		{"nobody, panic on", []int{0, 0}, 50, []uint32{50, 50}, []bool{true, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			av := make([]availability, len(tt.healthy))
			for i, h := range tt.healthy {
				av[i] = of(h, 0)
			}
			var load []uint32
			var panics []bool
			for _, s := range spreadLoad(av, tt.threshold) {
				load = append(load, s.healthy)
				panics = append(panics, s.panic)
			}
			if d := cmp.Diff(tt.load, load); d != "" {
				t.Errorf("load (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.panic, panics); d != "" {
				t.Errorf("panic (-want +got):\n%s", d)
			}
		})
	}
}

// The example in the comment of Envoy's recalculatePerPriorityState: with a
// factor of 1, health 10/20/10 and degraded 20/10/0 get 16/28/14 and 28/14/0.
func TestSpreadLoadOverDegradedHosts(t *testing.T) {
	av := []availability{of(10, 20), of(20, 10), of(10, 0)}
	for i := range av {
		av[i].factor = 100
	}
	want := []share{{healthy: 16, degraded: 28}, {healthy: 28, degraded: 14}, {healthy: 14}}
	if d := cmp.Diff(want, spreadLoad(av, 0), cmp.AllowUnexported(share{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestSpreadLoadOfAnEmptyPriority(t *testing.T) {
	got := spreadLoad([]availability{{factor: 140}, of(100, 0)}, 50)
	if got[0].healthy != 0 || got[1].healthy != 100 || got[0].panic {
		t.Errorf("got %+v, want everything on the second priority", got)
	}
}
