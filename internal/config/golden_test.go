// SPDX-License-Identifier: Apache-2.0

package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the expectations at the end of testdata/problems/*.yaml")

const expectations = "# === what is accepted, and what is said ===\n"

// TestProblems decodes each file of testdata/problems. The end of the file, a
// comment, lists the objects that are accepted and every problem, in the order
// of lines.
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/problems/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(data), expectations)
			r := Decode([]byte(input), filepath.Base(f), DefaultNamespace)
			var got strings.Builder
			for _, o := range r.Objects {
				fmt.Fprintf(&got, "# accepted: %s, %s\n", o.Key, o.Source)
			}
			for _, p := range r.Problems {
				if p.Object == "" && p.Line == 0 {
					t.Errorf("a problem that names nothing: %v", p)
				}
				fmt.Fprintf(&got, "# %s: %s\n", p.Severity, p)
			}
			if *update {
				if err := os.WriteFile(f, []byte(input+expectations+got.String()), 0o644); err != nil {
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
