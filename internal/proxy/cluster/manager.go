// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	"google.golang.org/protobuf/proto"
)

// Options are what a Manager needs. The zero value is usable.
type Options struct {
	Secrets *secret.Store // nil: an empty one
	Resolve Resolve       // nil: SystemResolve
	Log     *slog.Logger  // nil: no log
	// Rand gives uniform random bits; nil means math/rand/v2.
	Rand func() uint64
	// OnActive is called, outside any lock, each time a cluster of that name
	// begins to serve: at once, or when its warming is over.
	OnActive func(name string)
}

// Manager holds a proxy's clusters by name. It is safe for concurrent use; Get
// takes no lock.
type Manager struct {
	ctx      context.Context
	cancel   context.CancelFunc
	secrets  *secret.Store
	resolve  Resolve
	log      *slog.Logger
	rand     func() uint64
	onActive func(string)
	wg       sync.WaitGroup

	mu      sync.Mutex // guards all writes below and endpoint updates
	entries atomic.Pointer[map[string]*entry]
	aliased int // clusters whose EDS name is not their own
	// early are endpoints that came before their cluster, bounded by maxEarly.
	early map[string]*assignment
}

// maxEarly bounds the assignments kept for clusters not yet known.
const maxEarly = 4096

// entry is one name's clusters: the one that serves and the one that warms.
type entry struct {
	active  atomic.Pointer[Cluster]
	warming *Cluster          // guarded by Manager.mu
	timer   *time.Timer       // initial_fetch_timeout of warming
	sum     [sha256.Size]byte // of the last accepted resource
}

// NewManager makes an empty manager.
func NewManager(o Options) *Manager {
	m := &Manager{secrets: o.Secrets, resolve: o.Resolve, log: o.Log, rand: o.Rand, onActive: o.OnActive}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if m.secrets == nil {
		m.secrets = new(secret.Store)
	}
	if m.resolve == nil {
		m.resolve = SystemResolve
	}
	if m.log == nil {
		m.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	m.entries.Store(&map[string]*entry{})
	return m
}

// Get gives the serving cluster of that name, nil when there is none (flag NC):
// unknown, or still warming for the first time.
func (m *Manager) Get(name string) *Cluster {
	e := (*m.entries.Load())[name]
	if e == nil {
		return nil
	}
	return e.active.Load()
}

// Update takes one cluster resource: Apply of a single one.
func (m *Manager) Update(msg *clusterv3.Cluster) error {
	return m.Apply([]*clusterv3.Cluster{msg}, nil)[msg.GetName()]
}

// Apply takes new and changed cluster resources and then removes names. A
// resource equal to the last of its name changes nothing. A resource that is
// refused leaves what its name had and is in the returned map. An EDS cluster
// whose endpoints are not known, and a DNS cluster before its first answer,
// warm: the name's old cluster goes on serving until then.
func (m *Manager) Apply(updates []*clusterv3.Cluster, removed []string) map[string]error {
	return m.apply(updates, removed, true)
}

// ApplyStatic takes the bootstrap's clusters; they are marked as not added by
// xDS. It stops at the first one that is refused.
func (m *Manager) ApplyStatic(clusters []*clusterv3.Cluster) error {
	for _, c := range clusters {
		if err := m.apply([]*clusterv3.Cluster{c}, nil, false)[c.GetName()]; err != nil {
			return err
		}
	}
	return nil
}

type installed struct {
	e     *entry
	c     *Cluster
	fixed *assignment
}

func (m *Manager) apply(updates []*clusterv3.Cluster, removed []string, added bool) (errs map[string]error) {
	refuse := func(name string, err error) {
		if errs == nil {
			errs = make(map[string]error)
		}
		errs[name] = err
	}
	var after []func()
	defer func() {
		for _, f := range after {
			f()
		}
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.entries.Load()
	next := old
	own := func() { // copy on the first write
		if len(next) == len(old) {
			next = maps.Clone(old)
		}
	}
	var fresh []installed
	for _, msg := range updates {
		name := msg.GetName()
		cfg, fixed, err := decode(msg, m.secrets)
		if err != nil {
			refuse(name, err)
			continue
		}
		sum := digest(msg)
		e := next[name]
		if e != nil && bytes.Equal(e.sum[:], sum[:]) {
			continue
		}
		if e == nil {
			own()
			e = new(entry)
			next[cfg.Name] = e
		}
		e.sum = sum
		c := newCluster(cfg, m.rand)
		c.added = added
		fresh = append(fresh, installed{e, c, fixed})
	}
	if len(next) != len(old) {
		m.entries.Store(&next)
	}
	for _, in := range fresh {
		after = append(after, m.install(in)...)
	}
	after = append(after, m.remove(removed)...)
	return errs
}

func digest(msg proto.Message) [sha256.Size]byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	if err != nil {
		return [sha256.Size]byte{} // equal to no stored sum but that of such a message
	}
	return sha256.Sum256(b)
}

// install makes a new cluster serve or warm. It returns what to do once the
// lock is free. Callers hold mu.
func (m *Manager) install(in installed) []func() {
	e, c := in.e, in.c
	if e.warming != nil {
		m.dropWarming(e)
	}
	if c.Discovery == EDS && c.ServiceName != c.Name {
		m.aliased++
	}
	switch c.Discovery {
	case Static:
		c.setEndpoints(in.fixed)
	case StrictDNS, LogicalDNS:
		e.warming = c
		m.startDNS(c, in.fixed, func() { m.warmed(e, c) })
		return nil
	case EDS:
		a := m.early[c.ServiceName]
		delete(m.early, c.ServiceName)
		if cur := e.active.Load(); a == nil && cur != nil && cur.Discovery == EDS && cur.ServiceName == c.ServiceName {
			a = cur.assignmentNow()
		}
		if a == nil {
			e.warming = c
			if c.fetchTimeout > 0 {
				e.timer = time.AfterFunc(c.fetchTimeout, func() { m.warmed(e, c) })
			}
			return nil
		}
		c.setEndpoints(a)
	}
	return m.activate(e, c)
}

func (m *Manager) dropWarming(e *entry) {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	w := e.warming
	e.warming = nil
	m.forget(w)
	w.close()
}

func (m *Manager) forget(c *Cluster) {
	if c.Discovery == EDS && c.ServiceName != c.Name {
		m.aliased--
	}
}

// activate lets c serve its name. Callers hold mu.
func (m *Manager) activate(e *entry, c *Cluster) []func() {
	if e.warming == c {
		e.warming = nil
		if e.timer != nil {
			e.timer.Stop()
			e.timer = nil
		}
	}
	old := e.active.Swap(c)
	var after []func()
	if old != nil {
		m.forget(old)
		after = append(after, old.close)
	}
	if m.onActive != nil {
		after = append(after, func() { m.onActive(c.Name) })
	}
	return after
}

// warmed ends c's warming unless something else did.
func (m *Manager) warmed(e *entry, c *Cluster) {
	m.mu.Lock()
	var after []func()
	if e.warming == c {
		after = m.activate(e, c)
	}
	m.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// Remove takes clusters away by name. Requests that hold one finish on it.
func (m *Manager) Remove(names ...string) { m.Apply(nil, names) }

func (m *Manager) remove(names []string) []func() {
	if len(names) == 0 {
		return nil
	}
	var after []func()
	next := maps.Clone(*m.entries.Load())
	for _, n := range names {
		e := next[n]
		if e == nil {
			continue
		}
		delete(next, n)
		if e.warming != nil {
			m.dropWarming(e)
		}
		if c := e.active.Swap(nil); c != nil {
			m.forget(c)
			after = append(after, c.close)
		}
	}
	m.entries.Store(&next)
	return after
}

// UpdateEndpoints takes one endpoint resource. It goes to every EDS cluster
// that asks for its name, ends their warming, and waits for a cluster to come
// when there is none. A refused resource changes nothing.
func (m *Manager) UpdateEndpoints(msg *endpointv3.ClusterLoadAssignment) error {
	name := msg.GetClusterName()
	a, err := decodeAssignment(msg, false)
	if err != nil {
		return fmt.Errorf("endpoints of %q: %w", name, err)
	}
	m.mu.Lock()
	var after []func()
	found := false
	for _, e := range m.consumers(name) {
		if w := e.warming; w != nil && w.Discovery == EDS && w.ServiceName == name {
			w.setEndpoints(a)
			after = append(after, m.activate(e, w)...)
			found = true
			continue
		}
		if c := e.active.Load(); c != nil && c.Discovery == EDS && c.ServiceName == name {
			c.setEndpoints(a)
			found = true
		}
	}
	if !found && (len(m.early) < maxEarly || m.early[name] != nil) {
		if m.early == nil {
			m.early = make(map[string]*assignment)
		}
		m.early[intern(name)] = a
	}
	m.mu.Unlock()
	for _, f := range after {
		f()
	}
	return nil
}

// consumers are the entries that may ask for an EDS name. Callers hold mu.
func (m *Manager) consumers(service string) []*entry {
	all := *m.entries.Load()
	var out []*entry
	if m.aliased == 0 {
		if e := all[service]; e != nil {
			out = append(out, e)
		}
		return out
	}
	for _, e := range all {
		out = append(out, e)
	}
	return out
}

// RemoveEndpoints says that an endpoint resource does not exist (any more): its
// clusters have no hosts.
func (m *Manager) RemoveEndpoints(service string) {
	_ = m.UpdateEndpoints(&endpointv3.ClusterLoadAssignment{ClusterName: service}) // an empty assignment is valid
	m.mu.Lock()
	delete(m.early, service)
	m.mu.Unlock()
}

// Services are the EDS names that clusters ask for, sorted, each once.
func (m *Manager) Services() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	set := make(map[string]bool)
	for _, e := range *m.entries.Load() {
		for _, c := range []*Cluster{e.active.Load(), e.warming} {
			if c != nil && c.Discovery == EDS {
				set[c.ServiceName] = true
			}
		}
	}
	return sortedKeys(set)
}

// Warming are the names of clusters that warm, sorted.
func (m *Manager) Warming() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	set := make(map[string]bool)
	for n, e := range *m.entries.Load() {
		if e.warming != nil {
			set[n] = true
		}
	}
	return sortedKeys(set)
}

func sortedKeys(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for n := range set {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// Clusters are the serving clusters, sorted by name.
func (m *Manager) Clusters() []*Cluster {
	all := *m.entries.Load()
	out := make([]*Cluster, 0, len(all))
	for _, e := range all {
		if c := e.active.Load(); c != nil {
			out = append(out, c)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// Close closes every cluster and waits for the resolvers to end.
func (m *Manager) Close() {
	m.cancel()
	all := *m.entries.Load()
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	m.Remove(names...)
	m.wg.Wait()
}
