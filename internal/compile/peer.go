// SPDX-License-Identifier: Apache-2.0

package compile

import (
	security "istio.io/api/security/v1beta1"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// Peer is what a workload demands of those who connect to it.
type Peer uint8

const (
	PeerPermissive Peer = iota // mutual TLS or plain text
	PeerDisable                // plain text
	PeerStrict                 // mutual TLS
)

// PeerInput asks for the mode of one port of one workload.
type PeerInput struct {
	RootNamespace string
	Namespace     string
	Labels        map[string]string
	Port          uint32 // of the workload
	Policies      []*config.Object
}

// PeerMode applies PeerAuthentications: the mesh's (root namespace, no
// selector), the namespace's and the workload's, the narrower one over the
// wider, UNSET inheriting; of several at one level the oldest wins.
func PeerMode(in PeerInput) Peer {
	var meshWide, namespace, workload *config.Object
	older := func(cur, o *config.Object) *config.Object {
		if cur == nil || config.Older(o, cur) < 0 {
			return o
		}
		return cur
	}
	for _, o := range in.Policies {
		selector := o.Spec.(*security.PeerAuthentication).GetSelector().GetMatchLabels()
		switch {
		case len(selector) > 0:
			if (o.Namespace == in.Namespace || o.Namespace == in.RootNamespace) && mesh.HasLabels(in.Labels, selector) {
				workload = older(workload, o)
			}
		case o.Namespace == in.Namespace && in.Namespace != in.RootNamespace:
			namespace = older(namespace, o)
		case o.Namespace == in.RootNamespace:
			meshWide = older(meshWide, o)
		}
	}
	mode := PeerPermissive
	for _, o := range []*config.Object{meshWide, namespace, workload} {
		if o != nil {
			mode = peerMode(o.Spec.(*security.PeerAuthentication).GetMtls(), mode)
		}
	}
	if workload != nil {
		if m, ok := workload.Spec.(*security.PeerAuthentication).PortLevelMtls[in.Port]; ok {
			mode = peerMode(m, mode)
		}
	}
	return mode
}

func peerMode(m *security.PeerAuthentication_MutualTLS, inherited Peer) Peer {
	switch m.GetMode() {
	case security.PeerAuthentication_MutualTLS_DISABLE:
		return PeerDisable
	case security.PeerAuthentication_MutualTLS_PERMISSIVE:
		return PeerPermissive
	case security.PeerAuthentication_MutualTLS_STRICT:
		return PeerStrict
	}
	return inherited
}
