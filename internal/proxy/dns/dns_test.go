// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/protobuf/encoding/protowire"
)

var names = map[string]Name{
	"reviews.default.svc.cluster.local": {IPs: []string{"10.96.0.1"}, Registry: "Kubernetes", Shortname: "reviews", Namespace: "default"},
	"ratings.other.svc.cluster.local":   {IPs: []string{"10.96.0.2", "fd00::2"}, Registry: "Kubernetes", Shortname: "ratings", Namespace: "other", AltHosts: []string{"ratings.mesh"}},
	"Headless.default.svc.cluster.local": {IPs: []string{"10.1.0.1", "10.1.0.2", "10.1.0.3"}, Registry: "Kubernetes",
		Shortname: "headless", Namespace: "default"},
	"api.example.com":   {IPs: []string{"240.240.0.1"}, Registry: "External"},
	"*.wild.com":        {IPs: []string{"240.240.0.2"}, Registry: "External"},
	"*.deep.wild.com":   {IPs: []string{"240.240.0.3"}, Registry: "External"},
	"broken.com":        {IPs: []string{"not an address"}, Registry: "External"},
	"many.example.com":  {IPs: addresses(200), Registry: "External"},
	"api.remote.domain": {IPs: []string{"10.3.0.1"}, Registry: "Kubernetes", Shortname: "api", Namespace: "remote"},
}

func addresses(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("10.200.0.%d", i))
	}
	return out
}

// upstream is a DNS server of the test's own.
type upstream struct {
	asked atomic.Int64

	port uint16
}

func newUpstream(t *testing.T, answer func(dnsmessage.Question, bool) dnsmessage.Message) *upstream {
	t.Helper()
	u := new(upstream)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close(); l.Close() })
	u.port = uint16(pc.LocalAddr().(*net.UDPAddr).Port)
	reply := func(b []byte, tcp bool) []byte {
		u.asked.Add(1)
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			t.Error(err)
			return nil
		}
		out := answer(m.Questions[0], tcp)
		out.ID, out.Response, out.RecursionAvailable, out.Questions = m.ID, true, true, m.Questions
		packed, err := out.Pack()
		if err != nil {
			t.Error(err)
		}
		return packed
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			answer := reply(b[:n], false)
			forged := slices.Clone(answer)
			forged[0]++ // a wrong number must not be taken
			_, _ = pc.WriteTo(forged, from)
			_, _ = pc.WriteTo(answer, from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if b, err := readMessage(c, nil); err == nil {
				_ = writeMessage(c, reply(b, true), true)
			}
			c.Close()
		}
	}()
	return u
}

func a(name string, ips ...string) (out []dnsmessage.Resource) {
	for _, ip := range ips {
		out = append(out, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 5},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(ip).As4()},
		})
	}
	return out
}

func start(t *testing.T, u *upstream, servers ...string) *Server {
	t.Helper()
	o := Options{
		Addresses: []string{"127.0.0.1:0"}, Namespace: "default", Domain: "default.svc.cluster.local",
		Resolv: parseResolvConf("nameserver 127.0.0.1\nsearch default.svc.cluster.local svc.cluster.local\n"),
	}
	if u == nil {
		o.Resolv.Servers = nil
	} else {
		o.UpstreamPort = u.port
	}
	for _, s := range servers {
		o.Resolv.Servers = append([]netip.Addr{netip.MustParseAddr(s)}, o.Resolv.Servers...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := New(o)
	if err := s.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

// resolver is Go's own, which asks A and AAAA at once and follows aliases.
func (s *Server) resolver(network string) *net.Resolver {
	return &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, n, _ string) (net.Conn, error) {
		if network != "" {
			n = network
		}
		var d net.Dialer
		return d.DialContext(ctx, n, s.Addresses()[0])
	}}
}

func TestResolverFindsMeshNames(t *testing.T) {
	u := newUpstream(t, func(q dnsmessage.Question, _ bool) dnsmessage.Message {
		if q.Name.String() == "outside.org." && q.Type == dnsmessage.TypeA {
			return dnsmessage.Message{Answers: a("outside.org.", "192.0.2.7")}
		}
		if q.Name.String() == "outside.org." {
			return dnsmessage.Message{}
		}
		return dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeNameError}}
	})
	s := start(t, u)
	s.Update(names)
	for _, network := range []string{"udp", "tcp"} {
		for _, test := range []struct {
			name string
			want []string
			ask  int64 // questions upstream
		}{
			{"reviews.default.svc.cluster.local.", []string{"10.96.0.1"}, 0},
			{"reviews.", []string{"10.96.0.1"}, 0},
			{"reviews.default.", []string{"10.96.0.1"}, 0},
			{"reviews.default.svc.", []string{"10.96.0.1"}, 0},
			{"REVIEWS.Default.svc.cluster.local.", []string{"10.96.0.1"}, 0},
			{"ratings.other.", []string{"10.96.0.2", "fd00::2"}, 0},
			{"ratings.mesh.", []string{"10.96.0.2", "fd00::2"}, 0},
			{"headless.", []string{"10.1.0.1", "10.1.0.2", "10.1.0.3"}, 0},
			{"api.example.com.", []string{"240.240.0.1"}, 0},
			{"api.example.com.default.svc.cluster.local.", []string{"240.240.0.1"}, 0},
			{"a.b.wild.com.", []string{"240.240.0.2"}, 0},
			{"a.deep.wild.com.", []string{"240.240.0.3"}, 0},
			{"a.wild.com.default.svc.cluster.local.", []string{"240.240.0.2"}, 0},
			{"outside.org.", []string{"192.0.2.7"}, 2},
			{"wild.com.", nil, 2},
			{"ratings.", nil, 2},
			{"broken.com.", nil, 2},
			{"api.remote.", nil, 2}, // of another cluster's domain
		} {
			t.Run(network+"/"+test.name, func(t *testing.T) {
				before := u.asked.Load()
				got, err := s.resolver(network).LookupHost(t.Context(), test.name)
				var missing *net.DNSError
				if err != nil && (test.want != nil || !errors.As(err, &missing) || !missing.IsNotFound) {
					t.Fatal(err)
				}
				slices.Sort(got)
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("addresses (-want +got):\n%s", diff)
				}
				if n := u.asked.Load() - before; n != test.ask {
					t.Errorf("%d questions upstream, want %d", n, test.ask)
				}
			})
		}
	}
}

// exchange asks one question by hand.
func (s *Server) exchange(t *testing.T, network string, typ dnsmessage.Type, name string, edns uint16) dnsmessage.Message {
	t.Helper()
	c, err := net.Dial(network, s.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}
	if edns > 0 {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(int(edns), 0, false); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if err := writeMessage(c, b, network == "tcp"); err != nil {
		t.Fatal(err)
	}
	var in []byte
	if network == "tcp" {
		in, err = readMessage(c, nil)
	} else {
		in = make([]byte, maxMessage)
		var n int
		n, err = c.Read(in)
		in = in[:n]
	}
	if err != nil {
		t.Fatal(err)
	}
	if network == "udp" && len(in) > max(int(edns), minUDP) {
		t.Errorf("%d bytes for a client that takes %d", len(in), max(int(edns), minUDP))
	}
	var out dnsmessage.Message
	if err := out.Unpack(in); err != nil {
		t.Fatal(err)
	}
	if out.ID != 77 || !out.Response {
		t.Errorf("header: %+v", out.Header)
	}
	return out
}

func TestAnswers(t *testing.T) {
	u := newUpstream(t, func(q dnsmessage.Question, tcp bool) dnsmessage.Message {
		switch q.Name.String() {
		case "big.org.":
			if tcp {
				return dnsmessage.Message{Answers: a("big.org.", addresses(60)...)}
			}
			return dnsmessage.Message{Header: dnsmessage.Header{Truncated: true}}
		case "wide.org.": // larger than was asked for
			return dnsmessage.Message{Answers: a("wide.org.", addresses(60)...)}
		}
		return dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeRefused}}
	})
	s := start(t, u)
	if got := s.exchange(t, "udp", dnsmessage.TypeA, "reviews.", 0); got.RCode != dnsmessage.RCodeServerFailure || s.Ready() {
		t.Errorf("before the table came: %v", got.RCode)
	}
	s.Update(names)
	t.Run("an alias comes with its addresses", func(t *testing.T) {
		got := s.exchange(t, "udp", dnsmessage.TypeA, "api.example.com.default.svc.cluster.local.", 0)
		if len(got.Answers) != 2 || !got.Authoritative {
			t.Fatalf("answers: %v", got.Answers)
		}
		alias, ok := got.Answers[0].Body.(*dnsmessage.CNAMEResource)
		if !ok || alias.CNAME.String() != "api.example.com." || got.Answers[1].Header.Name.String() != "api.example.com." || got.Answers[1].Header.TTL != 30 {
			t.Errorf("answers: %v", got.Answers)
		}
	})
	t.Run("a name without that type exists", func(t *testing.T) {
		for _, typ := range []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeTXT, 65} {
			if got := s.exchange(t, "udp", typ, "api.example.com.", 0); got.RCode != dnsmessage.RCodeSuccess || len(got.Answers) != 0 {
				t.Errorf("%v: %v %v", typ, got.RCode, got.Answers)
			}
		}
	})
	t.Run("cluster DNS is asked for other types of its names", func(t *testing.T) {
		if got := s.exchange(t, "udp", dnsmessage.TypeSRV, "reviews.default.svc.cluster.local.", 0); got.RCode != dnsmessage.RCodeRefused {
			t.Errorf("%v", got.RCode)
		}
	})
	t.Run("addresses take turns", func(t *testing.T) {
		first := map[string]bool{}
		for range 3 {
			first[s.exchange(t, "udp", dnsmessage.TypeA, "headless.", 0).Answers[0].Body.GoString()] = true
		}
		if len(first) != 3 {
			t.Errorf("first of three answers: %v", first)
		}
	})
	t.Run("what does not fit is cut", func(t *testing.T) {
		short, long := s.exchange(t, "udp", dnsmessage.TypeA, "many.example.com.", 0), s.exchange(t, "udp", dnsmessage.TypeA, "many.example.com.", 4096)
		if !short.Truncated || len(short.Answers) == 0 || long.Truncated || len(long.Answers) != 200 {
			t.Errorf("without EDNS: %d, truncated %v; with: %d, truncated %v", len(short.Answers), short.Truncated, len(long.Answers), long.Truncated)
		}
		if len(long.Additionals) != 1 {
			t.Error("the answer to EDNS has none")
		}
		if whole := s.exchange(t, "tcp", dnsmessage.TypeA, "many.example.com.", 0); whole.Truncated || len(whole.Answers) != 200 {
			t.Errorf("TCP: %d, truncated %v", len(whole.Answers), whole.Truncated)
		}
	})
	t.Run("a truncated answer is asked for again by TCP", func(t *testing.T) {
		if got := s.exchange(t, "udp", dnsmessage.TypeA, "big.org.", 4096); got.Truncated || len(got.Answers) != 60 {
			t.Errorf("%d answers, truncated %v", len(got.Answers), got.Truncated)
		}
		if got := s.exchange(t, "udp", dnsmessage.TypeA, "big.org.", 0); !got.Truncated {
			t.Error("too much for the client")
		}
		if got := s.exchange(t, "udp", dnsmessage.TypeA, "wide.org.", 0); !got.Truncated || len(got.Answers) != 0 {
			t.Error("too much for the client")
		}
	})
	t.Run("the dump is istio-agent's", func(t *testing.T) {
		b, err := s.Dump()
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Table map[string]Name }
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(names, got.Table); diff != "" || !strings.Contains(string(b), `"altHosts"`) {
			t.Error(diff)
		}
	})
}

func TestServersInTurn(t *testing.T) {
	u := newUpstream(t, func(dnsmessage.Question, bool) dnsmessage.Message {
		return dnsmessage.Message{Answers: a("x.org.", "192.0.2.9")}
	})
	s := start(t, u, "127.0.0.99") // nobody listens there
	s.Update(nil)
	if got := s.exchange(t, "udp", dnsmessage.TypeA, "x.org.", 0); len(got.Answers) != 1 {
		t.Errorf("answers: %v, code %v", got.Answers, got.RCode)
	}
	s = start(t, nil)
	s.Update(nil)
	if got := s.exchange(t, "udp", dnsmessage.TypeA, "x.org.", 0); got.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("code %v without a server that answers", got.RCode)
	}
}

func TestResolvConf(t *testing.T) {
	got := parseResolvConf("# comment\nnameserver 10.0.0.10\nnameserver fe80::1%eth0\nnameserver oops\ndomain old\n; x\nsearch A.b. c\noptions ndots:5\n")
	want := ResolvConf{Search: []string{"a.b", "c"}}
	want.Servers = []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fe80::1%eth0")}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func encode(names map[string]Name) (out []byte) {
	text := func(b []byte, n protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
	}
	for host, n := range names {
		var info []byte
		for _, ip := range n.IPs {
			info = text(info, fieldIPs, ip)
		}
		info = text(text(text(info, fieldRegistry, n.Registry), fieldShortname, n.Shortname), fieldNamespace, n.Namespace)
		for _, h := range n.AltHosts {
			info = text(info, fieldAltHosts, h)
		}
		info = protowire.AppendVarint(protowire.AppendTag(info, 99, protowire.VarintType), 1) // of a later version
		entry := text(nil, fieldKey, host)
		entry = protowire.AppendBytes(protowire.AppendTag(entry, fieldValue, protowire.BytesType), info)
		out = protowire.AppendBytes(protowire.AppendTag(out, fieldTable, protowire.BytesType), entry)
	}
	return out
}

func TestDecodeNameTable(t *testing.T) {
	got, err := DecodeNameTable(encode(names))
	if diff := cmp.Diff(names, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if _, err := DecodeNameTable(encode(map[string]Name{"": {}})); err == nil {
		t.Error("a host without a name was taken")
	}
}

func FuzzDecodeNameTable(f *testing.F) {
	f.Add(encode(names))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := DecodeNameTable(b); err == nil {
			newTable(n, newPlace("default", "svc.cluster.local", nil))
		}
	})
}

// FuzzQuery holds that no message makes the proxy fail, and that what it
// answers is a message that fits.
func FuzzQuery(f *testing.F) {
	for _, n := range []string{"reviews.", "many.example.com.", "a.wild.com.default.svc.cluster.local.", "."} {
		m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(n), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b, true)
	}
	s := New(Options{Namespace: "default", Domain: "svc.cluster.local", Resolv: ResolvConf{Search: []string{"default.svc.cluster.local"}}})
	s.Update(names)
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		q, answer := s.begin(b, tcp)
		if answer == nil {
			if q != nil {
				q.truncatedReply()
				answers(b, b, q)
			}
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil {
			t.Errorf("answer: %v", err)
		}
		if !m.Response || m.ID != uint16(b[0])<<8|uint16(b[1]) || tcp && len(answer) > maxMessage {
			t.Errorf("answer: %+v", m.Header)
		}
	})
}
