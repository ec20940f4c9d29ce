// SPDX-License-Identifier: Apache-2.0

// Package addresses gives Services of type LoadBalancer an address, as a cloud
// would.
package addresses

import (
	"errors"
	"net/netip"
)

// Pool hands out the addresses of a range to owners, the lowest free one first.
// It is not safe for concurrent use.
type Pool struct {
	prefix netip.Prefix
	owners map[netip.Addr]string
	byName map[string]netip.Addr
}

// NewPool returns a pool of the addresses of prefix but its first and, for
// IPv4, its last, which are no hosts' addresses.
func NewPool(prefix netip.Prefix) *Pool {
	return &Pool{prefix: prefix.Masked(), owners: map[netip.Addr]string{}, byName: map[string]netip.Addr{}}
}

var errEmpty = errors.New("no address is left in the pool")

// Get returns owner's address, giving it one when it has none: want when that
// is in the range and free, else the lowest free one.
func (p *Pool) Get(owner string, want netip.Addr) (netip.Addr, error) {
	if a, ok := p.byName[owner]; ok && (a == want || !want.IsValid() || !p.free(want)) {
		return a, nil
	}
	if p.free(want) {
		p.Release(owner)
		p.give(owner, want)
		return want, nil
	}
	for a := p.prefix.Addr().Next(); p.prefix.Contains(a); a = a.Next() {
		if p.free(a) {
			p.give(owner, a)
			return a, nil
		}
	}
	return netip.Addr{}, errEmpty
}

func (p *Pool) give(owner string, a netip.Addr) {
	p.owners[a], p.byName[owner] = owner, a
}

// Release takes owner's address back, if it has one.
func (p *Pool) Release(owner string) {
	if a, ok := p.byName[owner]; ok {
		delete(p.owners, a)
		delete(p.byName, owner)
	}
}

func (p *Pool) free(a netip.Addr) bool {
	if !a.IsValid() || !p.prefix.Contains(a) || a == p.prefix.Addr() {
		return false
	}
	if a.Is4() && !p.prefix.Contains(a.Next()) {
		return false // broadcast
	}
	_, taken := p.owners[a]
	return !taken
}
