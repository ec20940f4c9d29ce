// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"
)

type fake struct {
	name   string
	weight uint32
	active atomic.Int64
	warmth float64
}

func (f *fake) Warmth(time.Time) float64 {
	if f.warmth == 0 {
		return 1
	}
	return f.warmth
}

func (f *fake) Weight() uint32 { return f.weight }
func (f *fake) Active() int64  { return f.active.Load() }

func hosts(weights ...uint32) []*fake {
	out := make([]*fake, len(weights))
	for i, w := range weights {
		out[i] = &fake{name: fmt.Sprint("h", i), weight: w}
	}
	return out
}

func seeded() func() uint64 { return rand.New(rand.NewPCG(1, 2)).Uint64 }

func count(p *Picker[*fake], n int) map[string]int {
	got := make(map[string]int)
	for range n {
		h, _ := p.Pick()
		got[h.name]++
	}
	return got
}

func TestRoundRobinEqualWeightsTakesTurns(t *testing.T) {
	p := New(RoundRobin, hosts(3, 3, 3), Options{Rand: seeded()})
	for _, n := range count(p, 300) {
		if n != 100 {
			t.Fatalf("got %d of 300 picks, want 100", n)
		}
	}
}

func TestRoundRobinFollowsWeights(t *testing.T) {
	p := New(RoundRobin, hosts(1, 2, 7), Options{Rand: seeded()})
	got := count(p, 1000)
	for name, want := range map[string]int{"h0": 100, "h1": 200, "h2": 700} {
		if d := got[name] - want; d < -1 || d > 1 {
			t.Errorf("%s: %d picks of 1000, want %d +- 1", name, got[name], want)
		}
	}
}

func TestLeastRequestPrefersTheIdleHost(t *testing.T) {
	hs := hosts(1, 1)
	hs[0].active.Store(5)
	p := New(LeastRequest, hs, Options{Rand: seeded()})
	got := count(p, 10000)
	// With replacement, the busy host is chosen only when both draws hit it: 1/4.
	if share := float64(got["h0"]) / 10000; math.Abs(share-0.25) > 0.03 {
		t.Errorf("busy host got %.3f, want 0.25", share)
	}
}

func TestLeastRequestDiscountsWeightsByActiveRequests(t *testing.T) {
	hs := hosts(2, 1)
	hs[0].active.Store(3) // 2/(3+1) = 0.5 against 1/1
	p := New(LeastRequest, hs, Options{Rand: seeded(), Bias: 1})
	got := count(p, 3000)
	if share := float64(got["h0"]) / 3000; math.Abs(share-1.0/3) > 0.01 {
		t.Errorf("h0 got %.3f, want 1/3", share)
	}
	p = New(LeastRequest, hs, Options{Rand: seeded()}) // bias 0: the weights alone
	got = count(p, 3000)
	if share := float64(got["h0"]) / 3000; math.Abs(share-2.0/3) > 0.01 {
		t.Errorf("bias 0: h0 got %.3f, want 2/3", share)
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, policy := range []Policy{RoundRobin, LeastRequest} {
			hs := hosts(1, 1)
			hs[0].warmth = 0.25
			p := New(policy, hs, Options{Rand: seeded(), SlowUntil: time.Now().Add(time.Minute)})
			if n := count(p, 1000)["h0"]; n < 195 || n > 205 {
				t.Errorf("%v: the warming host got %d of 1000, want 200", policy, n)
			}
			time.Sleep(2 * time.Minute)
			if n := count(p, 1000)["h0"]; n < 450 || n > 550 {
				t.Errorf("%v: the warm host got %d of 1000, want about 500", policy, n)
			}
		}
	})
}

func TestRandomIgnoresWeights(t *testing.T) {
	p := New(Random, hosts(1, 9), Options{Rand: seeded()})
	got := count(p, 10000)
	if got["h0"] < 4700 || got["h0"] > 5300 {
		t.Errorf("h0 got %d of 10000, want about 5000", got["h0"])
	}
}

func TestPickOfNoneAndOne(t *testing.T) {
	if _, ok := New(RoundRobin, hosts(), Options{}).Pick(); ok {
		t.Error("picked a host of an empty set")
	}
	for _, p := range []Policy{RoundRobin, LeastRequest, Random} {
		if h, ok := New(p, hosts(4), Options{}).Pick(); !ok || h.name != "h0" {
			t.Errorf("%v: did not pick the only host", p)
		}
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, p := range []Policy{RoundRobin, LeastRequest, Random} {
		for _, hs := range [][]*fake{hosts(1, 1, 1), hosts(1, 2, 3)} {
			pick := New(p, hs, Options{})
			if n := testing.AllocsPerRun(1000, func() { pick.Pick() }); n != 0 {
				t.Errorf("%v: %v allocations per pick", p, n)
			}
		}
	}
}

func TestPickIsSafeForConcurrentUse(t *testing.T) {
	pick := New(LeastRequest, hosts(1, 2, 3), Options{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				h, _ := pick.Pick()
				h.active.Add(1)
				h.active.Add(-1)
			}
		})
	}
	wg.Wait()
}

func TestWeighted(t *testing.T) {
	w := NewWeighted([]uint32{1, 0, 3}, seeded())
	var got [3]int
	for range 400 {
		got[w.Pick()]++
	}
	if got[1] != 0 || got[0] < 99 || got[0] > 101 {
		t.Errorf("picks %v, want 100 0 300", got)
	}
	if NewWeighted([]uint32{0}, seeded()).Pick() != -1 {
		t.Error("picked an index of weight 0")
	}
}

func TestRingKeysAreEnvoys(t *testing.T) {
	hs := []Hashed{{"10.0.0.1:80", 1}, {"10.0.0.2:80", 1}, {"10.0.0.3:80", 2}}
	r := NewRing(hs, 1024, 8<<20)
	if len(r.hashes) != 1024 {
		t.Fatalf("ring of %d points, want 1024", len(r.hashes))
	}
	owned := make([]int, 3)
	for i, o := range r.owners {
		owned[o]++
		if i > 0 && r.hashes[i] < r.hashes[i-1] {
			t.Fatal("ring is not sorted")
		}
	}
	if owned[0] != 256 || owned[1] != 256 || owned[2] != 512 {
		t.Errorf("points %v, want 256 256 512", owned)
	}
	// A point of a host, by the key rule, must lead to that host.
	if got := r.Pick(xxhash.Sum64String("10.0.0.2:80_7")); got != 1 {
		t.Errorf("point 7 of host 1 leads to host %d", got)
	}
	if r.Pick(math.MaxUint64) != int(r.owners[0]) && r.hashes[len(r.hashes)-1] != math.MaxUint64 {
		t.Error("a hash past the last point does not wrap to the first")
	}
}

func TestMaglevFillsItsTableByWeight(t *testing.T) {
	r := NewMaglev([]Hashed{{"a", 1}, {"b", 3}}, 65537)
	n := 0
	for _, o := range r.owners {
		if o == 0 {
			n++
		}
	}
	if share := float64(n) / 65537; math.Abs(share-0.25) > 0.01 {
		t.Errorf("host a owns %.3f of the table, want 0.25", share)
	}
	less := NewMaglev([]Hashed{{"a", 1}, {"b", 1}, {"c", 1}}, 65537)
	same := NewMaglev([]Hashed{{"a", 1}, {"b", 1}}, 65537)
	moved := 0
	for h := range uint64(65537) {
		if o := less.Pick(h); o != 2 && o != same.Pick(h) {
			moved++
		}
	}
	if moved > 65537/10 {
		t.Errorf("%d keys of hosts that stayed moved when a host left", moved)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, p := range []Policy{RoundRobin, LeastRequest, Random} {
		pick := New(p, hosts(1, 1, 1, 1, 1, 1, 1, 1, 1, 1), Options{})
		b.Run(p.String(), func(b *testing.B) {
			for b.Loop() {
				pick.Pick()
			}
		})
	}
}
