// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/lateen-mesh/lateen/test/lab/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is the interface that carries a node's address.
const link = "node0"

// makeNetwork makes the nodes' namespaces. The first node's interface is a
// bridge; the others' are links into it. There is no way from it to the machine.
func (s *State) makeNetwork() error {
	for i, n := range s.Nodes {
		if err := netns.Create(n.NetNS); err != nil {
			return err
		}
		if i > 0 {
			if err := s.plug(n); err != nil {
				return fmt.Errorf("connect %s: %w", n.Name, err)
			}
		}
		if err := netns.Do(netns.Path(n.NetNS), func() error { return s.configure(i) }); err != nil {
			return fmt.Errorf("network of %s: %w", n.Name, err)
		}
	}
	return nil
}

// plug gives n an interface whose other end is in the first node's bridge.
func (s *State) plug(n Node) error {
	target, err := os.Open(netns.Path(n.NetNS))
	if err != nil {
		return err
	}
	defer target.Close()
	return netns.Do(netns.Path(s.Nodes[0].NetNS), func() error {
		bridge, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = "to-"+n.Name, bridge.Attrs().Index
		here := &netlink.Veth{LinkAttrs: attrs, PeerName: link, PeerNamespace: netlink.NsFd(target.Fd())}
		if err := netlink.LinkAdd(here); err != nil {
			return fmt.Errorf("veth: %w", err)
		}
		return netlink.LinkSetUp(here)
	})
}

// configure runs inside the namespace of node i.
func (s *State) configure(i int) error {
	n := s.Nodes[i]
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	if i == 0 {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = link
		// A bridge without a port is the interface every kernel has.
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
	}
	dev, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	address := ipNet(netip.PrefixFrom(n.Address, Nodes.Bits()))
	if err := errors.Join(netlink.AddrAdd(dev, &netlink.Addr{IPNet: address}), netlink.LinkSetUp(dev)); err != nil {
		return fmt.Errorf("address %s: %w", n.Address, err)
	}
	// A connection to a Service's address needs a route before kube-proxy's rules
	// turn it to a pod; where those end, nobody answers.
	routes := []*netlink.Route{{LinkIndex: dev.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Scope: netlink.SCOPE_LINK}}
	for j, other := range s.Nodes {
		if j != i {
			routes = append(routes, &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: ipNet(other.Pods), Gw: other.Address.AsSlice()})
		}
	}
	for _, r := range routes {
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("route to %s: %w", r.Dst, err)
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (s *State) removeNetwork() error {
	var errs []error
	for _, n := range s.Nodes {
		errs = append(errs, netns.Remove(n.NetNS))
	}
	return errors.Join(errs...)
}

// fixed are directories that kubelet, containerd and the network plugins use
// whatever they are told. Each node sees its own there.
var fixed = []string{"/var/lib/kubelet", "/var/lib/cni", "/run/containerd", "/var/log/containers"}

// makeMountPoints makes what is missing of fixed, and notes it first.
func (s *State) makeMountPoints() error {
	var missing []string
	for _, dir := range fixed {
		var above []string
		for d := dir; ; d = filepath.Dir(d) {
			if _, err := os.Stat(d); err == nil {
				break
			}
			above = append([]string{d}, above...)
		}
		missing = append(missing, above...)
	}
	s.MadeDirs = missing
	if err := s.save(); err != nil {
		return err
	}
	for _, d := range missing {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// Anchor makes the mounts of node's own mount namespace, which it must be
// started in, and tells ready. It is the process that keeps the namespace.
func Anchor(dir, node string, ready func()) error {
	s, err := load(dir)
	if err != nil {
		return err
	}
	n, ok := s.node(node)
	if !ok {
		return fmt.Errorf("the lab in %s has no node %s", dir, node)
	}
	for _, at := range fixed {
		own := s.nodeDir(n, "fixed", strings.ReplaceAll(strings.Trim(at, "/"), "/", "-"))
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(own, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", at, err)
		}
	}
	// Pods may ask for mounts that spread among them. They stay in here: the
	// namespace was cut off from the machine's when it was made.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts among pods: %w", err)
	}
	ready()
	return nil
}
