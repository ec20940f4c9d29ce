// SPDX-License-Identifier: Apache-2.0

package install

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// TestProfiles renders each profile. The CRDs are left out: they are files of their own.
func TestProfiles(t *testing.T) {
	names := Profiles()
	if len(names) < 3 {
		t.Fatalf("profiles: %v", names)
	}
	cases := map[string]Options{
		"revision":  {Revision: "canary", Namespace: "mesh", Set: []string{"profile=demo"}},
		"autoscale": {Set: []string{"values.pilot.autoscaleEnabled=true", "values.gateways.istio-ingressgateway.autoscaleEnabled=true", "values.global.imagePullSecrets={one,two}", "values.pilot.nodeSelector.kubernetes\\.io/os=linux"}},
	}
	for _, n := range names {
		cases[n] = Options{Set: []string{"profile=" + n}}
	}
	for name, o := range cases {
		o.Version = "1.2.3"
		p, err := NewPlan(o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for len(p.Objects) > 0 && p.Objects[0].GetKind() == "CustomResourceDefinition" {
			p.Objects = p.Objects[1:]
		}
		got, err := p.YAML()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".yaml", got)
	}
	entries, err := os.ReadDir("testdata/render")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); cases[name[:len(name)-len(filepath.Ext(name))]].Version == "" && cases[name[:len(name)-5]].Set == nil {
			t.Errorf("testdata/render/%s: no case makes it", name)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata/render", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-golden +now):\n%s", name, diff)
	}
}
