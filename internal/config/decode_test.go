// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestIstioSamples decodes what Istio's documents tell a user to apply.
func TestIstioSamples(t *testing.T) {
	root := os.Getenv("LATEEN_ISTIO_SAMPLES")
	if root == "" {
		t.Skip("LATEEN_ISTIO_SAMPLES is not set: name a directory with Istio's samples to decode them")
	}
	var files []string
	for _, pattern := range []string{"bookinfo/networking/*.yaml", "*/*gateway.yaml", "*/route.yaml", "*/*-v*.yaml", "*/*.yaml"} {
		for _, base := range []string{root, filepath.Join(root, "samples")} {
			m, err := filepath.Glob(filepath.Join(base, pattern))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, m...)
		}
	}
	files = slices.DeleteFunc(files, func(f string) bool { return filepath.Base(f) == "swagger.yaml" })
	if len(files) == 0 {
		t.Fatalf("no samples under %s", root)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r := Decode(data, f, DefaultNamespace)
		if len(r.Objects) == 0 && len(r.Problems) == 0 {
			t.Errorf("%s: nothing found", f)
		}
		networking := filepath.Base(filepath.Dir(f)) == "networking"
		for _, p := range r.Problems {
			switch p.Severity {
			case SeverityError:
				t.Error(p)
			case SeverityWarning:
				t.Log(p)
			case SeverityInfo:
				if networking {
					t.Log(p)
				}
			}
		}
	}
}

// TestOwnSamples decodes the meshes that the repository ships.
func TestOwnSamples(t *testing.T) {
	files, err := filepath.Glob("../../samples/*/mesh/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r := Decode(data, f, DefaultNamespace)
		for _, p := range r.Problems {
			t.Error(p)
		}
		if len(r.Objects) == 0 {
			t.Errorf("%s: no objects", f)
		}
	}
}
