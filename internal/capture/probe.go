// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Probe is a try of the rules by a connection of this process's own.
type Probe struct {
	Host    netip.Addr    // an address of the pod, not of its loopback interface
	Port    uint16        // a port nobody listens on (15002)
	Timeout time.Duration // of the whole try
	User    uint32        // who this process is
}

// Validate connects through the rules and sees where the connection arrives.
// What can be tried depends on the user: the proxy's own calls to the pod must
// arrive at the inbound port, anybody else's calls to the world at the outbound
// one. An error says what arrived where.
func (p Probe) Validate(ctx context.Context, c *Config) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	target, port, err := p.target(c)
	if err != nil || !target.IsValid() {
		return err
	}
	lc := net.ListenConfig{}
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("listen on the port that connections are redirected to: %w", err)
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	arrived := make(chan error, 1)
	go func() { arrived <- p.expect(l, target) }()
	d := net.Dialer{}
	conn, err := d.DialContext(ctx, "tcp", target.String())
	if err != nil {
		return fmt.Errorf("a connection to %s is not redirected to port %d: %w", target, port, err)
	}
	defer conn.Close()
	select {
	case err := <-arrived:
		return err
	case <-ctx.Done():
		return fmt.Errorf("a connection to %s does not arrive at port %d: %w", target, port, ctx.Err())
	}
}

// target is where to connect and the port at which that must arrive; an invalid
// address says that this user can try nothing.
func (p Probe) target(c *Config) (netip.AddrPort, uint16, error) {
	if !p.Host.IsValid() {
		return netip.AddrPort{}, 0, errors.New("no address of the pod was found to try the rules with")
	}
	if slices.Contains(c.ProxyUID, p.User) {
		return netip.AddrPortFrom(p.Host, p.Port), c.InboundCapturePort, nil
	}
	// An address that nobody has (RFC 5737, RFC 3849): redirected, it is reached.
	world := netip.MustParseAddr("192.0.2.1")
	if p.Host.Is6() {
		world = netip.MustParseAddr("2001:db8::1")
	}
	ranges, all, err := c.includeRanges()
	if err != nil || all {
		return netip.AddrPortFrom(world, p.Port), c.ProxyPort, err
	}
	for _, r := range ranges {
		a := r.Masked().Addr()
		if a.Is4() == p.Host.Is4() && !a.IsLoopback() {
			return netip.AddrPortFrom(a.Next(), p.Port), c.ProxyPort, nil
		}
	}
	return netip.AddrPort{}, 0, nil
}

func (p Probe) expect(l net.Listener, target netip.AddrPort) error {
	conn, err := l.Accept()
	if err != nil {
		return fmt.Errorf("no connection arrived: %w", err)
	}
	defer conn.Close()
	was, err := originalDestination(conn.(*net.TCPConn), target.Addr().Is6())
	if err != nil {
		return fmt.Errorf("the connection that arrived was not redirected: %w", err)
	}
	if was != target {
		return fmt.Errorf("the connection that arrived was meant for %s instead of %s", was, target)
	}
	return nil
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h).
const soOriginalDst = 80

func originalDestination(c *net.TCPConn, six bool) (dst netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return dst, err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		if six {
			var m *unix.IPv6MTUInfo
			if m, serr = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, soOriginalDst); serr == nil {
				dst = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr).Unmap(), m.Addr.Port<<8|m.Addr.Port>>8)
			}
			return
		}
		// The kernel writes a sockaddr_in: family, port and address in network order.
		var m *unix.IPv6Mreq
		if m, serr = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, soOriginalDst); serr == nil {
			a := m.Multiaddr
			dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), uint16(a[2])<<8|uint16(a[3]))
		}
	})
	return dst, errors.Join(err, serr)
}
