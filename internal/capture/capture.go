// SPDX-License-Identifier: Apache-2.0

// Package capture programs a network namespace so that a pod's TCP connections
// pass through the proxy beside the application, as istio-iptables does.
//
// One description of the rules ([Rules]) has three printers: netlink messages
// for nftables, nft's text, and iptables-restore's text. Chains, their order and
// their rules are Istio's (tools/istio-iptables/pkg/capture/run.go).
package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Interception modes of inbound connections.
const (
	Redirect = "REDIRECT"
	TProxy   = "TPROXY"
)

// Ports and numbers that Istio fixes.
const (
	dnsPort      = 53
	dnsProxyPort = 15053
	// outboundMark marks what the proxy sends to its own pod, so that TPROXY
	// takes it as inbound (Istio's constants.OutboundMark).
	outboundMark = 1338
	// tunnelPort is HBONE's; it is never redirected.
	tunnelPort = 15008
)

// Config says what is captured. Its zero value captures nothing; Default gives
// what istio-iptables begins with. Lists may hold "*" where the comment says so.
type Config struct {
	ProxyPort          uint16 // outbound connections go here
	InboundCapturePort uint16 // inbound ones here
	InboundTunnelPort  uint16 // never captured

	ProxyUID []uint32 // whose packets are the proxy's own
	ProxyGID []uint32

	InboundInterceptionMode string // Redirect or TProxy
	InboundTProxyMark       uint32
	InboundTProxyRouteTable uint32

	InboundPortsInclude []string // ports, or just "*"; none: nothing inbound
	InboundPortsExclude []uint16 // with "*" only

	OutboundPortsInclude    []uint16
	OutboundPortsExclude    []uint16
	OutboundIPRangesInclude []string // CIDRs, or just "*"; none: nothing outbound
	OutboundIPRangesExclude []netip.Prefix

	// OwnerGroupsInclude are the groups whose outbound connections are captured,
	// by number; nil means all but OwnerGroupsExclude.
	OwnerGroupsInclude []uint32
	OwnerGroupsExclude []uint32

	// RerouteInterfaces carry a virtual machine's outbound traffic into the pod.
	RerouteInterfaces []string
	// ExcludeInterfaces are captured in neither direction.
	ExcludeInterfaces []string

	RedirectDNS   bool
	CaptureAllDNS bool         // else only what goes to DNSServers
	DNSServers    []netip.Addr // resolv.conf's
	DropInvalid   bool

	// EnableIPv6 writes the rules for IPv6 beside those for IPv4.
	EnableIPv6 bool
	// LoopbackCIDR is what counts as "this very host" in IPv4; 127.0.0.1/32.
	LoopbackCIDR netip.Prefix
	// NoLocalRedirect leaves out that the proxy's calls to its own pod are taken
	// as inbound (DISABLE_REDIRECTION_ON_LOCAL_LOOPBACK).
	NoLocalRedirect bool
}

// Default is what istio-iptables assumes for what it is not told.
func Default() Config {
	return Config{
		ProxyPort: 15001, InboundCapturePort: 15006, InboundTunnelPort: tunnelPort,
		ProxyUID: []uint32{1337}, ProxyGID: []uint32{1337},
		InboundInterceptionMode: Redirect, InboundTProxyMark: 1337, InboundTProxyRouteTable: 133,
		LoopbackCIDR: netip.MustParsePrefix("127.0.0.1/32"),
	}
}

// maxInterfaceName is IFNAMSIZ without its end (linux/if.h).
const maxInterfaceName = 15

// Validate says which value cannot be programmed.
func (c *Config) Validate() error {
	if c.ProxyPort == 0 || c.InboundCapturePort == 0 || c.InboundTunnelPort == 0 {
		return fmt.Errorf("--envoy-port, --inbound-capture-port and --inbound-tunnel-port must be from 1 to 65535")
	}
	if c.InboundInterceptionMode != Redirect && c.InboundInterceptionMode != TProxy {
		return fmt.Errorf("--istio-inbound-interception-mode: %q is neither REDIRECT nor TPROXY", c.InboundInterceptionMode)
	}
	if len(c.ProxyUID) == 0 || len(c.ProxyGID) == 0 {
		return fmt.Errorf("--proxy-uid: without the proxy's user its own connections would be redirected to itself for ever")
	}
	if c.OwnerGroupsInclude != nil && len(c.OwnerGroupsExclude) > 0 {
		return fmt.Errorf("ISTIO_OUTBOUND_OWNER_GROUPS and ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE: set only one of them")
	}
	if !c.LoopbackCIDR.IsValid() || !c.LoopbackCIDR.Addr().Is4() || !c.LoopbackCIDR.Addr().IsLoopback() {
		return fmt.Errorf("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: %q is not a CIDR inside 127.0.0.0/8", c.LoopbackCIDR)
	}
	if _, _, err := c.inboundPorts(); err != nil {
		return err
	}
	if _, _, err := c.includeRanges(); err != nil {
		return err
	}
	for _, n := range slices.Concat(c.RerouteInterfaces, c.ExcludeInterfaces) {
		if n == "" || len(n) > maxInterfaceName || strings.ContainsAny(n, " \t\n/\"") {
			return fmt.Errorf("%q is not the name of a network interface", n)
		}
	}
	return nil
}

// inboundPorts are the ports whose connections are captured, or all.
func (c *Config) inboundPorts() (ports []uint16, all bool, err error) {
	for _, s := range c.InboundPortsInclude {
		if s == "*" {
			if len(c.InboundPortsInclude) > 1 {
				return nil, false, fmt.Errorf("--istio-inbound-ports: \"*\" stands alone")
			}
			return nil, true, nil
		}
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return nil, false, fmt.Errorf("--istio-inbound-ports: %q is neither a port nor \"*\"", s)
		}
		ports = append(ports, uint16(n))
	}
	return ports, false, nil
}

// includeRanges are the destinations whose connections are captured, or all.
func (c *Config) includeRanges() (ranges []netip.Prefix, all bool, err error) {
	for _, s := range c.OutboundIPRangesInclude {
		if s == "*" {
			if len(c.OutboundIPRangesInclude) > 1 {
				return nil, false, fmt.Errorf("--istio-service-cidr: \"*\" stands alone")
			}
			return nil, true, nil
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, false, fmt.Errorf("--istio-service-cidr: %q is neither a CIDR, as in 10.0.0.0/8, nor \"*\"", s)
		}
		ranges = append(ranges, p)
	}
	return ranges, false, nil
}

// tproxyInbound says whether inbound connections are taken by TPROXY.
func (c *Config) tproxyInbound() bool {
	return c.InboundInterceptionMode == TProxy && len(c.InboundPortsInclude) > 0
}

// redirectsDNS says whether any query will be captured.
func (c *Config) redirectsDNS() bool {
	return c.RedirectDNS && (c.CaptureAllDNS || len(c.DNSServers) > 0)
}
