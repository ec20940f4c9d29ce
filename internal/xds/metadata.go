// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func optional(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func u32(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

func optional32(n uint32) *wrapperspb.UInt32Value {
	if n == 0 {
		return nil
	}
	return wrapperspb.UInt32(n)
}

func text(s string) *structpb.Value { return structpb.NewStringValue(s) }

// originOf reads what provenance wrote.
func originOf(r *Resource) string {
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(r.Type)
	if err != nil {
		return ""
	}
	m, ok := mt.New().Interface().(interface {
		proto.Message
		GetMetadata() *corev3.Metadata
	})
	if !ok || proto.Unmarshal(r.Body, m) != nil {
		return ""
	}
	return m.GetMetadata().GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue()
}

// provenance is filter_metadata["istio"].config: the object a resource is from.
func provenance(o mesh.Origin) *corev3.Metadata {
	if o == "" {
		return nil
	}
	return istioMetadata(map[string]*structpb.Value{"config": text(string(o))})
}

func istioMetadata(fields map[string]*structpb.Value) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": {Fields: fields}}}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   duration(0), ResourceApiVersion: corev3.ApiVersion_V3,
	}
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}
