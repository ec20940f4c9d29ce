// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"strings"
	"sync"
)

// Registry holds every value of a process by name. Get-or-create methods return
// the same object for the same name, so counts survive a configuration update.
type Registry struct {
	// Server is the process's own state (server.*).
	Server ServerStats

	mu        sync.Mutex
	http      map[string]*HTTPStats
	clusters  map[string]*ClusterStats
	listeners map[string]*ListenerStats
	tcp       map[string]*TCPStats
	counters  map[string]*Counter
	gauges    map[string]*Gauge
	funcs     map[string]func() int64
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{
		http:      map[string]*HTTPStats{},
		clusters:  map[string]*ClusterStats{},
		listeners: map[string]*ListenerStats{},
		tcp:       map[string]*TCPStats{},
		counters:  map[string]*Counter{},
		gauges:    map[string]*Gauge{},
		funcs:     map[string]func() int64{},
	}
}

// HTTP is the scope http.<prefix>; prefix is a connection manager's stat_prefix.
func (r *Registry) HTTP(prefix string) *HTTPStats {
	return scope(r, r.http, prefix, func(name string) *HTTPStats { return &HTTPStats{name: name} })
}

// Cluster is the scope cluster.<name>; name is alt_stat_name or the name.
func (r *Registry) Cluster(name string) *ClusterStats {
	return scope(r, r.clusters, name, func(name string) *ClusterStats { return &ClusterStats{name: name} })
}

// Listener is the scope listener.<address>; address is the listener's
// stat_prefix or its address as in "0.0.0.0:9080".
func (r *Registry) Listener(address string) *ListenerStats {
	return scope(r, r.listeners, address, func(name string) *ListenerStats { return &ListenerStats{name: name} })
}

// TCP is the scope tcp.<prefix>.
func (r *Registry) TCP(prefix string) *TCPStats {
	return scope(r, r.tcp, prefix, func(name string) *TCPStats { return &TCPStats{name: name} })
}

// Counter is one counter by its full name, as in "cluster_manager.cds.update_success".
func (r *Registry) Counter(name string) *Counter {
	return scope(r, r.counters, name, func(string) *Counter { return new(Counter) })
}

// Gauge is one gauge by its full name, as in "listener_manager.workers_started".
func (r *Registry) Gauge(name string) *Gauge {
	return scope(r, r.gauges, name, func(string) *Gauge { return new(Gauge) })
}

// GaugeFunc makes a gauge whose value is asked for at each exposition.
func (r *Registry) GaugeFunc(name string, f func() int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.funcs[sanitizeName(name)] = f
}

// RemoveCluster forgets a cluster's values; holders may go on writing.
func (r *Registry) RemoveCluster(name string) { remove(r, r.clusters, name) }

// RemoveListener forgets a listener's values; holders may go on writing.
func (r *Registry) RemoveListener(address string) { remove(r, r.listeners, address) }

func scope[T any](r *Registry, m map[string]*T, name string, create func(string) *T) *T {
	name = sanitizeName(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	v := m[name]
	if v == nil {
		v = create(name)
		m[name] = v
	}
	return v
}

func remove[T any](r *Registry, m map[string]*T, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(m, sanitizeName(name))
}

// sanitizeName makes a name printable: ':' and NUL become '_' (Envoy:
// Stats::Utility::sanitizeStatsName), and so do line breaks.
func sanitizeName(name string) string {
	if !strings.ContainsAny(name, ":\x00\r\n") {
		return name
	}
	return strings.Map(func(c rune) rune {
		switch c {
		case ':', 0, '\r', '\n':
			return '_'
		}
		return c
	}, strings.ReplaceAll(name, "://", "_"))
}

// The values of server.state.
const (
	StateLive         = 0
	StateDraining     = 1
	StatePreInit      = 2
	StateInitializing = 3
)

// ServerStats are the values server.* that the process sets. Set State to
// StateInitializing at the start and to StateLive when it serves.
type ServerStats struct {
	State             Gauge   // server.state
	Live              Gauge   // server.live, 1 while State is StateLive
	Concurrency       Gauge   // server.concurrency
	InitializationMs  Gauge   // server.initialization_time_ms
	DaysUntilCertExp  Gauge   // server.days_until_first_cert_expiring
	StartTimeUnix     Gauge   // Unix seconds; server.uptime counts from it
	TotalConnections  Gauge   // server.total_connections, downstream connections open now
	PanicsRecovered   Counter // server.panics_recovered, at connection boundaries
	AccessLogsDropped Counter // server.access_log_dropped, lines lost to full queues
}

// SetState stores server.state and, with it, server.live.
func (s *ServerStats) SetState(state int64) {
	s.State.Set(state)
	live := int64(0)
	if state == StateLive {
		live = 1
	}
	s.Live.Set(live)
}
