// SPDX-License-Identifier: Apache-2.0

// Package xds turns the compiled mesh into xDS v3 resources and publishes them
// as immutable views, one per class of proxies.
package xds

import "sort"

// The resource types Lateen serves.
const (
	ClusterType     = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType    = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType    = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType       = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	VirtualHostType = "type.googleapis.com/envoy.config.route.v3.VirtualHost"
	SecretType      = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// Resource is one xDS resource, marshalled once and shared by every proxy that
// gets the same bytes. It is immutable: two resources are the same if and only
// if the pointers are (see Interner).
type Resource struct {
	Type string // type URL
	Name string
	// Version is the content hash in hexadecimal, the same on every replica.
	Version string
	// Body is the marshalled message (the value of its Any).
	Body []byte

	wire wire // see NewResource
}

// Set is the resources of one type, sorted by name, each name once. A set is
// immutable; a change makes a new slice that shares its elements, so that
// comparing two sets is a merge walk over pointers.
type Set []*Resource

// Get returns the resource of that name, or nil.
func (s Set) Get(name string) *Resource {
	i := sort.Search(len(s), func(i int) bool { return s[i].Name >= name })
	if i < len(s) && s[i].Name == name {
		return s[i]
	}
	return nil
}

// View is everything one class of proxies can be sent, as of one epoch.
// It is immutable; unchanged types share their set with the view before.
type View struct {
	Epoch uint64
	Sets  map[string]Set // by type URL
}
