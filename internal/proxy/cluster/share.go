// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/lateen-mesh/lateen/internal/proxy/balance"
)

// defaultHTTP are Envoy's upstream defaults.
var defaultHTTP = HTTPOptions{IdleTimeout: time.Hour, MaxHeadersCount: 100, MaxResponseHeadersKB: 60}

// A mesh has a handful of different HTTP options and thousands of clusters:
// they share one value. The table is bounded; past it values are not shared.
const maxSharedHTTP = 256

var sharedHTTP struct {
	sync.Mutex // guards m
	m          map[HTTPOptions]*HTTPOptions
}

func internHTTP(o HTTPOptions) *HTTPOptions {
	sharedHTTP.Lock()
	defer sharedHTTP.Unlock()
	if p := sharedHTTP.m[o]; p != nil {
		return p
	}
	p := &o
	if len(sharedHTTP.m) < maxSharedHTTP {
		if sharedHTTP.m == nil {
			sharedHTTP.m = make(map[HTTPOptions]*HTTPOptions)
		}
		sharedHTTP.m[o] = p
	}
	return p
}

// hashPolicy is ring hash or maglev.
type hashPolicy struct {
	minSize, maxSize uint64 // ring
	table            uint64 // maglev; 0 means ring
	byHostname       bool
}

// Bounds of Envoy: the greatest ring and the greatest maglev table.
const (
	maxRing   = 8 << 20
	maxMaglev = 5000011
)

func decodeHash(msg *clusterv3.Cluster) (*hashPolicy, error) {
	p := &hashPolicy{minSize: 1024, maxSize: maxRing, byHostname: msg.GetCommonLbConfig().GetConsistentHashingLbConfig().GetUseHostnameForHashing()}
	if msg.GetLbPolicy() == clusterv3.Cluster_MAGLEV {
		p.table = 65537
		if v := msg.GetMaglevLbConfig().GetTableSize(); v != nil {
			p.table = v.GetValue()
		}
		if p.table > maxMaglev || !prime(p.table) {
			return nil, fmt.Errorf("maglev_lb_config.table_size %d is not a prime up to %d", p.table, maxMaglev)
		}
		return p, nil
	}
	rh := msg.GetRingHashLbConfig()
	if rh.GetHashFunction() != clusterv3.Cluster_RingHashLbConfig_XX_HASH {
		return nil, errors.New("ring_hash_lb_config.hash_function: only XX_HASH is supported")
	}
	if v := rh.GetMinimumRingSize(); v != nil {
		p.minSize = v.GetValue()
	}
	if v := rh.GetMaximumRingSize(); v != nil {
		p.maxSize = v.GetValue()
	}
	if p.minSize > p.maxSize || p.maxSize > maxRing || p.maxSize == 0 {
		return nil, fmt.Errorf("ring_hash_lb_config: sizes %d..%d: want minimum <= maximum <= %d", p.minSize, p.maxSize, maxRing)
	}
	return p, nil
}

func prime(n uint64) bool {
	if n < 2 {
		return false
	}
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// build makes the ring or table of hosts, of which factor gives each one's
// locality's share; nil means all the same.
func (p *hashPolicy) build(hosts []*Host, factor []float64) *balance.Ring {
	keys := make([]balance.Hashed, len(hosts))
	for i, h := range hosts {
		keys[i] = balance.Hashed{Key: h.address, Weight: float64(h.Weight())}
		if p.byHostname {
			keys[i].Key = h.Hostname()
		}
		if factor != nil {
			keys[i].Weight *= factor[i]
		}
	}
	if p.table > 0 {
		return balance.NewMaglev(keys, p.table)
	}
	return balance.NewRing(keys, p.minSize, p.maxSize)
}
