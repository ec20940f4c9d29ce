// SPDX-License-Identifier: Apache-2.0

// Command run executes the project's tests, shows each package as it ends and
// the whole output of what failed, names every skipped test with its reason,
// and closes with one line of totals.
//
//	go run ./test/run [-race] [dir[:tags] ...]
//
// Each dir is a directory whose packages, and those below it, are all tested,
// with the build tags if any; the default is ".".
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

type totals struct {
	passed, failed int
	skips          []string
	out            map[string][]string // output per package and test, until it passes
}

func main() {
	race := flag.Bool("race", false, "run with the race detector")
	timeout := flag.Duration("timeout", 20*time.Minute, "bound for one package")
	flag.Parse()
	dirs := flag.Args()
	if len(dirs) == 0 {
		dirs = []string{"."}
	}
	t := totals{out: map[string][]string{}}
	for _, arg := range dirs {
		dir, tags, _ := strings.Cut(arg, ":")
		args := []string{"test", "-json", "-timeout", timeout.String(), "-tags", tags}
		if *race {
			args = append(args, "-race")
		}
		if err := t.run(dir, append(args, "./...")); err != nil {
			fmt.Fprintf(os.Stdout, "FAIL %s: %v\n", dir, err)
			t.failed = max(t.failed, 1)
		}
	}
	if len(t.skips) > 0 {
		fmt.Println("\nSkipped:")
		for _, s := range t.skips {
			fmt.Println("  " + s)
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", t.passed, t.failed, len(t.skips))
	if t.failed > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

func (t *totals) run(dir string, args []string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Stderr = os.Stdout
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	before := t.failed
	if err := t.read(pipe); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if err := cmd.Wait(); err != nil && t.failed == before {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (t *totals) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Print(string(line))
			} else {
				t.add(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *totals) add(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		t.out[key] = append(t.out[key], e.Output)
	case "pass":
		if e.Test != "" {
			t.passed++
		} else {
			fmt.Printf("ok   %s %.1fs\n", e.Package, e.Elapsed)
		}
		delete(t.out, key)
	case "skip":
		if e.Test != "" {
			t.skips = append(t.skips, key+": "+reason(t.out[key]))
		}
		delete(t.out, key)
	case "fail", "build-fail":
		// A package fails when a test in it does: count it only when no test did,
		// as when it does not build or exits early.
		if e.Test != "" || !t.testFailed(e.Package) {
			t.failed++
		}
		fmt.Printf("FAIL %s %.1fs\n%s", strings.TrimSpace(key), e.Elapsed, strings.Join(t.out[key], ""))
		if e.Test != "" {
			t.out[e.Package+" failed"] = []string{e.Test}
		}
		delete(t.out, key)
	}
}

func (t *totals) testFailed(pkg string) bool { return len(t.out[pkg+" failed"]) > 0 }

// reason is what the test gave to Skip: the output but for go test's own lines.
func reason(out []string) string {
	var kept []string
	for _, l := range out {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "=== ") || strings.HasPrefix(l, "--- ") {
			continue
		}
		kept = append(kept, l)
	}
	if len(kept) == 0 {
		return "no reason given"
	}
	return strings.Join(kept, " ")
}
