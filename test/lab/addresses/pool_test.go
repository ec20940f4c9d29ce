// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"net/netip"
	"testing"
)

func TestPool(t *testing.T) {
	none := netip.Addr{}
	p := NewPool(netip.MustParsePrefix("172.30.1.7/29"))
	get := func(owner string, want netip.Addr, expect string) {
		t.Helper()
		a, err := p.Get(owner, want)
		if expect == "" {
			if err == nil {
				t.Errorf("%s got %s of an empty pool", owner, a)
			}
			return
		}
		if err != nil || a.String() != expect {
			t.Errorf("%s got %s, %v; want %s", owner, a, err, expect)
		}
	}
	get("a", none, "172.30.1.1")
	get("b", none, "172.30.1.2")
	get("a", none, "172.30.1.1") // kept
	get("c", netip.MustParseAddr("172.30.1.6"), "172.30.1.6")
	get("d", netip.MustParseAddr("172.30.1.6"), "172.30.1.3") // taken
	get("d", netip.MustParseAddr("172.30.1.4"), "172.30.1.4") // moves, and frees what it had
	get("e", netip.MustParseAddr("172.30.1.0"), "172.30.1.3") // the network's own
	get("f", netip.MustParseAddr("172.30.1.7"), "172.30.1.5") // broadcast
	get("g", none, "")
	p.Release("b")
	p.Release("b")
	get("g", netip.MustParseAddr("10.0.0.1"), "172.30.1.2")
}
