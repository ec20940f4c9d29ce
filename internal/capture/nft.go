// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
	"strings"
)

// nftTable is the name of our table that stands for one of iptables' tables,
// as istio's own nftables mode names it. Each family has its own, so that the
// rules read as iptables' do.
func nftTable(t Table) string { return "istio-proxy-" + string(t) }

func (f Family) nft() string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

// hook is what a base chain hangs on. Priorities are those at which iptables'
// tables run (linux/netfilter_ipv4.h).
type hook struct {
	kind, point string
	priority    int
}

func hookOf(t Table, chain string) hook {
	point := strings.ToLower(chain)
	switch {
	case t == NAT:
		return hook{"nat", point, -100}
	case t == Raw:
		return hook{"filter", point, -300}
	case chain == output: // a changed mark asks for another route
		return hook{"route", point, -150}
	default:
		return hook{"filter", point, -150}
	}
}

// NFT prints the rules as `nft -f` reads them. Reading them again replaces them.
func (s RuleSet) NFT() string {
	var b strings.Builder
	for _, t := range tables {
		chains := s.chains(t)
		if len(chains) == 0 {
			continue
		}
		name := s.Family.nft() + " " + nftTable(t)
		fmt.Fprintf(&b, "table %s\ndelete table %s\ntable %s {\n", name, name, name)
		for _, c := range chains {
			fmt.Fprintf(&b, "\tchain %s {\n", c.name)
			if isHook(c.name) {
				h := hookOf(t, c.name)
				fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", h.kind, h.point, h.priority)
			}
			for _, r := range c.rules {
				for _, line := range r.nft(s.Family) {
					fmt.Fprintf(&b, "\t\t%s\n", line)
				}
			}
			b.WriteString("\t}\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// nft is the rule in nft's language. TPROXY takes two: where no socket listens,
// iptables' target drops the packet while nft's statement lets it pass, past
// the proxy.
func (r Rule) nft(f Family) []string {
	var w []string
	for i, m := range r.Match {
		if _, ok := m.(matchProto); ok && i+1 < len(r.Match) {
			if _, ok := r.Match[i+1].(matchPorts); ok {
				continue // a port says which protocol
			}
		}
		if s := nftMatch(m, f); s != "" {
			w = append(w, s)
		}
	}
	line := func(target string) string { return strings.Join(append(w[:len(w):len(w)], target), " ") }
	switch t := r.Target.(type) {
	case jump:
		return []string{line("jump " + string(t))}
	case verdict:
		return []string{line(strings.ToLower(string(t)))}
	case redirect:
		return []string{line("redirect to :" + decimal(t.port))}
	case setMark:
		return []string{line("meta mark set " + decimal(t))}
	case saveMark:
		return []string{line("ct mark set meta mark")}
	case restoreMark:
		return []string{line("meta mark set ct mark")}
	case tproxy:
		return []string{line(fmt.Sprintf("tproxy to :%d meta mark set %d accept", t.port, t.mark)), line("drop")}
	case zone:
		return []string{line("ct zone set " + decimal(t))}
	}
	panic(fmt.Sprintf("no nft form of %T", r.Target))
}

func unless(not bool) string {
	if not {
		return "!= "
	}
	return ""
}

func nftMatch(m Match, f Family) string {
	switch m := m.(type) {
	case matchProto:
		return "meta l4proto " + string(m)
	case matchPorts:
		side := "sport"
		if m.dst {
			side = "dport"
		}
		var all []string // of several ports: none of them
		for _, p := range m.ports {
			all = append(all, fmt.Sprintf("%s %s %s%d", m.proto, side, unless(m.not), p))
		}
		return strings.Join(all, " ")
	case matchAddr:
		if m.prefix.Bits() == 0 && !m.not {
			return ""
		}
		side := "saddr"
		if m.dst {
			side = "daddr"
		}
		p := m.prefix.Masked()
		text := p.String()
		if p.IsSingleIP() {
			text = p.Addr().String()
		}
		return fmt.Sprintf("%s %s %s%s", f.nft(), side, unless(m.not), text)
	case matchIface:
		name := m.name
		if prefix, ok := strings.CutSuffix(name, "+"); ok {
			name = prefix + "*"
		}
		if m.out {
			return fmt.Sprintf("oifname %q", name)
		}
		return fmt.Sprintf("iifname %q", name)
	case matchOwner:
		key := "skuid"
		if m.group {
			key = "skgid"
		}
		return fmt.Sprintf("meta %s %s%d", key, unless(m.not), m.id)
	case matchMark:
		key := "meta"
		if m.conn {
			key = "ct"
		}
		return fmt.Sprintf("%s mark %s%d", key, unless(m.not), m.value)
	case matchState:
		return "ct state " + strings.ToLower(m.iptables())
	}
	panic(fmt.Sprintf("no nft form of %T", m))
}
