// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// originalHosts are the hosts of an ORIGINAL_DST cluster: one per destination
// that connections were meant for, kept while in use and for one cleanup
// interval after.
type originalHosts struct {
	c     *Cluster
	mu    sync.RWMutex // guards hosts, timer, closed
	hosts map[netip.AddrPort]*originalHost
	timer *time.Timer
	// round numbers the sweeps; a host carries that of its last use.
	round  atomic.Int64
	closed bool
}

type originalHost struct {
	*Host
	lastUse atomic.Int64 // the round of the last pick
}

// host gives the host of a destination, made on first use.
func (o *originalHosts) host(dst netip.AddrPort) *Host {
	o.mu.RLock()
	old := o.hosts[dst]
	if old != nil {
		old.lastUse.Store(o.round.Load())
	}
	o.mu.RUnlock()
	if old != nil {
		return old.Host
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if old = o.hosts[dst]; old != nil {
		return old.Host
	}
	h := o.c.newHost(endpoint{address: dst.String(), weight: 1, meta: &hostMeta{}})
	if o.closed {
		// The cluster was replaced between the choice of it and this pick; the
		// request is served and the connection not kept.
		h.removed.Store(true)
		return h
	}
	if o.hosts == nil {
		o.hosts = make(map[netip.AddrPort]*originalHost)
	}
	n := &originalHost{Host: h}
	n.lastUse.Store(o.round.Load())
	o.hosts[dst] = n
	if o.timer == nil {
		o.timer = time.AfterFunc(o.c.cleanup, o.sweep)
	}
	return h
}

// sweep removes the hosts nobody chose since the sweep before and nobody uses.
// The timer runs only while there are hosts: an idle proxy has nothing to do.
func (o *originalHosts) sweep() {
	o.mu.Lock()
	var gone []*Host
	last := o.round.Load()
	for dst, h := range o.hosts {
		if h.lastUse.Load() < last && h.Active() == 0 {
			delete(o.hosts, dst)
			gone = append(gone, h.Host)
		}
	}
	o.round.Add(1)
	switch {
	case o.closed:
	case len(o.hosts) == 0:
		o.timer = nil
	default:
		o.timer.Reset(o.c.cleanup)
	}
	o.mu.Unlock()
	for _, h := range gone {
		h.close()
	}
}

func (o *originalHosts) close() {
	o.mu.Lock()
	o.closed = true
	if o.timer != nil {
		o.timer.Stop()
	}
	hosts := o.hosts
	o.hosts = nil
	o.mu.Unlock()
	for _, h := range hosts {
		h.close()
	}
}

// list gives the hosts there are now.
func (o *originalHosts) list() []*Host {
	o.mu.RLock()
	defer o.mu.RUnlock()
	out := make([]*Host, 0, len(o.hosts))
	for _, h := range o.hosts {
		out = append(out, h.Host)
	}
	return out
}
