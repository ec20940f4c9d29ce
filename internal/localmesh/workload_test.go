// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	networking "istio.io/api/networking/v1alpha3"

	lateen "github.com/lateen-mesh/lateen/api/mesh/v1alpha1"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
)

func obj(kind *config.Kind, name string, spec any) *config.Object {
	return &config.Object{
		Key:    config.Key{Kind: kind, Namespace: "default", Name: name},
		Spec:   spec,
		Source: config.Source{File: "/mesh/workloads.yaml", Line: 1},
	}
}

func sidecar(name, app, endpoint string) *config.Object {
	return obj(config.Sidecar, name, &networking.Sidecar{
		WorkloadSelector: &networking.WorkloadSelector{Labels: map[string]string{"app": app}},
		Ingress:          []*networking.IstioIngressListener{{Port: &networking.SidecarPort{Number: 9080}, DefaultEndpoint: endpoint}},
	})
}

func entry(name, address string) *config.Object {
	return obj(config.WorkloadEntry, name, &networking.WorkloadEntry{
		Address: address, Labels: map[string]string{"app": name}, ServiceAccount: "bookinfo-" + name, Locality: "r1/z1/s1",
	})
}

func local(name, entry string, command ...string) *config.Object {
	return obj(config.LocalWorkload, name, &lateen.LocalWorkload{Entry: entry, Command: command, Env: map[string]string{"A": "b"}})
}

func TestWorkloadsOf(t *testing.T) {
	got, problems := workloadsOf([]*config.Object{
		entry("reviews", "127.0.1.5"), sidecar("reviews", "reviews", "127.0.0.1:19085"), local("reviews", "reviews", "bookinfo", "reviews"),
		entry("gw", "127.0.1.1"), local("gw", "gw"),
		local("orphan", "nothing", "x"),
		entry("public", "10.0.0.1"), local("public", "public", "x"),
		entry("shared", "127.0.0.1"), local("shared", "shared", "x"),
		entry("bare", "127.0.1.9"), local("bare", "bare", "x"),
		obj(config.ServiceEntry, "bare", &networking.ServiceEntry{WorkloadSelector: &networking.WorkloadSelector{Labels: map[string]string{"app": "bare"}}}),
		entry("client", "127.0.1.10"), local("client", "client", "x"),
		entry("twin", "127.0.1.5"), sidecar("twin", "twin", "127.0.0.1:1"), local("twin", "twin", "x"),
		entry("odd", "127.0.1.8"), sidecar("odd", "odd", "unix:///x"), local("odd", "odd", "x"),
	})
	want := []workload{
		{
			Namespace: "default", Name: "client", Entry: "client", Address: netip.MustParseAddr("127.0.1.10"),
			Labels: map[string]string{"app": "client"}, ServiceAccount: "bookinfo-client", Locality: "r1/z1/s1",
			Command: []string{"x"}, Env: map[string]string{"A": "b"}, Dir: "/mesh",
		},
		{
			Namespace: "default", Name: "gw", Entry: "gw", Address: netip.MustParseAddr("127.0.1.1"),
			Labels: map[string]string{"app": "gw"}, ServiceAccount: "bookinfo-gw", Locality: "r1/z1/s1",
			Env: map[string]string{"A": "b"}, Dir: "/mesh",
		},
		{
			Namespace: "default", Name: "reviews", Entry: "reviews", Address: netip.MustParseAddr("127.0.1.5"),
			Labels: map[string]string{"app": "reviews"}, ServiceAccount: "bookinfo-reviews", Locality: "r1/z1/s1",
			Ports:   []port{{9080, netip.MustParseAddrPort("127.0.0.1:19085")}},
			Command: []string{"bookinfo", "reviews"}, Env: map[string]string{"A": "b"}, Dir: "/mesh",
		},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.IgnoreUnexported(lateen.Probe{})); diff != "" {
		t.Errorf("workloads (-want +got):\n%s", diff)
	}
	says := map[string]string{
		"orphan": `no WorkloadEntry "nothing"`, "public": `address "10.0.0.1"`, "shared": `address "127.0.0.1"`,
		"bare": "no Sidecar in namespace default selects", "twin": "is that of LocalWorkload/default/reviews too", "odd": `defaultEndpoint is "unix:///x"`,
	}
	for _, p := range problems {
		name := p.Object[strings.LastIndexByte(p.Object, '/')+1:]
		if w := says[name]; w == "" || !strings.Contains(p.Message, w) {
			t.Errorf("%s: %s, want %q", p.Object, p.Message, w)
		}
		delete(says, name)
	}
	if len(says) > 0 {
		t.Errorf("not reported: %v", says)
	}
}

func TestAppEnv(t *testing.T) {
	w := workload{Name: "reviews", Address: netip.MustParseAddr("127.0.1.5"), Env: map[string]string{"HOSTNAME": "pod"},
		Ports: []port{{9080, netip.MustParseAddrPort("127.0.0.1:19085")}}}
	got := w.appEnv([]string{"PATH=/bin", "HTTPS_PROXY=http://corp:3128", "no_proxy=*"}, 15007)
	want := []string{"PATH=/bin", "HTTP_PROXY=http://127.0.1.5:15007", "http_proxy=http://127.0.1.5:15007", "HOSTNAME=reviews",
		"LISTEN_ADDRESS=127.0.0.1:19085", "PORT=19085", "PORT_9080=19085", "HOSTNAME=pod"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestBootstrap gives what is written to the strict reader of lateen-proxy.
func TestBootstrap(t *testing.T) {
	w := workload{Namespace: "default", Name: "reviews-v1", Address: netip.MustParseAddr("127.0.1.5"), Command: []string{"x"},
		Labels: map[string]string{"app": "reviews"}, ServiceAccount: "bookinfo-reviews", Locality: "r1/z1"}
	gw := workload{Namespace: "istio-system", Name: "gw", Address: netip.MustParseAddr("127.0.1.1")}
	for id, w := range map[string]workload{
		"sidecar~127.0.1.5~reviews-v1.default~default.svc.cluster.local":  w,
		"router~127.0.1.1~gw.istio-system~istio-system.svc.cluster.local": gw,
	} {
		b, err := renderBootstrap(bootstrapInput{Workload: w, ControlPlane: istiodAddrs().xds, RootFile: "/root.pem", MeshName: "demo", TrustDomain: "cluster.local", GatewayPort: 8081})
		if err != nil {
			t.Fatal(err)
		}
		bs, err := bootstrap.Parse(b, bootstrap.Options{})
		if err != nil {
			t.Fatalf("%v in\n%s", err, b)
		}
		meta := bs.Node.GetMetadata().AsMap()
		if bs.Node.Id != id || bs.ADS == nil || !bs.CDS || !bs.LDS || meta["INTERCEPTION_MODE"] != "NONE" || meta["LATEEN_VHDS"] != "true" {
			t.Errorf("%s", b)
		}
		if _, admin, err := bs.AdminAddress(); err != nil || admin != w.nodeIP()+":15000" {
			t.Errorf("admin at %s, %v", admin, err)
		}
		if got := meta["LATEEN_PUBLISHED_PORTS"] != nil; got != w.gateway() {
			t.Errorf("%s: gateway ports given: %v", id, got)
		}
	}
}
