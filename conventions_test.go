// SPDX-License-Identifier: Apache-2.0

// Package lateen_test guards the conventions of the whole tree: who may import
// whom, what every file and package must say, and what lateen-proxy may weigh.
package lateen_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/lateen-mesh/lateen"

var update = flag.Bool("update", false, "rewrite the recorded import list of lateen-proxy")

// A file longer than this hides a second idea.
const (
	maxFileLines     = 800
	maxTestFileLines = 1200
	maxFuncLines     = 80
)

// mayImport lists, for each room, the rooms it may import besides itself and
// what lies below it. A room that is not listed fails the test, so that a new
// one is a decision. Imports point one way: see ARCHITECTURE.md.
var mayImport = map[string][]string{
	"api/mesh":                 {},
	"deploy":                   {},
	"internal/graph":           {},
	"internal/mesh":            {},
	"internal/identity":        {},
	"internal/ca":              {"internal/identity"},
	"internal/config":          {"api/mesh", "deploy"},
	"internal/compile":         {"api/mesh", "internal/config", "internal/graph", "internal/mesh"},
	"internal/xds":             {"internal/compile", "internal/config", "internal/graph", "internal/identity", "internal/mesh"},
	"internal/inject":          {"api/mesh", "internal/config"},
	"internal/webhook":         {"api/mesh", "internal/config", "internal/inject"},
	"internal/install":         {"api/mesh", "deploy", "internal/config", "internal/inject"},
	"internal/install/gateway": {"internal/compile", "internal/config"},
	"internal/controlplane":    {"internal/ca", "internal/compile", "internal/config", "internal/graph", "internal/identity", "internal/inject", "internal/install/gateway", "internal/mesh", "internal/webhook", "internal/xds"},
	"internal/capture":         {},
	"internal/proxy":           {"internal/identity"},
	"internal/localmesh":       {"api/mesh", "internal/ca", "internal/config", "internal/controlplane", "internal/identity"},
	"internal/cli":             {"api/mesh", "internal/config", "internal/controlplane", "internal/inject", "internal/install", "internal/localmesh", "samples/bookinfo"},
	"samples/bookinfo":         {},
	"samples/servers":          {},
	"samples/todo":             {},
	"cmd/bookinfo":             {"samples/bookinfo"},
	"cmd/servers":              {"samples/servers"},
	"cmd/todo":                 {"samples/todo"},
	"cmd/lateen":               {"internal/cli"},
	"cmd/lateend":              {"internal/controlplane"},
	"cmd/lateen-proxy":         {"internal/capture", "internal/proxy"},
	"test":                     {"api", "deploy", "internal", "samples"},
}

type source struct {
	path  string // relative to the module, slashes
	bytes []byte
	ast   *ast.File
	fset  *token.FileSet
}

func (s source) dir() string  { return path.Dir(s.path) }
func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// isGenerated follows the rule of https://go.dev/s/generatedcode.
func (s source) isGenerated() bool {
	head, _, _ := bytes.Cut(s.bytes, []byte("\npackage "))
	return bytes.Contains(head, []byte("// Code generated ")) && bytes.Contains(head, []byte("DO NOT EDIT."))
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || (p != "." && strings.HasPrefix(d.Name(), "."))) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, b, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{filepath.ToSlash(p), b, f, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// room returns the longest listed room that holds dir.
func room(dir string) string {
	best := ""
	for r := range mayImport {
		if (dir == r || strings.HasPrefix(dir, r+"/")) && len(r) > len(best) {
			best = r
		}
	}
	return best
}

func within(dir string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool { return dir == r || strings.HasPrefix(dir, r+"/") })
}

func TestImportDirections(t *testing.T) {
	for _, s := range sources(t) {
		if s.dir() == "." {
			continue
		}
		from := room(s.dir())
		if from == "" {
			t.Errorf("%s: package is in no room of mayImport; add it with what it may import", s.path)
			continue
		}
		for _, spec := range s.ast.Imports {
			p, _ := strconv.Unquote(spec.Path.Value)
			to, ok := strings.CutPrefix(p, module+"/")
			if !ok || to == from || strings.HasPrefix(to, from+"/") || within(to, mayImport[from]) {
				continue
			}
			if s.isTest() && !strings.HasPrefix(from, "internal/proxy") {
				continue // a test may drive its package from above, except that the proxy stays apart
			}
			t.Errorf("%s imports %s; %s may import only %v", s.path, to, from, mayImport[from])
		}
	}
}

func TestFilesSayWhatTheyAre(t *testing.T) {
	const licence = "// SPDX-License-Identifier: Apache-2.0\n"
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if !bytes.HasPrefix(s.bytes, []byte(licence)) && !s.isGenerated() {
			t.Errorf("%s: first line is not %q", s.path, strings.TrimSpace(licence))
		}
		switch name := s.ast.Name.Name; name {
		case "util", "utils", "common", "helpers", "helper", "misc":
			t.Errorf("%s: package %s has no one job; name what it does", s.path, name)
		}
		if !s.isTest() {
			documented[s.dir()] = documented[s.dir()] || s.ast.Doc != nil
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment", dir)
		}
	}
}

func TestLengths(t *testing.T) {
	for _, s := range sources(t) {
		if s.isGenerated() {
			continue
		}
		limit := maxFileLines
		if s.isTest() {
			limit = maxTestFileLines
		}
		if n := bytes.Count(s.bytes, []byte("\n")); n > limit {
			t.Errorf("%s: %d lines, more than %d: which second idea lives in there?", s.path, n, limit)
		}
		if s.isTest() {
			continue
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > maxFuncLines {
				t.Errorf("%s: func %s has %d lines, more than %d", s.path, f.Name.Name, n, maxFuncLines)
			}
		}
	}
}

// forbiddenInProxy are import paths (or prefixes ending in /) that would make
// every sidecar of a mesh larger for nothing.
var forbiddenInProxy = []string{
	"k8s.io/",
	"sigs.k8s.io/gateway-api/",
	"istio.io/client-go/",
	"istio.io/api/networking/",
	"istio.io/api/security/v1",
	"istio.io/api/security/v1beta1",
	"istio.io/api/telemetry/",
	"istio.io/api/extensions/",
	module + "/internal/config",
	module + "/internal/compile",
	module + "/internal/mesh",
	module + "/internal/xds",
	module + "/internal/cli",
	module + "/internal/console",
}

const importList = "cmd/lateen-proxy/imports.txt"

func TestProxyImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-tags=grpcnotrace", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./cmd/lateen-proxy").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	for _, p := range got {
		for _, f := range forbiddenInProxy {
			if p == f || strings.HasSuffix(f, "/") && strings.HasPrefix(p, f) {
				t.Errorf("lateen-proxy imports %s", p)
			}
		}
	}
	text := strings.Join(got, "\n") + "\n"
	if *update {
		if err := os.WriteFile(importList, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(importList)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Fields(string(want)), got); diff != "" {
		t.Errorf("lateen-proxy's imports changed; if that is meant, run `go test . -run TestProxyImports -update` (-recorded +now):\n%s", diff)
	}
}

func TestProxySize(t *testing.T) {
	const limit = 25 << 20
	bin := filepath.Join(t.TempDir(), "lateen-proxy")
	cmd := exec.Command("go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", bin, "./cmd/lateen-proxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	fi, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("lateen-proxy: %.1f MiB", float64(fi.Size())/(1<<20))
	if fi.Size() > limit {
		t.Errorf("lateen-proxy is %d bytes, more than %d", fi.Size(), limit)
	}
}

// TestDependenciesHaveReasons holds docs/dependencies.md to go.mod: every
// direct dependency has a line there and every line there is one.
func TestDependenciesHaveReasons(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{if not (or .Main .Indirect)}}{{.Path}}{{end}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for line := range strings.Lines(string(doc)) {
		if rest, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(rest, "`")
			listed = append(listed, name)
		}
	}
	direct := strings.Fields(string(out))
	slices.Sort(direct)
	slices.Sort(listed)
	if diff := cmp.Diff(direct, listed); diff != "" {
		t.Errorf("docs/dependencies.md does not match go.mod's direct dependencies (-go.mod +doc):\n%s", diff)
	}
}
