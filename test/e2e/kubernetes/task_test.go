// SPDX-License-Identifier: Apache-2.0

//go:build lab

package kubernetes

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
)

const endOfStep = "--- end of step ---"

// page finds a block of commands, and what it shows to print, if anything.
var page = regexp.MustCompile("(?m)^```sh\n((?:.*\n)*?)```\n(?:\n```text\n((?:.*\n)*?)```\n)?")

// TestTaskKubernetes runs every command of docs/tasks/kubernetes.md in one
// shell that ends at the first that fails, and holds what they print to what the
// page shows: "..." stands for anything, white space for any white space.
func TestTaskKubernetes(t *testing.T) {
	l := needLab(t)
	text, err := os.ReadFile("../../../docs/tasks/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := page.FindAllStringSubmatch(string(text), -1)
	if len(steps) != strings.Count(string(text), "```sh\n") || len(steps) == 0 {
		t.Fatalf("%d steps were read", len(steps))
	}
	t.Cleanup(func() { l.clean(t) })
	script := "set -e; exec 2>&1\n" // as a terminal shows both
	for _, s := range steps {
		script += s[1] + "echo '" + endOfStep + "'\n"
	}
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	o := l.shell(ctx, script, l.vars())
	printed := strings.Split(o.stdout, endOfStep+"\n")
	if o.code != 0 || len(printed) != len(steps)+1 {
		t.Fatalf("exit code %d after %d of %d steps\n%s%s\n%s", o.code, len(printed)-1, len(steps), o.stdout, o.stderr, l.look())
	}
	for i, s := range steps {
		expr := `(?m)`
		for line := range strings.Lines(s[2]) {
			var words []string
			for _, w := range strings.Fields(line) {
				words = append(words, strings.ReplaceAll(regexp.QuoteMeta(w), `\.\.\.`, `.*`))
			}
			expr += `^\s*` + strings.Join(words, `\s*`) + `\s*$(?s:.*)`
		}
		if !regexp.MustCompile(expr).MatchString(printed[i]) {
			t.Errorf("after\n%s\nthe page shows\n%s\nbut this was printed:\n%s", s[1], s[2], printed[i])
		}
	}
}
