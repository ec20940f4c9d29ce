// SPDX-License-Identifier: Apache-2.0

// Package balance chooses one host of a set: round robin, least request or
// random, weighted, as Envoy does it. It knows nothing of clusters, priorities
// or health: its caller hands it the hosts that may be chosen.
package balance

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Policy is a way to choose one host of a set.
type Policy uint8

// The policies. LeastRequest is Istio's default, RoundRobin is Envoy's.
const (
	RoundRobin Policy = iota
	LeastRequest
	Random
)

// String is the policy's name as Envoy's lb_policy prints it.
func (p Policy) String() string {
	switch p {
	case RoundRobin:
		return "ROUND_ROBIN"
	case LeastRequest:
		return "LEAST_REQUEST"
	default:
		return "RANDOM"
	}
}

// Host is what a policy asks of a host. Weight must not change during the life
// of a Picker; Active may at any time.
type Host interface {
	Weight() uint32 // at least 1
	Active() int64  // requests (or connections) in flight
	// Warmth is the part of its weight, in (0,1], that a host in slow start has
	// at this time. It is asked only until Options.SlowUntil.
	Warmth(now time.Time) float64
}

// Options tune a Picker. The zero value holds Envoy's defaults.
type Options struct {
	// Rand gives uniform random bits; nil means math/rand/v2.
	Rand func() uint64
	// Choices is how many hosts least request compares; 0 means 2.
	Choices uint32
	// Bias is least request's active_request_bias; it counts only when weights
	// differ. Negative means the default, 1.
	Bias float64
	// SlowUntil is when the last host's slow start ends; zero when no host is in
	// it. Round robin and least request only.
	SlowUntil time.Time
}

// Picker chooses among a fixed set of hosts. It is safe for concurrent use and
// Pick allocates nothing. The zero value has no hosts.
type Picker[H Host] struct {
	hosts   []H
	next    atomic.Uint64
	edf     *schedule // nil: all weights are equal, or the policy ignores them
	slow    time.Time // Options.SlowUntil
	even    bool      // all weights are equal: edf is for slow start only
	rand    func() uint64
	bias    float64
	choices uint32
	policy  Policy
}

// New makes a picker over hosts, which it keeps and does not change.
func New[H Host](policy Policy, hosts []H, o Options) *Picker[H] {
	p := &Picker[H]{hosts: hosts, policy: policy, rand: o.Rand, choices: o.Choices, bias: o.Bias}
	if p.rand == nil {
		p.rand = rand.Uint64
	}
	if p.choices == 0 {
		p.choices = 2
	}
	if p.bias < 0 {
		p.bias = 1
	}
	p.even, p.slow = equalWeights(hosts), o.SlowUntil
	if policy != Random && (!p.even || !p.slow.IsZero()) {
		now := time.Now()
		p.edf = newSchedule(len(hosts), p.rand, func(i int) float64 { return p.weight(i, now) })
	}
	if policy == RoundRobin {
		// Many proxies that start together must not all begin at the first host.
		p.next.Store(p.rand())
	}
	return p
}

func equalWeights[H Host](hosts []H) bool {
	for _, h := range hosts {
		if h.Weight() != hosts[0].Weight() {
			return false
		}
	}
	return true
}

// Len is the number of hosts.
func (p *Picker[H]) Len() int { return len(p.hosts) }

// Pick chooses a host; ok is false when there is none.
func (p *Picker[H]) Pick() (h H, ok bool) {
	n := uint64(len(p.hosts))
	switch {
	case n == 0:
		return h, false
	case n == 1:
		return p.hosts[0], true
	case p.edf != nil:
		now := time.Time{}
		if !p.slow.IsZero() {
			if now = time.Now(); !now.Before(p.slow) {
				now = time.Time{}
			}
		}
		if !p.even || !now.IsZero() {
			return p.hosts[p.pickScheduled(now)], true
		}
	}
	switch p.policy {
	case RoundRobin:
		return p.hosts[p.next.Add(1)%n], true
	case Random:
		// Envoy's random ignores host weights (random_lb.cc).
		return p.hosts[p.rand()%n], true
	}
	// Power of two choices, with replacement as in Envoy's
	// least_request_lb.cc: the first of equals wins.
	best := p.hosts[p.rand()%n]
	load := best.Active()
	for i := uint32(1); i < p.choices; i++ {
		c := p.hosts[p.rand()%n]
		if l := c.Active(); l < load {
			best, load = c, l
		}
	}
	return best, true
}

// weight is a host's weight at a time; zero when no host is in slow start.
func (p *Picker[H]) weight(i int, now time.Time) float64 {
	w := float64(p.hosts[i].Weight())
	if !now.IsZero() && now.Before(p.slow) {
		w *= p.hosts[i].Warmth(now)
	}
	return w
}

// pickScheduled serves the earliest deadline and puts that host back with the
// weight it has now: its own for round robin, weight/(active+1)^bias for least
// request, less in slow start.
func (p *Picker[H]) pickScheduled(now time.Time) int {
	s := p.edf
	s.mu.Lock()
	i := s.first()
	w := p.weight(i, now)
	if p.policy == LeastRequest {
		w = discount(w, p.hosts[i].Active(), p.bias)
	}
	s.requeue(w)
	s.mu.Unlock()
	return i
}
