// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDNS answers from a table.
type fakeDNS struct {
	mu    sync.Mutex
	addrs map[string][]string
	ttl   time.Duration
	err   error
	asked int
}

func (f *fakeDNS) resolve(_ context.Context, network, host string) ([]netip.Addr, time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if network == "ip4" {
		f.asked++
	}
	if f.err != nil {
		return nil, 0, f.err
	}
	var out []netip.Addr
	for _, s := range f.addrs[host] {
		a := netip.MustParseAddr(s)
		if a.Is4() == (network != "ip6") || network == "ip" {
			out = append(out, a)
		}
	}
	if out == nil {
		return nil, 0, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, f.ttl, nil
}

func (f *fakeDNS) set(host string, addrs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.addrs = map[string][]string{host: addrs}
}

func dnsCluster(kind, more string) string {
	return `{"name":"c","type":"` + kind + `","connectTimeout":"1s"` + more + `,"loadAssignment":{"clusterName":"c","endpoints":[{"lbEndpoints":[
		{"endpoint":{"address":{"socketAddress":{"address":"db.example.com","portValue":5432}}}}]}]}}`
}

func addresses(c *Cluster) string {
	var out []string
	for _, h := range c.Hosts() {
		out = append(out, h.Address())
	}
	return strings.Join(out, " ")
}

func TestStrictDNSFollowsItsNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{}
		dns.set("db.example.com", "10.0.0.2", "10.0.0.1")
		m := NewManager(Options{Resolve: dns.resolve, Rand: seeded()})
		defer m.Close()
		mustUpdate(t, m, clusterOf(t, dnsCluster("STRICT_DNS", "")))
		synctest.Wait()
		c := m.Get("c")
		if got := addresses(c); got != "10.0.0.1:5432 10.0.0.2:5432" {
			t.Fatalf("hosts %s", got)
		}
		keep := c.Hosts()[0]
		dns.set("db.example.com", "10.0.0.1", "10.0.0.3")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if got := addresses(c); got != "10.0.0.1:5432 10.0.0.3:5432" || c.Hosts()[0] != keep {
			t.Fatalf("hosts %s, first kept: %v", got, c.Hosts()[0] == keep)
		}
		// A resolver that fails takes nothing away, one that knows no such name does.
		dns.mu.Lock()
		dns.err = errors.New("timeout")
		dns.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if addresses(c) != "10.0.0.1:5432 10.0.0.3:5432" {
			t.Fatal("hosts were lost to a failing resolver")
		}
		dns.mu.Lock()
		dns.err, dns.addrs = nil, nil
		dns.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if addresses(c) != "" {
			t.Fatal("hosts of a name that is gone are still there")
		}
	})
}

func TestDNSRefresh(t *testing.T) {
	for _, tt := range []struct {
		more string
		ttl  time.Duration
		err  error
		want int // lookups in 100 s
	}{
		{``, 0, nil, 20},
		{`,"dnsRefreshRate":"60s","respectDnsTtl":true`, 10 * time.Second, nil, 10},
		{`,"dnsFailureRefreshRate":{"baseInterval":"1s","maxInterval":"32s"}`, 0, errors.New("down"), 8},
	} {
		synctest.Test(t, func(t *testing.T) {
			dns := &fakeDNS{ttl: tt.ttl, err: tt.err}
			dns.set("db.example.com", "10.0.0.1")
			m := NewManager(Options{Resolve: dns.resolve})
			defer m.Close()
			mustUpdate(t, m, clusterOf(t, dnsCluster("STRICT_DNS", `,"dnsLookupFamily":"V4_ONLY"`+tt.more)))
			time.Sleep(100*time.Second - time.Millisecond)
			synctest.Wait()
			dns.mu.Lock()
			defer dns.mu.Unlock()
			if dns.asked != tt.want {
				t.Errorf("%s: %d lookups in 100 s, want %d", tt.more, dns.asked, tt.want)
			}
		})
	}
}

func TestLogicalDNSKeepsItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &fakeDNS{}
		dns.set("db.example.com", "10.0.0.1", "10.0.0.9")
		m := NewManager(Options{Resolve: dns.resolve})
		defer m.Close()
		mustUpdate(t, m, clusterOf(t, dnsCluster("LOGICAL_DNS", "")))
		synctest.Wait()
		h := m.Get("c").Pick(nil)
		if h.Address() != "10.0.0.1:5432" {
			t.Fatalf("address %s", h.Address())
		}
		dns.set("db.example.com", "10.0.0.7")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if m.Get("c").Pick(nil) != h || h.Removed() || h.Address() != "10.0.0.7:5432" {
			t.Errorf("want the same host at its new address, is at %s", h.Address())
		}
	})
}

func TestDNSLookupFamilies(t *testing.T) {
	for family, want := range map[string]string{
		"AUTO":         "[fd00::1]:5432",
		"V6_ONLY":      "[fd00::1]:5432",
		"V4_ONLY":      "10.0.0.1:5432",
		"V4_PREFERRED": "10.0.0.1:5432",
		"ALL":          "10.0.0.1:5432 [fd00::1]:5432",
	} {
		synctest.Test(t, func(t *testing.T) {
			dns := &fakeDNS{}
			dns.set("db.example.com", "10.0.0.1", "fd00::1")
			m := NewManager(Options{Resolve: dns.resolve})
			defer m.Close()
			mustUpdate(t, m, clusterOf(t, dnsCluster("STRICT_DNS", fmt.Sprintf(`,"dnsLookupFamily":%q`, family))))
			synctest.Wait()
			if got := addresses(m.Get("c")); got != want {
				t.Errorf("%s: %s, want %s", family, got, want)
			}
		})
	}
}
