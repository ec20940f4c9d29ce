// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"sync/atomic"
	"time"
)

// ConvergenceBounds are the upper bounds in seconds of the buckets of
// pilot_proxy_convergence_time, those of Istio.
var ConvergenceBounds = [...]float64{.1, .5, 1, 3, 5, 10, 20, 30}

// typeNames are the values of the label type in Istio's metrics, in push order.
var typeNames = [...]string{"cds", "eds", "sds", "lds", "rds", "vhds", "other"}

// Metrics is a snapshot of the counters, named as Istio names them.
type Metrics struct {
	Connected int64             // pilot_xds
	Pushes    map[string]uint64 // pilot_xds_pushes{type}
	Rejects   map[string]uint64 // pilot_total_xds_rejects{type}
	SentBytes uint64            // of responses, before HTTP/2
	Slow      uint64            // streams dropped because they did not read
	// Convergence is pilot_proxy_convergence_time: from noticing a change to its
	// last answer, one observation for each proxy and change. Counts are by bucket,
	// not cumulative; the last is above all bounds.
	Convergence      [len(ConvergenceBounds) + 1]uint64
	ConvergenceSum   float64 // seconds
	ConvergenceCount uint64
}

type metrics struct {
	connected   atomic.Int64
	pushes      [len(typeNames)]atomic.Uint64
	rejects     [len(typeNames)]atomic.Uint64
	bytes, slow atomic.Uint64
	convergence [len(ConvergenceBounds) + 1]atomic.Uint64
	sumNanos    atomic.Int64
}

func (m *metrics) pushed(url string, size int) {
	m.pushes[rank(url)].Add(1)
	m.bytes.Add(uint64(size))
}

func (m *metrics) rejected(url string) { m.rejects[rank(url)].Add(1) }

func (m *metrics) converged(d time.Duration) {
	i := 0
	for i < len(ConvergenceBounds) && d.Seconds() > ConvergenceBounds[i] {
		i++
	}
	m.convergence[i].Add(1)
	m.sumNanos.Add(int64(d))
}

// Metrics returns the counters as they are now.
func (s *Server) Metrics() Metrics {
	m := &s.metrics
	out := Metrics{
		Connected: m.connected.Load(), SentBytes: m.bytes.Load(), Slow: m.slow.Load(),
		Pushes: map[string]uint64{}, Rejects: map[string]uint64{},
		ConvergenceSum: time.Duration(m.sumNanos.Load()).Seconds(),
	}
	for i, n := range typeNames {
		out.Pushes[n], out.Rejects[n] = m.pushes[i].Load(), m.rejects[i].Load()
	}
	for i := range m.convergence {
		out.Convergence[i] = m.convergence[i].Load()
		out.ConvergenceCount += out.Convergence[i]
	}
	return out
}
