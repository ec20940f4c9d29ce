// SPDX-License-Identifier: Apache-2.0

package route

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Source is one route configuration as it changes: the configuration itself and
// the virtual hosts that come as resources of their own (VHDS). Readers take
// the current table with one atomic load; writers may be any goroutine.
type Source struct {
	name    string
	opt     Options
	current atomic.Pointer[Table]

	mu     sync.Mutex
	set    *settings // nil before the first configuration
	inline []*VirtualHost
	// Discovered virtual hosts, sorted by resource name.
	dynamic []discovered
	ready   chan struct{}
}

// discovered is one VirtualHost resource.
type discovered struct {
	name, version string
	host          *VirtualHost
}

// NewSource returns a source without a table yet.
func NewSource(name string, opt Options) *Source {
	return &Source{name: name, opt: opt, ready: make(chan struct{})}
}

// NewStatic returns the source of an inline route configuration.
func NewStatic(rc *routev3.RouteConfiguration, opt Options) (*Source, error) {
	s := NewSource(rc.GetName(), opt)
	return s, s.SetConfig(rc)
}

// Name is the route configuration's name.
func (s *Source) Name() string { return s.name }

// Load returns the current table, nil before the first configuration. A request
// finishes on the table it began with.
func (s *Source) Load() *Table { return s.current.Load() }

// Pointer is where the current table stands, for those who only read it. Only
// the source stores.
func (s *Source) Pointer() *atomic.Pointer[Table] { return &s.current }

// Ready is closed once there is a table.
func (s *Source) Ready() <-chan struct{} { return s.ready }

// SetConfig takes a new route configuration. Discovered virtual hosts stay. On
// an error nothing changes.
func (s *Source) SetConfig(rc *routev3.RouteConfiguration) error {
	set, inline, err := compileConfig(rc, s.opt)
	if err != nil {
		return err
	}
	if _, dup := newIndex(inline, len(inline)); dup != nil {
		return fmt.Errorf("route configuration %q: %w", rc.GetName(), dup.describe(inline))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	hosts := s.merge(s.dynamic, inline)
	x, dup := newIndex(hosts, len(s.dynamic))
	if dup != nil { // never: discovered hosts were checked when they came
		return fmt.Errorf("route configuration %q: %w", rc.GetName(), dup.describe(hosts))
	}
	first := s.set == nil
	s.set, s.inline = set, inline
	s.current.Store(&Table{settings: set, hosts: hosts, index: x})
	if first {
		close(s.ready)
	}
	return nil
}

func (s *Source) merge(dynamic []discovered, inline []*VirtualHost) []*VirtualHost {
	hosts := make([]*VirtualHost, 0, len(dynamic)+len(inline))
	for i := range dynamic {
		hosts = append(hosts, dynamic[i].host)
	}
	return append(hosts, inline...)
}

// HostResource is one VirtualHost resource as it arrived.
type HostResource struct {
	Name    string // resource name: <route configuration>/<host>
	Version string // a version seen before is not compiled again; empty is never equal
	Host    *routev3.VirtualHost
}

// HostError is one virtual host that was refused.
type HostError struct {
	Resource string
	Err      error
}

// Error names the resource.
func (e *HostError) Error() string { return fmt.Sprintf("%s: %v", e.Resource, e.Err) }

// Unwrap gives the cause.
func (e *HostError) Unwrap() error { return e.Err }

// UpdateHosts adds or replaces and removes discovered virtual hosts in one step.
// A refused host keeps its last good version and the others are applied; the
// error joins one *HostError for each. Hosts that did not change are shared,
// and so is the index of domains when no domain changed.
func (s *Source) UpdateHosts(changed []HostResource, removed []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	fresh := make(map[string]discovered, len(changed))
	for _, c := range changed {
		i, found := s.find(c.Name)
		if found && c.Version != "" && s.dynamic[i].version == c.Version {
			continue
		}
		h, err := CompileVirtualHost(c.Host)
		if err == nil && s.set != nil {
			err = s.set.accepts(h)
		}
		if err != nil {
			errs = append(errs, &HostError{c.Name, err})
			continue
		}
		fresh[c.Name] = discovered{c.Name, c.Version, h}
	}
	if len(fresh) == 0 && !slices.ContainsFunc(removed, func(n string) bool { _, ok := s.find(n); return ok }) {
		return errors.Join(errs...)
	}
	if !s.replace(fresh, removed) {
		errs = append(errs, s.rebuild(fresh, removed)...)
	}
	return errors.Join(errs...)
}

func (s *Source) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.dynamic, name, func(d discovered, n string) int {
		switch {
		case d.name < n:
			return -1
		case d.name > n:
			return 1
		}
		return 0
	})
}

// replace applies an update that changes no domain: it copies the list of
// hosts and keeps the index. It reports false when that is not so.
func (s *Source) replace(fresh map[string]discovered, removed []string) bool {
	if len(removed) > 0 {
		return false
	}
	for n, d := range fresh {
		if i, ok := s.find(n); !ok || !slices.Equal(s.dynamic[i].host.Domains, d.host.Domains) {
			return false
		}
	}
	for n, d := range fresh {
		i, _ := s.find(n)
		s.dynamic[i] = d
	}
	if old := s.current.Load(); old != nil {
		s.current.Store(&Table{settings: old.settings, hosts: s.merge(s.dynamic, s.inline), index: old.index})
	}
	return true
}

// rebuild applies any update. A fresh host that claims a domain another host has
// is refused.
func (s *Source) rebuild(fresh map[string]discovered, removed []string) (errs []error) {
	for {
		next := s.next(fresh, removed)
		hosts := s.merge(next, s.inline)
		x, dup := newIndex(hosts, len(next))
		if dup == nil {
			s.dynamic = next
			if s.set != nil {
				s.current.Store(&Table{settings: s.set, hosts: hosts, index: x})
			}
			return errs
		}
		at := dup.second
		if _, ok := fresh[next[at].name]; !ok {
			at = dup.first
		}
		if _, ok := fresh[next[at].name]; !ok { // never: what was there before had no duplicates
			return append(errs, dup.describe(hosts))
		}
		errs = append(errs, &HostError{next[at].name, dup.describe(hosts)})
		delete(fresh, next[at].name)
	}
}

// next is the list of discovered hosts after an update.
func (s *Source) next(fresh map[string]discovered, removed []string) []discovered {
	gone := make(map[string]bool, len(removed))
	for _, n := range removed {
		gone[n] = true
	}
	next := make([]discovered, 0, len(s.dynamic)+len(fresh))
	for _, d := range s.dynamic {
		if f, ok := fresh[d.name]; ok {
			next = append(next, f)
		} else if !gone[d.name] {
			next = append(next, d)
		}
	}
	for n, d := range fresh {
		if _, ok := s.find(n); !ok {
			next = append(next, d)
		}
	}
	slices.SortFunc(next, func(a, b discovered) int {
		switch {
		case a.name < b.name:
			return -1
		case a.name > b.name:
			return 1
		}
		return 0
	})
	return next
}

// Discovered lists the names of the discovered virtual hosts, sorted.
func (s *Source) Discovered() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, len(s.dynamic))
	for i := range s.dynamic {
		names[i] = s.dynamic[i].name
	}
	return names
}

// Manager holds the sources of a proxy by name.
type Manager struct {
	opt     Options
	mu      sync.Mutex
	sources map[string]*Source
}

// NewManager returns a manager without sources.
func NewManager(opt Options) *Manager {
	return &Manager{opt: opt, sources: map[string]*Source{}}
}

// Source returns the source of that name and makes it when it is new, so that a
// listener and its routes may arrive in any order.
func (m *Manager) Source(name string) *Source {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sources[name]
	if s == nil {
		s = NewSource(name, m.opt)
		m.sources[name] = s
	}
	return s
}

// Remove forgets a source that no listener names any more. Those that hold it
// go on with its last table.
func (m *Manager) Remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.sources, name)
}

// Names are the names of the sources, sorted.
func (m *Manager) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make([]string, 0, len(m.sources))
	for n := range m.sources {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
