// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"io/fs"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/samples/bookinfo"
)

// TestBookinfoMesh: every file of the demo is good, and comes to these workloads.
func TestBookinfoMesh(t *testing.T) {
	var objects []*config.Object
	err := fs.WalkDir(bookinfo.Mesh(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(bookinfo.Mesh(), path)
		if err != nil {
			return err
		}
		res := config.Decode(b, path, config.DefaultNamespace)
		for _, p := range res.Problems {
			t.Errorf("%s: %v", p.Severity, p)
		}
		objects = append(objects, res.Objects...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	workloads, problems := workloadsOf(objects)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Object, p.Message)
	}
	got := map[string]string{}
	private := map[netip.AddrPort]string{}
	for _, w := range workloads {
		got[w.display()] = w.nodeIP() + " " + w.ServiceAccount
		if w.gateway() {
			continue
		}
		if len(w.Ports) != 1 || w.Ports[0].Number != 9080 {
			t.Errorf("%s has the ports %v, want 9080", w.Name, w.Ports)
			continue
		}
		if other := private[w.Ports[0].Private]; other != "" {
			t.Errorf("%s and %s have one private port", other, w.Name)
		}
		private[w.Ports[0].Private] = w.Name
	}
	want := map[string]string{
		"istio-ingressgateway.istio-system": "127.0.1.1 istio-ingressgateway-service-account",
		"productpage-v1":                    "127.0.1.2 bookinfo-productpage",
		"details-v1":                        "127.0.1.3 bookinfo-details",
		"ratings-v1":                        "127.0.1.4 bookinfo-ratings",
		"reviews-v1":                        "127.0.1.5 bookinfo-reviews",
		"reviews-v2":                        "127.0.1.6 bookinfo-reviews",
		"reviews-v3":                        "127.0.1.7 bookinfo-reviews",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("workloads (-want +got):\n%s", diff)
	}
}
