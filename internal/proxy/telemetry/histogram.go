// SPDX-License-Identifier: Apache-2.0

package telemetry

import "time"

// bounds are Envoy's default histogram buckets in microseconds: 0.5 ms to 1 h
// (Envoy: HistogramSettingsImpl::defaultBuckets, in milliseconds).
var bounds = [...]uint64{
	500, 1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
	1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
	300_000_000, 600_000_000, 1_800_000_000, 3_600_000_000,
}

// boundText is how Prometheus prints the bounds, in milliseconds.
var boundText = [...]string{
	"0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000",
	"10000", "30000", "60000", "300000", "600000", "1800000", "3600000",
}

const (
	buckets   = len(bounds) + 1 // and the one above the last bound
	histCells = buckets + 1     // and the sum in microseconds
)

// bucket is the index of the first bound that is not below us.
func bucket(us uint64) int {
	lo, hi := 0, len(bounds)
	for lo < hi {
		mid := (lo + hi) / 2
		if bounds[mid] < us {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// observe records a duration in histogram i of n.
func (c *cells) observe(s Stripe, i, n int, d time.Duration) {
	us := uint64(max(d, 0) / time.Microsecond)
	c.at(s, i*histCells+bucket(us), n*histCells).Add(1)
	c.at(s, i*histCells+buckets, n*histCells).Add(us)
}

// snapshot is a histogram at one time.
type snapshot struct {
	counts [buckets]uint64
	count  uint64
	sumUs  uint64
}

func (c *cells) snapshot(i, n int) (s snapshot) {
	for b := range s.counts {
		s.counts[b] = c.sum(i*histCells+b, n*histCells)
		s.count += s.counts[b]
	}
	s.sumUs = c.sum(i*histCells+buckets, n*histCells)
	return s
}

// quantile estimates the value in milliseconds below which a share q of the
// observations lie, by interpolation inside the bucket.
func (s *snapshot) quantile(q float64) float64 {
	rank := q * float64(s.count)
	var seen float64
	var low uint64
	for b, n := range s.counts {
		high := bounds[len(bounds)-1]
		if b < len(bounds) {
			high = bounds[b]
		}
		if n > 0 && seen+float64(n) >= rank {
			part := max(rank-seen, 0) / float64(n)
			return (float64(low) + part*float64(high-low)) / 1000
		}
		seen += float64(n)
		low = high
	}
	return float64(low) / 1000
}
