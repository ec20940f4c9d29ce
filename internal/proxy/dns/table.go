// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// table answers for names. It is immutable. Names in it are lower case and
// without the last dot.
type table struct {
	hosts  map[string]*host
	search []string
	source map[string]Name // as the control plane sent it
}

type host struct {
	v4, v6 []netip.Addr
	// foreign hosts are known to the mesh alone: nobody else is asked for their
	// other records.
	foreign bool
}

// kubernetes is the registry whose hosts cluster DNS knows too.
const kubernetes = "Kubernetes"

// place is where the proxy is, on which it depends what short names mean.
type place struct {
	namespace string
	domain    string   // of the cluster's services, as in svc.cluster.local
	search    []string // of resolv.conf
}

// newPlace takes a proxy's DNS domain, which may begin with its namespace.
func newPlace(namespace, domain string, search []string) place {
	return place{namespace, strings.TrimPrefix(clean(domain), namespace+"."), search}
}

func clean(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// newTable makes a table. A host without a usable address is left out, as by
// istio-agent; its name then is asked for upstream.
func newTable(names map[string]Name, p place) *table {
	t := &table{hosts: make(map[string]*host, len(names)), search: p.search, source: names}
	for _, name := range slices.Sorted(maps.Keys(names)) { // of two equal aliases the same one wins
		info := names[name]
		h := &host{foreign: info.Registry != kubernetes}
		for _, text := range info.IPs {
			a, err := netip.ParseAddr(text)
			switch {
			case err != nil:
			case a.Unmap().Is4():
				h.v4 = append(h.v4, a.Unmap())
			default:
				h.v6 = append(h.v6, a)
			}
		}
		if len(h.v4)+len(h.v6) == 0 {
			continue
		}
		for _, n := range spellings(clean(name), info, p) {
			if old := t.hosts[n]; old == nil || n == clean(name) {
				t.hosts[n] = h // a host's own name beats another's alias
			}
		}
	}
	return t
}

// spellings are the names of a host. Those of a Kubernetes service of this
// cluster may be shortened, as cluster DNS and search lists let people write
// them.
func spellings(name string, info Name, p place) []string {
	out := []string{name}
	if info.Registry != kubernetes || p.domain == "" || !strings.HasSuffix(name, "."+p.domain) {
		return out
	}
	short, namespace := clean(info.Shortname), clean(info.Namespace)
	if short != "" && namespace != "" {
		first, _, _ := strings.Cut(p.domain, ".")
		out = append(out, short+"."+namespace, short+"."+namespace+"."+first)
		if namespace == p.namespace {
			out = append(out, short)
		}
	}
	for _, a := range info.AltHosts {
		out = append(out, clean(a))
	}
	return out
}

// find looks a name up, which is lower case and without the last dot. canonical
// is the name that the host goes by when the question was that name with a
// search domain after it: the answer then is an alias, so that the resolver
// need not try the rest of its search list.
func (t *table) find(question string) (h *host, canonical string) {
	if h := t.hosts[question]; h != nil {
		return h, question
	}
	for _, s := range t.search {
		if name, ok := strings.CutSuffix(question, "."+s); ok {
			if h := t.hosts[name]; h != nil {
				return h, name
			}
			if h := t.wildcard(name); h != nil {
				return h, name
			}
		}
	}
	return t.wildcard(question), question
}

// wildcard finds the longest *.domain above a name.
func (t *table) wildcard(name string) *host {
	for {
		_, rest, ok := strings.Cut(name, ".")
		if !ok {
			return nil
		}
		if h := t.hosts["*."+rest]; h != nil {
			return h
		}
		name = rest
	}
}
