// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"net/netip"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func cidr(s string) []*corev3.CidrRange {
	p := netip.MustParsePrefix(s)
	return []*corev3.CidrRange{{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))}}
}

func port(p uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(p) }

// build makes a matcher whose chains are named by their index letter: a, b, ...
func build(t testing.TB, ms ...*listenerv3.FilterChainMatch) (*matcher, error) {
	t.Helper()
	var chains []*chain
	var msgs []*listenerv3.FilterChain
	for i, m := range ms {
		name := string(rune('a' + i))
		chains = append(chains, &chain{name: name})
		msgs = append(msgs, &listenerv3.FilterChain{Name: name, FilterChainMatch: m})
	}
	return newMatcher(chains, msgs)
}

func TestMatch(t *testing.T) {
	type fcm = listenerv3.FilterChainMatch
	conn := func(dst, src string) found {
		return found{destination: netip.MustParseAddrPort(dst), source: netip.MustParseAddrPort(src), direct: netip.MustParseAddrPort(src).Addr(), transport: "raw_buffer"}
	}
	tlsConn := func(name string, alpn ...string) found {
		f := conn("10.0.0.1:443", "10.9.9.9:1")
		f.transport, f.serverName, f.alpn = "tls", name, alpn
		return f
	}
	for name, tc := range map[string]struct {
		chains []*fcm
		conn   found
		want   string // chain, "" for none
	}{
		"no match asks for nothing":    {[]*fcm{nil}, conn("10.0.0.1:80", "10.9.9.9:1"), "a"},
		"port before address":          {[]*fcm{{PrefixRanges: cidr("10.0.0.1/32")}, {DestinationPort: port(80)}}, conn("10.0.0.1:80", "10.9.9.9:1"), "b"},
		"longest prefix":               {[]*fcm{{PrefixRanges: cidr("10.0.0.0/8")}, {PrefixRanges: cidr("10.0.0.0/24")}}, conn("10.0.0.1:80", "10.9.9.9:1"), "b"},
		"exact name before suffix":     {[]*fcm{{ServerNames: []string{"*.example.com"}}, {ServerNames: []string{"a.example.com"}}}, tlsConn("a.example.com"), "b"},
		"longest suffix":               {[]*fcm{{ServerNames: []string{"*.com"}}, {ServerNames: []string{"*.example.com"}}}, tlsConn("a.example.com"), "b"},
		"a suffix needs a label":       {[]*fcm{{ServerNames: []string{"*.example.com"}}, {}}, tlsConn("example.com"), "b"},
		"no name falls to none":        {[]*fcm{{ServerNames: []string{"a"}}, {}}, tlsConn(""), "b"},
		"transport protocol":           {[]*fcm{{TransportProtocol: "tls"}, {TransportProtocol: "raw_buffer"}}, conn("10.0.0.1:80", "10.9.9.9:1"), "b"},
		"application protocol":         {[]*fcm{{ApplicationProtocols: []string{"istio"}}, {ApplicationProtocols: []string{"istio-h2", "istio-http/1.1"}}}, tlsConn("", "istio-http/1.1", "istio"), "b"},
		"application protocol or none": {[]*fcm{{ApplicationProtocols: []string{"h2"}}, {}}, tlsConn("", "other"), "b"},
		"no way back":                  {[]*fcm{{DestinationPort: port(443), ServerNames: []string{"x"}}, {}}, tlsConn("y"), ""},
		"direct source":                {[]*fcm{{}, {DirectSourcePrefixRanges: cidr("10.9.0.0/16")}}, conn("10.0.0.1:80", "10.9.9.9:1"), "b"},
		"source type, external":        {[]*fcm{{SourceType: listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK}, {SourceType: listenerv3.FilterChainMatch_EXTERNAL}}, conn("10.0.0.1:80", "10.9.9.9:1"), "b"},
		"source type, same address":    {[]*fcm{{SourceType: listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK}, {SourceType: listenerv3.FilterChainMatch_EXTERNAL}}, conn("10.0.0.1:80", "10.0.0.1:1"), "a"},
		"source prefix":                {[]*fcm{{SourcePrefixRanges: cidr("10.0.0.0/8")}, {SourcePrefixRanges: cidr("10.9.9.9/32")}}, conn("10.0.0.1:80", "10.9.9.9:1"), "b"},
		"source port":                  {[]*fcm{{SourcePorts: []uint32{7}}, {SourcePorts: []uint32{8}}}, conn("10.0.0.1:80", "10.9.9.9:8"), "b"},
		"nothing fits":                 {[]*fcm{{DestinationPort: port(81)}}, conn("10.0.0.1:80", "10.9.9.9:1"), ""},
		"permissive, mutual TLS and HTTP": {permissive(), func() found {
			f := tlsConn("", "istio-http/1.1")
			f.destination = netip.MustParseAddrPort("10.0.0.1:9080")
			return f
		}(), "a"},
		"permissive, plain HTTP": {permissive(), func() found { f := conn("10.0.0.1:9080", "10.9.9.9:1"); f.alpn = []string{"http/1.1"}; return f }(), "b"},
		"permissive, mutual TLS and TCP": {permissive(), func() found {
			f := tlsConn("", "istio-peer-exchange", "istio")
			f.destination = netip.MustParseAddrPort("10.0.0.1:9080")
			return f
		}(), "c"},
		"permissive, plain TCP":   {permissive(), conn("10.0.0.1:9080", "10.9.9.9:1"), "d"},
		"permissive, foreign TLS": {permissive(), func() found { f := tlsConn("x"); f.destination = netip.MustParseAddrPort("10.0.0.1:9080"); return f }(), "e"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := build(t, tc.chains...)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if c := m.match(&tc.conn); c != nil {
				got = c.name
			}
			if got != tc.want {
				t.Errorf("matched %q, want %q", got, tc.want)
			}
		})
	}
}

// permissive are the five chains Istio sends for a port of a PERMISSIVE
// workload.
func permissive() []*listenerv3.FilterChainMatch {
	return []*listenerv3.FilterChainMatch{
		{DestinationPort: port(9080), TransportProtocol: "tls", ApplicationProtocols: []string{"istio-http/1.0", "istio-http/1.1", "istio-h2"}},
		{DestinationPort: port(9080), TransportProtocol: "raw_buffer", ApplicationProtocols: []string{"http/1.1", "h2c"}},
		{DestinationPort: port(9080), TransportProtocol: "tls", ApplicationProtocols: []string{"istio-peer-exchange", "istio"}},
		{DestinationPort: port(9080), TransportProtocol: "raw_buffer"},
		{DestinationPort: port(9080), TransportProtocol: "tls"},
	}
}

func TestMatchIsRefused(t *testing.T) {
	type fcm = listenerv3.FilterChainMatch
	for name, tc := range map[string]struct {
		chains []*fcm
		want   string
	}{
		"same match":        {[]*fcm{{DestinationPort: port(1)}, {DestinationPort: port(1)}}, `filter_chains[1] ("b") has the same match as filter_chains[0] ("a")`},
		"overlap in a list": {[]*fcm{{ServerNames: []string{"a", "b"}}, {ServerNames: []string{"B"}}}, "same match"},
		"two catch-alls":    {[]*fcm{nil, {}}, "same match"},
		"bad name":          {[]*fcm{{ServerNames: []string{"a.*"}}}, "neither a name nor *.name"},
		"bad port":          {[]*fcm{{DestinationPort: port(65536)}}, "is not a port"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := build(t, tc.chains...); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func BenchmarkMatchPermissive(b *testing.B) {
	m, err := build(b, permissive()...)
	if err != nil {
		b.Fatal(err)
	}
	f := found{destination: netip.MustParseAddrPort("10.0.0.1:9080"), source: netip.MustParseAddrPort("10.9.9.9:1"), transport: "tls", alpn: []string{"istio-http/1.1"}}
	b.ReportAllocs()
	for b.Loop() {
		m.match(&f)
	}
}

func mustAddrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
