// SPDX-License-Identifier: Apache-2.0

package xdsclient

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
)

// Type is one kind of xDS resource. Their order is make-before-break: what is
// referred to comes before what refers to it.
type Type uint8

// The resource types lateen-proxy asks for.
const (
	Clusters Type = iota
	Endpoints
	Secrets
	Listeners
	Routes
	VirtualHosts
	// NameTables are the DNS proxy's (istio.networking.nds.v1.NameTable). Their
	// resources are not decoded: the sink reads Resource.Body.
	NameTables
	numTypes
)

type typeInfo struct {
	url      string
	short    string // as in cluster_manager.cds
	wildcard bool   // subscribed to as a whole
	opaque   bool   // the sink decodes
	scope    string // of its statistics, "" for none
	empty    func() proto.Message
	name     func(proto.Message) string
}

var infos = [numTypes]typeInfo{
	Clusters: {
		url: "type.googleapis.com/envoy.config.cluster.v3.Cluster", short: "cds", wildcard: true, scope: "cluster_manager.cds.",
		empty: func() proto.Message { return new(clusterv3.Cluster) },
		name:  func(m proto.Message) string { return m.(*clusterv3.Cluster).GetName() },
	},
	Endpoints: {
		url: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", short: "eds", scope: "cluster_manager.eds.",
		empty: func() proto.Message { return new(endpointv3.ClusterLoadAssignment) },
		name:  func(m proto.Message) string { return m.(*endpointv3.ClusterLoadAssignment).GetClusterName() },
	},
	Secrets: {
		url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", short: "sds", scope: "sds.",
		empty: func() proto.Message { return new(tlsv3.Secret) },
		name:  func(m proto.Message) string { return m.(*tlsv3.Secret).GetName() },
	},
	Listeners: {
		url: "type.googleapis.com/envoy.config.listener.v3.Listener", short: "lds", wildcard: true, scope: "listener_manager.lds.",
		empty: func() proto.Message { return new(listenerv3.Listener) },
		name:  func(m proto.Message) string { return m.(*listenerv3.Listener).GetName() },
	},
	Routes: {
		url: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", short: "rds", scope: "http.rds.",
		empty: func() proto.Message { return new(routev3.RouteConfiguration) },
		name:  func(m proto.Message) string { return m.(*routev3.RouteConfiguration).GetName() },
	},
	VirtualHosts: {
		url: "type.googleapis.com/envoy.config.route.v3.VirtualHost", short: "vhds", scope: "http.vhds.",
		empty: func() proto.Message { return new(routev3.VirtualHost) },
		// A virtual host does not know its route configuration: the resource's
		// name says it.
		name: func(proto.Message) string { return "" },
	},
	NameTables: {
		url: "type.googleapis.com/istio.networking.nds.v1.NameTable", short: "nds", wildcard: true, opaque: true, scope: "dns.nds.",
	},
}

// URL is the type's URL.
func (t Type) URL() string { return infos[t].url }

// String is the discovery service of the type, as in "cds".
func (t Type) String() string { return infos[t].short }

// typeOf returns the type with that URL.
func typeOf(url string) (Type, bool) {
	for t := range infos {
		if infos[t].url == url {
			return Type(t), true
		}
	}
	return 0, false
}
