// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"hash/fnv"
	"net/netip"
	"strings"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

// autoAllocateLabel on a ServiceEntry turns its automatic address off.
const autoAllocateLabel = "networking.istio.io/enable-autoallocate-ip"

// autoAddresses gives every service that has no address one of 240.240.0.0/16,
// which is Istio's range: a proxy that answers DNS can then tell apart the TCP
// services behind one port. The address follows from the name, so that all
// replicas give the same; of two names that would have one address the latter,
// in the order of services, has the next free one.
func autoAddresses(services []*mesh.Service) map[mesh.ServiceID]string {
	out := map[mesh.ServiceID]string{}
	const size = 254 * 254 // without addresses that end in 0 or 255
	taken := map[uint32]bool{}
	for _, s := range services {
		if s.Cluster || s.FixedAddresses || len(s.Addresses) > 0 || s.Resolution == mesh.None || strings.Contains(s.ID.Host, "*") || len(taken) == size {
			continue
		}
		h := fnv.New32a()
		_, _ = h.Write([]byte(s.ID.Host + "/" + s.ID.Namespace)) // never fails
		n := h.Sum32() % size
		for taken[n] {
			n = (n + 1) % size
		}
		taken[n] = true
		out[s.ID] = netip.AddrFrom4([4]byte{240, 240, byte(n/254 + 1), byte(n%254 + 1)}).String()
	}
	return out
}

// AutoAddresses are the addresses given to services that have none of their own.
func (r *Registry) AutoAddresses() map[mesh.ServiceID]string { return r.auto }
