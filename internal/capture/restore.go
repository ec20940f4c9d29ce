// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Restore prints the rules as iptables-restore (ip6tables-restore for IPv6)
// reads them with --noflush.
func (s RuleSet) Restore() string {
	var b strings.Builder
	for _, t := range tables {
		chains := s.chains(t)
		if len(chains) == 0 {
			continue
		}
		fmt.Fprintf(&b, "* %s\n", t)
		for _, c := range chains {
			if !isHook(c.name) {
				fmt.Fprintf(&b, "-N %s\n", c.name)
			}
		}
		for _, r := range s.of(t) {
			if r.At > 0 {
				fmt.Fprintf(&b, "-I %s %d %s\n", r.Chain, r.At, r.spec())
			} else {
				fmt.Fprintf(&b, "-A %s %s\n", r.Chain, r.spec())
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// spec is the rule as iptables writes it, without its chain.
func (r Rule) spec() string {
	var w []string
	for _, m := range r.Match {
		w = append(w, iptablesMatch(m)...)
	}
	return strings.Join(append(w, iptablesTarget(r.Target)...), " ")
}

func negated(not bool, words ...string) []string {
	if not {
		return append([]string{"!"}, words...)
	}
	return words
}

func iptablesMatch(m Match) []string {
	switch m := m.(type) {
	case matchProto:
		return []string{"-p", string(m)}
	case matchPorts:
		side := "--sport"
		if m.dst {
			side = "--dport"
		}
		if len(m.ports) == 1 {
			return negated(m.not, side, decimal(m.ports[0]))
		}
		var all []string
		for _, p := range m.ports {
			all = append(all, decimal(p))
		}
		return append([]string{"-m", "multiport"}, negated(m.not, side+"s", strings.Join(all, ","))...)
	case matchAddr:
		side := "-s"
		if m.dst {
			side = "-d"
		}
		return negated(m.not, side, m.prefix.Masked().String())
	case matchIface:
		if m.out {
			return []string{"-o", m.name}
		}
		return []string{"-i", m.name}
	case matchOwner:
		who := "--uid-owner"
		if m.group {
			who = "--gid-owner"
		}
		return append([]string{"-m", "owner"}, negated(m.not, who, decimal(m.id))...)
	case matchMark:
		module := "mark"
		if m.conn {
			module = "connmark"
		}
		return append([]string{"-m", module}, negated(m.not, "--mark", decimal(m.value))...)
	case matchState:
		return []string{"-m", "conntrack", "--ctstate", m.iptables()}
	}
	panic(fmt.Sprintf("no iptables form of %T", m))
}

func (m matchState) iptables() string {
	var names []string
	for _, s := range []struct {
		bit  matchState
		name string
	}{{ctInvalid, "INVALID"}, {ctRelated, "RELATED"}, {ctEstablished, "ESTABLISHED"}} {
		if m&s.bit != 0 {
			names = append(names, s.name)
		}
	}
	return strings.Join(names, ",")
}

func iptablesTarget(t Target) []string {
	switch t := t.(type) {
	case jump:
		return []string{"-j", string(t)}
	case verdict:
		return []string{"-j", string(t)}
	case redirect:
		if t.udp {
			return []string{"-j", "REDIRECT", "--to-port", decimal(t.port)}
		}
		return []string{"-j", "REDIRECT", "--to-ports", decimal(t.port)}
	case setMark:
		return []string{"-j", "MARK", "--set-mark", decimal(t)}
	case saveMark:
		return []string{"-j", "CONNMARK", "--save-mark"}
	case restoreMark:
		return []string{"-j", "CONNMARK", "--restore-mark"}
	case tproxy:
		return []string{"-j", "TPROXY", "--tproxy-mark", decimal(t.mark) + "/0xffffffff", "--on-port", decimal(t.port)}
	case zone:
		return []string{"-j", "CT", "--zone", decimal(t)}
	}
	panic(fmt.Sprintf("no iptables form of %T", t))
}

func decimal[T ~uint16 | ~uint32](n T) string { return strconv.FormatUint(uint64(n), 10) }

// saved reads what iptables-save prints and gives, for every chain that the
// rules of Istio concern, its rules in a form in which equal rules are equal
// text.
func saved(text string) map[Table]map[string][]string {
	out := map[Table]map[string][]string{}
	var t Table
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			t = Table(strings.TrimSpace(name))
			out[t] = map[string][]string{}
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
		out[t][chain] = append(out[t][chain], canonical(spec))
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
			value += map[bool]string{true: "/128", false: "/32"}[strings.Contains(value, ":")] // as older versions print a host
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
