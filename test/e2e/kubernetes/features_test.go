// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var namedTest = regexp.MustCompile("`([a-z0-9/]+)` `(Test[A-Za-z0-9]+)`")

// TestFeaturesAreShown holds docs/features.md to the tests that are there:
// every row names tests that exist, or what the feature waits for.
func TestFeaturesAreShown(t *testing.T) {
	text, err := os.ReadFile("../../../docs/features.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| feature |") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "| \n"), "|")
		tests := namedTest.FindAllStringSubmatch(line, -1)
		if len(tests) != strings.Count(line, "`Test") {
			t.Errorf("a test is not written `package` `TestName`: %s", line)
		}
		if len(tests) == 0 && (len(cells) < 3 || strings.TrimSpace(cells[2]) == "") {
			t.Errorf("neither a test nor what it waits for: %s", line)
		}
		for _, m := range tests {
			if !testExists(t, m[1], m[2]) {
				t.Errorf("package %s has no %s", m[1], m[2])
			}
		}
	}
	if rows == 0 {
		t.Error("no row was found")
	}
}

func testExists(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "\nfunc "+name+"(t *testing.T) {") {
			return true
		}
	}
	return false
}
