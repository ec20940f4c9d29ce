// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"slices"
)

// PickContext is what the choice of a host may depend on. The zero value asks
// for any host.
type PickContext struct {
	// Hash is the route's hash policy's result, for ring hash and maglev.
	Hash    uint64
	HasHash bool
	// Tried are the hosts of earlier attempts; with the previous_hosts predicate
	// the choice is repeated up to Attempts times while it falls on one of them,
	// and the last choice stands (host_selection_retry_max_attempts, default 1).
	Tried    []*Host
	Attempts int
	// OriginalDst is the address an ORIGINAL_DST cluster goes to.
	OriginalDst netip.AddrPort
}

// Pick chooses a host; nil means that there is none (flag UH). A nil pc asks
// for any host. It allocates nothing, but for the first request to a new
// original destination.
func (c *Cluster) Pick(pc *PickContext) *Host {
	if c.original != nil {
		if pc == nil || !pc.OriginalDst.IsValid() {
			return nil
		}
		return c.original.host(pc.OriginalDst)
	}
	set := c.hosts.Load()
	h := c.pickOnce(set, pc)
	if pc == nil || h == nil || len(pc.Tried) == 0 {
		return h
	}
	for range pc.Attempts {
		if !slices.Contains(pc.Tried, h) {
			break
		}
		if h = c.pickOnce(set, pc); h == nil {
			break
		}
	}
	return h
}

func (c *Cluster) pickOnce(set *hostSet, pc *PickContext) *Host {
	if set == nil || len(set.priorities) == 0 {
		return nil
	}
	p, degraded := 0, false
	if set.spread {
		p, degraded = set.choose(c.rand())
	}
	g := &set.priorities[p]
	switch {
	case g.panic:
		c.panics.Add(1)
		return g.all.pick(c, pc)
	case degraded:
		return g.degraded.pick(c, pc)
	case g.localities != nil:
		if i := g.localities.choose.Pick(); i >= 0 {
			return g.localities.of[i].pick(c, pc)
		}
	}
	return g.healthy.pick(c, pc)
}
