// SPDX-License-Identifier: Apache-2.0

package xdsclient

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Entry is one resource as the control plane sent it, for /config_dump and for
// the versions told on reconnect. Only the serialized message is kept.
type Entry struct {
	Name    string
	Version string
	Body    []byte // the serialized message, nil when none was ever accepted
	Updated time.Time
	// Rejected is why the newest version was refused, empty when it was not.
	Rejected        string
	RejectedVersion string
	RejectedAt      time.Time
}

// Cache holds the last good version of every resource. It is safe for
// concurrent use.
type Cache struct {
	mu      sync.RWMutex
	entries [numTypes]map[string]Entry
	version [numTypes]string // system_version_info of the last response
}

// Entries returns the resources of a type, sorted by name.
func (c *Cache) Entries(t Type) []Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]Entry, 0, len(c.entries[t]))
	for _, e := range c.entries[t] {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Get returns one resource.
func (c *Cache) Get(t Type, name string) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.entries[t][name]
	return e, ok
}

// Rejected are the names, in no order, of the resources of a type whose newest
// version was refused.
func (c *Cache) Rejected(t Type) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []string
	for n, e := range c.entries[t] {
		if e.Rejected != "" {
			out = append(out, n)
		}
	}
	return out
}

// Version is the system version of the last response of a type.
func (c *Cache) Version(t Type) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.version[t]
}

func (c *Cache) accept(t Type, r *Resource, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[t] == nil {
		c.entries[t] = map[string]Entry{}
	}
	c.entries[t][r.Name] = Entry{Name: r.Name, Version: r.Version, Body: r.body, Updated: now}
}

func (c *Cache) reject(t Type, name, version, why string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[t] == nil {
		c.entries[t] = map[string]Entry{}
	}
	e := c.entries[t][name]
	e.Name, e.Rejected, e.RejectedVersion, e.RejectedAt = name, why, version, now
	c.entries[t][name] = e
}

func (c *Cache) remove(t Type, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names {
		delete(c.entries[t], n)
	}
}

func (c *Cache) setVersion(t Type, v string) {
	c.mu.Lock()
	c.version[t] = v
	c.mu.Unlock()
}

// versions are the accepted resources of a type with their versions, as
// initial_resource_versions tells them.
func (c *Cache) versions(t Type) map[string]string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make(map[string]string, len(c.entries[t]))
	for n, e := range c.entries[t] {
		if e.Body != nil {
			out[n] = e.Version
		}
	}
	return out
}

// retain drops the resources of a type that no subscribed name covers.
// It returns the names dropped, sorted.
func (c *Cache) retain(t Type, subscribed map[string]bool) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var dropped []string
	for n := range c.entries[t] {
		if !covers(subscribed, n) {
			dropped = append(dropped, n)
		}
	}
	for _, n := range dropped {
		delete(c.entries[t], n)
	}
	slices.Sort(dropped)
	return dropped
}

// covers says whether name is subscribed to, by itself or by the wildcard of
// its route configuration ("9080/*" covers "9080/reviews.default:9080").
func covers(subscribed map[string]bool, name string) bool {
	if subscribed[name] {
		return true
	}
	i := strings.LastIndexByte(name, '/')
	return i >= 0 && subscribed[name[:i]+"/*"]
}

func sorted(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
