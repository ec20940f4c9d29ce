// SPDX-License-Identifier: Apache-2.0

package agent

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/route"
	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// sink brings resources to the rooms that live by them.
type sink struct {
	s *Server
}

// Apply implements xdsclient.Sink.
func (k *sink) Apply(t xdsclient.Type, changed []xdsclient.Resource, removed []string) map[string]error {
	switch t {
	case xdsclient.Clusters:
		msgs := make([]*clusterv3.Cluster, len(changed))
		for i, r := range changed {
			msgs[i] = r.Message.(*clusterv3.Cluster)
		}
		return k.s.clusters.Apply(msgs, removed)
	case xdsclient.Endpoints:
		return each(changed, func(r xdsclient.Resource) error {
			return k.s.clusters.UpdateEndpoints(r.Message.(*endpointv3.ClusterLoadAssignment))
		}, removed, k.s.clusters.RemoveEndpoints)
	case xdsclient.Secrets:
		return each(changed, func(r xdsclient.Resource) error {
			return k.s.secrets.Set(r.Message.(*tlsv3.Secret))
		}, removed, k.s.secrets.Remove)
	case xdsclient.Listeners:
		msgs := make([]*listenerv3.Listener, len(changed))
		for i, r := range changed {
			msgs[i] = r.Message.(*listenerv3.Listener)
		}
		return k.s.listeners.Apply(msgs, removed)
	case xdsclient.Routes:
		// A configuration that went while a listener refers to it keeps its last
		// table: routes are let go by the listener.
		return each(changed, func(r xdsclient.Resource) error {
			return k.s.routes.set(r.Message.(*routev3.RouteConfiguration))
		}, nil, nil)
	case xdsclient.VirtualHosts:
		hosts := make([]route.HostResource, len(changed))
		for i, r := range changed {
			hosts[i] = route.HostResource{Name: r.Name, Version: r.Version, Host: r.Message.(*routev3.VirtualHost)}
		}
		return k.s.routes.setHosts(hosts, removed)
	case xdsclient.NameTables:
		return k.s.applyNames(changed)
	}
	return nil
}

func each(changed []xdsclient.Resource, set func(xdsclient.Resource) error, removed []string, remove func(string)) map[string]error {
	bad := map[string]error{}
	for _, r := range changed {
		if err := set(r); err != nil {
			bad[r.Name] = err
		}
	}
	for _, n := range removed {
		remove(n)
	}
	return bad
}

// Names implements xdsclient.Sink.
func (k *sink) Names(t xdsclient.Type) []string {
	switch t {
	case xdsclient.Endpoints:
		return k.s.clusters.Services()
	case xdsclient.Secrets:
		return k.s.wantedSecrets()
	case xdsclient.Routes:
		return k.s.routes.names()
	case xdsclient.VirtualHosts:
		return k.s.routes.vhdsNames()
	}
	return nil
}

// settled is called when a response has been applied and acknowledged.
func (k *sink) settled(t xdsclient.Type) {
	if t == xdsclient.VirtualHosts {
		k.s.routes.hostsRefused(k.s.xds.Cache().Rejected(t))
	}
	if t == xdsclient.NameTables && !k.s.dns.Ready() {
		k.s.applyNames(nil) // the answer was empty
	}
	k.s.rewarm()
	k.s.memory.pushed()
	k.s.checkReady()
}
