// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

// NamesInput is what the DNS names of one service are made from.
type NamesInput struct {
	Service *mesh.Service
	// Auto is the address given to the service, if it has none.
	Auto string
	// Endpoints are needed of headless services only.
	Endpoints []mesh.Endpoint
}

// Names are the names by which a DNS proxy finds a service, as Istio's name
// table has them: its addresses, or, of a headless service, those of its ready
// endpoints, and each endpoint that has a hostname. Services without an address
// are left to the servers of the machine.
func Names(in NamesInput) []mesh.Name {
	svc := in.Service
	name := mesh.Name{Host: svc.ID.Host, Registry: "External", Namespace: svc.ID.Namespace}
	if svc.Cluster {
		name.Registry, name.Shortname = "Kubernetes", svc.Name
	}
	for _, a := range svc.Addresses {
		if ip, err := netip.ParseAddr(a); err == nil {
			name.IPs = append(name.IPs, ip.Unmap().String())
		}
	}
	if in.Auto != "" {
		name.IPs = []string{in.Auto}
	}
	if !svc.Headless {
		if len(name.IPs) == 0 {
			return nil
		}
		return []mesh.Name{name}
	}
	var out []mesh.Name
	for i := range in.Endpoints {
		e := &in.Endpoints[i]
		if e.Unready || slices.Contains(name.IPs, e.Address) && e.Hostname == "" {
			continue
		}
		name.IPs = append(name.IPs, e.Address)
		if e.Hostname == "" {
			continue
		}
		host := e.Hostname + "." + svc.ID.Host
		at := slices.IndexFunc(out, func(n mesh.Name) bool { return n.Host == host })
		if at < 0 {
			at = len(out)
			out = append(out, mesh.Name{Host: host, Registry: name.Registry, Shortname: e.Hostname + "." + svc.Name, Namespace: svc.ID.Namespace})
		}
		if !slices.Contains(out[at].IPs, e.Address) {
			out[at].IPs = append(out[at].IPs, e.Address)
		}
	}
	if len(name.IPs) == 0 {
		return nil
	}
	slices.Sort(name.IPs)
	name.IPs = slices.Compact(name.IPs)
	out = append(out, name)
	slices.SortFunc(out, func(a, b mesh.Name) int { return cmp.Compare(a.Host, b.Host) })
	return out
}
