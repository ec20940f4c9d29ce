// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

// matcher chooses a filter chain by Envoy's rule (FilterChainMatch): criteria in
// a fixed order, at each the most specific value that fits wins, and there is no
// way back when a later criterion fits none of what is out.
type matcher struct {
	criteria []criteria
}

// criteria are the compiled filter_chain_match of one chain. An empty list asks
// for nothing.
type criteria struct {
	port         uint16 // 0: any
	destination  []netip.Prefix
	serverNames  []string // lower case; "*.x" is a suffix
	transport    string
	alpn         []string
	directSource []netip.Prefix
	sourceType   listenerv3.FilterChainMatch_ConnectionSourceType
	source       []netip.Prefix
	sourcePorts  []uint16
	chain        *chain
}

// found is what is known of a connection when its chain is chosen.
type found struct {
	destination netip.AddrPort
	source      netip.AddrPort
	// direct is the peer of the socket, which differs from source only when a
	// listener filter has restored another one.
	direct     netip.Addr
	serverName string
	transport  string
	alpn       []string
}

// newMatcher compiles the matches of a listener's chains, which are in the same
// order. Two chains that could match the same connection equally well are an
// error that names both.
func newMatcher(chains []*chain, msgs []*listenerv3.FilterChain) (*matcher, error) {
	m := &matcher{criteria: make([]criteria, len(chains))}
	for i, msg := range msgs {
		c, err := newCriteria(msg.GetFilterChainMatch())
		if err != nil {
			return nil, fmt.Errorf("filter_chains[%d].filter_chain_match: %w", i, err)
		}
		c.chain = chains[i]
		m.criteria[i] = c
	}
	for i := range m.criteria {
		for j := range i {
			if m.criteria[i].overlaps(&m.criteria[j]) {
				return nil, fmt.Errorf("filter_chains[%d] (%q) has the same match as filter_chains[%d] (%q)", i, msgs[i].GetName(), j, msgs[j].GetName())
			}
		}
	}
	return m, nil
}

func newCriteria(m *listenerv3.FilterChainMatch) (criteria, error) {
	var c criteria
	if p := m.GetDestinationPort(); p != nil {
		if p.GetValue() == 0 || p.GetValue() > 65535 {
			return c, fmt.Errorf("destination_port: %d is not a port", p.GetValue())
		}
		c.port = uint16(p.GetValue())
	}
	var err error
	if c.destination, err = prefixes("prefix_ranges", m.GetPrefixRanges()); err != nil {
		return c, err
	}
	if c.directSource, err = prefixes("direct_source_prefix_ranges", m.GetDirectSourcePrefixRanges()); err != nil {
		return c, err
	}
	if c.source, err = prefixes("source_prefix_ranges", m.GetSourcePrefixRanges()); err != nil {
		return c, err
	}
	for _, n := range m.GetServerNames() {
		if n == "" || n == "*" || strings.Contains(strings.TrimPrefix(n, "*."), "*") {
			return c, fmt.Errorf("server_names: %q is neither a name nor *.name", n)
		}
		c.serverNames = append(c.serverNames, strings.ToLower(n))
	}
	for _, p := range m.GetSourcePorts() {
		if p == 0 || p > 65535 {
			return c, fmt.Errorf("source_ports: %d is not a port", p)
		}
		c.sourcePorts = append(c.sourcePorts, uint16(p))
	}
	c.transport, c.alpn, c.sourceType = m.GetTransportProtocol(), m.GetApplicationProtocols(), m.GetSourceType()
	return c, nil
}

func prefixes(field string, in []*corev3.CidrRange) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, r := range in {
		a, err := netip.ParseAddr(r.GetAddressPrefix())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		p, err := a.Prefix(int(r.GetPrefixLen().GetValue()))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// overlaps says whether there is a value in common at every criterion.
func (c *criteria) overlaps(o *criteria) bool {
	return c.port == o.port && c.transport == o.transport && c.sourceType == o.sourceType &&
		share(c.destination, o.destination) && share(c.serverNames, o.serverNames) &&
		share(c.alpn, o.alpn) && share(c.directSource, o.directSource) &&
		share(c.source, o.source) && share(c.sourcePorts, o.sourcePorts)
}

// share says whether two lists have a value in common, where an empty list is
// the one value "any".
func share[T comparable](a, b []T) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return slices.ContainsFunc(a, func(v T) bool { return slices.Contains(b, v) })
}

// steps are the criteria in Envoy's order. Each scores how specifically a chain
// asks for the connection's value: -1 does not fit, 0 asks for nothing.
var steps = [...]func(*criteria, *found) int{
	func(c *criteria, f *found) int {
		switch c.port {
		case 0:
			return 0
		case f.destination.Port():
			return 1
		}
		return -1
	},
	func(c *criteria, f *found) int { return longest(c.destination, f.destination.Addr()) },
	func(c *criteria, f *found) int { return bestName(c.serverNames, f.serverName) },
	func(c *criteria, f *found) int {
		switch c.transport {
		case "":
			return 0
		case f.transport:
			return 1
		}
		return -1
	},
	func(c *criteria, f *found) int {
		if len(c.alpn) == 0 {
			return 0
		}
		for i, p := range f.alpn { // the client's order decides
			if slices.Contains(c.alpn, p) {
				return len(f.alpn) - i
			}
		}
		return -1
	},
	func(c *criteria, f *found) int { return longest(c.directSource, f.direct) },
	func(c *criteria, f *found) int {
		local := f.source.Addr() == f.destination.Addr() || f.source.Addr().IsLoopback() || !f.source.IsValid()
		switch {
		case c.sourceType == listenerv3.FilterChainMatch_ANY:
			return 0
		case (c.sourceType == listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK) == local:
			return 1
		}
		return -1
	},
	func(c *criteria, f *found) int { return longest(c.source, f.source.Addr()) },
	func(c *criteria, f *found) int {
		switch {
		case len(c.sourcePorts) == 0:
			return 0
		case slices.Contains(c.sourcePorts, f.source.Port()):
			return 1
		}
		return -1
	},
}

// longest scores the longest prefix that holds a.
func longest(ps []netip.Prefix, a netip.Addr) int {
	if len(ps) == 0 {
		return 0
	}
	best := -1
	for _, p := range ps {
		if p.Contains(a) {
			best = max(best, p.Bits()+1)
		}
	}
	return best
}

// bestName scores an exact name above every suffix, and a longer suffix above a
// shorter one.
func bestName(names []string, name string) int {
	if len(names) == 0 {
		return 0
	}
	best := -1
	for _, n := range names {
		if n == name {
			return 1 << 16
		}
		if suffix, ok := strings.CutPrefix(n, "*"); ok && len(name) > len(suffix) && strings.HasSuffix(name, suffix) {
			best = max(best, len(suffix))
		}
	}
	return best
}

// match returns the chain for a connection, nil when none fits.
func (m *matcher) match(f *found) *chain {
	// out marks the chains that no longer are in question; most listeners have few.
	var few [64]bool
	out := few[:]
	if len(m.criteria) > len(few) {
		out = make([]bool, len(m.criteria))
	}
	for _, score := range steps {
		best := -1
		for i := range m.criteria {
			if !out[i] {
				best = max(best, score(&m.criteria[i], f))
			}
		}
		if best < 0 {
			return nil
		}
		for i := range m.criteria {
			out[i] = out[i] || score(&m.criteria[i], f) != best
		}
	}
	for i := range m.criteria {
		if !out[i] {
			return m.criteria[i].chain
		}
	}
	return nil
}
