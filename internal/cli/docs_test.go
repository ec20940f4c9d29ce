// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestDocs holds docs/cli.md to the help texts it is made from.
func TestDocs(t *testing.T) {
	a := &app{Env: Env{Getenv: func(string) string { return "" }}}
	root := a.root()
	root.InitDefaultHelpFlag()
	var b strings.Builder
	b.WriteString("# The command line\n\n<!-- Made from the help texts: go test ./internal/cli -run TestDocs -update -->\n\n")
	b.WriteString(root.Long + "\n\nFlags of every command:\n\n```\n" + strings.TrimRight(root.PersistentFlags().FlagUsages(), "\n") + "\n```\n")
	describe(&b, root)
	golden(t, "../../../docs/cli.md", b.String())
}

func describe(b *strings.Builder, parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
		b.WriteString(strings.TrimSpace(or(c.Long, c.Short+".")) + "\n\n```\n" + c.UseLine() + "\n")
		if len(c.Aliases) > 0 {
			fmt.Fprintf(b, "also: %s\n", strings.Join(c.Aliases, ", "))
		}
		if u := strings.TrimRight(c.LocalFlags().FlagUsages(), "\n"); u != "" {
			b.WriteString("\n" + u + "\n")
		}
		b.WriteString("```\n\nExamples:\n\n```sh\n" + c.Example + "\n```\n")
		describe(b, c)
	}
}
