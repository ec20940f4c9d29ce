// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace of the test's own. It lives as long as the
// thread in it and is gone with the test.
type namespace struct {
	work chan func()
	fd   int
}

// newNamespace makes a namespace with its loopback interface up.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	n := &namespace{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Skipf("cannot make a network namespace here: %v", err)
	}
	t.Cleanup(func() { close(n.work); unix.Close(n.fd) })
	n.must(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// do runs f in the namespace.
func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.work <- func() { defer close(done); f() }
	<-done
}

func (n *namespace) must(t *testing.T, f func() error) {
	t.Helper()
	var err error
	n.do(func() { err = f() })
	if err != nil {
		t.Fatal(err)
	}
}

// as runs f in the namespace with another user and group for what it opens:
// what netfilter's owner match sees are those of the file of a socket.
func (n *namespace) as(id int, f func()) {
	n.do(func() {
		unix.SetfsgidRetGid(id)
		unix.SetfsuidRetUid(id)
		defer unix.SetfsgidRetGid(0)
		defer unix.SetfsuidRetUid(0)
		f()
	})
}

// Addresses of the pod and of its peer on one link.
var (
	pod4, peer4 = netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("10.9.0.1")
	pod6, peer6 = netip.MustParseAddr("fd09::2"), netip.MustParseAddr("fd09::1")
)

// pair makes a pod's namespace and a peer's, joined by eth0 on both sides; the
// peer is the pod's gateway.
func pair(t *testing.T) (pod, peer *namespace) {
	t.Helper()
	pod, peer = newNamespace(t), newNamespace(t)
	pod.must(t, func() error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.fd),
		}
		return netlink.LinkAdd(veth)
	})
	up := func(four, six netip.Addr) func() error {
		return func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			for _, a := range []string{four.String() + "/24", six.String() + "/64"} {
				addr, err := netlink.ParseAddr(a)
				if err != nil {
					return err
				}
				addr.Flags = unix.IFA_F_NODAD
				if err := netlink.AddrAdd(link, addr); err != nil {
					return fmt.Errorf("add %s: %w", a, err)
				}
			}
			return netlink.LinkSetUp(link)
		}
	}
	pod.must(t, up(pod4, pod6))
	peer.must(t, up(peer4, peer6))
	pod.must(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, gw := range []netip.Addr{peer4, peer6} {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw.AsSlice()}); err != nil {
				return fmt.Errorf("default route by %s: %w", gw, err)
			}
		}
		return nil
	})
	return pod, peer
}

// listen accepts connections on a port of the namespace as a user and says of
// each on the connection itself where it landed and where it was meant to go.
func (n *namespace) listen(t *testing.T, user int, ports ...int) {
	t.Helper()
	for _, p := range ports {
		var l net.Listener
		var err error
		n.as(user, func() { l, err = net.Listen("tcp", fmt.Sprintf(":%d", p)) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				six := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap().Is6()
				dst, err := originalDestination(c.(*net.TCPConn), six)
				if err != nil || c.LocalAddr().String() == dst.String() {
					dst = netip.AddrPort{} // not redirected
				}
				fmt.Fprintf(c, "%d %s", p, dst)
				c.Close()
			}
		}()
	}
}

// listenPacket answers every datagram to an address with a text.
func (n *namespace) listenPacket(t *testing.T, user int, address, text string) {
	t.Helper()
	var pc net.PacketConn
	var err error
	n.as(user, func() { pc, err = net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(text), from)
		}
	}()
}
