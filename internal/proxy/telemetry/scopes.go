// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"sync"
	"sync/atomic"
	"time"
)

// HTTPStats are the values of one stat_prefix. Methods are safe for concurrent
// use and do not allocate after the first use.
type HTTPStats struct {
	name   string
	counts cells
	times  cells
}

// Inc adds one to a value.
func (h *HTTPStats) Inc(s Stripe, v HTTPStat) { h.Add(s, v, 1) }

// Dec takes one from a gauge.
func (h *HTTPStats) Dec(s Stripe, v HTTPStat) { h.Add(s, v, -1) }

// Add adds n, which may be negative for a gauge.
func (h *HTTPStats) Add(s Stripe, v HTTPStat, n int64) {
	h.counts.at(s, int(v), int(httpStats)).Add(uint64(n))
}

// Observe records a duration.
func (h *HTTPStats) Observe(s Stripe, t HTTPTime, d time.Duration) {
	h.times.observe(s, int(t), int(httpTimes), d)
}

// Completed records the end of a request with that response code.
func (h *HTTPStats) Completed(s Stripe, status int) {
	h.Inc(s, HTTPRqCompleted)
	if c := status / 100; c >= 1 && c <= 5 {
		h.Inc(s, HTTPRq1xx+HTTPStat(c-1))
	}
}

// Value is the current value.
func (h *HTTPStats) Value(v HTTPStat) int64 { return int64(h.counts.sum(int(v), int(httpStats))) }

// ClusterStats are the values of one cluster.
type ClusterStats struct {
	name    string
	counts  cells
	times   cells
	codes   codes
	total   atomic.Uint32
	healthy atomic.Uint32
	changes atomic.Uint32
}

// Inc adds one to a value.
func (c *ClusterStats) Inc(s Stripe, v ClusterStat) { c.Add(s, v, 1) }

// Dec takes one from a gauge.
func (c *ClusterStats) Dec(s Stripe, v ClusterStat) { c.Add(s, v, -1) }

// Add adds n, which may be negative for a gauge.
func (c *ClusterStats) Add(s Stripe, v ClusterStat, n int64) {
	c.counts.at(s, int(v), int(clusterStats)).Add(uint64(n))
}

// Observe records a duration.
func (c *ClusterStats) Observe(s Stripe, t ClusterTime, d time.Duration) {
	c.times.observe(s, int(t), int(clusterTimes), d)
}

// Completed records a response, or a local reply in its place, with that code.
func (c *ClusterStats) Completed(s Stripe, status int) {
	c.Inc(s, ClusterRqCompleted)
	if n := status / 100; n >= 1 && n <= 5 {
		c.Inc(s, ClusterRq1xx+ClusterStat(n-1))
		c.codes.inc(s, status)
	}
}

// SetMembership stores the number of hosts and of healthy ones.
func (c *ClusterStats) SetMembership(total, healthy int) {
	if c.total.Swap(uint32(total)) != uint32(total) {
		c.changes.Add(1)
	}
	c.healthy.Store(uint32(healthy))
}

// Value is the current value.
func (c *ClusterStats) Value(v ClusterStat) int64 {
	return int64(c.counts.sum(int(v), int(clusterStats)))
}

// Code is the number of responses with that code.
func (c *ClusterStats) Code(status int) uint64 { return c.codes.value(status) }

// ListenerStats are the values of one listener.
type ListenerStats struct {
	name   string
	counts cells
	times  cells
}

// Inc adds one to a value.
func (l *ListenerStats) Inc(s Stripe, v ListenerStat) { l.Add(s, v, 1) }

// Dec takes one from a gauge.
func (l *ListenerStats) Dec(s Stripe, v ListenerStat) { l.Add(s, v, -1) }

// Add adds n, which may be negative for a gauge.
func (l *ListenerStats) Add(s Stripe, v ListenerStat, n int64) {
	l.counts.at(s, int(v), int(listenerStats)).Add(uint64(n))
}

// ObserveLength records how long a connection lived.
func (l *ListenerStats) ObserveLength(s Stripe, d time.Duration) {
	l.times.observe(s, 0, listenerTimes, d)
}

// Value is the current value.
func (l *ListenerStats) Value(v ListenerStat) int64 {
	return int64(l.counts.sum(int(v), int(listenerStats)))
}

// TCPStats are the values of one TCP proxy.
type TCPStats struct {
	name   string
	counts cells
}

// Inc adds one to a value.
func (t *TCPStats) Inc(s Stripe, v TCPStat) { t.Add(s, v, 1) }

// Dec takes one from a gauge.
func (t *TCPStats) Dec(s Stripe, v TCPStat) { t.Add(s, v, -1) }

// Add adds n, which may be negative for a gauge.
func (t *TCPStats) Add(s Stripe, v TCPStat, n int64) {
	t.counts.at(s, int(v), int(tcpStats)).Add(uint64(n))
}

// Value is the current value.
func (t *TCPStats) Value(v TCPStat) int64 { return int64(t.counts.sum(int(v), int(tcpStats))) }

// codes counts by response code. Codes are few: a list that is copied when a
// new one appears is read without locks and without hashing.
type codes struct {
	list atomic.Pointer[[]codeCount]
	mu   sync.Mutex
}

type codeCount struct {
	status int
	n      *cells
}

func (c *codes) inc(s Stripe, status int) {
	if l := c.list.Load(); l != nil {
		for i := range *l {
			if (*l)[i].status == status {
				(*l)[i].n.at(s, 0, 1).Add(1)
				return
			}
		}
	}
	c.add(status).at(s, 0, 1).Add(1)
}

func (c *codes) add(status int) *cells {
	c.mu.Lock()
	defer c.mu.Unlock()
	var old []codeCount
	if l := c.list.Load(); l != nil {
		old = *l
	}
	for i := range old {
		if old[i].status == status {
			return old[i].n
		}
	}
	grown := append(append(make([]codeCount, 0, len(old)+1), old...), codeCount{status, new(cells)})
	c.list.Store(&grown)
	return grown[len(old)].n
}

func (c *codes) value(status int) uint64 {
	if l := c.list.Load(); l != nil {
		for i := range *l {
			if (*l)[i].status == status {
				return (*l)[i].n.sum(0, 1)
			}
		}
	}
	return 0
}
