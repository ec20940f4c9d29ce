// SPDX-License-Identifier: Apache-2.0

package route

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
)

func vhost(t testing.TB, name, cluster string, domains ...string) *routev3.VirtualHost {
	return decode(t, fmt.Sprintf(`{name: %q, domains: [%s], routes: [{match: {prefix: /}, route: {cluster: %q}}]}`,
		name, strings.Join(domains, ","), cluster), &routev3.VirtualHost{})
}

func resource(t testing.TB, version, name, cluster string, domains ...string) HostResource {
	return HostResource{Name: "9080/" + name, Version: version, Host: vhost(t, name, cluster, domains...)}
}

func clusterOf(s *Source, host string) string {
	m, ok := s.Load().Match(request("GET " + host + " /"))
	if !ok {
		return "none"
	}
	return m.Cluster
}

func newVHDS(t testing.TB) *Source {
	s := NewSource("9080", Options{})
	rc := decode(t, `{name: "9080", vhds: {}, virtual_hosts: [{name: allow_any, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: passthrough}}]}]}`, &routev3.RouteConfiguration{})
	if err := s.SetConfig(rc); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVirtualHostDiscovery(t *testing.T) {
	s := newVHDS(t)
	if !s.Load().VHDS() || clusterOf(s, "a") != "passthrough" {
		t.Fatal("the catch-all does not stand alone")
	}
	if err := s.UpdateHosts([]HostResource{resource(t, "1", "a", "a1", "a", "a.default"), resource(t, "1", "b", "b1", "b")}, nil); err != nil {
		t.Fatal(err)
	}
	if clusterOf(s, "a.default") != "a1" || clusterOf(s, "b") != "b1" || clusterOf(s, "c") != "passthrough" {
		t.Error("discovered hosts do not win over the catch-all")
	}
	before := s.Load()
	if err := s.UpdateHosts([]HostResource{resource(t, "2", "a", "a2", "a", "a.default")}, nil); err != nil {
		t.Fatal(err)
	}
	after := s.Load()
	if clusterOf(s, "a") != "a2" {
		t.Error("an update is not seen")
	}
	if after.index != before.index || after.hosts[1] != before.hosts[1] {
		t.Error("an update that changes no domain compiles or indexes other hosts again")
	}
	if m, _ := before.Match(request("GET a /")); m.Cluster != "a1" {
		t.Error("a request in flight sees the new table")
	}
	if err := s.UpdateHosts([]HostResource{resource(t, "2", "a", "never", "a")}, nil); err != nil || s.Load() != after {
		t.Error("a version seen before is compiled again")
	}
	if err := s.UpdateHosts(nil, []string{"9080/a", "9080/unknown"}); err != nil {
		t.Fatal(err)
	}
	if clusterOf(s, "a") != "passthrough" || clusterOf(s, "b") != "b1" {
		t.Error("a removed host is still there, or another one is not")
	}
	if d := cmp.Diff([]string{"9080/b"}, s.Discovered()); d != "" {
		t.Error(d)
	}
}

func TestDiscoveredHostsSurviveTheirConfiguration(t *testing.T) {
	s := NewSource("9080", Options{})
	if err := s.UpdateHosts([]HostResource{resource(t, "1", "a", "a1", "a")}, nil); err != nil {
		t.Fatal(err)
	}
	if s.Load() != nil {
		t.Fatal("a table without a configuration")
	}
	select {
	case <-s.Ready():
		t.Fatal("ready without a configuration")
	default:
	}
	if err := s.SetConfig(decode(t, `{name: "9080", vhds: {}}`, &routev3.RouteConfiguration{})); err != nil {
		t.Fatal(err)
	}
	<-s.Ready()
	if clusterOf(s, "a") != "a1" {
		t.Error("a host that came before its configuration is lost")
	}
	if err := s.SetConfig(decode(t, `{name: "9080", virtual_hosts: [{name: x, domains: [x, x]}]}`, &routev3.RouteConfiguration{})); err == nil {
		t.Error("a bad configuration is accepted")
	}
	if clusterOf(s, "a") != "a1" {
		t.Error("a refused configuration does not leave the last good one")
	}
}

func TestRefusedHostKeepsItsLastGoodVersion(t *testing.T) {
	s := newVHDS(t)
	if err := s.UpdateHosts([]HostResource{resource(t, "1", "a", "a1", "a"), resource(t, "1", "b", "b1", "b")}, nil); err != nil {
		t.Fatal(err)
	}
	bad := HostResource{Name: "9080/a", Version: "2", Host: &routev3.VirtualHost{Name: "a"}}
	thief := resource(t, "2", "c", "c1", "c", "b")
	err := s.UpdateHosts([]HostResource{bad, thief, resource(t, "2", "b", "b2", "b")}, nil)
	var he *HostError
	if !errors.As(err, &he) || !strings.Contains(err.Error(), "9080/a") || !strings.Contains(err.Error(), `domain "b"`) {
		t.Errorf("got error %v", err)
	}
	if clusterOf(s, "a") != "a1" {
		t.Errorf("a refused host loses its last good version: %s", clusterOf(s, "a"))
	}
	if c := clusterOf(s, "b"); c != "b2" && c != "c1" {
		t.Errorf("host b: %s", c)
	}
	// A domain may move between hosts in one update.
	s = newVHDS(t)
	if err := s.UpdateHosts([]HostResource{resource(t, "1", "a", "a1", "a", "x")}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateHosts([]HostResource{resource(t, "2", "a", "a1", "a"), resource(t, "2", "b", "b1", "b", "x")}, nil); err != nil {
		t.Fatal(err)
	}
	if clusterOf(s, "x") != "b1" {
		t.Error("a domain did not move")
	}
}

func TestReadersDuringUpdates(t *testing.T) {
	s := newVHDS(t)
	versions := make([]HostResource, 50)
	for i := range versions {
		versions[i] = resource(t, fmt.Sprint(i), "a", fmt.Sprint("a", i), "a", fmt.Sprintf("d%d", i%3))
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if clusterOf(s, "other") != "passthrough" {
						t.Error("the catch-all was gone")
						return
					}
				}
			}
		})
	}
	for _, v := range versions {
		if err := s.UpdateHosts([]HostResource{v}, nil); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
}

func TestManager(t *testing.T) {
	m := NewManager(Options{})
	a := m.Source("80")
	if m.Source("80") != a || len(m.Names()) != 1 {
		t.Error("a second look-up makes a second source")
	}
	m.Remove("80")
	if m.Source("80") == a {
		t.Error("a removed source is still there")
	}
}

// BenchmarkOneHostOfThousand is one virtual host changing among 1000 with seven
// domains each.
func BenchmarkOneHostOfThousand(b *testing.B) {
	for _, domains := range []string{"same", "changed"} {
		b.Run(domains+" domains", func(b *testing.B) {
			s := newVHDS(b)
			var all []HostResource
			for i := range 1000 {
				all = append(all, resource(b, "0", fmt.Sprint("svc-", i), "c",
					fmt.Sprintf("svc-%d,svc-%[1]d.default,svc-%[1]d.default.svc,svc-%[1]d.default.svc.cluster.local,10.0.%d.%d,svc-%[1]d:80,svc-%[1]d.default:80", i, i/256, i%256)))
			}
			if err := s.UpdateHosts(all, nil); err != nil {
				b.Fatal(err)
			}
			one := []HostResource{all[500], all[500]}
			one[1].Host = vhost(b, "svc-500", "c", "svc-500", "other")
			if domains == "same" {
				one[1] = one[0]
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n++
				r := one[n%2]
				r.Version = fmt.Sprint(n)
				if err := s.UpdateHosts([]HostResource{r}, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
