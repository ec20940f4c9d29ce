// SPDX-License-Identifier: Apache-2.0

package capture

import "net/netip"

// Family is an address family.
type Family uint8

// The families that rules are written for.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) has(a netip.Addr) bool { return a.Is4() == (f == IPv4) }

// Table is one of iptables' tables.
type Table string

// The tables that hold rules.
const (
	Mangle Table = "mangle"
	NAT    Table = "nat"
	Raw    Table = "raw"
)

// tables in the order in which they are printed, which is istio-iptables'.
var tables = []Table{Mangle, NAT, Raw}

// The chains, the kernel's hooks first.
const (
	prerouting = "PREROUTING"
	output     = "OUTPUT"

	istioInbound    = "ISTIO_INBOUND"
	istioRedirect   = "ISTIO_REDIRECT"
	istioInRedirect = "ISTIO_IN_REDIRECT"
	istioOutput     = "ISTIO_OUTPUT"
	istioOutputDNS  = "ISTIO_OUTPUT_DNS"
	istioDivert     = "ISTIO_DIVERT"
	istioTProxy     = "ISTIO_TPROXY"
	istioDrop       = "ISTIO_DROP"
)

// isHook says whether a chain is the kernel's.
func isHook(chain string) bool { return chain == prerouting || chain == output }

// Rule is one rule of a chain: all matches hold, then the target.
type Rule struct {
	Table Table
	Chain string
	// At is the position, from 1, at which the rule goes in when it is written;
	// 0 appends it.
	At     int
	Match  []Match
	Target Target
}

// RuleSet are the rules of one family, in the order in which they are written.
type RuleSet struct {
	Family Family
	Rules  []Rule
}

// of are the rules of one table.
func (s RuleSet) of(t Table) []Rule {
	var out []Rule
	for _, r := range s.Rules {
		if r.Table == t {
			out = append(out, r)
		}
	}
	return out
}

// chainRules is a chain with its rules in the order in which they are tried.
type chainRules struct {
	name  string
	rules []Rule
}

// chains are a table's chains in the order of their first rule.
func (s RuleSet) chains(t Table) []chainRules {
	var out []chainRules
	at := map[string]int{}
	for _, r := range s.of(t) {
		i, ok := at[r.Chain]
		if !ok {
			i = len(out)
			at[r.Chain] = i
			out = append(out, chainRules{name: r.Chain})
		}
		c := &out[i]
		if r.At == 0 {
			c.rules = append(c.rules, r)
			continue
		}
		pos := min(r.At-1, len(c.rules))
		c.rules = append(c.rules[:pos:pos], append([]Rule{r}, c.rules[pos:]...)...)
	}
	return out
}

// Match is one condition on a packet.
type Match interface{ isMatch() }

// Target is what happens to a packet for which all conditions hold.
type Target interface{ isTarget() }

// The conditions.
type (
	// matchProto is the transport protocol: "tcp" or "udp".
	matchProto string
	// matchPorts is the port, one of several, of a protocol that a matchProto
	// before it names.
	matchPorts struct {
		proto string
		dst   bool
		not   bool
		ports []uint16
	}
	matchAddr struct {
		dst    bool
		not    bool
		prefix netip.Prefix
	}
	// matchIface is the interface a packet came by or goes out by. A trailing
	// "+" stands for any rest, as in iptables.
	matchIface struct {
		out  bool
		name string
	}
	// matchOwner is the user or group of the socket that sends.
	matchOwner struct {
		group bool
		not   bool
		id    uint32
	}
	matchMark struct {
		conn  bool // the connection's, else the packet's
		not   bool
		value uint32
	}
	// matchState is the connection's state, one of ctInvalid, ctRelated...
	matchState uint32
)

// Connection states (linux/netfilter/nf_conntrack_common.h as nft counts them).
const (
	ctInvalid     matchState = 1
	ctEstablished matchState = 2
	ctRelated     matchState = 4
)

func (matchProto) isMatch() {}
func (matchPorts) isMatch() {}
func (matchAddr) isMatch()  {}
func (matchIface) isMatch() {}
func (matchOwner) isMatch() {}
func (matchMark) isMatch()  {}
func (matchState) isMatch() {}

// The targets.
type (
	jump    string // to a chain of the table
	verdict string // RETURN, ACCEPT, DROP
	// redirect sends the connection to a local port; dnsSpelling keeps
	// istio-iptables' --to-port for UDP.
	redirect struct {
		port uint16
		udp  bool
	}
	setMark     uint32
	saveMark    struct{} // packet to connection
	restoreMark struct{} // connection to packet
	tproxy      struct {
		port uint16
		mark uint32
	}
	zone uint16 // of conntrack
)

const (
	ret    verdict = "RETURN"
	accept verdict = "ACCEPT"
	drop   verdict = "DROP"
)

func (jump) isTarget()        {}
func (verdict) isTarget()     {}
func (redirect) isTarget()    {}
func (setMark) isTarget()     {}
func (saveMark) isTarget()    {}
func (restoreMark) isTarget() {}
func (tproxy) isTarget()      {}
func (zone) isTarget()        {}
