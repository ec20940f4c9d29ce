// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"math"
	"sort"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Ring maps a hash to the same host as long as the hosts are the same, and to
// mostly the same one when few change. It is immutable. Keys and arithmetic are
// Envoy's, so that proxies of both kinds agree on the host.
type Ring struct {
	hashes []uint64 // ring hash: points, ascending, with their owners
	owners []uint32 // ring hash: of points; maglev: the table
}

// Hashed is one host as consistent hashing sees it: its key (Envoy: address,
// host name or metadata envoy.lb.hash_key) and its weight, above 0.
type Hashed struct {
	Key    string
	Weight float64
}

// NewRing is Envoy's ring hash (ring_hash_lb.cc): each host owns points in
// proportion to its weight, at least minSize in all and about maxSize at most;
// point i of a host is xxHash64 of "<key>_<i>".
func NewRing(hosts []Hashed, minSize, maxSize uint64) *Ring {
	total, least := 0.0, math.Inf(1)
	for _, h := range hosts {
		total += h.Weight
		least = min(least, h.Weight)
	}
	least /= total
	scale := min(math.Ceil(least*float64(minSize))/least, float64(maxSize))
	size := int(math.Ceil(scale))
	r := &Ring{hashes: make([]uint64, 0, size), owners: make([]uint32, 0, size)}
	current, target := 0.0, 0.0
	var buf []byte
	for i, h := range hosts {
		buf = append(append(buf[:0], h.Key...), '_')
		prefix := len(buf)
		target += scale * (h.Weight / total)
		for n := int64(0); current < target; n++ {
			buf = strconv.AppendInt(buf[:prefix], n, 10)
			r.hashes = append(r.hashes, xxhash.Sum64(buf))
			r.owners = append(r.owners, uint32(i))
			current++
		}
	}
	sort.Sort(byHash{r})
	return r
}

type byHash struct{ *Ring }

func (b byHash) Len() int           { return len(b.hashes) }
func (b byHash) Less(i, j int) bool { return b.hashes[i] < b.hashes[j] }
func (b byHash) Swap(i, j int) {
	b.hashes[i], b.hashes[j] = b.hashes[j], b.hashes[i]
	b.owners[i], b.owners[j] = b.owners[j], b.owners[i]
}

// NewMaglev is Envoy's maglev (maglev_lb.cc) over a table of a prime size: each
// host in turn, as often as its weight says, takes the next free slot of its
// own permutation.
func NewMaglev(hosts []Hashed, size uint64) *Ring {
	type build struct {
		offset, skip, next uint64
		weight, target     float64
	}
	const free = math.MaxUint32
	r := &Ring{owners: make([]uint32, size)}
	for i := range r.owners {
		r.owners[i] = free
	}
	entries := make([]build, len(hosts))
	most := 0.0
	for i, h := range hosts {
		d := xxhash.NewWithSeed(1)
		_, _ = d.WriteString(h.Key)
		entries[i] = build{offset: xxhash.Sum64String(h.Key) % size, skip: d.Sum64()%(size-1) + 1, weight: h.Weight}
		most = max(most, entries[i].weight)
	}
	for left, round := size, 1.0; left > 0; round++ {
		for i := range entries {
			e := &entries[i]
			if left == 0 {
				break
			}
			if round*e.weight < e.target {
				continue
			}
			e.target += most
			slot := (e.offset + e.skip*e.next) % size
			for r.owners[slot] != free {
				e.next++
				slot = (e.offset + e.skip*e.next) % size
			}
			r.owners[slot] = uint32(i)
			e.next++
			left--
		}
	}
	return r
}

// Pick gives the index of the host that owns hash.
func (r *Ring) Pick(hash uint64) int {
	if r.hashes == nil {
		return int(r.owners[hash%uint64(len(r.owners))])
	}
	i := sort.Search(len(r.hashes), func(i int) bool { return r.hashes[i] >= hash })
	if i == len(r.hashes) {
		i = 0
	}
	return int(r.owners[i])
}
