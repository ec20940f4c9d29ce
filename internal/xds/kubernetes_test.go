// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/lateen-mesh/lateen/internal/compile"
)

// shop is a service of two ports and its one pod, with %s for the pod's IPs,
// the slice's family and address, and the service's addresses.
func shop(ips, family, address, vips string) string {
	return fmt.Sprintf(`
kind: Service
namespace: shop
name: db
spec: {clusterIPs: [%s], ports: [{name: mysql, number: 3306}, {name: http, number: 80}, {name: any, number: 7000}]}
---
kind: EndpointSlice
namespace: shop
name: db-1
spec:
  service: db
  addressType: %s
  ports: [{name: mysql, number: 3306}, {name: http, number: 8080}, {name: any, number: 7000}]
  endpoints: [{addresses: ["%s"], pod: db-0, ready: true}]
---
kind: Pod
namespace: shop
name: db-0
labels: {app: db, security.istio.io/tlsMode: istio}
spec: {ips: [%s], serviceAccount: db}
`, vips, family, address, ips)
}

func view(t *testing.T, class Class, written, cluster string) *View {
	t.Helper()
	p := NewPipeline(nil)
	p.Apply(append(events(t, written), clusterEvents(t, cluster)...))
	p.Hold(class, func(*View) {})
	v := p.View(class)
	accepted(t, v)
	listens(t, v)
	return v
}

func names(s Set) []string {
	var out []string
	for _, r := range s {
		out = append(out, r.Name)
	}
	return out
}

func peerAuthentication(mode string) string {
	return "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: shop}\nspec: {mtls: {mode: " + mode + "}}\n"
}

// TestServerSpeaksFirst: on a port that is declared as TCP no byte of the client
// is waited for but those of TLS, and those only where TLS can come.
func TestServerSpeaksFirst(t *testing.T) {
	class := Class{Mode: compile.ModeRedirect, Namespace: "shop", Address: "10.0.0.9", Pod: "db-0"}
	looks := func(l *listenerv3.Listener, filter string, port int32) bool {
		for _, f := range l.GetListenerFilters() {
			if !strings.HasSuffix(f.GetName(), filter) {
				continue
			}
			return !slices.ContainsFunc(f.GetFilterDisabled().GetOrMatch().GetRules(), func(r *listenerv3.ListenerFilterChainMatchPredicate) bool {
				return r.GetDestinationPortRange().GetStart() == port && r.GetDestinationPortRange().GetEnd() == port+1
			})
		}
		return false
	}
	for _, c := range []struct {
		mode      string
		port      int32
		tls, http bool
	}{
		{"PERMISSIVE", 3306, true, false}, {"DISABLE", 3306, false, false}, {"STRICT", 3306, true, false},
		{"PERMISSIVE", 7000, true, true}, {"DISABLE", 7000, false, true},
		{"PERMISSIVE", 8080, true, false}, {"DISABLE", 8080, false, false},
	} {
		v := view(t, class, peerAuthentication(c.mode), shop("10.0.0.9", "IPv4", "10.0.0.9", "10.96.0.3"))
		l := decode(t, v.Sets[ListenerType].Get("virtualInbound")).(*listenerv3.Listener)
		if tls, http := looks(l, "tls_inspector", c.port), looks(l, "http_inspector", c.port); tls != c.tls || http != c.http {
			t.Errorf("%s, port %d: looks for TLS %v, for HTTP %v; want %v, %v", c.mode, c.port, tls, http, c.tls, c.http)
		}
	}
}

// TestFamilies: a pod has listeners for the addresses it can speak to, and its
// own are found by any address it has.
func TestFamilies(t *testing.T) {
	for _, c := range []struct {
		what, ips, family, address, vips, at string
		listeners                            []string
		inbound                              string
	}{
		{"IPv4", "10.0.0.9", "IPv4", "10.0.0.9", `10.96.0.3, "fd00::3"`, "10.0.0.9",
			[]string{"0.0.0.0_80", "10.96.0.3_3306", "10.96.0.3_7000", "virtualInbound", "virtualOutbound"}, "0.0.0.0"},
		{"IPv6", `"fd00::9"`, "IPv6", "fd00::9", `"fd00::3"`, "fd00::9",
			[]string{"::_80", "fd00::3_3306", "fd00::3_7000", "virtualInbound", "virtualOutbound"}, "::"},
		{"dual-stack, the service by IPv6 first", `10.0.0.9, "fd00::9"`, "IPv6", "fd00:0::9", `"fd00::3", 10.96.0.3`, "10.0.0.9",
			[]string{"0.0.0.0_80", "10.96.0.3_3306", "10.96.0.3_7000", "fd00::3_3306", "fd00::3_7000", "virtualInbound", "virtualOutbound"}, "::"},
	} {
		v := view(t, Class{Mode: compile.ModeRedirect, Namespace: "shop", Address: c.at, Pod: "db-0"}, "", shop(c.ips, c.family, c.address, c.vips))
		if got := names(v.Sets[ListenerType]); !slices.Equal(got, c.listeners) {
			t.Errorf("%s: listeners %v, want %v", c.what, got, c.listeners)
		}
		l := decode(t, v.Sets[ListenerType].Get("virtualInbound")).(*listenerv3.Listener)
		if got := l.GetAddress().GetSocketAddress(); got.GetAddress() != c.inbound || got.GetIpv4Compat() != strings.Contains(c.ips, ", ") {
			t.Errorf("%s: inbound address %v", c.what, got)
		}
		if v.Sets[ClusterType].Get("inbound|3306||") == nil {
			t.Errorf("%s: the pod does not find its own ports: %v", c.what, names(v.Sets[ClusterType]))
		}
	}
}

// TestHeadless: a sidecar passes connections to a headless service on to the
// address the client chose, by mutual TLS if all endpoints accept it; a gateway
// has no such address and balances.
func TestHeadless(t *testing.T) {
	text := strings.Replace(shop("10.0.0.9", "IPv4", "10.0.0.9", ""), "clusterIPs: []", "headless: true", 1)
	const name = "outbound|3306||db.shop.svc.cluster.local"
	cluster := func(mode compile.Mode, written, text string) *clusterv3.Cluster {
		v := view(t, Class{Mode: mode, Namespace: "other", Address: "10.0.0.1"}, written, text)
		return decode(t, v.Sets[ClusterType].Get(name)).(*clusterv3.Cluster)
	}
	if c := cluster(compile.ModeRedirect, "", text); c.GetType() != clusterv3.Cluster_ORIGINAL_DST || c.GetTransportSocket().GetName() != "envoy.transport_sockets.tls" {
		t.Errorf("a sidecar's cluster is %v with %v", c.GetType(), c.GetTransportSocket().GetName())
	}
	if c := cluster(compile.ModeRedirect, peerAuthentication("DISABLE"), text); c.GetTransportSocket() != nil {
		t.Errorf("with mutual TLS off there is %v", c.GetTransportSocket())
	}
	if c := cluster(compile.ModeRedirect, "", strings.Replace(text, "tlsMode: istio", "tlsMode: disabled", 1)); c.GetTransportSocket() != nil {
		t.Errorf("without sidecars there is %v", c.GetTransportSocket())
	}
	if c := cluster(compile.ModeGateway, "", text); c.GetType() != clusterv3.Cluster_EDS || len(c.GetTransportSocketMatches()) == 0 {
		t.Errorf("a gateway's cluster is %v", c.GetType())
	}
	v := view(t, Class{Mode: compile.ModeRedirect, Namespace: "other", Address: "10.0.0.1"}, "", text)
	if got, want := names(v.Sets[ListenerType]), []string{"0.0.0.0_80", "10.0.0.9_3306", "10.0.0.9_7000", "virtualInbound", "virtualOutbound"}; !slices.Equal(got, want) {
		t.Errorf("listeners %v, want %v", got, want)
	}
}

// TestReadiness: an endpoint counts while it is ready; a service that publishes
// the others too says so; when none is ready there is none, but for those that
// only the node controller calls so.
func TestReadiness(t *testing.T) {
	text := shop("10.0.0.9", "IPv4", "10.0.0.9", "10.96.0.3")
	class := Class{Mode: compile.ModeRedirect, Namespace: "other", Address: "10.0.0.1"}
	for _, c := range []struct {
		what, from, to string
		want           int
	}{
		{"ready", "", "", 1},
		{"not ready", "ready: true}", "ready: false, serving: false}", 0},
		{"terminating", "ready: true}", "ready: false, serving: true, terminating: true}", 0},
		{"its pod is not known yet", "pod: db-0", "pod: db-9", 0},
		{"a slice without pods", "pod: db-0, ", "", 1},
		{"its node is lost from sight", "serviceAccount: db", "able: true, serviceAccount: db", 1},
		{"its node is lost and it ends", "serviceAccount: db", "able: true, terminating: true, serviceAccount: db", 0},
		{"not ready, but published", "spec: {clusterIPs", "spec: {publishNotReady: true, clusterIPs", 1},
	} {
		edited := text
		if c.from != "" {
			edited = strings.ReplaceAll(text, c.from, c.to)
		}
		if strings.Contains(edited, "publishNotReady") || strings.Contains(edited, "able: true") {
			edited = strings.ReplaceAll(edited, "ready: true", "ready: false")
		}
		v := view(t, class, "", edited)
		a := decode(t, v.Sets[EndpointType].Get("outbound|3306||db.shop.svc.cluster.local")).(*endpointv3.ClusterLoadAssignment)
		n := 0
		for _, l := range a.GetEndpoints() {
			n += len(l.GetLbEndpoints())
		}
		if n != c.want {
			t.Errorf("%s: %d endpoints, want %d", c.what, n, c.want)
		}
	}
}

// TestWorkloadSelectorFindsPods: a ServiceEntry selects pods as it does
// WorkloadEntries, with the pods' identities.
func TestWorkloadSelectorFindsPods(t *testing.T) {
	v := view(t, Class{Mode: compile.ModeRedirect, Namespace: "other", Address: "10.0.0.1"}, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ledger, namespace: shop}
spec:
  hosts: [ledger.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, targetPort: 8080, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: db}}
`, strings.Replace(shop("10.0.0.9", "IPv4", "10.0.0.9", "10.96.0.3"), "serviceAccount: db", "serviceAccount: db, ready: true", 1))
	a := decode(t, v.Sets[EndpointType].Get("outbound|80||ledger.example.com")).(*endpointv3.ClusterLoadAssignment)
	if len(a.GetEndpoints()) != 1 || a.GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().GetPortValue() != 8080 {
		t.Fatalf("endpoints: %v", a)
	}
	c := decode(t, v.Sets[ClusterType].Get("outbound|80||ledger.example.com"))
	if s := fmt.Sprint(c); !strings.Contains(s, "spiffe://cluster.local/ns/shop/sa/db") {
		t.Errorf("the pod's account is not expected of the server: %v", s)
	}
}

// TestServiceOverServiceEntry: of one host and namespace Kubernetes' Service
// counts; when it goes the ServiceEntry comes into force.
func TestServiceOverServiceEntry(t *testing.T) {
	p := NewPipeline(nil)
	service := clusterEvents(t, shop("10.0.0.9", "IPv4", "10.0.0.9", "10.96.0.3"))
	p.Apply(append(events(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop}
spec: {hosts: [db.shop.svc.cluster.local], resolution: DNS, ports: [{number: 9999, name: http, protocol: HTTP}]}
`), service...))
	class := Class{Mode: compile.ModeRedirect, Namespace: "shop", Address: "10.0.0.1"}
	p.Hold(class, func(*View) {})
	has := func(port string) bool {
		return p.View(class).Sets[ClusterType].Get("outbound|"+port+"||db.shop.svc.cluster.local") != nil
	}
	if !has("3306") || has("9999") {
		t.Errorf("the Service is in force: %v, the ServiceEntry: %v", has("3306"), has("9999"))
	}
	service[0].Object = nil
	p.Apply(service[:1])
	if has("3306") || !has("9999") {
		t.Errorf("afterwards the Service is in force: %v, the ServiceEntry: %v", has("3306"), has("9999"))
	}
}

// TestMeshSettings: the mesh's settings reach what they are about, and HTTP/2
// for other services is not forced on the pod's own application.
func TestMeshSettings(t *testing.T) {
	p := NewPipeline(nil)
	p.Apply(append(meshOptions(t, `
inboundTrafficPolicy: {mode: LOCALHOST}
h2UpgradePolicy: UPGRADE
trustDomainAliases: [old.example]
tcpKeepalive: {time: 30s}
`), clusterEvents(t, shop("10.0.0.9", "IPv4", "10.0.0.9", "10.96.0.3"))...))
	class := Class{Mode: compile.ModeRedirect, Namespace: "shop", Address: "10.0.0.9", Pod: "db-0"}
	p.Hold(class, func(*View) {})
	cluster := func(name string) *clusterv3.Cluster {
		return decode(t, p.View(class).Sets[ClusterType].Get(name)).(*clusterv3.Cluster)
	}
	in := cluster("inbound|8080||")
	if a := in.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress(); a.GetAddress() != "127.0.0.1" || a.GetPortValue() != 8080 {
		t.Errorf("the application is reached at %v", a)
	}
	if o := in.GetTypedExtensionProtocolOptions(); len(o) > 0 {
		t.Errorf("the application is spoken to with %v", o)
	}
	out := fmt.Sprint(cluster("outbound|80||db.shop.svc.cluster.local"))
	for _, want := range []string{"http2_protocol_options", "spiffe://old.example/ns/shop/sa/db", "spiffe://cluster.local/ns/shop/sa/db", "keepalive_time"} {
		if !strings.Contains(out, want) {
			t.Errorf("the cluster lacks %q: %s", want, out)
		}
	}
}
