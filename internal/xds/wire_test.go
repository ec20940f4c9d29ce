// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"bytes"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestNewResourceWire(t *testing.T) {
	for _, body := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("abc"), 1000)} {
		r := NewResource(ClusterType, "outbound|80||a", body)
		var d discovery.DeltaDiscoveryResponse
		if err := proto.Unmarshal(r.DeltaEntry().ReadOnlyData(), &d); err != nil {
			t.Fatal(err)
		}
		var a anypb.Any
		if err := proto.Unmarshal(r.AnyBytes().ReadOnlyData(), &a); err != nil {
			t.Fatal(err)
		}
		want := &discovery.Resource{Name: r.Name, Version: r.Version, Resource: &anypb.Any{TypeUrl: ClusterType, Value: body}}
		if len(d.Resources) != 1 || !proto.Equal(d.Resources[0], want) || !proto.Equal(&a, want.Resource) {
			t.Errorf("got %v and %v, want %v", &d, &a, want)
		}
		if !bytes.Equal(r.Body, body) || len(r.Version) != 16 {
			t.Errorf("body of %d bytes, version %q", len(r.Body), r.Version)
		}
	}
}
