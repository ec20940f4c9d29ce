// SPDX-License-Identifier: Apache-2.0

// Package listener accepts downstream connections: it opens the sockets that
// xDS listeners ask for, looks at a connection's first bytes, chooses its
// filter chain, terminates TLS and hands the connection to the chain's handler.
//
// Updates happen in place: a listener whose address stays keeps its socket, a
// filter chain that is the same keeps its connections, and those of a chain
// that changed or went are drained.
package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// Options are what a Manager needs; Build must be set.
type Options struct {
	// Build makes the handler of a filter chain. An error refuses the listener.
	Build    func(*listenerv3.Listener, *listenerv3.FilterChain) (Handler, error)
	Secrets  *secret.Store
	Registry *telemetry.Registry
	Log      *slog.Logger
	// DrainTime is how long connections of a chain that went may go on before
	// they are closed; default 10 min as Envoy's --drain-time-s.
	DrainTime time.Duration
	// MaxConnections bounds the downstream connections of the process, 0: none.
	MaxConnections int64
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const defaultDrainTime = 10 * time.Minute

// Manager holds a proxy's listeners. It is safe for concurrent use.
type Manager struct {
	opts Options

	mu        sync.Mutex // guards what follows; taken before chain.mu
	listeners map[string]*listener
	warming   map[string]*listener
	sockets   map[string][]*socket // by listener name
	inspected map[net.Conn]struct{}
	stopped   bool                   // no new connections
	ending    map[*chain]*time.Timer // drained chains with connections left

	byAddr atomic.Pointer[map[netip.AddrPort]*listener] // hand-off targets
	conns  atomic.Int64
}

// NewManager makes an empty manager.
func NewManager(o Options) *Manager {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = telemetry.NewRegistry()
	}
	if o.Secrets == nil {
		o.Secrets = new(secret.Store)
	}
	if o.DrainTime <= 0 {
		o.DrainTime = defaultDrainTime
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m := &Manager{
		opts: o, listeners: map[string]*listener{}, warming: map[string]*listener{}, sockets: map[string][]*socket{},
		inspected: map[net.Conn]struct{}{}, ending: map[*chain]*time.Timer{},
	}
	m.byAddr.Store(&map[netip.AddrPort]*listener{})
	return m
}

// Apply takes new and changed listeners and removes names. A listener that is
// refused leaves what its name had and is in the returned map. One whose
// handlers are not ready waits; what its name had serves until then.
func (m *Manager) Apply(changed []*listenerv3.Listener, removed []string) map[string]error {
	m.mu.Lock()
	defer m.mu.Unlock()
	bad := map[string]error{}
	orphans := map[string]*socket{}
	for _, name := range removed {
		m.removeLocked(name, orphans)
	}
	for _, msg := range changed {
		if err := m.updateLocked(msg, orphans); err != nil {
			bad[msg.GetName()] = err
		}
	}
	for _, s := range orphans {
		s.close()
	}
	m.publishLocked()
	return bad
}

func (m *Manager) removeLocked(name string, orphans map[string]*socket) {
	if w := m.warming[name]; w != nil {
		delete(m.warming, name)
		m.retireLocked(w, m.listeners[name])
	}
	l := m.listeners[name]
	if l == nil {
		return
	}
	delete(m.listeners, name)
	for _, s := range m.sockets[name] {
		s.owner.Store(nil)
		orphans[s.spec.key()] = s
	}
	delete(m.sockets, name)
	m.retireLocked(l, nil)
}

func (spec *socketSpec) key() string { return spec.network + " " + spec.address }

func (s *socket) close() {
	_ = s.ln.Close()
	<-s.done
}

func (m *Manager) updateLocked(msg *listenerv3.Listener, orphans map[string]*socket) error {
	if msg.GetName() == "" {
		return errors.New("name is missing")
	}
	if m.stopped {
		return errors.New("the proxy is draining")
	}
	old := m.listeners[msg.GetName()]
	waiting := m.warming[msg.GetName()]
	base := old
	if waiting != nil {
		base = waiting // it holds what it took over from old
	}
	l, err := m.compile(msg, base)
	if err != nil {
		return err
	}
	if old != nil && waiting == nil && l.hash == old.hash {
		return nil
	}
	if waiting != nil {
		delete(m.warming, l.name)
		m.retireLocked(waiting, l, old)
	}
	if !l.ready() {
		if err := m.openableLocked(l, orphans); err != nil {
			m.retireLocked(l, old)
			return err
		}
		m.warming[l.name] = l
		return nil
	}
	if err := m.activateLocked(l, orphans); err != nil {
		m.retireLocked(l, old)
		return err
	}
	return nil
}

// ready says whether all chains have what they need.
func (l *listener) ready() bool {
	for _, c := range l.all() {
		if !c.handler.Ready() {
			return false
		}
	}
	return true
}

// openableLocked finds out before a listener warms whether its addresses can be
// opened, so that one that cannot, such as a port below 1024 without the right
// to it, is refused in the answer to the control plane, as Envoy does. They are
// closed again: nobody is let in before the listener is ready.
func (m *Manager) openableLocked(l *listener, orphans map[string]*socket) error {
	for _, spec := range l.specs {
		k := spec.key()
		ours := slices.ContainsFunc(m.sockets[l.name], func(s *socket) bool { return s.spec.key() == k })
		if spec.network == "unix" || ours || orphans[k] != nil {
			continue
		}
		if err := m.busyLocked(l.name, k); err != nil {
			return err
		}
		s, err := openSocket(context.Background(), spec)
		if err != nil {
			return err
		}
		_ = s.ln.Close()
	}
	return nil
}

// activateLocked gives a listener its sockets and lets the old one go.
func (m *Manager) activateLocked(l *listener, orphans map[string]*socket) error {
	old := m.listeners[l.name]
	have := map[string]*socket{}
	for _, s := range m.sockets[l.name] {
		have[s.spec.key()] = s
	}
	var socks, opened []*socket
	adopted := map[string]*socket{}
	fail := func(err error) error {
		for _, s := range opened {
			_ = s.ln.Close()
		}
		for k, s := range adopted {
			orphans[k] = s
		}
		return err
	}
	for _, spec := range l.specs {
		k := spec.key()
		s := have[k]
		if s != nil && s.spec == spec {
			delete(have, k)
		} else if s = orphans[k]; s != nil && s.spec == spec {
			delete(orphans, k)
			adopted[k] = s
		} else if err := m.busyLocked(l.name, k); err != nil {
			return fail(err)
		} else {
			if stale := have[k]; stale != nil { // same address, other options
				stale.close()
				delete(have, k)
			}
			var err error
			if s, err = openSocket(context.Background(), spec); err != nil {
				return fail(err)
			}
			opened = append(opened, s)
		}
		socks = append(socks, s)
	}
	for _, s := range socks {
		s.owner.Store(l)
	}
	for _, s := range opened {
		go s.accept(m)
	}
	for _, s := range have {
		s.close()
	}
	m.listeners[l.name], m.sockets[l.name] = l, socks
	if old != nil {
		m.retireLocked(old, l)
	}
	m.opts.Log.Debug("listener active", "name", l.name, "address", l.address.String(), "bound", l.bound)
	return nil
}

// busyLocked names the listener that has an address already.
func (m *Manager) busyLocked(name, key string) error {
	for n, socks := range m.sockets {
		for _, s := range socks {
			if n != name && s.spec.key() == key {
				return fmt.Errorf("address %s is taken by listener %q", s.spec.address, n)
			}
		}
	}
	return nil
}

// retireLocked drains the chains of l that none of the keepers holds.
func (m *Manager) retireLocked(l *listener, keepers ...*listener) {
	for _, c := range l.all() {
		kept := slices.ContainsFunc(keepers, func(k *listener) bool { return k != nil && slices.Contains(k.all(), c) })
		if kept {
			continue
		}
		c.drain()
		if c.connections() > 0 {
			m.endLaterLocked(c)
		}
	}
}

// endLaterLocked closes what is left of a draining chain after the drain time.
func (m *Manager) endLaterLocked(c *chain) {
	m.ending[c] = time.AfterFunc(m.opts.DrainTime, func() {
		c.close()
		m.mu.Lock()
		delete(m.ending, c)
		m.mu.Unlock()
	})
}

// publishLocked makes the table of hand-off targets.
func (m *Manager) publishLocked() {
	t := make(map[netip.AddrPort]*listener, len(m.listeners))
	for _, l := range m.listeners {
		for _, a := range l.addresses {
			t[a] = l
		}
	}
	m.byAddr.Store(&t)
	m.opts.Registry.Gauge("listener_manager.total_listeners_active").Set(int64(len(m.listeners)))
	m.opts.Registry.Gauge("listener_manager.total_listeners_warming").Set(int64(len(m.warming)))
}

// Rewarm activates listeners whose handlers have become ready. Whoever brings
// them what they wait for calls it. The result holds those that then failed.
func (m *Manager) Rewarm() map[string]error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var bad map[string]error
	for name, l := range m.warming {
		if !l.ready() {
			continue
		}
		delete(m.warming, name)
		if err := m.activateLocked(l, nil); err != nil {
			m.retireLocked(l, m.listeners[name])
			if bad == nil {
				bad = map[string]error{}
			}
			bad[name] = err
		}
	}
	m.publishLocked()
	return bad
}

// Warming are the names of listeners that wait, sorted.
func (m *Manager) Warming() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for n := range m.warming {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Status is one active listener for /listeners.
type Status struct {
	Name      string
	Addresses []string // of its sockets, as bound
}

// Listeners are the active listeners, sorted by name.
func (m *Manager) Listeners() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Status, 0, len(m.listeners))
	for n, l := range m.listeners {
		s := Status{Name: n}
		for _, k := range m.sockets[n] {
			s.Addresses = append(s.Addresses, k.ln.Addr().String())
		}
		if len(s.Addresses) == 0 {
			s.Addresses = []string{l.address.String()}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Connections is the number of downstream connections open now.
func (m *Manager) Connections() int64 { return m.conns.Load() }

// Drain asks every connection to end in order; new ones are still taken.
func (m *Manager) Drain() {
	m.each(func(c *chain) { c.handler.Drain() })
}

// CloseIdle closes the connections on which nothing is in progress.
func (m *Manager) CloseIdle() {
	m.each(func(c *chain) { c.handler.CloseIdle() })
}

func (m *Manager) each(f func(*chain)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.listeners {
		for _, c := range l.all() {
			f(c)
		}
	}
	for c := range m.ending {
		f(c)
	}
}

// StopListening closes every socket; connections go on.
func (m *Manager) StopListening() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
	for name, socks := range m.sockets {
		for _, s := range socks {
			s.close()
		}
		delete(m.sockets, name)
	}
}

// Close closes sockets and connections.
func (m *Manager) Close() {
	m.StopListening()
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.inspected {
		_ = c.Close()
	}
	for c, t := range m.ending {
		t.Stop()
		c.close()
		delete(m.ending, c)
	}
	for _, ls := range []map[string]*listener{m.listeners, m.warming} {
		for name, l := range ls {
			for _, c := range l.all() {
				c.close()
			}
			delete(ls, name)
		}
	}
}
