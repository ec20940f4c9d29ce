// SPDX-License-Identifier: Apache-2.0

package fieldpolicy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func sortedNames() []string {
	var names []string
	for name := range policies().text {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

// Document is the reference page of the policy, in Markdown.
func Document() string {
	var b strings.Builder
	b.WriteString(`# What lateen-proxy makes of every xDS field

Generated from internal/proxy/fieldpolicy/fields.txt; do not edit. A field that
is neither honoured nor listed here as accepted makes lateen-proxy refuse the
resource (NACK) and name the field. Fields of messages that are not listed can
not be reached through honoured fields.

## Accepted without effect

| message | field | why |
|---|---|---|
`)
	writeReasons(&b, accepted)
	b.WriteString("\n## Honoured in some places only\n\n| message | field | where |\n|---|---|---|\n")
	writeReasons(&b, honoured)
	b.WriteString("\n## Extension types accepted without effect\n\n| type | why |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(acceptedTypes)) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, acceptedTypes[name])
	}
	b.WriteString("\n## Honoured and refused\n\n| message | honoured | refused |\n|---|---|---|\n")
	for _, name := range sortedNames() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, fieldList(name, honoured), fieldList(name, refused))
	}
	return b.String()
}

// writeReasons writes a row for each field of a class that says something of it.
func writeReasons(b *strings.Builder, c class) {
	for _, name := range sortedNames() {
		for _, e := range entriesOf(name) {
			if e.class == c && e.reason != "" {
				fmt.Fprintf(b, "| %s | `%s` | %s |\n", name, e.field, e.reason)
			}
		}
	}
}

func fieldList(message string, c class) string {
	var out []string
	for _, e := range entriesOf(message) {
		if e.class == c {
			out = append(out, "`"+e.field+"`")
		}
	}
	return strings.Join(out, " ")
}
