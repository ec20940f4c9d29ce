// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"
	"time"

	security "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

func TestFQDN(t *testing.T) {
	for host, want := range map[string]string{
		"reviews": "reviews.ns.svc.cluster.local", "reviews.other": "reviews.other", "*": "*", "*.a.com": "*.a.com",
		"A.Example.com.": "a.example.com", "": "",
	} {
		if got := FQDN(host, "ns"); got != want {
			t.Errorf("FQDN(%q) = %q, want %q", host, got, want)
		}
	}
}

func TestNarrower(t *testing.T) {
	for _, c := range [][3]string{
		{"*", "a.com", "a.com"}, {"a.com", "*", "a.com"}, {"*.com", "*.a.com", "*.a.com"}, {"*.a.com", "a.com", ""},
		{"*.a.com", "x.a.com", "x.a.com"}, {"a.com", "b.com", ""}, {"*", "*", "*"}, {"*.a.com", "*.b.com", ""},
	} {
		if got := narrower(c[0], c[1]); got != c[2] {
			t.Errorf("narrower(%q, %q) = %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

// TestRulesFor holds Istio's look-up order: the client's namespace, the
// service's, the root; in each the most specific host; same hosts merged.
func TestRulesFor(t *testing.T) {
	at := func(n int64) time.Time { return time.Unix(n, 0) }
	all := mesh.Visibility{"*"}
	const host = "reviews.b.svc.cluster.local"
	rules := []RuleHead{
		{Ref: Ref{"client", "own"}, Host: host, ExportTo: all, Created: at(9)},
		{Ref: Ref{"b", "young"}, Host: host, ExportTo: all, Created: at(5)},
		{Ref: Ref{"b", "old"}, Host: host, ExportTo: all, Created: at(1)},
		{Ref: Ref{"b", "wide"}, Host: "*.b.svc.cluster.local", ExportTo: all, Created: at(0)},
		{Ref: Ref{"b", "private"}, Host: "ratings.b.svc.cluster.local", ExportTo: mesh.Visibility{"."}, Created: at(0)},
		{Ref: Ref{"b", "labelled"}, Host: "carts.b.svc.cluster.local", ExportTo: all, Created: at(3), Selector: map[string]string{"app": "x"}},
		{Ref: Ref{"b", "plain"}, Host: "carts.b.svc.cluster.local", ExportTo: all, Created: at(1)},
		{Ref: Ref{"istio-system", "root"}, Host: "*", ExportTo: all, Created: at(0)},
	}
	r := NewRegistry(nil, rules, nil)
	for _, c := range []struct {
		what, host, client string
		labels             map[string]string
		want               string
	}{
		{"the client's namespace comes first", host, "client", nil, "client/own"},
		{"the service's namespace, merged by age", host, "elsewhere", nil, "b/old,b/young"},
		{"a wildcard when nothing is exact", "details.b.svc.cluster.local", "elsewhere", nil, "b/wide"},
		{"what is not exported is not there", "ratings.b.svc.cluster.local", "elsewhere", nil, "b/wide"},
		{"but it is in its own namespace", "ratings.b.svc.cluster.local", "b", nil, "b/private"},
		{"the root namespace last", "x.c.svc.cluster.local", "elsewhere", nil, "istio-system/root"},
		{"a rule that selects the client goes before one that does not", "carts.b.svc.cluster.local", "b", map[string]string{"app": "x"}, "b/labelled"},
		{"and is for no other client", "carts.b.svc.cluster.local", "b", nil, "b/plain"},
	} {
		ns := "b"
		if c.host == "x.c.svc.cluster.local" {
			ns = "c"
		}
		svc := &mesh.Service{ID: mesh.ServiceID{Namespace: ns, Host: c.host}}
		if got := JoinRefs(r.RulesFor(svc, c.client, c.labels, "istio-system")); got != c.want {
			t.Errorf("%s: %s from %s has %q, want %q", c.what, c.host, c.client, got, c.want)
		}
	}
}

func TestPeerMode(t *testing.T) {
	const (
		unset   = security.PeerAuthentication_MutualTLS_UNSET
		disable = security.PeerAuthentication_MutualTLS_DISABLE
		strict  = security.PeerAuthentication_MutualTLS_STRICT
	)
	n := int64(0)
	policy := func(ns string, selector map[string]string, mode security.PeerAuthentication_MutualTLS_Mode, ports map[uint32]*security.PeerAuthentication_MutualTLS) *config.Object {
		spec := &security.PeerAuthentication{Mtls: &security.PeerAuthentication_MutualTLS{Mode: mode}, PortLevelMtls: ports}
		if selector != nil {
			spec.Selector = &typev1beta1.WorkloadSelector{MatchLabels: selector}
		}
		n++
		return &config.Object{Key: config.Key{Kind: config.PeerAuthentication, Namespace: ns, Name: "p"}, CreationTimestamp: time.Unix(n, 0), Spec: spec}
	}
	web := map[string]string{"app": "web"}
	meshWide, namespace := policy("istio-system", nil, strict, nil), policy("a", nil, disable, nil)
	inherit := policy("a", web, unset, map[uint32]*security.PeerAuthentication_MutualTLS{81: {Mode: strict}})
	later := policy("a", nil, strict, nil)
	for _, c := range []struct {
		what     string
		policies []*config.Object
		port     uint32
		want     Peer
	}{
		{"nothing said", nil, 80, PeerPermissive},
		{"the mesh", []*config.Object{meshWide}, 80, PeerStrict},
		{"the namespace over the mesh", []*config.Object{meshWide, namespace}, 80, PeerDisable},
		{"unset inherits", []*config.Object{meshWide, namespace, inherit}, 80, PeerDisable},
		{"a port over its workload", []*config.Object{namespace, inherit}, 81, PeerStrict},
		{"the oldest of one level", []*config.Object{later, namespace}, 80, PeerDisable},
		{"another workload's", []*config.Object{policy("a", map[string]string{"app": "db"}, strict, nil)}, 80, PeerPermissive},
	} {
		if got := PeerMode(PeerInput{"istio-system", "a", web, c.port, c.policies}); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
}
