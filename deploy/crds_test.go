// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite crds/ from module istio.io/api")

// The kinds that are not handled. A policy that is accepted and not enforced
// would be worse than "no matches for kind".
var withheld = []string{"authorizationpolicies.security.istio.io", "requestauthentications.security.istio.io"}

const (
	module     = "istio.io/api"
	definition = "kubernetes/customresourcedefinitions.gen.yaml"
)

var crdName = regexp.MustCompile(`(?m)^  name: (\S+)$`)

// TestCRDsAreThoseOfTheModule holds that crds/ is what the module in go.mod
// publishes, no more and no less.
func TestCRDsAreThoseOfTheModule(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}} {{.Version}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	dir, version, ok := strings.Cut(strings.TrimSpace(string(out)), " ")
	if !ok || dir == "" {
		t.Fatalf("module %s is not there: %q", module, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, definition))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{}
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		m := crdName.FindSubmatch(doc)
		if m == nil {
			t.Fatalf("a document without a name: %.80s", doc)
		}
		if slices.Contains(withheld, string(m[1])) {
			continue
		}
		body := bytes.TrimSpace(doc)
		for bytes.HasPrefix(body, []byte("#")) { // the generator's own heading
			_, body, _ = bytes.Cut(body, []byte("\n"))
		}
		head := "# SPDX-License-Identifier: Apache-2.0\n# From " + module + " " + version + ", " + definition + "; go generate ./deploy writes it anew.\n"
		want[string(m[1])+".yaml"] = append([]byte(head), append(body, '\n')...)
	}
	if *update {
		if err := os.MkdirAll("crds", 0o755); err != nil {
			t.Fatal(err)
		}
		for name, b := range want {
			if err := os.WriteFile(filepath.Join("crds", name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, err := os.ReadDir("crds")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if want[e.Name()] == nil {
			t.Errorf("crds/%s is of no kind that is handled; remove it", e.Name())
		}
	}
	for name, b := range want {
		got, err := os.ReadFile(filepath.Join("crds", name))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("crds/%s is stale: run go generate ./deploy", name)
		}
		embedded, err := fs.ReadFile(CRDs(), name)
		if !*update && (err != nil || !bytes.Equal(embedded, b)) {
			t.Errorf("crds/%s is not embedded", name)
		}
	}
}
