// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lateen-mesh/lateen/internal/compile"
)

func nodeOf(id, namespace, mode, generator, vhds, key, value string) *corev3.Node {
	return &corev3.Node{Id: id, Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
		"NAMESPACE": structpb.NewStringValue(namespace), "INTERCEPTION_MODE": structpb.NewStringValue(mode),
		"GENERATOR": structpb.NewStringValue(generator), "LATEEN_VHDS": structpb.NewStringValue(vhds),
		"LABELS": structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}}),
	}}}
}

func TestClassOf(t *testing.T) {
	const id = "sidecar~127.0.1.2~web.shop~shop.svc.cluster.local"
	for _, c := range []struct {
		what  string
		node  *corev3.Node
		delta bool
		want  Class
	}{
		{"a sidecar of the local mesh", nodeOf(id, "shop", "NONE", "", "true", "app", "web"), true,
			Class{Mode: compile.ModeNone, Namespace: "shop", Address: "127.0.1.2", Pod: "web", Labels: "app=web", OnDemand: true}},
		{"virtual hosts are inline in state-of-the-world", nodeOf(id, "shop", "NONE", "", "true", "app", "web"), false,
			Class{Mode: compile.ModeNone, Namespace: "shop", Address: "127.0.1.2", Pod: "web", Labels: "app=web"}},
		{"the namespace from the id", nodeOf(id, "", "", "", "", "app", "web"), true,
			Class{Mode: compile.ModeRedirect, Namespace: "shop", Address: "127.0.1.2", Pod: "web", Labels: "app=web"}},
		{"grpc has no address", nodeOf(id, "shop", "", "grpc", "", "app", "web"), false,
			Class{Mode: compile.ModeProxyless, Namespace: "shop", Labels: "app=web"}},
		{"a gateway", nodeOf("router~10.0.0.1~gw.infra~x", "infra", "", "", "", "istio", "gw"), true,
			Class{Mode: compile.ModeGateway, Namespace: "infra", Address: "10.0.0.1", Pod: "gw", Labels: "istio=gw"}},
		{"a label that could pass for two is left out", nodeOf(id, "shop", "NONE", "", "", "a", "b,c=d"), true,
			Class{Mode: compile.ModeNone, Namespace: "shop", Address: "127.0.1.2", Pod: "web"}},
	} {
		if got, err := ClassOf(c.node, c.delta); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.what, got, err, c.want)
		}
	}
	many := nodeOf(id, "shop", "", "", "", "app", "web")
	many.Metadata.Fields["INSTANCE_IPS"] = structpb.NewStringValue("127.0.1.2, fd00::2,fe80::1,nonsense,10.0.0.3")
	if c, err := ClassOf(many, false); err != nil || c.Addresses != "fd00::2,10.0.0.3" {
		t.Errorf("the other addresses of a dual-stack proxy are %q, %v", c.Addresses, err)
	}
	for _, bad := range []string{"", "sidecar", "sidecar~x~y.z~d", "ztunnel~10.0.0.1~a.b~c", "sidecar~10.0.0.1~a.b~c~d"} {
		if c, err := ClassOf(&corev3.Node{Id: bad}, true); err == nil {
			t.Errorf("%q is taken as %v", bad, c)
		}
	}
}

// FuzzClassOf holds that whatever a proxy says of itself is refused or gives a
// class whose view can be built.
func FuzzClassOf(f *testing.F) {
	f.Add("sidecar~127.0.1.2~web.shop~shop.svc.cluster.local", "shop", "NONE", "", "true", "app", "web")
	f.Add("router~::1~gw~x", "", "", "", "", "", "")
	f.Add("sidecar~10.0.0.1~a~b", "", "", "grpc", "true", "a=b", ",")
	f.Fuzz(func(t *testing.T, id, namespace, mode, generator, vhds, key, value string) {
		c, err := ClassOf(nodeOf(id, namespace, mode, generator, vhds, key, value), true)
		if err != nil {
			return
		}
		p := NewPipeline(nil)
		p.Hold(c, func(v *View) {
			for typ, set := range v.Sets {
				for i := 1; i < len(set); i++ {
					if set[i-1].Name >= set[i].Name {
						t.Errorf("%s: %q does not sort before %q", typ, set[i-1].Name, set[i].Name)
					}
				}
			}
		})
		if got := compile.EncodeLabels(compile.DecodeLabels(c.Labels), nil); got != c.Labels {
			t.Errorf("labels %q read back as %q", c.Labels, got)
		}
	})
}
