// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTaskPages runs the commands of the pages below docs/tasks that need no
// cluster, in order, in one shell per page, and holds what they print to what the page shows. In what
// is shown "..." stands for anything and white space for any white space.
func TestTaskPages(t *testing.T) {
	pages, err := filepath.Glob("../../docs/tasks/one-machine*.md") // the others speak to whatever cluster kubectl knows
	if err != nil || len(pages) == 0 {
		t.Fatalf("pages: %v, %v", pages, err)
	}
	bin := build(t)
	for _, page := range pages {
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) { runPage(t, bin, page) })
	}
}

// step is one block of commands and the lines that must be printed, in order.
type step struct {
	commands string
	shown    []string
}

const marker = "--- end of step ---"

func runPage(t *testing.T, bin, page string) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	steps := stepsOf(string(text))
	oneMesh(t)
	runtimeDir, err := os.MkdirTemp("", "lt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runtimeDir) })
	var script strings.Builder
	script.WriteString("set -m\ntrap 'kill -INT $(jobs -p) 2>/dev/null; wait' EXIT\n")
	for _, s := range steps {
		script.WriteString(s.commands + "\necho '" + marker + "'\n")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "XDG_RUNTIME_DIR="+runtimeDir, "NO_COLOR=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("the page's commands: %v", err)
	}
	printed := strings.Split(string(out), marker+"\n")
	for i, s := range steps {
		if i >= len(printed)-1 {
			t.Fatalf("the shell ended before:\n%s\noutput:\n%s", s.commands, out)
		}
		checkShown(t, s, printed[i])
	}
}

func checkShown(t *testing.T, s step, printed string) {
	t.Helper()
	lines := strings.Split(printed, "\n")
	for _, want := range s.shown {
		re := pattern(want)
		i := 0
		for i < len(lines) && !re.MatchString(lines[i]) {
			i++
		}
		if i == len(lines) {
			t.Errorf("after\n%s\nthe page shows\n%s\nbut this was printed:\n%s", s.commands, want, printed)
			return
		}
		lines = lines[i+1:]
	}
}

// pattern makes a shown line into an expression for a whole printed line.
func pattern(shown string) *regexp.Regexp {
	var words []string
	for _, w := range strings.Fields(shown) {
		words = append(words, strings.ReplaceAll(regexp.QuoteMeta(w), `\.\.\.`, `.*`))
	}
	return regexp.MustCompile(`^\s*` + strings.Join(words, `\s*`) + `\s*$`)
}

// stepsOf reads a page's ```sh blocks, each with the ```text block that follows
// it at once, if there is one.
func stepsOf(page string) []step {
	var steps []step
	kind, body := "", []string(nil)
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case kind == "" && strings.HasPrefix(line, "```"):
			kind, body = strings.TrimPrefix(line, "```"), nil
		case line == "```":
			switch {
			case kind == "sh":
				steps = append(steps, step{commands: strings.Join(body, "\n")})
			case kind == "text" && len(steps) > 0:
				steps[len(steps)-1].shown = body
			}
			kind = ""
		case kind != "":
			body = append(body, line)
		}
	}
	return steps
}
