// SPDX-License-Identifier: Apache-2.0

// Package telemetry counts: sharded counters, gauges and histograms under
// Envoy's names, made once per configuration object and held by pointer, and
// their exposition as Envoy's /stats text and as Prometheus text.
package telemetry

import (
	"runtime"
	"sync/atomic"
)

// Stripe picks the copy of the counters that a connection writes to, so that
// connections on different processors do not share cache lines. Take one per
// connection with NextStripe; any value is valid.
type Stripe uint32

var (
	stripeSeq  atomic.Uint32
	stripeMask = stripes() - 1
)

// stripes is a power of two, at least the number of processors and at most 8.
func stripes() uint32 {
	n := uint32(1)
	for n < uint32(runtime.GOMAXPROCS(0)) && n < 8 {
		n *= 2
	}
	return n
}

// NextStripe hands out stripes in turn.
func NextStripe() Stripe { return Stripe(stripeSeq.Add(1)) }

// lineCells is a cache line in cells.
const lineCells = 8

// cells is a block of n striped values, allocated on its first write: an object
// that never saw traffic costs one pointer.
type cells struct {
	p atomic.Pointer[[]atomic.Uint64]
}

func stride(n int) int { return (n + lineCells - 1) / lineCells * lineCells }

func (c *cells) at(s Stripe, i, n int) *atomic.Uint64 {
	p := c.p.Load()
	if p == nil {
		p = c.alloc(n)
	}
	return &(*p)[int(uint32(s)&stripeMask)*stride(n)+i]
}

func (c *cells) alloc(n int) *[]atomic.Uint64 {
	b := make([]atomic.Uint64, stride(n)*int(stripeMask+1))
	if c.p.CompareAndSwap(nil, &b) {
		return &b
	}
	return c.p.Load()
}

func (c *cells) used() bool { return c.p.Load() != nil }

// sum adds up the stripes of value i. A gauge that went up on one stripe and
// down on another still sums right, by two's complement.
func (c *cells) sum(i, n int) uint64 {
	p := c.p.Load()
	if p == nil {
		return 0
	}
	var v uint64
	for s := 0; s <= int(stripeMask); s++ {
		v += (*p)[s*stride(n)+i].Load()
	}
	return v
}

// Counter is one counter off the hot path. The zero value is ready.
type Counter struct{ v atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.v.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.v.Add(n) }

// Value is the count.
func (c *Counter) Value() uint64 { return c.v.Load() }

// Gauge is one value that goes up and down, off the hot path. The zero value is
// ready and counts as unused until it is first set.
type Gauge struct {
	v   atomic.Int64
	set atomic.Bool
}

// Set stores v.
func (g *Gauge) Set(v int64) { g.v.Store(v); g.set.Store(true) }

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) { g.v.Add(n); g.set.Store(true) }

// Value is the current value.
func (g *Gauge) Value() int64 { return g.v.Load() }
