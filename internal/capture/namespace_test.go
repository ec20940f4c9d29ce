// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// patience bounds every try; nothing is measured by it.
const patience = 10 * time.Second

func captureAll() Config {
	c := Default()
	c.InboundPortsInclude, c.InboundPortsExclude = []string{"*"}, []uint16{15090, 15021, 15020}
	c.OutboundIPRangesInclude = []string{"*"}
	c.EnableIPv6 = true
	return c
}

func (n *namespace) apply(t *testing.T, c Config) Result {
	t.Helper()
	var res Result
	n.must(t, func() (err error) {
		res, err = Apply(context.Background(), &c, Options{NFTOnly: true})
		return err
	})
	return res
}

// dial connects as a user and says where the connection landed; "refused" where
// nobody listens.
func (n *namespace) dial(t *testing.T, user int, to string, from ...string) string {
	t.Helper()
	var c net.Conn
	var err error
	n.as(user, func() {
		d := net.Dialer{Timeout: patience}
		if len(from) > 0 {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from[0])}
		}
		c, err = d.Dial("tcp", to)
	})
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
		return "refused"
	}
	if err != nil {
		t.Fatalf("dial %s as %d: %v", to, user, err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("dial %s as %d: %v", to, user, err)
	}
	return string(b)
}

func at(port int, meant any) string { return fmt.Sprintf("%d %v", port, meant) }

var direct = netip.AddrPort{}

const (
	app   = 1000
	proxy = 1337
)

func TestRedirects(t *testing.T) {
	pod, peer := pair(t)
	pod.listen(t, proxy, 15001, 15006, 15021)
	pod.listen(t, app, 8080)
	peer.listen(t, app, 80, 9999)
	c := captureAll()
	c.OutboundPortsExclude = []uint16{9999}
	if res := pod.apply(t, c); !res.Changed || res.Backend != "nftables" {
		t.Fatalf("first run: %+v", res)
	}
	for _, f := range []struct {
		name             string
		pod, peer, local string
	}{
		{"IPv4", pod4.String(), peer4.String(), "127.0.0.1"},
		{"IPv6", "[" + pod6.String() + "]", "[" + peer6.String() + "]", "[::1]"},
	} {
		for _, test := range []struct {
			name, to, want string
			from           *namespace
			user           int
		}{
			{"an application's call goes to the proxy", f.peer + ":80", at(15001, f.peer+":80"), pod, app},
			{"and so does root's", f.peer + ":80", at(15001, f.peer+":80"), pod, 0},
			{"the proxy's own does not", f.peer + ":80", at(80, direct), pod, proxy},
			{"an excluded port does not", f.peer + ":9999", at(9999, direct), pod, app},
			{"an inbound call goes to the proxy", f.pod + ":8080", at(15006, f.pod+":8080"), peer, app},
			{"also to a port that nobody has", f.pod + ":1", at(15006, f.pod+":1"), peer, app},
			{"an excluded inbound port is reached", f.pod + ":15021", at(15021, direct), peer, app},
			{"localhost is itself", f.local + ":8080", at(8080, direct), pod, app},
			{"an application's call to its own pod too", f.pod + ":8080", at(8080, direct), pod, app},
			{"the proxy's call to its own pod is inbound", f.pod + ":8080", at(15006, f.pod+":8080"), pod, proxy},
			{"the tunnel's port is never captured", f.pod + ":15008", "refused", peer, app},
		} {
			t.Run(f.name+"/"+test.name, func(t *testing.T) {
				if got := test.from.dial(t, test.user, test.to); got != test.want {
					t.Errorf("landed at %q, want %q", got, test.want)
				}
			})
		}
	}
	t.Run("the inbound side reaches the application", func(t *testing.T) {
		if got := pod.dial(t, proxy, pod4.String()+":8080", "127.0.0.6"); got != at(8080, direct) {
			t.Errorf("IPv4 landed at %q", got)
		}
		if got := pod.dial(t, proxy, "["+pod6.String()+"]:8080", "::6"); got != at(8080, direct) {
			t.Errorf("IPv6 landed at %q", got)
		}
	})
	t.Run("the probe passes", func(t *testing.T) {
		c := c // the ports are taken, so that others are the proxy's here
		c.ProxyPort, c.InboundCapturePort = 25001, 25006
		pod.apply(t, c)
		for _, host := range []netip.Addr{pod4, pod6} {
			for _, user := range []int{0, proxy} { // the outbound way and the inbound one
				pod.as(user, func() {
					p := Probe{Host: host, Port: 15002, Timeout: patience, User: uint32(user)}
					if err := p.Validate(t.Context(), &c); err != nil {
						t.Errorf("%s as %d: %v", host, user, err)
					}
				})
			}
		}
	})
}

func TestProbeFindsMissingRules(t *testing.T) {
	pod, _ := pair(t)
	c := captureAll()
	pod.must(t, func() error {
		// The peer answers for no such address: the connection must not succeed.
		err := Probe{Host: pod4, Port: 15002, Timeout: 100 * time.Millisecond}.Validate(context.Background(), &c)
		if err == nil {
			return errors.New("passed without rules")
		}
		return nil
	})
}

// handles are the kernel's numbers of our tables; they change when a table is
// made anew.
func (n *namespace) tables(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	n.must(t, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		ts, err := c.ListTables()
		if err != nil {
			return err
		}
		chains, err := c.ListChains()
		if err != nil {
			return err
		}
		for _, x := range ts {
			out[fmt.Sprintf("%d %s", x.Family, x.Name)] = 0
		}
		for _, x := range chains {
			rules, err := c.GetRules(x.Table, x)
			if err != nil {
				return err
			}
			for _, r := range rules {
				out[fmt.Sprintf("%d %s", x.Table.Family, x.Table.Name)] += int(r.Handle)
			}
		}
		return nil
	})
	return out
}

func equal(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

func TestApplyIsIdempotent(t *testing.T) {
	pod := newNamespace(t)
	pod.must(t, func() error { // somebody else's table
		c, err := nftables.New()
		if err != nil {
			return err
		}
		foreign := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"})
		c.AddChain(&nftables.Chain{Table: foreign, Name: "theirs"})
		return c.Flush()
	})
	foreign := pod.tables(t)
	c := captureAll()
	c.RedirectDNS, c.CaptureAllDNS, c.DropInvalid = true, true, true
	pod.apply(t, c)
	once := pod.tables(t)
	if len(once) != 7 {
		t.Fatalf("tables: %v", once)
	}
	if res := pod.apply(t, c); res.Changed {
		t.Error("a second run changed something")
	}
	if twice := pod.tables(t); !equal(once, twice) {
		t.Errorf("tables after a second run: %v, before: %v", twice, once)
	}
	t.Run("a rule that went comes back", func(t *testing.T) {
		pod.must(t, func() error {
			n, err := nftables.New()
			if err != nil {
				return err
			}
			n.FlushChain(&nftables.Chain{Table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "istio-proxy-nat"}, Name: istioOutput})
			return n.Flush()
		})
		if res := pod.apply(t, c); !res.Changed {
			t.Error("the missing rules were not seen")
		}
		if res := pod.apply(t, c); res.Changed {
			t.Error("and still are not there")
		}
	})
	t.Run("other settings replace", func(t *testing.T) {
		c := c
		c.DropInvalid = false
		if res := pod.apply(t, c); !res.Changed {
			t.Error("nothing changed")
		}
		if got := pod.tables(t); len(got) != 5 {
			t.Errorf("tables: %v", got)
		}
	})
	t.Run("cleaning leaves the others", func(t *testing.T) {
		for range 2 {
			pod.must(t, func() error { return Clean(context.Background(), &c, Options{NFTOnly: true}) })
			if got := pod.tables(t); !equal(got, foreign) {
				t.Errorf("tables: %v, want %v", got, foreign)
			}
		}
	})
}
