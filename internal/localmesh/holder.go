// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// errBusy is wrapped by the error of checkFree for a port in use.
var errBusy = errors.New("address already in use")

// checkFree returns an error that names the process holding addr when addr
// cannot be listened on.
func checkFree(addr netip.AddrPort) error {
	l, err := net.Listen("tcp", addr.String())
	if err == nil {
		return l.Close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d on %s cannot be opened: %w", addr.Port(), addr.Addr(), err)
	}
	by := "another process (of another user)"
	if h, ok := holder("/proc", addr); ok {
		by = h
	}
	return fmt.Errorf("port %d on %s is held by %s: %w", addr.Port(), addr.Addr(), by, errBusy)
}

// holder finds who listens on addr, or on its port for every address, as
// "name (pid N)". It reads only what this user may see.
func holder(proc string, addr netip.AddrPort) (string, bool) {
	inodes := map[string]bool{}
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		b, err := os.ReadFile(filepath.Join(proc, table))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if inode, ok := listening(line, addr); ok {
				inodes["socket:["+inode+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return "", false
	}
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !inodes[target] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(link))
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(dir)), true
	}
	return "", false
}

// listening reads one line of /proc/net/tcp (proc(5)) and returns the inode
// if it is a listener in the way of addr.
func listening(line string, addr netip.AddrPort) (inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != "0A" { // TCP_LISTEN
		return "", false
	}
	host, port, ok := strings.Cut(f[1], ":")
	if !ok {
		return "", false
	}
	if p, err := strconv.ParseUint(port, 16, 16); err != nil || uint16(p) != addr.Port() {
		return "", false
	}
	at, err := procAddr(host)
	if err != nil || at != addr.Addr() && !at.IsUnspecified() && !addr.Addr().IsUnspecified() {
		return "", false
	}
	return f[9], true
}

// procAddr decodes an address as the kernel prints it: 32-bit words in host
// byte order.
func procAddr(s string) (netip.Addr, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, fmt.Errorf("%q is no address", s)
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap(), nil
}
