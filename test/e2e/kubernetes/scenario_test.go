// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// scenario is one document, as numbered steps in its order.
type scenario struct {
	document string // the beginning of the document's file name
	steps    []step
}

// step is one section of a document.
type step struct {
	title    string
	commands []command
}

// command is one command line of the document, and what is run for it.
type command struct {
	// document is the line as it stands there, without prompt and comment;
	// empty for what the document says in words or in a picture.
	document string
	// run is the shell text that is run; empty with pending set.
	run string
	// replaced says why run is not the document's line.
	replaced string
	// pending says what the command waits for.
	pending string
	// exit is the exit code that the document shows.
	exit int
	// eventually repeats the command until check is satisfied: clusters take
	// their time where a reader would look again.
	eventually bool
	// check compares what was printed with what the document shows.
	check func(output) error
	// save keeps what the command printed as a variable of later ones.
	save string
}

// output is what a command printed.
type output struct {
	stdout, stderr string
	code           int
	vars           map[string]string // what earlier commands saved
}

// expand puts saved variables into a text that a check looks for.
func (o output) expand(s string) string {
	return os.Expand(s, func(name string) string { return o.vars[name] })
}

func (o output) lines() []string {
	var out []string
	for l := range strings.Lines(o.stdout) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// all joins checks.
func all(checks ...func(output) error) func(output) error {
	return func(o output) error {
		for _, c := range checks {
			if err := c(o); err != nil {
				return err
			}
		}
		return nil
	}
}

// contains wants every text in what was printed.
func contains(texts ...string) func(output) error {
	return func(o output) error {
		for _, t := range texts {
			if t = o.expand(t); !strings.Contains(o.stdout+o.stderr, t) {
				return fmt.Errorf("does not say %q", t)
			}
		}
		return nil
	}
}

// lacks wants none of the texts in what was printed.
func lacks(texts ...string) func(output) error {
	return func(o output) error {
		for _, t := range texts {
			if strings.Contains(o.stdout+o.stderr, t) {
				return fmt.Errorf("says %q", t)
			}
		}
		return nil
	}
}

// matches wants the expression somewhere in what was printed.
func matches(expr string) func(output) error {
	re := regexp.MustCompile("(?m)" + expr)
	return func(o output) error {
		if !re.MatchString(o.stdout + o.stderr) {
			return fmt.Errorf("nothing matches %s", expr)
		}
		return nil
	}
}

// pods wants exactly these pods, by the beginning of their names, each with
// that READY column and Running.
func pods(ready string, names ...string) func(output) error {
	return func(o output) error {
		seen := map[string]bool{}
		for _, l := range o.lines() {
			f := strings.Fields(l)
			if len(f) < 3 || f[0] == "NAME" {
				continue
			}
			name := ""
			for _, n := range names {
				if strings.HasPrefix(f[0], n+"-") && len(n) > len(name) {
					name = n
				}
			}
			switch {
			case name == "":
				continue
			case f[1] != ready || f[2] != "Running":
				return fmt.Errorf("pod %s is %s %s, want %s Running", f[0], f[1], f[2], ready)
			}
			seen[name] = true
		}
		for _, n := range names {
			if !seen[n] {
				return fmt.Errorf("no pod of %s", n)
			}
		}
		return nil
	}
}

// share counts the lines that begin with each word and wants the second within
// five standard deviations of its share of all.
func share(word string, total int, percent float64) func(output) error {
	return func(o output) error {
		n := 0
		for _, l := range o.lines() {
			if strings.Contains(l, word) {
				n++
			}
		}
		if got := len(o.lines()); got != total {
			return fmt.Errorf("%d answers, want %d", got, total)
		}
		want, spread := float64(total)*percent/100, 5*deviation(total, percent/100)
		if d := float64(n) - want; d > spread || d < -spread {
			return fmt.Errorf("%q in %d of %d answers, want %.0f ± %.0f", word, n, total, want, spread)
		}
		return nil
	}
}

// judge compares an output with what the document shows.
func judge(c command, o output) error {
	if o.code != c.exit {
		return fmt.Errorf("exit code %d, want %d", o.code, c.exit)
	}
	if c.check != nil {
		return c.check(o)
	}
	return nil
}
