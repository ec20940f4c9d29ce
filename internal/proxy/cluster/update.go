// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math/rand/v2"
	"slices"
	"time"
)

func newCluster(cfg *Config, random func() uint64) *Cluster {
	if random == nil {
		random = rand.Uint64
	}
	c := &Cluster{Config: *cfg, rand: random}
	for i := range c.limits {
		c.limits[i].max = &c.Thresholds[i]
	}
	if cfg.Discovery == OriginalDst {
		c.original = &originalHosts{c: c}
	}
	return c
}

func (c *Cluster) newHost(e endpoint) *Host {
	h := &Host{cluster: c, address: e.address, born: e.born}
	if h.born == 0 {
		h.born = time.Now().UnixNano()
	}
	c.describe(h, e)
	return h
}

// describe gives a host what the control plane says of it now.
func (c *Cluster) describe(h *Host, e endpoint) {
	h.weight.Store(max(e.weight, 1))
	h.health.Store(uint32(e.health))
	if old := h.meta.Load(); old == nil || *old != *e.meta {
		h.meta.Store(e.meta)
	}
	h.transport.Store(c.transportFor(e.meta.Match))
}

// setEndpoints replaces the hosts by those of a. Hosts whose address and
// transport stay are kept; the others are closed after the new set is in use.
// Callers serialize.
func (c *Cluster) setEndpoints(a *assignment) {
	old := make(map[string]*Host)
	for _, h := range c.Hosts() {
		old[h.address] = h
	}
	localities := make([]localityHosts, 0, len(a.localities))
	for i := range a.localities {
		l := &a.localities[i]
		lh := localityHosts{locality: l.Locality, weight: l.weight, priority: l.priority, hosts: make([]*Host, 0, len(l.endpoints))}
		for _, e := range l.endpoints {
			h := old[e.address]
			if h != nil && h.Transport() == c.transportFor(e.meta.Match) {
				delete(old, e.address)
				c.describe(h, e)
			} else {
				h = c.newHost(e)
			}
			lh.hosts = append(lh.hosts, h)
		}
		localities = append(localities, lh)
	}
	c.hosts.Store(c.newHostSet(localities, a.overprovision, a.weightedHealth, c.rand))
	for _, h := range old {
		h.close()
	}
}

// assignmentNow writes the present endpoints back as an assignment, for a
// cluster that takes another's place. It is made from the hosts so that nothing
// has to be kept twice.
func (c *Cluster) assignmentNow() *assignment {
	s := c.hosts.Load()
	if s == nil {
		return nil
	}
	a := &assignment{overprovision: s.overprovision, weightedHealth: s.weightedHealth}
	for i := range s.localities {
		l := &s.localities[i]
		nl := locality{Locality: l.locality, weight: l.weight, priority: l.priority}
		for _, h := range l.hosts {
			nl.endpoints = append(nl.endpoints, endpoint{address: h.address, meta: h.meta.Load(), weight: h.Weight(), health: h.Health(), born: h.born})
		}
		a.localities = append(a.localities, nl)
	}
	return a
}

// close ends a cluster that was replaced or removed.
func (c *Cluster) close() {
	if c.closed.Swap(true) {
		return
	}
	if c.stopDNS != nil {
		c.stopDNS()
	}
	if c.original != nil {
		c.original.close()
		return
	}
	for _, h := range c.Hosts() {
		h.close()
	}
}

// Hosts are the cluster's hosts in the order of its localities.
func (c *Cluster) Hosts() []*Host {
	if c.original != nil {
		return c.original.list()
	}
	s := c.hosts.Load()
	if s == nil {
		return nil
	}
	var out []*Host
	for i := range s.localities {
		out = append(out, s.localities[i].hosts...)
	}
	return slices.Clip(out)
}

// HostInfo is a host with its place, for admin.
type HostInfo struct {
	*Host
	Locality Locality
	Priority uint32
}

// HostInfos are the hosts with their places.
func (c *Cluster) HostInfos() []HostInfo {
	var out []HostInfo
	if c.original != nil {
		for _, h := range c.original.list() {
			out = append(out, HostInfo{Host: h})
		}
		return out
	}
	if s := c.hosts.Load(); s != nil {
		for i := range s.localities {
			l := &s.localities[i]
			for _, h := range l.hosts {
				out = append(out, HostInfo{Host: h, Locality: l.locality, Priority: l.priority})
			}
		}
	}
	return out
}
