// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBind(t *testing.T) {
	c := &Cluster{Config: Config{BindSources: []netip.Addr{netip.MustParseAddr("127.0.0.6"), netip.MustParseAddr("::6")}}}
	for address, want := range map[string]string{"10.0.0.1:80": "127.0.0.6", "[fd00::1]:80": "::6", "/run/socket": ""} {
		var d net.Dialer
		(&Host{cluster: c, address: address}).Bind(&d)
		got := ""
		if d.LocalAddr != nil {
			got = d.LocalAddr.(*net.TCPAddr).IP.String()
		}
		if got != want {
			t.Errorf("%s is dialled from %q, want %q", address, got, want)
		}
	}
}

// TestBindLeavesThePortToConnect sees that a port is not taken for one
// destination alone.
func TestBindLeavesThePortToConnect(t *testing.T) {
	c := &Cluster{Config: Config{BindSources: []netip.Addr{netip.MustParseAddr("127.0.0.6")}}}
	for range 2 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var d net.Dialer
		(&Host{cluster: c, address: l.Addr().String()}).Bind(&d)
		conn, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var late int
		_ = raw.Control(func(fd uintptr) { late, err = unix.GetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT) })
		if err != nil || late != 1 {
			t.Errorf("IP_BIND_ADDRESS_NO_PORT is %d, %v", late, err)
		}
		if from := conn.LocalAddr().(*net.TCPAddr).IP.String(); from != "127.0.0.6" {
			t.Errorf("dialled from %s", from)
		}
	}
}
