// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"net/netip"
	"slices"
)

// Rules are the rules of one family for a valid configuration, in the order of
// istio-iptables.
func Rules(c *Config, f Family) RuleSet {
	b := &builder{c: c, set: RuleSet{Family: f}}
	b.loopback, b.passthrough = c.LoopbackCIDR, netip.MustParsePrefix("127.0.0.6/32")
	if f == IPv6 {
		b.loopback, b.passthrough = netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("::6/128")
	}
	b.dns = c.redirectsDNS()
	b.interfaces()
	b.dropInvalid()
	b.redirects()
	b.inbound()
	b.outbound()
	b.tproxyMarks()
	return b.set
}

type builder struct {
	c   *Config
	set RuleSet
	// loopback is the address that applications in one pod use for each other;
	// passthrough is what the proxy's inbound side dials from.
	loopback, passthrough netip.Prefix
	dns                   bool
}

func (b *builder) add(t Table, chain string, target Target, m ...Match) {
	b.insert(t, chain, 0, target, m...)
}

func (b *builder) insert(t Table, chain string, at int, target Target, m ...Match) {
	b.set.Rules = append(b.set.Rules, Rule{Table: t, Chain: chain, At: at, Match: m, Target: target})
}

func tcpPort(port uint16) []Match {
	return []Match{matchProto("tcp"), matchPorts{proto: "tcp", dst: true, ports: []uint16{port}}}
}

func udpPort(port uint16) []Match {
	return []Match{matchProto("udp"), matchPorts{proto: "udp", dst: true, ports: []uint16{port}}}
}

var (
	tcpOnly = matchProto("tcp")
	udpOnly = matchProto("udp")
	viaLo   = matchIface{out: true, name: "lo"}
)

// interfaces are the rules about named interfaces.
func (b *builder) interfaces() {
	tables := []Table{NAT}
	if b.c.InboundInterceptionMode == TProxy {
		tables = append(tables, Mangle)
	}
	for _, t := range tables {
		for _, n := range b.c.ExcludeInterfaces {
			b.add(t, prerouting, ret, matchIface{name: n})
			b.add(t, output, ret, matchIface{out: true, name: n})
		}
	}
	for _, n := range b.c.RerouteInterfaces {
		b.insert(NAT, prerouting, 1, ret, matchIface{name: n})
	}
}

func (b *builder) dropInvalid() {
	if b.c.DropInvalid {
		b.add(Mangle, prerouting, jump(istioDrop), ctInvalid)
		b.add(Mangle, istioDrop, drop)
	}
}

func (b *builder) redirects() {
	b.add(NAT, istioInbound, ret, tcpPort(b.c.InboundTunnelPort)...)
	b.add(NAT, istioRedirect, redirect{port: b.c.ProxyPort}, tcpOnly)
	b.add(NAT, istioInRedirect, redirect{port: b.c.InboundCapturePort}, tcpOnly)
}

func (b *builder) inbound() {
	ports, all, _ := b.c.inboundPorts()
	if !all && len(ports) == 0 {
		return
	}
	known := ctRelated | ctEstablished
	t := NAT
	if b.c.tproxyInbound() {
		t = Mangle
		b.add(Mangle, istioDivert, setMark(b.c.InboundTProxyMark))
		b.add(Mangle, istioDivert, accept)
		b.add(Mangle, istioTProxy, tproxy{b.c.InboundCapturePort, b.c.InboundTProxyMark},
			matchAddr{dst: true, not: true, prefix: b.loopback}, tcpOnly)
	}
	b.add(t, prerouting, jump(istioInbound), tcpOnly)
	if all {
		for _, p := range b.c.InboundPortsExclude {
			b.add(t, istioInbound, ret, tcpPort(p)...)
		}
		if t == Mangle {
			b.add(t, istioInbound, jump(istioDivert), tcpOnly, known)
			b.add(t, istioInbound, jump(istioTProxy), tcpOnly)
		} else {
			b.add(t, istioInbound, jump(istioInRedirect), tcpOnly)
		}
		return
	}
	for _, p := range ports {
		if t == Mangle {
			b.add(t, istioInbound, jump(istioDivert), append(tcpPort(p), known)...)
			b.add(t, istioInbound, jump(istioTProxy), tcpPort(p)...)
		} else {
			b.add(t, istioInbound, jump(istioInRedirect), tcpPort(p)...)
		}
	}
}

func (b *builder) outbound() {
	b.add(NAT, output, jump(istioOutput))
	for _, p := range b.c.OutboundPortsExclude {
		b.add(NAT, istioOutput, ret, tcpPort(p)...)
		b.add(NAT, istioOutput, ret, udpPort(p)...)
	}
	// What the proxy's inbound side sends to the application is not inbound again.
	b.add(NAT, istioOutput, ret, viaLo, matchAddr{prefix: b.passthrough})
	for _, id := range b.c.ProxyUID {
		b.ofProxy(false, id)
	}
	for _, id := range b.c.ProxyGID {
		b.ofProxy(true, id)
	}
	b.ownerGroups()
	if b.dns {
		b.dnsRules()
	}
	// Applications that talk to each other or to the proxy over localhost mean it.
	b.add(NAT, istioOutput, ret, matchAddr{dst: true, prefix: b.loopback})
	for _, p := range b.c.OutboundIPRangesExclude {
		if b.set.Family.has(p.Addr()) {
			b.add(NAT, istioOutput, ret, matchAddr{dst: true, prefix: p})
		}
	}
	for _, p := range b.c.OutboundPortsInclude {
		b.add(NAT, istioOutput, jump(istioRedirect), tcpPort(p)...)
	}
	b.includes()
}

// includes are the destinations that are captured; nothing after them is.
func (b *builder) includes() {
	ranges, all, _ := b.c.includeRanges()
	if all {
		b.add(NAT, istioOutput, jump(istioRedirect))
		for _, n := range b.c.RerouteInterfaces {
			b.insert(NAT, prerouting, 1, jump(istioRedirect), matchIface{name: n})
		}
		return
	}
	for _, p := range ranges {
		if !b.set.Family.has(p.Addr()) {
			continue
		}
		to := matchAddr{dst: true, prefix: p}
		for _, n := range b.c.RerouteInterfaces {
			b.insert(NAT, prerouting, 1, jump(istioRedirect), matchIface{name: n}, to)
		}
		b.add(NAT, istioOutput, jump(istioRedirect), to)
	}
}

// ofProxy keeps the proxy's own packets from the proxy, except those to its own
// pod: a call to the pod's service that was balanced to the pod itself is
// inbound and passes the inbound side.
func (b *builder) ofProxy(group bool, id uint32) {
	own, others := matchOwner{group: group, id: id}, matchOwner{group: group, not: true, id: id}
	port := matchPorts{proto: "tcp", dst: true, not: true, ports: []uint16{b.c.InboundTunnelPort}}
	if b.dns && !group {
		// The DNS proxy's query to a server in this pod must not become inbound.
		port.ports = []uint16{dnsPort, b.c.InboundTunnelPort}
	}
	if !b.c.NoLocalRedirect {
		b.add(NAT, istioOutput, jump(istioInRedirect),
			viaLo, matchAddr{dst: true, not: true, prefix: b.loopback}, tcpOnly, port, own)
	}
	if !b.includesLoopback() {
		if b.dns { // a query to a DNS server in this pod is still captured
			b.add(NAT, istioOutput, ret, viaLo, tcpOnly,
				matchPorts{proto: "tcp", dst: true, not: true, ports: []uint16{dnsPort}}, others)
		} else {
			b.add(NAT, istioOutput, ret, viaLo, others)
		}
	}
	b.add(NAT, istioOutput, ret, own)
}

// includesLoopback says that the user asks for connections inside the pod.
func (b *builder) includesLoopback() bool {
	ranges, _, _ := b.c.includeRanges()
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
}

func (b *builder) ownerGroups() {
	for _, g := range b.c.OwnerGroupsExclude {
		b.add(NAT, istioOutput, ret, matchOwner{group: true, id: g})
	}
	if b.c.OwnerGroupsInclude == nil {
		return
	}
	var none []Match
	for _, g := range b.c.OwnerGroupsInclude {
		none = append(none, matchOwner{group: true, not: true, id: g})
	}
	b.add(NAT, istioOutput, ret, none...)
}

// dnsRules send queries to the DNS proxy. Its own queries and the applications'
// are tracked in separate zones: they share addresses and ports, and one UDP
// flow would be taken for the other.
func (b *builder) dnsRules() {
	to := []Match{nil} // no condition on the server
	if !b.c.CaptureAllDNS {
		to = nil
		for _, s := range b.c.DNSServers {
			if s = s.Unmap(); b.set.Family.has(s) {
				to = append(to, matchAddr{dst: true, prefix: netip.PrefixFrom(s, s.BitLen())})
			}
		}
	}
	b.add(Raw, output, jump(istioOutputDNS))
	if len(to) > 0 {
		b.add(NAT, istioOutput, jump(istioOutputDNS))
	}
	for _, server := range to {
		b.add(NAT, istioOutputDNS, redirect{port: dnsProxyPort}, with(tcpPort(dnsPort), server)...)
	}
	for _, server := range to {
		b.add(NAT, istioOutputDNS, redirect{port: dnsProxyPort, udp: true}, with(udpPort(dnsPort), server)...)
	}
	owned := func(group bool, id uint32) {
		own := matchOwner{group: group, id: id}
		b.add(Raw, istioOutputDNS, zone(1), append(udpPort(dnsPort), own)...)
		b.add(Raw, istioOutputDNS, zone(2), udpOnly, matchPorts{proto: "udp", ports: []uint16{dnsProxyPort}}, own)
	}
	for _, id := range b.c.ProxyUID {
		owned(false, id)
	}
	for _, id := range b.c.ProxyGID {
		owned(true, id)
	}
	if len(to) > 0 {
		b.add(Raw, prerouting, jump(istioInbound))
	}
	for _, server := range to {
		b.add(Raw, istioOutputDNS, zone(2), with(udpPort(dnsPort), server)...)
		from := server
		if a, ok := server.(matchAddr); ok {
			from = matchAddr{prefix: a.prefix}
		}
		b.add(Raw, istioInbound, zone(1), with([]Match{udpOnly, matchPorts{proto: "udp", ports: []uint16{dnsPort}}}, from)...)
	}
}

// with appends a condition unless it is nil.
func with(m []Match, more Match) []Match {
	if more == nil {
		return m
	}
	return append(m, more)
}

// tproxyMarks keep track, by marks, of whose turn it is while the application
// sees the client's own address.
func (b *builder) tproxyMarks() {
	if b.c.InboundInterceptionMode != TProxy {
		return
	}
	mark := b.c.InboundTProxyMark
	marked, connMarked := matchMark{value: mark}, matchMark{conn: true, value: mark}
	// The mark that the proxy gives its connections to the application stays
	// with them.
	b.add(Mangle, prerouting, saveMark{}, tcpOnly, marked)
	b.add(Mangle, output, ret, tcpOnly, viaLo, marked)
	foreign := matchAddr{dst: true, not: true, prefix: b.loopback}
	for _, id := range b.c.ProxyUID {
		b.add(Mangle, output, setMark(outboundMark), foreign, tcpOnly, viaLo, matchOwner{id: id})
	}
	for _, id := range b.c.ProxyGID {
		b.add(Mangle, output, setMark(outboundMark), foreign, tcpOnly, viaLo, matchOwner{group: true, id: id})
	}
	// The application's answers go where the proxy's socket is.
	b.add(Mangle, output, restoreMark{}, tcpOnly, connMarked)
	b.insert(Mangle, istioInbound, 1, ret, tcpOnly, marked)
	b.insert(Mangle, istioInbound, 2, ret, tcpOnly, matchAddr{prefix: b.passthrough}, matchIface{name: "lo"})
	b.insert(Mangle, istioInbound, 3, ret, tcpOnly, matchIface{name: "lo"}, matchMark{not: true, value: outboundMark})
}
