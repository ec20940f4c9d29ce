// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networkingv1beta1 "istio.io/api/networking/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
)

func meshOf(t *testing.T, r config.Result) *meshv1alpha1.MeshConfig {
	t.Helper()
	if len(r.Objects) != 1 {
		t.Fatalf("%d mesh configurations", len(r.Objects))
	}
	return r.Objects[0].Spec.(*meshv1alpha1.MeshConfig)
}

// proxyConfigs reads objects of kind ProxyConfig, each younger than the one before.
func proxyConfigs(t *testing.T, text string) []*config.Object {
	t.Helper()
	var out []*config.Object
	for n, doc := range splitDocuments([]byte(text)) {
		var m struct {
			Metadata struct{ Name, Namespace string }
			Spec     map[string]any
		}
		if err := yaml.Unmarshal(doc, &m); err != nil {
			t.Fatal(err)
		}
		if m.Metadata.Name == "" {
			continue
		}
		spec := &networkingv1beta1.ProxyConfig{}
		if err := protojson.Unmarshal([]byte(mustJSON(m.Spec)), spec); err != nil {
			t.Fatal(err)
		}
		out = append(out, &config.Object{
			Key:               config.Key{Namespace: m.Metadata.Namespace, Name: m.Metadata.Name},
			CreationTimestamp: time.Unix(int64(n), 0), Spec: spec,
		})
	}
	return out
}
