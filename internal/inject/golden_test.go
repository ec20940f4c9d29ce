// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
)

var update = flag.Bool("update", false, "rewrite the goldens")

// archive is a txtar file: parts begin with a line "-- name --".
type archive struct {
	comment string
	names   []string
	text    map[string]string
}

func readArchive(t *testing.T, file string) *archive {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{text: map[string]string{}}
	name := ""
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "-- "); ok && strings.HasSuffix(n, " --") {
			name = strings.TrimSuffix(n, " --")
			a.names = append(a.names, name)
			continue
		}
		if name == "" {
			a.comment += line
		} else {
			a.text[name] += line
		}
	}
	return a
}

func (a *archive) write(t *testing.T, file string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(a.comment)
	for _, n := range a.names {
		b.WriteString("-- " + n + " --\n" + a.text[n])
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (a *archive) set(name, text string) {
	if _, ok := a.text[name]; !ok {
		a.names = append(a.names, name)
	}
	a.text[name] = text
}

// input reads the settings of a golden: config and values are the keys of the
// injector's ConfigMap, mesh.yaml a MeshConfig, kubelets versions of nodes and
// proxyconfigs.yaml objects.
func (a *archive) input(t *testing.T) Input {
	t.Helper()
	s, err := ParseSettings([]byte(a.text["config"]), []byte(a.text["values"]))
	if err != nil {
		t.Fatal(err)
	}
	if s.Tag == "" {
		s.Tag = "1.0"
	}
	s.KubeletVersions = strings.Fields(a.text["kubelets"])
	in := Input{Settings: s, Namespace: Namespace{Name: "default"}, Mesh: config.DefaultMeshConfig()}
	if text := a.text["mesh.yaml"]; text != "" {
		r := config.Decode([]byte(text), config.MeshConfigFile, "")
		if err := config.Errors(r.Problems); err != nil {
			t.Fatal(err)
		}
		in.Mesh = meshOf(t, r)
	}
	in.ProxyConfigs = proxyConfigs(t, a.text["proxyconfigs.yaml"])
	return in
}

// TestGolden holds injection to testdata/*.txtar: in.yaml and settings, and the
// documents, decisions and warnings that come of them. Refreshed by -update.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a := readArchive(t, file)
			in := a.input(t)
			out, outcomes, err := Documents([]byte(a.text["in.yaml"]), in)
			got := map[string]string{"out.yaml": string(out), "outcome": describe(outcomes, err)}
			if *update {
				a.set("outcome", got["outcome"])
				a.set("out.yaml", got["out.yaml"])
				a.write(t, file)
				return
			}
			for name, text := range got {
				if diff := cmp.Diff(a.text[name], text); diff != "" {
					t.Errorf("%s: -want +got; refresh with -update:\n%s", name, diff)
				}
			}
			if err != nil {
				return
			}
			again, second, err := Documents(out, in)
			if err != nil || !bytes.Equal(again, out) {
				t.Errorf("injecting the output changes it (%v):\n%s", err, cmp.Diff(string(out), string(again)))
			}
			for k, o := range second {
				if o.Decision.Inject || outcomes[k].Decision.Inject && o.Decision.Rule != RuleInjected {
					t.Errorf("second injection of %s: %+v", o.Object, o.Decision)
				}
			}
		})
	}
}

func describe(outcomes []Outcome, err error) string {
	var b strings.Builder
	for _, o := range outcomes {
		verb := "left alone"
		if o.Decision.Inject {
			verb = "injected"
		}
		b.WriteString(o.Object + ": " + verb + " (" + string(o.Decision.Rule) + "): " + o.Decision.Reason + "\n")
		for _, w := range o.Warnings {
			b.WriteString("  warning: " + w + "\n")
		}
	}
	if err != nil {
		b.WriteString("error: " + err.Error() + "\n")
	}
	return b.String()
}

// TestIstioSamples injects Istio's own Bookinfo and finds every pod with its
// proxy and everything else as it was.
func TestIstioSamples(t *testing.T) {
	dir := os.Getenv("LATEEN_ISTIO_SAMPLES")
	if dir == "" {
		t.Skip("LATEEN_ISTIO_SAMPLES is not set: Istio's own YAML is not tried")
	}
	files, err := filepath.Glob(filepath.Join(dir, "samples/bookinfo/platform/kube/*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no Bookinfo in %s (%v)", dir, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, native := range []Native{NativeOn, NativeOff} {
			s := DefaultSettings()
			s.Tag, s.Native = "1.0", native
			out, outcomes, err := Documents(data, Input{Settings: s})
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			n := 0
			for _, o := range outcomes {
				if len(o.Warnings) > 0 {
					t.Errorf("%s: %s: %v", file, o.Object, o.Warnings)
				}
				if o.Decision.Inject {
					n++
				}
			}
			if got := strings.Count(string(out), "name: istio-proxy\n"); got != n {
				t.Errorf("%s: %d proxies for %d injected templates", file, got, n)
			}
			var last map[string]any
			for _, doc := range splitDocuments(out) {
				if err := yaml.UnmarshalStrict(doc, &last); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
}
