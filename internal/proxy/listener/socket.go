// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketSpec is what a listening socket is made of. It is the key under which
// an update keeps a socket.
type socketSpec struct {
	network  string // "tcp" or "unix"
	address  string // "ip:port", or a path ("@name" is abstract)
	freebind bool
	// transparent sockets take connections to addresses that are not the
	// machine's, as TPROXY brings them.
	transparent bool
	ipv4Compat  bool // an IPv6 wildcard takes IPv4 too; by default it does not
	reuse       bool // SO_REUSEPORT
	backlog     int  // 0: the system's default
	mode        os.FileMode
}

// socket is one listening socket. Its owner is the listener whose connections
// it accepts, and changes with an update.
type socket struct {
	spec  socketSpec
	ln    net.Listener
	owner atomic.Pointer[listener]
	done  chan struct{}
}

func openSocket(ctx context.Context, spec socketSpec) (*socket, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // per listener, see tcp_keepalive
		Control: func(_, _ string, c syscall.RawConn) error {
			var serr error
			err := c.Control(func(fd uintptr) { serr = spec.options(int(fd)) })
			return errors.Join(err, serr)
		},
	}
	if spec.network == "unix" {
		removeStale(spec.address)
	}
	ln, err := lc.Listen(ctx, spec.listenNetwork(), spec.address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	s := &socket{spec: spec, ln: ln, done: make(chan struct{})}
	if err := s.finish(); err != nil {
		ln.Close()
		return nil, err
	}
	return s, nil
}

// listenNetwork keeps the families apart as Envoy does, so that a listener may
// have a wildcard address of each.
func (spec *socketSpec) listenNetwork() string {
	if spec.network != "tcp" {
		return spec.network
	}
	switch six := strings.HasPrefix(spec.address, "["); {
	case !six:
		return "tcp4" // Go's "tcp" would take IPv6 at 0.0.0.0 as well
	case spec.ipv4Compat:
		return "tcp"
	}
	return "tcp6"
}

func (spec *socketSpec) options(fd int) error {
	if spec.network != "tcp" {
		return nil
	}
	if spec.reuse {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("set SO_REUSEPORT: %w", err)
		}
	}
	if spec.transparent {
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT
		if strings.HasPrefix(spec.address, "[") {
			level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return fmt.Errorf("set IP_TRANSPARENT, for which the proxy needs the capability NET_ADMIN: %w", err)
		}
	}
	if spec.freebind {
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
			return fmt.Errorf("set IP_FREEBIND: %w", err)
		}
	}
	return nil
}

// finish applies what can only be set on a socket that listens.
func (s *socket) finish() error {
	if s.spec.network == "unix" && s.spec.mode != 0 && !strings.HasPrefix(s.spec.address, "@") {
		if err := os.Chmod(s.spec.address, s.spec.mode); err != nil {
			return fmt.Errorf("set mode of socket: %w", err)
		}
	}
	sc, ok := s.ln.(syscall.Conn)
	if s.spec.backlog <= 0 || !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = unix.Listen(int(fd), s.spec.backlog) })
	return errors.Join(err, serr)
}

// removeStale removes a Unix socket that nobody listens on any more.
func removeStale(path string) {
	if strings.HasPrefix(path, "@") {
		return
	}
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode()&os.ModeSocket == 0 {
		return
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return
	}
	_ = os.Remove(path)
}

// acceptPause bounds how fast a failing accept (no descriptors left) is retried.
const acceptPause = 50 * time.Millisecond

// accept takes connections until the socket is closed.
func (s *socket) accept(m *Manager) {
	defer close(s.done)
	for {
		c, err := s.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			m.opts.Log.Warn("accept failed", "address", s.spec.address, "error", err)
			time.Sleep(acceptPause)
			continue
		}
		l := s.owner.Load()
		if l == nil || !m.admit(l) {
			reset(c)
			continue
		}
		go m.serve(l, c)
	}
}

// reset closes a connection so that its peer sees RST: nobody listens here.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// addrPort is the IP address and port of a, invalid for Unix sockets.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST
// (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// originalDst is where a redirected connection was going; ok is false for one
// that was not redirected.
func originalDst(c net.Conn) (dst netip.AddrPort, ok bool) {
	t, isTCP := c.(*net.TCPConn)
	if !isTCP {
		return dst, false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return dst, false
	}
	v4 := addrPort(t.LocalAddr()).Addr().Is4()
	err = raw.Control(func(fd uintptr) {
		if v4 {
			// The kernel writes a sockaddr_in into what the call takes for an
			// ipv6_mreq: family (2 bytes), port (2, network order), address (4).
			m, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, soOriginalDst)
			if err == nil {
				a := m.Multiaddr
				dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a[4:8])), uint16(a[2])<<8|uint16(a[3]))
				ok = true
			}
			return
		}
		m, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, soOriginalDst)
		if err == nil {
			p := m.Addr.Port // network order as stored
			dst = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr).Unmap(), p<<8|p>>8)
			ok = true
		}
	})
	if err != nil || dst == addrPort(t.LocalAddr()) {
		return netip.AddrPort{}, false
	}
	return dst, ok
}
