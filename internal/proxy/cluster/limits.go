// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math"
	"sync/atomic"
)

// Thresholds are a circuit breaker's bounds for one routing priority. Istio
// sets all to MaxUint32 unless a DestinationRule says otherwise.
type Thresholds struct {
	MaxConnections uint32 // default 1024
	MaxPending     uint32 // default 1024
	MaxRequests    uint32 // default 1024
	MaxRetries     uint32 // default 3
	// RetryBudget is the share of active and pending requests, in percent, that
	// may be retries; it replaces MaxRetries when HasBudget is set.
	RetryBudget   float64 // default 20
	MinRetryConc  uint32  // default 3
	HasBudget     bool
	TrackRemained bool // track_remaining
}

var defaultThresholds = Thresholds{MaxConnections: 1024, MaxPending: 1024, MaxRequests: 1024, MaxRetries: 3}

// Limits are a circuit breaker: what is in use and what may be. Acquiring may
// exceed a bound by nothing. All methods are safe for concurrent use.
type Limits struct {
	max                                     *Thresholds
	connections, pending, requests, retries atomic.Int64
}

func acquire(n *atomic.Int64, limit uint32) bool {
	if limit == math.MaxUint32 {
		n.Add(1)
		return true
	}
	for {
		v := n.Load()
		if v >= int64(limit) {
			return false
		}
		if n.CompareAndSwap(v, v+1) {
			return true
		}
	}
}

// AcquireConnection takes a connection; false means overflow (flag UO).
func (l *Limits) AcquireConnection() bool { return acquire(&l.connections, l.max.MaxConnections) }

// ForceConnection takes a connection although the bound may be reached: the
// HTTP/1.1 pool of a host may always hold one.
func (l *Limits) ForceConnection() { l.connections.Add(1) }

// ReleaseConnection gives a connection back.
func (l *Limits) ReleaseConnection() { l.connections.Add(-1) }

// AcquirePending takes a place among the requests waiting for a connection.
func (l *Limits) AcquirePending() bool { return acquire(&l.pending, l.max.MaxPending) }

// ReleasePending gives that place back.
func (l *Limits) ReleasePending() { l.pending.Add(-1) }

// AcquireRequest takes a request in flight.
func (l *Limits) AcquireRequest() bool { return acquire(&l.requests, l.max.MaxRequests) }

// ReleaseRequest gives the request back.
func (l *Limits) ReleaseRequest() { l.requests.Add(-1) }

// AcquireRetry takes a retry in flight, by the budget or by max_retries.
func (l *Limits) AcquireRetry() bool {
	if !l.max.HasBudget {
		return acquire(&l.retries, l.max.MaxRetries)
	}
	busy := float64(l.requests.Load() + l.pending.Load())
	allowed := max(uint32(min(busy*l.max.RetryBudget/100, math.MaxUint32-1)), l.max.MinRetryConc)
	return acquire(&l.retries, allowed)
}

// ReleaseRetry gives the retry back.
func (l *Limits) ReleaseRetry() { l.retries.Add(-1) }

// Usage is what is in use now.
func (l *Limits) Usage() (connections, pending, requests, retries int64) {
	return l.connections.Load(), l.pending.Load(), l.requests.Load(), l.retries.Load()
}

// Thresholds are the bounds. Callers do not change them.
func (l *Limits) Thresholds() *Thresholds { return l.max }
