// SPDX-License-Identifier: Apache-2.0

package main

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec this one falls back to
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

const typePrefix = "type.googleapis.com/"

const (
	clusterType  = typePrefix + "envoy.config.cluster.v3.Cluster"
	endpointType = typePrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment"
	listenerType = typePrefix + "envoy.config.listener.v3.Listener"
	routeType    = typePrefix + "envoy.config.route.v3.RouteConfiguration"
	hostType     = typePrefix + "envoy.config.route.v3.VirtualHost"
)

// raw is a response as bytes: hundreds of clients that decode what they are sent
// would measure themselves.
type raw struct{ data []byte }

type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return encoding.GetCodecV2("proto").Marshal(v)
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*raw); ok {
		r.data = data.Materialize()
		return nil
	}
	return encoding.GetCodecV2("proto").Unmarshal(data, v)
}

// each calls f with every length-delimited field of that number in the message.
func each(b []byte, number protowire.Number, f func([]byte)) {
	for len(b) > 0 {
		n, t, l := protowire.ConsumeTag(b)
		if l < 0 {
			return
		}
		b = b[l:]
		if n == number && t == protowire.BytesType {
			v, l := protowire.ConsumeBytes(b)
			if l < 0 {
				return
			}
			f(v)
			b = b[l:]
			continue
		}
		if l = protowire.ConsumeFieldValue(n, t, b); l < 0 {
			return
		}
		b = b[l:]
	}
}

func text(b []byte, number protowire.Number) (s string) {
	each(b, number, func(v []byte) { s = string(v) })
	return s
}

// usesEDS says whether the discovery type of a cluster (field 2) is EDS (3).
func usesEDS(cluster []byte) bool {
	for b := cluster; len(b) > 0; {
		n, t, l := protowire.ConsumeTag(b)
		if l < 0 {
			return false
		}
		b = b[l:]
		if n == 2 && t == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			return v == 3
		}
		if l = protowire.ConsumeFieldValue(n, t, b); l < 0 {
			return false
		}
		b = b[l:]
	}
	return false
}

// routeNames calls f with the route configurations a listener refers to:
// filter_chains=3 or default_filter_chain=25, filters=3, typed_config=4, value=2
// as HttpConnectionManager, rds=3, route_config_name=2.
func routeNames(listener []byte, f func(string)) {
	for _, chains := range []protowire.Number{3, 25} {
		each(listener, chains, func(chain []byte) {
			each(chain, 3, func(filter []byte) {
				each(filter, 4, func(typed []byte) {
					if text(typed, 1) != typePrefix+"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" {
						return
					}
					each(typed, 2, func(hcm []byte) {
						each(hcm, 3, func(rds []byte) { f(text(rds, 2)) })
					})
				})
			})
		})
	}
}

// hasVHDS says whether a route configuration gets its hosts as resources of
// their own (vhds=9).
func hasVHDS(route []byte) (yes bool) {
	each(route, 9, func([]byte) { yes = true })
	return yes
}
