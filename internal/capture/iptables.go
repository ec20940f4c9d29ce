// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// iptablesBackend programs by iptables' own commands, where the kernel has no
// nftables or the user says so.
type iptablesBackend struct {
	ctx context.Context
	// variant is "", "legacy" or "nft": which of the installed commands is used.
	variant string
}

func (b *iptablesBackend) name() string { return "iptables" }

// command is a program's name, as in ip6tables-legacy-restore.
func (b *iptablesBackend) command(f Family, verb string) string {
	c := "iptables"
	if f == IPv6 {
		c = "ip6tables"
	}
	if b.variant != "" {
		c += "-" + b.variant
	}
	return c + "-" + verb
}

// available says whether the commands for the families are installed.
func (b *iptablesBackend) available(families []Family) error {
	for _, f := range families {
		for _, verb := range []string{"restore", "save"} {
			if _, err := exec.LookPath(b.command(f, verb)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *iptablesBackend) run(f Family, verb, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(b.ctx, b.command(f, verb), args...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", b.command(f, verb), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

func (b *iptablesBackend) holds(s RuleSet) (string, error) {
	text, err := b.run(s.Family, "save", "")
	if err != nil {
		return "", err
	}
	return compareSaved(s, saved(text)), nil
}

// compareSaved says where what iptables-save printed differs from the rules.
// Hooks may hold other rules too.
func compareSaved(s RuleSet, have map[Table]map[string][]savedRule) string {
	for _, t := range tables {
		want := map[string][]string{}
		for _, c := range s.chains(t) {
			for _, r := range c.rules {
				want[c.name] = append(want[c.name], canonical(r.spec()))
			}
		}
		for chain, rules := range want {
			var got []string
			for _, r := range have[t][chain] {
				if !isHook(chain) || slices.Contains(rules, r.canonical) || r.ours() {
					got = append(got, r.canonical)
				}
			}
			if !slices.Equal(got, rules) {
				return fmt.Sprintf("table %s chain %s: %d rules differ from the %d wanted", t, chain, len(got), len(rules))
			}
		}
		for chain, rules := range have[t] {
			_, wanted := want[chain]
			if strings.HasPrefix(chain, "ISTIO_") && !wanted {
				return fmt.Sprintf("table %s has chain %s, which is not wanted", t, chain)
			}
			if isHook(chain) && !wanted && slices.ContainsFunc(rules, savedRule.ours) {
				return fmt.Sprintf("table %s chain %s: has rules that are not wanted", t, chain)
			}
		}
	}
	return ""
}

// ours says whether a rule leads to one of our chains.
func (r savedRule) ours() bool { return strings.Contains(r.canonical, "-j ISTIO_") }

// removal is what takes our rules out of a table, as lines of iptables-restore.
func removal(t Table, s RuleSet, have map[string][]savedRule) []string {
	var own []string
	for _, r := range s.of(t) {
		own = append(own, canonical(r.spec()))
	}
	var lines, flush, remove []string
	for _, chain := range []string{prerouting, output} {
		for _, r := range have[chain] {
			if r.ours() || slices.Contains(own, r.canonical) {
				lines = append(lines, "-D "+chain+" "+r.spec)
			}
		}
	}
	var chains []string
	for c := range have {
		if strings.HasPrefix(c, "ISTIO_") {
			chains = append(chains, c)
		}
	}
	slices.Sort(chains)
	for _, c := range chains {
		flush, remove = append(flush, "-F "+c), append(remove, "-X "+c)
	}
	return slices.Concat(lines, flush, remove)
}

// write replaces what is ours. Each table changes at once.
func (b *iptablesBackend) write(s RuleSet) error { return b.replace(s, true) }

func (b *iptablesBackend) clean(s RuleSet) error { return b.replace(s, false) }

func (b *iptablesBackend) replace(s RuleSet, add bool) error {
	text, err := b.run(s.Family, "save", "")
	if err != nil {
		return err
	}
	have := saved(text)
	var input strings.Builder
	for _, t := range tables {
		if old := removal(t, s, have[t]); len(old) > 0 {
			fmt.Fprintf(&input, "* %s\n%s\nCOMMIT\n", t, strings.Join(old, "\n"))
		}
	}
	if add {
		input.WriteString(s.Restore())
	}
	if input.Len() == 0 {
		return nil
	}
	_, err = b.run(s.Family, "restore", input.String(), "--noflush")
	return err
}
