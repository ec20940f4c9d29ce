// SPDX-License-Identifier: Apache-2.0

package cluster

// availability counts one priority: weights (or numbers) of its hosts.
type availability struct {
	factor                   uint32 // overprovisioning in percent
	total, healthy, degraded uint64
	hosts, healthyHosts      int // healthyHosts includes degraded ones
}

// health is the priority's health and degraded share, each 0..100.
func (a availability) health() (healthy, degraded uint32) {
	if a.total == 0 {
		return 0, 0
	}
	f := uint64(a.factor)
	return uint32(min(100, f*a.healthy/a.total)), uint32(min(100, f*a.degraded/a.total))
}

// share is one priority's part of the traffic in percent.
type share struct {
	healthy, degraded uint32
	panic             bool
}

// spreadLoad is Envoy's priority and panic arithmetic, in integers as there
// (load_balancer_impl.cc: recalculatePerPriorityState, recalculatePerPriorityPanic,
// recalculateLoadInTotalPanic). threshold is the panic threshold in percent.
func spreadLoad(av []availability, threshold uint32) []share {
	out := make([]share, len(av))
	if len(av) == 0 {
		return out
	}
	sum := uint32(0)
	for _, a := range av {
		h, d := a.health()
		sum += h + d
	}
	total := min(100, sum)
	if total > 0 {
		spreadAvailable(av, out, total)
	}
	if total == 0 && threshold == 0 {
		out[0].healthy = 100 // nobody is there to take it: the pick finds none
		return out
	}
	all := true
	for i, a := range av {
		out[i].panic = total < 100 && a.inPanic(threshold)
		all = all && out[i].panic
	}
	if all {
		spreadTotalPanic(av, out)
	}
	return out
}

// spreadAvailable gives as much as possible to the first priorities, to healthy
// hosts before degraded ones; what rounding leaves goes to the first available.
func spreadAvailable(av []availability, out []share, total uint32) {
	left := uint32(100)
	first, firstDegraded := -1, -1
	for i, a := range av {
		h, _ := a.health()
		if h > 0 && first < 0 {
			first = i
		}
		out[i].healthy = min(left, h*100/total)
		left -= out[i].healthy
	}
	for i, a := range av {
		_, d := a.health()
		if d > 0 && firstDegraded < 0 {
			firstDegraded = i
		}
		out[i].degraded = min(left, d*100/total)
		left -= out[i].degraded
	}
	if first >= 0 {
		out[first].healthy += left
	} else if firstDegraded >= 0 {
		out[firstDegraded].degraded += left
	}
}

// inPanic says whether too few of the priority's hosts are usable. A priority
// without hosts is in panic: its share is 0 of 0.
func (a availability) inPanic(threshold uint32) bool {
	if a.hosts == 0 {
		return threshold > 0
	}
	return float64(a.healthyHosts)*100/float64(a.hosts) < float64(threshold)
}

// spreadTotalPanic spreads by the number of hosts, whatever their health.
func spreadTotalPanic(av []availability, out []share) {
	total := 0
	for _, a := range av {
		total += a.hosts
	}
	left, first := uint32(100), -1
	for i, a := range av {
		out[i].healthy, out[i].degraded = 0, 0
		if total == 0 {
			continue
		}
		if a.hosts > 0 && first < 0 {
			first = i
		}
		out[i].healthy = uint32(100 * a.hosts / total)
		left -= out[i].healthy
	}
	out[max(first, 0)].healthy += left
}
