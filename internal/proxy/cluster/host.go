// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"math"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Health is an endpoint's health as the control plane gives it.
type Health uint8

// The health states. Healthy includes what nobody judged.
const (
	Healthy Health = iota
	Degraded
	Unhealthy // also TIMEOUT
	Draining
)

// String is the state as /clusters prints it.
func (h Health) String() string {
	return [...]string{"healthy", "degraded", "unhealthy", "draining"}[h]
}

// Pool is what the HTTP engine keeps for a host: its connections.
type Pool interface {
	// Close is called once, when the host has left its cluster or its cluster
	// was replaced. The pool closes idle connections; those in use finish their
	// exchange and are closed instead of being kept. It may still be asked for a
	// connection by a request that had chosen the host before. Close does not
	// block.
	Close()
}

// Host is one upstream address of one cluster. An update of endpoints keeps the
// Host of an address that stays, with all it counts and pools.
type Host struct {
	cluster *Cluster
	address string
	// resolved is the address a LOGICAL_DNS host has now; nil otherwise.
	resolved  atomic.Pointer[string]
	meta      atomic.Pointer[hostMeta]
	transport atomic.Pointer[Transport]
	active    atomic.Int64
	stats     atomic.Pointer[HostStats]
	pool      atomic.Pointer[poolSlot]
	weight    atomic.Uint32
	health    atomic.Uint32
	removed   atomic.Bool
	born      int64 // Unix nanoseconds; slow start counts from here
}

type poolSlot struct{ pool Pool }

// hostMeta is what an endpoint says of itself besides its address. Endpoints of
// one workload say the same and share it; the strings are interned.
type hostMeta struct {
	Hostname string
	// Workload is filter_metadata["istio"].workload: name;namespace;canonical
	// name;canonical revision;cluster.
	Workload string
	// Match is filter_metadata["envoy.transport_socket_match"], one "key=value"
	// per line, sorted.
	Match string
}

// HostStats are a host's counters as /clusters prints them. Gauges go both ways.
type HostStats struct {
	CxActive, CxTotal, CxConnectFail                     atomic.Int64
	RqTotal, RqSuccess, RqError, RqTimeout, RqActiveLast atomic.Int64
}

// Cluster is the cluster the host belongs to.
func (h *Host) Cluster() *Cluster { return h.cluster }

// Address is "ip:port" to dial, or an absolute path of a Unix socket.
func (h *Host) Address() string {
	if r := h.resolved.Load(); r != nil {
		return *r
	}
	return h.address
}

// Bind makes a dialler begin at the cluster's source address. A host of the
// other family than all of the cluster's sources is dialled from the first, and
// that fails: the control plane asked for it.
func (h *Host) Bind(d *net.Dialer) {
	sources := h.cluster.BindSources
	if len(sources) == 0 || h.Network() != "tcp" {
		return
	}
	from := sources[0]
	if to, err := netip.ParseAddrPort(h.Address()); err == nil {
		for _, s := range sources {
			if s.Is4() == to.Addr().Unmap().Is4() {
				from = s
				break
			}
		}
	}
	d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
	d.Control = lateport
}

// lateport leaves the choice of the local port to connect(2), as Envoy does:
// chosen at bind(2) a port serves one connection, whatever its destination, and
// a busy pod runs out of them.
func lateport(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// An error means an old kernel, which does as before.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}

// Network is "tcp" or "unix", as net.Dial takes it.
func (h *Host) Network() string {
	if a := h.address; len(a) > 0 && (a[0] == '/' || a[0] == '@') {
		return "unix"
	}
	return "tcp"
}

// Hostname is the endpoint's name (for auto_host_rewrite), often empty.
func (h *Host) Hostname() string { return h.meta.Load().Hostname }

// Workload is the endpoint's workload as Istio describes it for telemetry,
// "name;namespace;canonical name;revision;cluster", empty when unknown.
func (h *Host) Workload() string { return h.meta.Load().Workload }

// Weight is the endpoint's load-balancing weight, at least 1.
func (h *Host) Weight() uint32 { return h.weight.Load() }

// Active is the number of requests in flight to the host.
func (h *Host) Active() int64 { return h.active.Load() }

// Warmth implements balance.Host: Envoy's slow start factor
// max(min_weight_percent, time_factor^(1/aggression)).
func (h *Host) Warmth(now time.Time) float64 {
	s := h.cluster.slow
	age := now.UnixNano() - h.born
	if s == nil || age >= int64(s.window) {
		return 1
	}
	f := max(float64(age), float64(time.Millisecond)) / float64(s.window)
	if s.aggression != 1 {
		f = math.Pow(f, 1/s.aggression)
	}
	return max(f, s.least)
}

// Begin and End bracket one request (or TCP connection) for least request.
func (h *Host) Begin() { h.active.Add(1) }

// End takes back a Begin.
func (h *Host) End() { h.active.Add(-1) }

// Health is the endpoint's health.
func (h *Host) Health() Health { return Health(h.health.Load()) }

// Removed says that the host has left its cluster.
func (h *Host) Removed() bool { return h.removed.Load() }

// Transport is how to speak to the host; it is never nil.
func (h *Host) Transport() *Transport { return h.transport.Load() }

// Stats are the host's counters, made on first use.
func (h *Host) Stats() *HostStats {
	if s := h.stats.Load(); s != nil {
		return s
	}
	h.stats.CompareAndSwap(nil, new(HostStats))
	return h.stats.Load()
}

// LoadStats are the host's counters, nil when nobody counted yet.
func (h *Host) LoadStats() *HostStats { return h.stats.Load() }

// Pool gives the host's pool, made by create on first use. create runs at most
// once and must not call back into its cluster. On a removed host the pool
// comes back closed already.
func (h *Host) Pool(create func(*Host) Pool) Pool {
	if s := h.pool.Load(); s != nil {
		return s.pool
	}
	h.cluster.poolMu.Lock()
	defer h.cluster.poolMu.Unlock()
	if s := h.pool.Load(); s != nil {
		return s.pool
	}
	p := create(h)
	h.pool.Store(&poolSlot{p})
	if h.removed.Load() {
		p.Close()
	}
	return p
}

// close takes the host out of use. The pool's Close is called once: here, or
// by Pool when the pool is made later.
func (h *Host) close() {
	h.cluster.poolMu.Lock()
	was := h.removed.Swap(true)
	s := h.pool.Load()
	h.cluster.poolMu.Unlock()
	if !was && s != nil {
		s.pool.Close()
	}
}

// AddrPort is the host's IP address and port, invalid for Unix sockets.
func (h *Host) AddrPort() netip.AddrPort {
	a, _ := netip.ParseAddrPort(h.Address())
	return a
}
