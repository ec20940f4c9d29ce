// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// clusterEvents decodes what a test says of a cluster: documents whose spec is
// that of package k8s, with its field names in any case. Creation times follow
// the order in the text, after those of config.yaml.
func clusterEvents(t testing.TB, text string) []config.Event {
	t.Helper()
	specs := map[*config.Kind]func() any{
		config.Service: func() any { return &k8s.Service{} }, config.EndpointSlice: func() any { return &k8s.EndpointSlice{} },
		config.Pod: func() any { return &k8s.Pod{} }, config.Node: func() any { return &k8s.Node{} },
		config.Namespace: func() any { return &k8s.Namespace{} }, config.Secret: func() any { return &k8s.Secret{} },
	}
	var out []config.Event
	for i, doc := range strings.Split(text, "\n---\n") {
		var head struct {
			Kind, Namespace, Name string
			Labels, Annotations   map[string]string
			Spec                  any
		}
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("cluster object %d: %v", i, err)
		}
		for kind, spec := range specs {
			if kind.Name != head.Kind {
				continue
			}
			o := &config.Object{
				Key: config.Key{Kind: kind, Namespace: head.Namespace, Name: head.Name}, Labels: head.Labels, Annotations: head.Annotations,
				CreationTimestamp: time.Unix(int64(1000+i), 0).UTC(), Spec: spec(),
			}
			raw, err := yaml.Marshal(head.Spec)
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.UnmarshalStrict(raw, o.Spec); err != nil {
				t.Fatalf("%s: %v", o.Key, err)
			}
			out = append(out, config.Event{Key: o.Key, Object: o})
			head.Kind = ""
		}
		if head.Kind != "" {
			t.Fatalf("cluster object %d: kind %q is not a cluster's", i, head.Kind)
		}
	}
	return out
}
