// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ask sends a datagram as a user and gives the answer.
func (n *namespace) ask(t *testing.T, user int, to string) string {
	t.Helper()
	var c net.Conn
	var err error
	n.as(user, func() { c, err = net.Dial("udp", to) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 64)
	k := 0
	if _, err = c.Write([]byte("?")); err == nil {
		k, err = c.Read(b)
	}
	if err != nil {
		t.Fatalf("ask %s as %d: %v", to, user, err)
	}
	return string(b[:k])
}

func TestCapturesDNS(t *testing.T) {
	for _, all := range []bool{true, false} {
		t.Run(fmt.Sprintf("all=%v", all), func(t *testing.T) {
			pod, peer := pair(t)
			for _, local := range []string{"127.0.0.1", "[::1]"} {
				pod.listenPacket(t, proxy, local+":15053", "proxy")
			}
			pod.listen(t, proxy, 15001, 15053)
			peer.listen(t, app, 53)
			for _, a := range []string{peer4.String(), "[" + peer6.String() + "]"} {
				peer.listenPacket(t, app, a+":53", "server")
				peer.listenPacket(t, app, a+":54", "other")
			}
			c := captureAll()
			c.RedirectDNS, c.CaptureAllDNS = true, all
			c.DNSServers = append(c.DNSServers, peer4, peer6)
			pod.apply(t, c)
			for _, server := range []string{peer4.String(), "[" + peer6.String() + "]"} {
				for _, test := range []struct {
					user int
					to   string
					want string
				}{
					{app, server + ":53", "proxy"},
					{proxy, server + ":53", "server"},
					{app, server + ":54", "other"},
				} {
					for range 3 { // a flow's second packet takes another way through the kernel
						if got := pod.ask(t, test.user, test.to); got != test.want {
							t.Errorf("datagram of %d to %s: answered by %q, want %q", test.user, test.to, got, test.want)
						}
					}
				}
				if got, want := pod.dial(t, app, server+":53"), at(15053, server+":53"); got != want {
					t.Errorf("TCP to %s:53 landed at %q, want %q", server, got, want)
				}
				if got, want := pod.dial(t, proxy, server+":53"), at(53, direct); got != want {
					t.Errorf("the proxy's TCP to %s:53 landed at %q, want %q", server, got, want)
				}
			}
		})
	}
}

// listenTransparent takes connections that TPROXY brings, as root: only it may.
func (n *namespace) listenTransparent(t *testing.T, address string) {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT
		if strings.HasPrefix(address, "[") {
			level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		return err
	}}
	var l net.Listener
	n.must(t, func() (err error) {
		network := "tcp4"
		if strings.HasPrefix(address, "[") {
			network = "tcp6"
		}
		l, err = lc.Listen(t.Context(), network, address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// The connection's own address is what the client dialled.
			fmt.Fprintf(c, "tproxy %s from %s", c.LocalAddr(), c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

func TestTransparentInbound(t *testing.T) {
	pod, peer := pair(t)
	pod.listenTransparent(t, "0.0.0.0:15006")
	pod.listenTransparent(t, "[::]:15006")
	pod.listen(t, app, 8080, 15090)
	pod.listen(t, proxy, 15001)
	peer.listen(t, app, 80)
	c := captureAll()
	c.InboundInterceptionMode = TProxy
	for range 2 {
		pod.apply(t, c)
	}
	for _, f := range []struct{ pod, peer string }{{pod4.String(), peer4.String()}, {"[" + pod6.String() + "]", "[" + peer6.String() + "]"}} {
		want := "tproxy " + f.pod + ":8080 from " + strings.Trim(f.peer, "[]")
		if got := peer.dial(t, app, f.pod+":8080"); got != want {
			t.Errorf("inbound landed at %q, want %q", got, want)
		}
		if got := peer.dial(t, app, f.pod+":15090"); got != at(15090, direct) {
			t.Errorf("excluded port landed at %q", got)
		}
		if got, want := pod.dial(t, app, f.peer+":80"), at(15001, f.peer+":80"); got != want {
			t.Errorf("outbound landed at %q, want %q", got, want)
		}
		if got := pod.dial(t, app, f.pod+":8080"); got != at(8080, direct) {
			t.Errorf("the application's call to itself landed at %q", got)
		}
	}
	t.Run("routes are there once and go", func(t *testing.T) {
		rules := func() (n int) {
			pod.must(t, func() error {
				for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
					list, err := netlink.RuleList(f)
					if err != nil {
						return err
					}
					for _, r := range list {
						if r.Mark == c.InboundTProxyMark {
							n++
						}
					}
				}
				return nil
			})
			return n
		}
		if n := rules(); n != 2 {
			t.Errorf("%d routing rules, want one per family", n)
		}
		pod.must(t, func() error { return Clean(t.Context(), &c, Options{NFTOnly: true}) })
		if n := rules(); n != 0 {
			t.Errorf("%d routing rules are left", n)
		}
	})
}

// TestComparesSavedRules reads what iptables-save 1.8.9 printed after these
// rules were written with iptables-restore.
func TestComparesSavedRules(t *testing.T) {
	b, err := os.ReadFile("testdata/iptables-save.txt")
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	c.InboundPortsInclude, c.InboundPortsExclude = []string{"*"}, []uint16{15090}
	c.OutboundIPRangesInclude = []string{"*"}
	c.RedirectDNS, c.CaptureAllDNS, c.DropInvalid = true, true, true
	c.InboundInterceptionMode = TProxy
	c.ExcludeInterfaces, c.RerouteInterfaces = []string{"eth9"}, []string{"vm0"}
	s := Rules(&c, IPv4)
	if d := compareSaved(s, saved(string(b))); d != "" {
		t.Errorf("equal rules differ: %s", d)
	}
	for _, change := range [][2]string{
		{"-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN\n", ""},
		{"--to-ports 15001", "--to-ports 15002"},
		{"0x539", "0x53b"},
		{"-A PREROUTING -i vm0 -j RETURN\n", ""},
		{"-A ISTIO_DIVERT -j ACCEPT\n", "-A ISTIO_DIVERT -j ACCEPT\n-A ISTIO_DIVERT -j ACCEPT\n"},
		{":ISTIO_DROP - [0:0]\n", ":ISTIO_DROP - [0:0]\n:ISTIO_OLD - [0:0]\n"},
	} {
		if text := strings.Replace(string(b), change[0], change[1], 1); text == string(b) {
			t.Errorf("%q is not in the file", change[0])
		} else if compareSaved(s, saved(text)) == "" {
			t.Errorf("%q instead of %q is not seen", change[1], change[0])
		}
	}
}

// TestIptables writes with iptables' own commands where they are installed.
func TestIptables(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			b := &iptablesBackend{ctx: t.Context(), variant: variant}
			if err := b.available([]Family{IPv4, IPv6}); err != nil {
				t.Skipf("needs iptables: %v", err)
			}
			pod, peer := pair(t)
			pod.listen(t, proxy, 15001, 15006)
			peer.listen(t, app, 80)
			c := captureAll()
			o := Options{Iptables: variant}
			for i := range 2 {
				pod.must(t, func() error {
					res, err := Apply(t.Context(), &c, o)
					if err == nil && res.Changed != (i == 0) {
						err = fmt.Errorf("run %d: %+v", i, res)
					}
					return err
				})
			}
			for _, f := range []struct{ pod, peer string }{{pod4.String(), peer4.String()}, {"[" + pod6.String() + "]", "[" + peer6.String() + "]"}} {
				if got, want := pod.dial(t, app, f.peer+":80"), at(15001, f.peer+":80"); got != want {
					t.Errorf("landed at %q, want %q", got, want)
				}
				if got, want := peer.dial(t, app, f.pod+":8080"), at(15006, f.pod+":8080"); got != want {
					t.Errorf("landed at %q, want %q", got, want)
				}
			}
			pod.must(t, func() error { return Clean(t.Context(), &c, o) })
			if got := pod.dial(t, app, peer4.String()+":80"); got != at(80, direct) {
				t.Errorf("after cleaning: landed at %q", got)
			}
		})
	}
}
