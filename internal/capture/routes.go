// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// passthrough6 is the address from which the proxy's inbound side dials an
// application over IPv6. 127.0.0.6 needs no address of its own: the loopback
// interface has all of 127.0.0.0/8.
var passthrough6 = &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("::6"), Mask: net.CIDRMask(128, 128)}}

// routing is what TPROXY needs besides rules: marked packets are delivered
// here, whatever their destination.
type routing struct {
	rule  *netlink.Rule
	route *netlink.Route
}

func routingOf(c *Config, f Family, lo netlink.Link) routing {
	family, bits := netlink.FAMILY_V4, 32
	if f == IPv6 {
		family, bits = netlink.FAMILY_V6, 128
	}
	rule := netlink.NewRule()
	rule.Family, rule.Table, rule.Mark = family, int(c.InboundTProxyRouteTable), c.InboundTProxyMark
	return routing{rule, &netlink.Route{
		Family: family, LinkIndex: lo.Attrs().Index, Table: int(c.InboundTProxyRouteTable), Type: unix.RTN_LOCAL,
		Scope: netlink.SCOPE_HOST, Dst: &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
	}}
}

// rules are the policy rules there are of this mark and table. The kernel takes
// the same one twice, at another priority.
func (r routing) rules() ([]netlink.Rule, error) {
	return netlink.RuleListFiltered(r.rule.Family, r.rule, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_MARK)
}

// addRoutes adds the addresses and routes that the rules count on. What is
// there already is left.
func addRoutes(c *Config, families []Family) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find interface lo: %w", err)
	}
	for _, f := range families {
		if f == IPv6 {
			if err := netlink.AddrAdd(lo, passthrough6); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("add address ::6 to interface lo: %w", err)
			}
		}
		if !c.tproxyInbound() {
			continue
		}
		r := routingOf(c, f, lo)
		rules, err := r.rules()
		if err == nil && len(rules) == 0 {
			err = netlink.RuleAdd(r.rule)
		}
		if err != nil {
			return fmt.Errorf("add routing rule for mark %d: %w", c.InboundTProxyMark, err)
		}
		if err := netlink.RouteReplace(r.route); err != nil {
			return fmt.Errorf("add local route to table %d: %w", c.InboundTProxyRouteTable, err)
		}
	}
	return nil
}

// removeRoutes removes them; what is not there is no error.
func removeRoutes(c *Config, families []Family) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find interface lo: %w", err)
	}
	gone := func(err error) bool {
		return err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL)
	}
	for _, f := range families {
		if f == IPv6 {
			if err := netlink.AddrDel(lo, passthrough6); !gone(err) {
				return fmt.Errorf("remove address ::6 from interface lo: %w", err)
			}
		}
		if !c.tproxyInbound() {
			continue
		}
		r := routingOf(c, f, lo)
		rules, err := r.rules()
		for i := range rules {
			err = errors.Join(err, netlink.RuleDel(&rules[i]))
		}
		if err != nil {
			return fmt.Errorf("remove routing rule for mark %d: %w", c.InboundTProxyMark, err)
		}
		if err := netlink.RouteDel(r.route); !gone(err) {
			return fmt.Errorf("remove local route from table %d: %w", c.InboundTProxyRouteTable, err)
		}
	}
	return nil
}
