// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// savedRule is a rule as iptables-save printed it, and in a form in which equal
// rules are equal text.
type savedRule struct{ spec, canonical string }

// saved reads what iptables-save prints: every chain with its rules.
func saved(text string) map[Table]map[string][]savedRule {
	out := map[Table]map[string][]savedRule{}
	var t Table
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			t = Table(strings.TrimSpace(name))
			out[t] = map[string][]savedRule{}
			continue
		}
		if name, ok := strings.CutPrefix(line, ":"); ok && t != "" {
			name, _, _ = strings.Cut(name, " ")
			if _, have := out[t][name]; !have {
				out[t][name] = nil
			}
			continue
		}
		rest, ok := strings.CutPrefix(line, "-A ")
		if !ok || t == "" {
			continue
		}
		chain, spec, _ := strings.Cut(rest, " ")
		out[t][chain] = append(out[t][chain], savedRule{spec, canonical(spec)})
	}
	return out
}

// canonical sorts the conditions of a rule and spells them in one way: iptables
// reorders them, adds the module of a protocol and prints marks in hexadecimal
// and with their masks.
func canonical(spec string) string {
	words := strings.Fields(spec)
	var parts []string
	not := ""
	for i := 0; i < len(words); i++ {
		w := words[i]
		if w == "!" {
			not = "! "
			continue
		}
		value := ""
		for i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") && words[i+1] != "!" {
			i++
			value += " " + words[i]
		}
		if part := canonicalPart(w, strings.TrimSpace(value)); part != "" {
			parts = append(parts, not+part)
		}
		not = ""
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func canonicalPart(option, value string) string {
	switch option {
	case "-m", "--on-ip", "--nfmask", "--ctmask":
		return "" // implied by the options that follow, or whole
	case "--to-port":
		option = "--to-ports"
	case "--set-mark":
		option = "--set-xmark"
	case "-d", "-s":
		if !strings.Contains(value, "/") {
			value += "/32" // as older versions print a host
			if strings.Contains(value, ":") {
				value = strings.TrimSuffix(value, "/32") + "/128"
			}
		}
	case "--ctstate":
		states := strings.Split(value, ",")
		slices.Sort(states)
		value = strings.Join(states, ",")
	}
	switch option {
	case "--set-xmark", "--tproxy-mark", "--mark":
		value, _, _ = strings.Cut(value, "/")
		if n, err := strconv.ParseUint(value, 0, 32); err == nil {
			value = fmt.Sprintf("%#x", n)
		}
	}
	return strings.TrimSpace(option + " " + value)
}
