// SPDX-License-Identifier: Apache-2.0

package config

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/deploy"
)

// TestKindsAreDefined holds the registry to the definitions that are
// installed: every kind of Istio's, its names, scope and versions.
func TestKindsAreDefined(t *testing.T) {
	type definition struct {
		Spec struct {
			Scope string
			Names struct {
				Kind, Plural string
				ShortNames   []string
			}
			Versions []struct {
				Name            string
				Served, Storage bool
			}
		}
	}
	left, err := fs.Glob(deploy.CRDs(), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Kinds() {
		if !strings.HasSuffix(k.Group, ".istio.io") || k == MeshConfig {
			continue
		}
		file := k.Plural + "." + k.Group + ".yaml"
		b, err := fs.ReadFile(deploy.CRDs(), file)
		if err != nil {
			t.Error(err)
			continue
		}
		left = slices.DeleteFunc(left, func(f string) bool { return f == file })
		var d definition
		if err := yaml.Unmarshal(b, &d); err != nil {
			t.Fatal(err)
		}
		var versions []string
		for _, v := range d.Spec.Versions {
			if v.Served {
				versions = append(versions, v.Name)
			}
		}
		if d.Spec.Names.Kind != k.Name || (d.Spec.Scope == "Cluster") != k.ClusterScoped {
			t.Errorf("%s: %+v", k, d.Spec.Names)
		}
		slices.Sort(versions)
		if ours := slices.Sorted(slices.Values(k.Versions)); !slices.Equal(versions, ours) {
			t.Errorf("%s is served as %v, known as %v", k, versions, ours)
		}
		for _, s := range d.Spec.Names.ShortNames {
			if got, _ := FindKind(s); got != k {
				t.Errorf("kubectl's %s for %s is %v here", s, k, got)
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("definitions of no kind that is handled: %v", left)
	}
}
