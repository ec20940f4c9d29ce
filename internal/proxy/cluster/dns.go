// SPDX-License-Identifier: Apache-2.0

package cluster

//lint:file-ignore SA1019 deprecated fields are still part of what a control plane may send

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
)

// Resolve looks a host name up: network is "ip", "ip4" or "ip6". ttl is how long
// the answer holds, 0 when the resolver does not know.
type Resolve func(ctx context.Context, network, host string) (addrs []netip.Addr, ttl time.Duration, err error)

// SystemResolve asks the system's resolver.
func SystemResolve(ctx context.Context, network, host string) ([]netip.Addr, time.Duration, error) {
	a, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	return a, 0, err
}

// dnsTimeout bounds one lookup.
const dnsTimeout = 5 * time.Second

// dnsConfig says how a DNS cluster looks its names up.
type dnsConfig struct {
	refresh, failBase, failMax, jitter time.Duration
	respectTTL                         bool
	family                             clusterv3.Cluster_DnsLookupFamily
}

func decodeDNS(msg *clusterv3.Cluster) (*dnsConfig, error) {
	d := &dnsConfig{refresh: 5 * time.Second, respectTTL: msg.GetRespectDnsTtl(), family: msg.GetDnsLookupFamily(), jitter: msg.GetDnsJitter().AsDuration()}
	if v := msg.GetDnsRefreshRate(); v != nil {
		if d.refresh = v.AsDuration(); d.refresh <= time.Millisecond {
			return nil, errors.New("dns_refresh_rate must be above 1ms")
		}
	}
	d.failBase, d.failMax = d.refresh, d.refresh
	if v := msg.GetDnsFailureRefreshRate(); v != nil {
		d.failBase = v.GetBaseInterval().AsDuration()
		if d.failBase <= time.Millisecond {
			return nil, errors.New("dns_failure_refresh_rate.base_interval must be above 1ms")
		}
		d.failMax = seconds(v.GetMaxInterval(), 10*d.failBase)
		if d.failMax < d.failBase {
			return nil, errors.New("dns_failure_refresh_rate.max_interval is below base_interval")
		}
	}
	if msg.GetUseTcpForDnsLookups() || len(msg.GetDnsResolvers()) > 0 || msg.GetDnsResolutionConfig() != nil {
		return nil, errors.New("dns_resolvers, dns_resolution_config and use_tcp_for_dns_lookups are not supported: the system's resolver is used")
	}
	return d, nil
}

// lookup resolves one name by the cluster's address family.
func (d *dnsConfig) lookup(ctx context.Context, resolve Resolve, host string) (addrs []netip.Addr, ttl time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	first, second := "ip6", "ip4" // AUTO: IPv6 if there is any
	switch d.family {
	case clusterv3.Cluster_V4_ONLY:
		first, second = "ip4", ""
	case clusterv3.Cluster_V6_ONLY:
		first, second = "ip6", ""
	case clusterv3.Cluster_V4_PREFERRED:
		first, second = "ip4", "ip6"
	case clusterv3.Cluster_ALL:
		first, second = "ip", ""
	}
	addrs, ttl, err = resolve(ctx, first, host)
	if len(addrs) == 0 && second != "" {
		addrs, ttl, err = resolve(ctx, second, host)
	}
	return addrs, ttl, err
}

// startDNS resolves the names of a DNS cluster again and again until the
// cluster is closed. ready is called after the first round, whatever it gave.
func (m *Manager) startDNS(c *Cluster, fixed *assignment, ready func()) {
	ctx, cancel := context.WithCancel(m.ctx)
	c.stopDNS = cancel
	m.wg.Go(func() {
		r := resolver{m: m, c: c, fixed: fixed, last: make(map[string][]netip.Addr), fail: c.dns.failBase}
		for first := true; ; first = false {
			wait := r.round(ctx)
			if ctx.Err() != nil {
				return
			}
			if first {
				ready()
			}
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
	})
}

// resolver is the state of one DNS cluster between rounds.
type resolver struct {
	m     *Manager
	c     *Cluster
	fixed *assignment
	last  map[string][]netip.Addr // last good answer by name
	fail  time.Duration           // wait after the next failure
}

// round resolves every name once, updates the hosts if anything changed and
// returns the time to the next round. A name that fails keeps its last answer.
func (r *resolver) round(ctx context.Context) time.Duration {
	d := r.c.dns
	wait := d.refresh
	failed, changed, minTTL := false, false, time.Duration(0)
	for i := range r.fixed.localities {
		for _, e := range r.fixed.localities[i].endpoints {
			host, _, err := net.SplitHostPort(e.address)
			if err != nil || isIP(host) {
				continue
			}
			addrs, ttl, err := d.lookup(ctx, r.m.resolve, host)
			if err != nil {
				failed = failed || !notFound(err)
				if !notFound(err) || r.last[host] == nil {
					r.m.log.Debug("host name of cluster not resolved", "cluster", r.c.Name, "host", host, "error", err)
					continue
				}
				addrs = nil
			}
			if ttl > 0 && (minTTL == 0 || ttl < minTTL) {
				minTTL = ttl
			}
			for i := range addrs {
				addrs[i] = addrs[i].Unmap()
			}
			slices.SortFunc(addrs, netip.Addr.Compare)
			if !slices.Equal(addrs, r.last[host]) {
				r.last[host], changed = addrs, true
			}
		}
	}
	if changed || r.c.hosts.Load() == nil {
		r.apply()
	}
	if d.respectTTL && minTTL > 0 {
		wait = minTTL
	}
	if failed {
		wait = r.fail
		r.fail = min(2*r.fail, d.failMax)
	} else {
		r.fail = d.failBase
	}
	if d.jitter > 0 {
		wait += time.Duration(r.c.rand() % uint64(d.jitter))
	}
	return wait
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil || strings.HasPrefix(s, "/")
}

// notFound says that the name surely does not exist, as opposed to a resolver
// that did not answer.
func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}

// apply makes hosts of the answers: all of them for STRICT_DNS, the first for
// LOGICAL_DNS, whose one host stays the same when its address changes.
func (r *resolver) apply() {
	out := &assignment{overprovision: r.fixed.overprovision, weightedHealth: r.fixed.weightedHealth}
	seen := make(map[string]bool)
	for i := range r.fixed.localities {
		l := r.fixed.localities[i]
		eps := l.endpoints
		l.endpoints = nil
		for _, e := range eps {
			for _, a := range r.addresses(e.address) {
				n := e
				if n.address = a; !seen[a] {
					seen[a] = true
					l.endpoints = append(l.endpoints, n)
				}
			}
		}
		out.localities = append(out.localities, l)
	}
	if r.c.Discovery == LogicalDNS {
		r.applyLogical(out)
		return
	}
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if !r.c.closed.Load() {
		r.c.setEndpoints(out)
	}
}

func (r *resolver) addresses(hostport string) []string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil || isIP(host) {
		return []string{hostport}
	}
	out := make([]string, 0, len(r.last[host]))
	for _, a := range r.last[host] {
		out = append(out, net.JoinHostPort(a.String(), port))
	}
	return out
}

func (r *resolver) applyLogical(out *assignment) {
	eps := out.localities[0].endpoints
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if r.c.closed.Load() {
		return
	}
	if len(eps) == 0 {
		r.c.setEndpoints(&assignment{overprovision: out.overprovision})
		return
	}
	addr := eps[0].address
	if hosts := r.c.Hosts(); len(hosts) == 1 {
		hosts[0].resolved.Store(&addr)
		return
	}
	logical := *r.fixed
	r.c.setEndpoints(&logical)
	for _, h := range r.c.Hosts() {
		h.resolved.Store(&addr)
	}
	r.m.log.Debug("host name of cluster resolved", slog.String("cluster", r.c.Name), slog.String("address", addr))
}
