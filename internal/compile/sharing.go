// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"
	"sync"
)

// sharing lets the scopes that are resolved from one registry hold equal
// references once: most scopes see mostly the same. It changes no result.
type sharing struct {
	mu    sync.Mutex
	hosts map[HostRef]*HostRef
	lists [][]ServiceRef
}

func (s *sharing) host(h HostRef) *HostRef {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.hosts[h]
	if p == nil {
		p = &h
		s.hosts[h] = p
	}
	return p
}

// services returns an equal list that another scope has, or the one given.
func (s *sharing) services(list []ServiceRef) []ServiceRef {
	const remembered = 8 // more different ones are not worth the comparing
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lists {
		if slices.Equal(l, list) {
			return l
		}
	}
	if len(s.lists) < remembered {
		s.lists = append(s.lists, list)
	}
	return list
}
