// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// progress tells the user what happens, a line at a time.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	color bool
}

func (p *progress) paint(code, s string) string {
	if !p.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *progress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *progress) ready(name, detail string, took time.Duration) {
	p.line("  %s %-34s %-14s %s", p.paint("32", "ok"), name, detail, p.paint("2", fmt.Sprintf("%.1fs", took.Seconds())))
}

func (p *progress) gone(name, detail string) {
	p.line("  %s %-34s %s", p.paint("2", "--"), name, detail)
}

// wrong reports a failure with the last lines the process wrote.
func (p *progress) wrong(name, message string, last []string) {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s %-34s %s", p.paint("31", "!!"), name, message)
	for _, l := range last {
		b.WriteString("\n     | " + printable(l))
	}
	p.line("%s", b.String())
}

// printable keeps what a program wrote from driving the terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "..."
	}
	return s
}
