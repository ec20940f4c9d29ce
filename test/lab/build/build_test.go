// SPDX-License-Identifier: Apache-2.0

package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKey(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("main.go", "package main")
	write("go.mod", "module m")
	r := recipe{name: "p", module: "."}
	key := func(r recipe, goVersion string) string {
		t.Helper()
		k, err := r.key(root, []byte(goVersion))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	seen := map[string]string{}
	note := func(what, k string) {
		t.Helper()
		if before, ok := seen[k]; ok {
			t.Errorf("%s has the key of %s", what, before)
		}
		seen[k] = what
	}
	first := key(r, "go1")
	note("the first", first)
	note("another Go", key(r, "go2"))
	note("other tags", key(recipe{name: "p", module: ".", tags: "t"}, "go1"))
	write("main.go", "package main // changed")
	note("another source", key(r, "go1"))
	write("go.mod", "module m // changed")
	note("another module file", key(r, "go1"))
	write("main.go", "package main")
	write("go.mod", "module m")
	write("README.md", "no part of the program")
	if key(r, "go1") != first {
		t.Error("the same inputs have two keys")
	}
	if _, err := (recipe{name: "p", module: "nowhere"}).key(root, nil); err == nil {
		t.Error("a module without sources has a key")
	}
}

func TestRecipes(t *testing.T) {
	root, err := FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range recipes() {
		if _, err := r.key(root, nil); err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
		if (r.module == "") != (r.version != "") {
			t.Errorf("%s: want either a module of ours or a version", r.name)
		}
	}
	// What the binary says it is must be what it is made of.
	mod, err := os.ReadFile(filepath.Join(root, "test/lab/programs/kubernetes/go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "k8s.io/kubernetes "+Kubernetes+"\n") {
		t.Errorf("programs/kubernetes does not require k8s.io/kubernetes %s", Kubernetes)
	}
}

func TestMissing(t *testing.T) {
	got, err := Missing(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(recipes()) {
		t.Errorf("an empty cache lacks %d of %d programs", len(got), len(recipes()))
	}
}
