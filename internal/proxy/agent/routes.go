// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/route"
)

// routes are the route configurations that listeners refer to by name, with the
// slots connection managers read their tables from.
type routes struct {
	changed func() // a table arrived, or names are wanted that were not

	mu      sync.Mutex
	entries map[string]*routeEntry
}

// routeEntry is one route configuration that filter chains refer to.
type routeEntry struct {
	name   string
	source *route.Source
	ready  atomic.Bool // complete, or not waited for any longer

	refs     int
	hasHosts bool // a table with VHDS has been given its virtual hosts
	timer    *time.Timer
}

func newRoutes(changed func()) *routes {
	return &routes{changed: changed, entries: map[string]*routeEntry{}}
}

// acquire refers to a configuration; wait bounds how long listeners wait for
// it, 0 for ever.
func (rs *routes) acquire(name string, wait time.Duration) *routeEntry {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	e := rs.entries[name]
	if e == nil {
		e = &routeEntry{name: name, source: route.NewSource(name, route.Options{})}
		rs.entries[name] = e
		if wait > 0 {
			e.timer = time.AfterFunc(wait, func() {
				e.ready.Store(true)
				rs.changed()
			})
		}
	}
	e.refs++
	return e
}

// release takes back an acquire. The entry stays until the control plane is
// told that it is not wanted: who refers to it again before finds its table.
func (rs *routes) release(e *routeEntry) {
	rs.mu.Lock()
	e.refs--
	last := e.refs == 0
	rs.mu.Unlock()
	if last {
		rs.changed()
	}
}

// names are the configurations referred to. Those that no longer are, are let
// go: the caller unsubscribes from them.
func (rs *routes) names() []string {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	out := make([]string, 0, len(rs.entries))
	for n, e := range rs.entries {
		if e.refs > 0 {
			out = append(out, n)
			continue
		}
		delete(rs.entries, n)
		if e.timer != nil {
			e.timer.Stop()
		}
	}
	slices.Sort(out)
	return out
}

// vhdsNames are the subscriptions to virtual hosts: one wildcard for each
// configuration whose hosts come as resources of their own.
func (rs *routes) vhdsNames() []string {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	var out []string
	for n, e := range rs.entries {
		if t := e.source.Load(); t != nil && t.VHDS() {
			out = append(out, n+"/*")
		}
	}
	slices.Sort(out)
	return out
}

func (rs *routes) get(name string) *routeEntry {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.entries[name]
}

// set takes a route configuration. One that nobody refers to is let go.
func (rs *routes) set(msg *routev3.RouteConfiguration) error {
	e := rs.get(msg.GetName())
	if e == nil {
		return nil
	}
	if err := e.source.SetConfig(msg); err != nil {
		return err
	}
	e.settle()
	return nil
}

// settle marks the entry ready once its table is complete: with VHDS, once the
// virtual hosts were answered too.
func (e *routeEntry) settle() {
	t := e.source.Load()
	if t != nil && (!t.VHDS() || e.hasHosts) {
		e.ready.Store(true)
	}
}

// splitHost splits "<route configuration>/<host>".
func splitHost(name string) (config string, ok bool) {
	i := strings.LastIndexByte(name, '/')
	if i <= 0 {
		return "", false
	}
	return name[:i], true
}

var errHostName = errors.New("the name is not <route configuration>/<host>")

// setHosts takes changed and removed virtual hosts. A removed "<route
// configuration>/*" says that there are none to wait for.
func (rs *routes) setHosts(changed []route.HostResource, removed []string) map[string]error {
	bad := map[string]error{}
	type batch struct {
		changed []route.HostResource
		removed []string
	}
	byConfig := map[string]*batch{}
	of := func(name string) *batch {
		config, ok := splitHost(name)
		if !ok {
			bad[name] = errHostName
			return &batch{}
		}
		if byConfig[config] == nil {
			byConfig[config] = &batch{}
		}
		return byConfig[config]
	}
	for _, h := range changed {
		b := of(h.Name)
		b.changed = append(b.changed, h)
	}
	for _, n := range removed {
		b := of(n)
		b.removed = append(b.removed, n)
	}
	for config, b := range byConfig {
		e := rs.get(config)
		if e == nil {
			continue
		}
		if err := e.source.UpdateHosts(b.changed, b.removed); err != nil {
			collectHostErrors(err, b.changed, bad)
		}
		e.hasHosts = true
		e.settle()
	}
	return bad
}

// collectHostErrors spreads a joined error over the resources it names.
func collectHostErrors(err error, changed []route.HostResource, bad map[string]error) {
	var one *route.HostError
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			collectHostErrors(e, changed, bad)
		}
		return
	}
	if errors.As(err, &one) {
		bad[one.Resource] = one.Err
		return
	}
	for _, h := range changed {
		bad[h.Name] = err
	}
}

// hostsRefused says that these virtual hosts came and cannot be used: their
// configurations were answered, and listeners go on with what else there is.
func (rs *routes) hostsRefused(names []string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, n := range names {
		config, _ := splitHost(n)
		if e := rs.entries[config]; e != nil {
			e.hasHosts = true
			e.settle()
		}
	}
}
