// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/lateen-mesh/lateen/internal/proxy/match"
)

// index maps domains to positions in a table's hosts. It depends on the hosts'
// domains only, so that tables whose hosts changed otherwise share it.
type index struct {
	exact      map[string]int32
	suffix     map[string]int32 // "*.x" without the star
	prefix     map[string]int32 // "x.*" without the star
	suffixLens []int            // descending
	prefixLens []int
	any        int32 // -1: none
}

// duplicate is the error of two virtual hosts that claim one domain.
type duplicate struct {
	domain        string
	first, second int // positions
}

// newIndex files hosts under their domains. Hosts from position weak on give
// way: a domain that is taken already is not theirs. Elsewhere a domain may be
// claimed once (Envoy: "Only unique values for domains are permitted").
func newIndex(hosts []*VirtualHost, weak int) (*index, *duplicate) {
	n := 0
	for _, h := range hosts {
		n += len(h.Domains)
	}
	x := &index{exact: make(map[string]int32, n), any: -1}
	for i, h := range hosts {
		for _, d := range h.Domains {
			old, taken := x.add(d, int32(i))
			if taken && (i < weak || int(old) >= weak) {
				return nil, &duplicate{domain: d, first: int(old), second: i}
			}
		}
	}
	x.suffixLens, x.prefixLens = lengths(x.suffix), lengths(x.prefix)
	return x, nil
}

// add files one domain and returns who has it already.
func (x *index) add(d string, i int32) (old int32, taken bool) {
	var m *map[string]int32
	switch {
	case d == "*":
		if x.any >= 0 {
			return x.any, true
		}
		x.any = i
		return 0, false
	case strings.HasPrefix(d, "*"):
		m, d = &x.suffix, d[1:]
	case strings.HasSuffix(d, "*"):
		m, d = &x.prefix, d[:len(d)-1]
	default:
		m = &x.exact
	}
	if *m == nil {
		*m = map[string]int32{}
	}
	if old, taken = (*m)[d]; !taken {
		(*m)[d] = i
	}
	return old, taken
}

func lengths(m map[string]int32) []int {
	var ls []int
	for d := range m {
		if !slices.Contains(ls, len(d)) {
			ls = append(ls, len(d))
		}
	}
	slices.Sort(ls)
	slices.Reverse(ls)
	return ls
}

// maxHost is the longest host that is looked up without allocating: the limit
// of a DNS name and a port.
const maxHost = 272

// host finds the virtual host of an authority: exact, then the longest suffix
// wildcard, then the longest prefix wildcard, then "*". A wildcard stands for
// at least one character.
func (t *Table) host(authority []byte) *VirtualHost {
	if t.ignorePort {
		authority = withoutPort(authority)
	}
	var buf [maxHost]byte
	host := match.AppendLower(buf[:0], authority)
	i := t.index.find(host)
	if i < 0 {
		return nil
	}
	return t.hosts[i]
}

func (x *index) find(host []byte) int32 {
	if i, ok := x.exact[string(host)]; ok {
		return i
	}
	for _, n := range x.suffixLens {
		if n < len(host) {
			if i, ok := x.suffix[string(host[len(host)-n:])]; ok {
				return i
			}
		}
	}
	for _, n := range x.prefixLens {
		if n < len(host) {
			if i, ok := x.prefix[string(host[:n])]; ok {
				return i
			}
		}
	}
	return x.any
}

// withoutPort cuts a port, if there is one, off an authority (RFC 3986 section
// 3.2: a colon inside brackets belongs to an IPv6 address).
func withoutPort(a []byte) []byte {
	i := bytes.LastIndexByte(a, ':')
	if i < 0 || bytes.IndexByte(a[i:], ']') >= 0 {
		return a
	}
	if a[0] != '[' && bytes.IndexByte(a[:i], ':') >= 0 {
		return a // an IPv6 address without brackets
	}
	for _, c := range a[i+1:] {
		if c < '0' || c > '9' {
			return a
		}
	}
	return a[:i]
}

func (d *duplicate) describe(hosts []*VirtualHost) error {
	return fmt.Errorf("domain %q is claimed by the virtual hosts %q and %q; domains must be unique",
		d.domain, hosts[d.first].Name, hosts[d.second].Name)
}
