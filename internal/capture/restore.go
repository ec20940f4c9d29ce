// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
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
