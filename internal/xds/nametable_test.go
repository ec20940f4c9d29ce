// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/proxy/dns"
)

// TestNameTable: a proxy that captures DNS is told the addresses of what it
// sees: services, pods of headless ones, ServiceEntries with addresses.
func TestNameTable(t *testing.T) {
	p := NewPipeline(nil)
	p.Apply(append(events(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec: {hosts: [api.example.com], addresses: [240.0.0.7], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: none, namespace: shop}
spec: {hosts: [none.example.com], resolution: NONE, ports: [{number: 443, name: tls, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db-a, namespace: shop}
spec: {hosts: [db-a.example.com], resolution: DNS, ports: [{number: 5432, name: tcp, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db-b, namespace: shop}
spec: {hosts: [db-b.example.com], resolution: DNS, ports: [{number: 5432, name: tcp, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: own, namespace: shop, labels: {networking.istio.io/enable-autoallocate-ip: "false"}}
spec: {hosts: [own.example.com], resolution: DNS, ports: [{number: 5432, name: tcp, protocol: TCP}]}
`), clusterEvents(t, `
kind: Service
namespace: shop
name: web
spec: {clusterIPs: [10.96.0.10, "fd00::10"], ports: [{name: http, number: 80}]}
---
kind: Service
namespace: shop
name: db
spec: {headless: true, ports: [{name: tcp, number: 5432}]}
---
kind: Service
namespace: private
name: hidden
annotations: {networking.istio.io/exportTo: .}
spec: {clusterIPs: [10.96.0.11], ports: [{name: http, number: 80}]}
---
kind: EndpointSlice
namespace: shop
name: db-1
spec:
  service: db
  addressType: IPv4
  ports: [{name: tcp, number: 5432}]
  endpoints:
  - {addresses: [10.244.0.8], hostname: db-0, ready: true}
  - {addresses: [10.244.0.9], hostname: db-1, ready: false}
  - {addresses: [10.244.0.10], ready: true}
`)...))
	class := Class{Mode: compile.ModeRedirect, Namespace: "shop", Address: "10.244.0.1", DNS: true}
	without := Class{Mode: compile.ModeRedirect, Namespace: "shop", Address: "10.244.0.1"}
	p.Hold(class, func(*View) {})
	p.Hold(without, func(*View) {})
	if n := len(p.View(without).Sets[NameTableType]); n != 0 {
		t.Errorf("a proxy without DNS capture is given %d name tables", n)
	}
	set := p.View(class).Sets[NameTableType]
	if len(set) != 1 {
		t.Fatalf("%d name tables", len(set))
	}
	got, err := dns.DecodeNameTable(set[0].Body)
	if err != nil {
		t.Fatal(err)
	}
	// Services without an address have each one of their own, with a listener.
	for _, host := range []string{"db-a.example.com", "db-b.example.com"} {
		ips := got[host].IPs
		if len(ips) != 1 || !strings.HasPrefix(ips[0], "240.240.") {
			t.Fatalf("%s has the addresses %v", host, ips)
		}
		l := p.View(class).Sets[ListenerType].Get(ips[0] + "_5432")
		if l == nil || !strings.Contains(decode(t, l).(*listenerv3.Listener).GetFilterChains()[0].GetFilters()[0].String(), host) {
			t.Errorf("no listener for %s at %s", host, ips[0])
		}
		if p.View(without).Sets[ListenerType].Get(ips[0]+"_5432") != nil {
			t.Errorf("a proxy without DNS capture has a listener at %s, which nobody can find", ips[0])
		}
		delete(got, host)
	}
	want := map[string]dns.Name{
		"api.example.com":                {IPs: []string{"240.0.0.7"}, Registry: "External", Namespace: "shop"},
		"web.shop.svc.cluster.local":     {IPs: []string{"10.96.0.10", "fd00::10"}, Registry: "Kubernetes", Shortname: "web", Namespace: "shop"},
		"db.shop.svc.cluster.local":      {IPs: []string{"10.244.0.10", "10.244.0.8"}, Registry: "Kubernetes", Shortname: "db", Namespace: "shop"},
		"db-0.db.shop.svc.cluster.local": {IPs: []string{"10.244.0.8"}, Registry: "Kubernetes", Shortname: "db-0.db", Namespace: "shop"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
