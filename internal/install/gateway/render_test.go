// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
)

var update = flag.Bool("update", false, "rewrite the expected part of testdata/*.txtar")

const expected = "-- expected --\n"

// TestRender holds what is deployed for the Gateway at the head of each file to
// the rest of it.
func TestRender(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(text), expected)
			r := config.Decode([]byte(input), "gateway.yaml", config.DefaultNamespace)
			if err := config.Errors(r.Problems); err != nil || len(r.Objects) != 1 {
				t.Fatal(err)
			}
			objects, err := Render(r.Objects[0], "6f1b", "default")
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, u := range objects {
				y, err := yaml.Marshal(u.Object)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString("---\n" + string(y))
			}
			if *update {
				if err := os.WriteFile(f, []byte(input+expected+got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
