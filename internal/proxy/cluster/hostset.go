// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/balance"
)

// defaultOverprovisioning is Envoy's factor 1.4 in percent.
const defaultOverprovisioning = 140

// Locality is where endpoints stand. The strings are interned.
type Locality struct{ Region, Zone, SubZone string }

// localityHosts are the hosts of one locality at one priority.
type localityHosts struct {
	locality Locality
	weight   uint32 // load_balancing_weight, 0 when not set
	priority uint32
	hosts    []*Host
}

// hostSet is one state of a cluster's hosts with what balancing derives from
// it. It is immutable but for the pickers' positions.
type hostSet struct {
	localities     []localityHosts // as the assignment lists them
	priorities     []priority
	spread         bool // more than one (priority, health) class has load
	overprovision  uint32
	weightedHealth bool
}

// priority is what may be chosen at one priority.
type priority struct {
	all, healthy, degraded choice
	localities             *localityChoice // nil: localities do not count
	load, degradedLoad     uint32          // percent of the traffic
	panic                  bool
}

// choice picks among hosts; its zero value picks none.
type choice struct {
	picker *balance.Picker[*Host]
	ring   *balance.Ring // for hash policies
	hosts  []*Host
}

type localityChoice struct {
	choose *balance.Weighted
	of     []choice
}

func (ch *choice) pick(c *Cluster, pc *PickContext) *Host {
	switch {
	case len(ch.hosts) == 0:
		return nil
	case ch.ring != nil:
		hash := uint64(0)
		if pc != nil && pc.HasHash {
			hash = pc.Hash
		} else {
			hash = c.rand()
		}
		return ch.hosts[ch.ring.Pick(hash)]
	case ch.picker == nil:
		return ch.hosts[0]
	}
	h, _ := ch.picker.Pick()
	return h
}

func (c *Config) newChoice(hosts []*Host, rand func() uint64) choice {
	ch := choice{hosts: hosts}
	switch {
	case len(hosts) < 2:
	case c.hash != nil:
		ch.ring = c.hash.build(hosts, nil)
	default:
		o := c.balance
		o.Rand = rand
		o.SlowUntil = c.slowUntil(hosts)
		ch.picker = balance.New(c.Policy, hosts, o)
	}
	return ch
}

// slowUntil is when the youngest host's slow start ends, zero when none is in
// it.
func (c *Config) slowUntil(hosts []*Host) time.Time {
	if c.slow == nil {
		return time.Time{}
	}
	youngest := int64(0)
	for _, h := range hosts {
		youngest = max(youngest, h.born)
	}
	end := time.Unix(0, youngest).Add(c.slow.window)
	if !time.Now().Before(end) {
		return time.Time{}
	}
	return end
}

// newHostSet derives the choices from the hosts and their health.
func (c *Config) newHostSet(localities []localityHosts, overprovision uint32, weighted bool, rand func() uint64) *hostSet {
	s := &hostSet{localities: localities, overprovision: overprovision, weightedHealth: weighted}
	n := uint32(0)
	for i := range localities {
		n = max(n, localities[i].priority+1)
	}
	s.priorities = make([]priority, n)
	avail := make([]availability, n)
	for p := range s.priorities {
		avail[p] = c.fill(s, uint32(p), rand)
	}
	loads := spreadLoad(avail, c.Panic)
	classes := 0
	for p := range s.priorities {
		g, l := &s.priorities[p], loads[p]
		g.load, g.degradedLoad, g.panic = l.healthy, l.degraded, l.panic
		if l.panic && len(g.all.hosts) == 0 {
			g.all = c.newChoice(s.hostsOf(uint32(p), nil), rand)
		}
		for _, v := range []uint32{l.healthy, l.degraded} {
			if v > 0 {
				classes++
			}
		}
		if p > 0 && l.healthy > 0 || l.degraded > 0 {
			s.spread = true
		}
	}
	s.spread = s.spread || classes > 1
	return s
}

// hostsOf concatenates the hosts of a priority that keep accepts, nil for all.
// A slice of a single locality is shared, not copied, when all are accepted.
func (s *hostSet) hostsOf(p uint32, keep func(*Host) bool) []*Host {
	var only []*Host
	count, accepted := 0, 0
	for i := range s.localities {
		l := &s.localities[i]
		if l.priority != p || len(l.hosts) == 0 {
			continue
		}
		count++
		only = l.hosts
		for _, h := range l.hosts {
			if keep == nil || keep(h) {
				accepted++
			}
		}
	}
	if accepted == 0 {
		return nil
	}
	if count == 1 && accepted == len(only) {
		return only
	}
	out := make([]*Host, 0, accepted)
	for i := range s.localities {
		if s.localities[i].priority != p {
			continue
		}
		for _, h := range s.localities[i].hosts {
			if keep == nil || keep(h) {
				out = append(out, h)
			}
		}
	}
	return out
}

func isHealthy(h *Host) bool  { return h.Health() == Healthy }
func isDegraded(h *Host) bool { return h.Health() == Degraded }

// fill makes the choices of priority p and counts its availability.
func (c *Config) fill(s *hostSet, p uint32, rand func() uint64) availability {
	g := &s.priorities[p]
	healthy, degraded := s.hostsOf(p, isHealthy), s.hostsOf(p, isDegraded)
	g.healthy = c.newChoice(healthy, rand)
	g.degraded = c.newChoice(degraded, rand)
	a := availability{factor: s.overprovision}
	for i := range s.localities {
		if s.localities[i].priority != p {
			continue
		}
		for _, h := range s.localities[i].hosts {
			w := uint64(1)
			if s.weightedHealth {
				w = uint64(h.Weight())
			}
			a.total += w
			a.hosts++
			switch h.Health() {
			case Healthy:
				a.healthy += w
				a.healthyHosts++
			case Degraded:
				a.degraded += w
				a.healthyHosts++
			}
		}
	}
	switch {
	case c.localityLB && c.hash != nil:
		g.healthy = c.hashLocalities(s, p)
	case c.localityLB:
		g.localities = c.weighLocalities(s, p, rand)
	}
	return a
}

// hashLocalities makes one ring of a priority's healthy hosts in which each
// locality has its effective weight (Envoy's ThreadAwareLoadBalancerBase
// normalizes host weights so). Without any weight the localities do not count.
func (c *Config) hashLocalities(s *hostSet, p uint32) choice {
	var hosts []*Host
	var factor []float64
	for i := range s.localities {
		l := &s.localities[i]
		if l.priority != p {
			continue
		}
		healthy := l.healthyHosts()
		sum := 0.0
		for _, h := range healthy {
			sum += float64(h.Weight())
		}
		if w := l.effectiveWeight(s.overprovision, len(healthy)); w > 0 {
			for _, h := range healthy {
				hosts = append(hosts, h)
				factor = append(factor, float64(w)/sum)
			}
		}
	}
	switch len(hosts) {
	case 0:
		return s.priorities[p].healthy
	case 1:
		return choice{hosts: hosts}
	}
	return choice{hosts: hosts, ring: c.hash.build(hosts, factor)}
}

func (l *localityHosts) healthyHosts() []*Host {
	n := 0
	for _, h := range l.hosts {
		if isHealthy(h) {
			n++
		}
	}
	if n == len(l.hosts) {
		return l.hosts
	}
	healthy := make([]*Host, 0, n)
	for _, h := range l.hosts {
		if isHealthy(h) {
			healthy = append(healthy, h)
		}
	}
	return healthy
}

// effectiveWeight is the locality's weight times its availability, in hundredths
// of a percent so that small weights do not round away.
func (l *localityHosts) effectiveWeight(overprovision uint32, healthy int) uint64 {
	if len(l.hosts) == 0 {
		return 0
	}
	return uint64(l.weight) * min(10000, uint64(overprovision)*100*uint64(healthy)/uint64(len(l.hosts)))
}

// weighLocalities gives each locality of a priority its weight times its
// availability: weight * min(100, factor*healthy/total) (Envoy's
// HostSetImpl::effectiveLocalityWeight). Unset weights get no traffic; nil when
// none has a weight.
func (c *Config) weighLocalities(s *hostSet, p uint32, rand func() uint64) *localityChoice {
	var lc localityChoice
	var weights []uint32
	any := false
	for i := range s.localities {
		l := &s.localities[i]
		if l.priority != p {
			continue
		}
		healthy := l.healthyHosts()
		w := l.effectiveWeight(s.overprovision, len(healthy))
		any = any || w > 0
		weights = append(weights, uint32(min(w, 1<<32-1)))
		lc.of = append(lc.of, c.newChoice(healthy, rand))
	}
	if !any {
		return nil
	}
	lc.choose = balance.NewWeighted(weights, rand)
	return &lc
}

// choose draws a priority by load.
func (s *hostSet) choose(random uint64) (p int, degraded bool) {
	n := uint32(random%100) + 1 // 1..100
	sum := uint32(0)
	for i := range s.priorities {
		if sum += s.priorities[i].load; n <= sum {
			return i, false
		}
	}
	for i := range s.priorities {
		if sum += s.priorities[i].degradedLoad; n <= sum {
			return i, true
		}
	}
	return 0, false
}
