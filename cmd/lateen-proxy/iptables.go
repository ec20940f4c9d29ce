// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/lateen-mesh/lateen/internal/capture"
	"github.com/lateen-mesh/lateen/internal/proxy/dns"
)

const iptablesUsage = `lateen-proxy istio-iptables redirects a pod's connections to the proxy in it.

It takes istio-iptables' flags and environment, programs nftables by netlink (iptables
where the kernel has no nftables), leaves alone what is in place already, and reads back
what it wrote. The container needs the capabilities NET_ADMIN and NET_RAW.

Usage:
  lateen-proxy istio-iptables [flags]         (also: lateen-proxy init)
  lateen-proxy istio-clean-iptables [flags]   remove the rules

Examples:
  lateen-proxy istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d 15090,15021,15020
  lateen-proxy istio-iptables -i '*' -b '*' --redirect-dns --dry-run

Every flag is also read from the environment variable of its long name, as ENVOY_PORT.
Accepted without effect: --cni-mode, --iptables-trace-logging, --iptables-version,
--reconcile (rules of ours that differ are always replaced), --restore-format, --log_as_json,
--log_caller, --log_stacktrace_level, --log_target, --vklog.

Flags:
`

// exitValidation is what istio-iptables ends with when --run-validation fails;
// CNI's repair controller looks for it.
const exitValidation = 126

// iptablesFlags are istio-iptables' flags as they were written.
type iptablesFlags struct {
	proxyPort, inboundPort, tunnelPort              string
	uid, gid, mode, mark, table                     string
	inbound, notInbound, outbound, notOutbound      string
	ranges, notRanges, reroute, notInterfaces       string
	dryRun, redirectDNS, allDNS, dropInvalid        bool
	dualStack, skip, validate, clean, force, native bool
	binary, namespace, logLevel, probePort          string
	probeTimeout                                    time.Duration
	long                                            map[string]string // of a short flag

	addresses  func() ([]net.Addr, error) // of this pod
	resolvConf string                     // a path
}

func (s *iptablesFlags) set() *flag.FlagSet {
	s.addresses, s.resolvConf = net.InterfaceAddrs, "/etc/resolv.conf"
	f := flag.NewFlagSet("istio-iptables", flag.ContinueOnError)
	f.SetOutput(os.Stderr)
	s.long = map[string]string{"n": "dry-run", "cleanup": "cleanup-only"}
	text := func(v *string, long, short, def, use string) {
		f.StringVar(v, long, def, use)
		f.StringVar(v, short, def, "the same as --"+long+" `value`")
		s.long[short] = long
	}
	text(&s.proxyPort, "envoy-port", "p", "15001", "`port` to which outbound connections go")
	text(&s.inboundPort, "inbound-capture-port", "z", "15006", "`port` to which inbound connections go")
	text(&s.tunnelPort, "inbound-tunnel-port", "e", "15008", "HBONE's `port`, which is never redirected")
	text(&s.uid, "proxy-uid", "u", "", "`users` whose connections are the proxy's own (default 1337)")
	text(&s.gid, "proxy-gid", "g", "", "`groups` whose connections are the proxy's own (default as --proxy-uid)")
	text(&s.mode, "istio-inbound-interception-mode", "m", "REDIRECT", "REDIRECT or TPROXY")
	text(&s.mark, "istio-inbound-tproxy-mark", "t", "1337", "`mark` of TPROXY's packets")
	text(&s.table, "istio-inbound-tproxy-route-table", "r", "133", "routing `table` of TPROXY's packets")
	text(&s.inbound, "istio-inbound-ports", "b", "", "inbound `ports` to redirect, or *")
	text(&s.notInbound, "istio-local-exclude-ports", "d", "", "inbound `ports` not to redirect, with -b '*'")
	text(&s.notInterfaces, "istio-exclude-interfaces", "c", "", "`interfaces` to redirect nothing of")
	text(&s.ranges, "istio-service-cidr", "i", "", "destination `ranges` whose connections are redirected, or *")
	text(&s.notRanges, "istio-service-exclude-cidr", "x", "", "destination `ranges` whose connections are not")
	text(&s.outbound, "istio-outbound-ports", "q", "", "outbound `ports` to redirect whatever the range")
	text(&s.notOutbound, "istio-local-outbound-ports-exclude", "o", "", "outbound `ports` not to redirect")
	text(&s.reroute, "kube-virt-interfaces", "k", "", "`interfaces` of virtual machines, whose inbound traffic is outbound")
	f.BoolVar(&s.dryRun, "dry-run", false, "print the rules, for iptables-restore and for nft, and change nothing")
	f.BoolVar(&s.dryRun, "n", false, "the same as --dry-run")
	f.BoolVar(&s.redirectDNS, "redirect-dns", false, "redirect DNS queries to the proxy, port 15053 (also ISTIO_META_DNS_CAPTURE)")
	f.BoolVar(&s.allDNS, "capture-all-dns", false, "with --redirect-dns: queries to any server, not only to resolv.conf's")
	f.BoolVar(&s.dropInvalid, "drop-invalid", false, "drop packets that belong to no connection (also INVALID_DROP)")
	f.BoolVar(&s.dualStack, "dual-stack", false, "write rules for IPv6 beside those for IPv4 (also ISTIO_DUAL_STACK)")
	f.BoolVar(&s.skip, "skip-rule-apply", false, "write no rules")
	f.BoolVar(&s.validate, "run-validation", false, "connect through the rules; ends with 126 when that fails")
	f.StringVar(&s.probePort, "iptables-probe-port", "15002", "`port` that --run-validation connects to")
	f.DurationVar(&s.probeTimeout, "probe-timeout", 5*time.Second, "how long --run-validation waits")
	f.BoolVar(&s.clean, "cleanup-only", false, "remove the rules")
	f.BoolVar(&s.clean, "cleanup", false, "the same as --cleanup-only")
	f.BoolVar(&s.force, "force-apply", false, "write the rules although they are in place")
	f.BoolVar(&s.native, "native-nftables", false, "use nftables and never iptables")
	f.StringVar(&s.binary, "force-iptables-binary", "", "use iptables and not nftables: legacy, nft or default")
	f.StringVar(&s.namespace, "network-namespace", "", "`path` of another network namespace to program")
	f.StringVar(&s.logLevel, "log_output_level", "default:info", "`scope:level`, as default:debug")
	for _, n := range []string{"cni-mode", "iptables-trace-logging", "reconcile", "restore-format", "f", "log_as_json"} {
		f.Bool(n, false, "accepted without effect")
	}
	for _, n := range []string{"iptables-version", "log_caller", "log_stacktrace_level", "log_target", "vklog"} {
		f.String(n, "", "accepted without effect")
	}
	return f
}

// environment gives flags that the command line does not set their values from
// the environment, as istio-iptables does.
func (s *iptablesFlags) environment(f *flag.FlagSet) error {
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[cmp.Or(s.long[x.Name], x.Name)] = true })
	more := map[string]string{"redirect-dns": "ISTIO_META_DNS_CAPTURE", "drop-invalid": "INVALID_DROP", "dual-stack": "ISTIO_DUAL_STACK"}
	var errs []error
	f.VisitAll(func(x *flag.Flag) {
		if len(x.Name) == 1 || s.long[x.Name] != "" || strings.Contains(x.Name, "_") || given[x.Name] {
			return
		}
		for _, name := range []string{strings.ToUpper(strings.ReplaceAll(x.Name, "-", "_")), more[x.Name]} {
			v := os.Getenv(name)
			if v == "" {
				continue
			}
			if err := f.Set(x.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
			}
			return
		}
	})
	return errors.Join(errs...)
}

// runIptables is istio-iptables and, with clean, istio-clean-iptables.
func runIptables(args []string, clean bool) int {
	var s iptablesFlags
	f := s.set()
	f.Usage = func() {
		fmt.Fprint(f.Output(), iptablesUsage)
		f.PrintDefaults()
	}
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage // the flag set has said why
	}
	if f.NArg() > 0 {
		return complain(exitUsage, fmt.Errorf("istio-iptables takes flags only, not %q", f.Arg(0)))
	}
	if err := s.environment(f); err != nil {
		return complain(exitUsage, err)
	}
	s.clean = s.clean || clean
	level := new(slog.LevelVar)
	if err := podLevel(level, "", s.logLevel); err != nil {
		return complain(exitUsage, err)
	}
	log := slog.New(podLog(os.Stdout, level, false))
	code := 1
	do := func() error {
		c, host, err := s.config()
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			code = exitUsage
			return err
		}
		code, err = s.run(c, host, log, os.Stdout)
		return err
	}
	var err error
	if s.namespace != "" {
		runtime.LockOSThread() // and never unlock: the thread is in another namespace
		err = capture.InNamespace(s.namespace, do)
	} else {
		err = do()
	}
	if err != nil {
		log.Error("istio-iptables failed", "error", err)
		return code
	}
	return 0
}

// run does what the flags ask for. The code is for an error.
func (s *iptablesFlags) run(c *capture.Config, host netip.Addr, log *slog.Logger, out io.Writer) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := capture.Options{Log: log, Out: out, Iptables: s.binary, NFTOnly: s.native, Force: s.force}
	switch {
	case s.dryRun:
		return 1, capture.Print(out, c)
	case s.clean:
		return 1, capture.Clean(ctx, c, o)
	case !s.skip:
		if _, err := capture.Apply(ctx, c, o); err != nil {
			return 1, err
		}
	}
	if !s.validate {
		return 0, nil
	}
	port, err := portNumber(s.probePort)
	if err != nil {
		return 1, fmt.Errorf("--iptables-probe-port: %w", err)
	}
	p := capture.Probe{Host: host, Port: port, Timeout: s.probeTimeout, User: uint32(os.Geteuid())}
	if err := p.Validate(ctx, c); err != nil {
		return exitValidation, fmt.Errorf("the rules do not work; with a CNI plugin, the pod may have been started before the node was ready and has to be deleted: %w", err)
	}
	log.Info("validation passed")
	return 0, nil
}

// config is what the flags and this pod's addresses ask for.
func (s *iptablesFlags) config() (*capture.Config, netip.Addr, error) {
	c := capture.Default()
	var errs []error
	bad := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	port := func(flag, v string) uint16 {
		n, err := portNumber(v)
		bad(flag, err)
		return n
	}
	ports := func(flag, v string) (out []uint16) {
		for _, w := range list(v) {
			out = append(out, port(flag, w))
		}
		return out
	}
	number := func(flag, v string) uint32 {
		n, err := strconv.ParseUint(v, 0, 32)
		bad(flag, err)
		return uint32(n)
	}
	c.ProxyPort, c.InboundCapturePort = port("envoy-port", s.proxyPort), port("inbound-capture-port", s.inboundPort)
	c.InboundTunnelPort = port("inbound-tunnel-port", s.tunnelPort)
	c.InboundInterceptionMode = cmp.Or(s.mode, capture.Redirect)
	c.InboundTProxyMark, c.InboundTProxyRouteTable = number("istio-inbound-tproxy-mark", s.mark), number("istio-inbound-tproxy-route-table", s.table)
	c.InboundPortsInclude, c.InboundPortsExclude = list(s.inbound), ports("istio-local-exclude-ports", s.notInbound)
	c.OutboundPortsInclude, c.OutboundPortsExclude = ports("istio-outbound-ports", s.outbound), ports("istio-local-outbound-ports-exclude", s.notOutbound)
	c.OutboundIPRangesInclude = list(s.ranges)
	for _, w := range list(s.notRanges) {
		p, err := netip.ParsePrefix(w)
		bad("istio-service-exclude-cidr", err)
		c.OutboundIPRangesExclude = append(c.OutboundIPRangesExclude, p)
	}
	c.RerouteInterfaces, c.ExcludeInterfaces = list(s.reroute), list(s.notInterfaces)
	c.RedirectDNS, c.CaptureAllDNS, c.DropInvalid = s.redirectDNS, s.allDNS, s.dropInvalid
	switch s.binary {
	case "", "legacy", "nft", "default":
	default:
		bad("force-iptables-binary", fmt.Errorf("%q is none of legacy, nft, default", s.binary))
	}
	if err := s.owners(&c); err != nil {
		errs = append(errs, err)
	}
	if c.RedirectDNS && !c.CaptureAllDNS {
		conf, err := dns.ReadResolvConf(s.resolvConf)
		bad("redirect-dns", err)
		c.DNSServers = conf.Servers
	}
	if v := os.Getenv("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"); v != "" {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			errs = append(errs, fmt.Errorf("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR: %w", err))
		}
		c.LoopbackCIDR = p
	}
	c.NoLocalRedirect = os.Getenv("DISABLE_REDIRECTION_ON_LOCAL_LOOPBACK") != ""
	host, six, err := s.podAddress()
	bad("dual-stack", err)
	c.EnableIPv6 = six
	return &c, host, errors.Join(errs...)
}

// owners fills in users and groups, by number or by name.
func (s *iptablesFlags) owners(c *capture.Config) error {
	var errs []error
	ids := func(what, v string, byName func(string) (string, error)) (out []uint32) {
		for _, w := range list(v) {
			n, err := strconv.ParseUint(w, 10, 32)
			if err != nil {
				if w2, e := byName(w); e == nil {
					n, err = strconv.ParseUint(w2, 10, 32)
				}
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %q is neither a number nor a name that this image knows", what, w))
			}
			out = append(out, uint32(n))
		}
		return out
	}
	userID := func(n string) (string, error) {
		u, err := user.Lookup(n)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	}
	groupID := func(n string) (string, error) {
		g, err := user.LookupGroup(n)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	}
	uid := s.uid
	if uid == "" {
		uid = "1337"
		if u, err := userID(cmp.Or(os.Getenv("ENVOY_USER"), "istio-proxy")); err == nil {
			uid = u
		}
	}
	c.ProxyUID = ids("--proxy-uid", uid, userID)
	c.ProxyGID = ids("--proxy-gid", cmp.Or(s.gid, uid), groupID)
	if v := cmp.Or(os.Getenv("ISTIO_OUTBOUND_OWNER_GROUPS"), "*"); v != "*" {
		c.OwnerGroupsInclude = ids("ISTIO_OUTBOUND_OWNER_GROUPS", v, groupID)
	}
	c.OwnerGroupsExclude = ids("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", os.Getenv("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"), groupID)
	return errors.Join(errs...)
}

// podAddress is an address of the pod, and whether rules for IPv6 are needed:
// the first address decides, or any with dual stack.
func (s *iptablesFlags) podAddress() (host netip.Addr, six bool, err error) {
	addrs, err := s.addresses()
	if err != nil {
		return host, false, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		ip := p.Addr().Unmap()
		if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() {
			continue
		}
		if !host.IsValid() {
			host = ip
		}
		six = six || ip.Is6()
		if !s.dualStack || six {
			break
		}
	}
	return host, six, nil
}

func portNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port", s)
	}
	return uint16(n), nil
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}
