// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networkingv1beta1 "istio.io/api/networking/v1beta1"

	"github.com/lateen-mesh/lateen/internal/config"
)

// effectiveProxyConfig is the ProxyConfig of one pod. What is more particular
// wins: ProxyConfig objects of the workload, the namespace and the root namespace,
// the pod's annotation, the mesh's defaultConfig (Istio's ProxyConfig reference).
func (i *injection) effectiveProxyConfig() (*meshv1alpha1.ProxyConfig, error) {
	out := config.DefaultMeshConfig().DefaultConfig
	if d := i.mesh.DefaultConfig; d != nil {
		out = proto.Clone(d).(*meshv1alpha1.ProxyConfig)
	}
	if text, ok := i.original.Annotations[ProxyConfigName]; ok {
		over, err := parseProxyConfig(text)
		if err != nil {
			return nil, i.annotationError(ProxyConfigName, "%v", err)
		}
		overlay(out, over)
	}
	i.applyProxyConfigs(out)
	if v := i.annotation(annDiscoveryAddress, ""); v != "" {
		out.DiscoveryAddress = v
	}
	if v := i.annotation(annInterception, ""); v != "" {
		out.InterceptionMode = meshv1alpha1.ProxyConfig_InboundInterceptionMode(meshv1alpha1.ProxyConfig_InboundInterceptionMode_value[v])
	}
	out.StatusPort = i.numberAnnotation(annStatusPort, out.StatusPort)
	return out, nil
}

func parseProxyConfig(text string) (*meshv1alpha1.ProxyConfig, error) {
	b, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("is not YAML: %w", err)
	}
	out := &meshv1alpha1.ProxyConfig{}
	if bytes.Equal(b, []byte("null")) {
		return out, nil
	}
	if err := protojson.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("is not a ProxyConfig: %s", protoReason(err, b))
	}
	return out, nil
}

// protoReason takes the package's own prefix and its unstable blanks off a
// message, and names the field that comes near an unknown one.
func protoReason(err error, text []byte) string {
	s := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	s = strings.TrimPrefix(s, "proto: ")
	var m map[string]json.RawMessage
	if !strings.Contains(s, "unknown field") || json.Unmarshal(text, &m) != nil {
		return s
	}
	fields := (&meshv1alpha1.ProxyConfig{}).ProtoReflect().Descriptor().Fields()
	var names []string
	for k := range fields.Len() {
		names = append(names, fields.Get(k).JSONName())
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if fields.ByJSONName(name) != nil || fields.ByTextName(name) != nil {
			continue
		}
		s = fmt.Sprintf("unknown field %q", name)
		if near := config.DidYouMean(name, names); near != "" {
			s += ": " + near
		}
		return s
	}
	return s
}

// overlay sets the fields of over in base. Maps are merged by key, lists and
// wrapped values replaced, other messages merged.
func overlay(base, over *meshv1alpha1.ProxyConfig) {
	b := base.ProtoReflect()
	over.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		wrapped := f.Message() != nil && strings.HasPrefix(string(f.Message().FullName()), "google.protobuf.")
		if f.IsList() || wrapped && !f.IsMap() {
			b.Clear(f)
		}
		return true
	})
	proto.Merge(base, over)
}

// applyProxyConfigs lays the objects of kind ProxyConfig over out, the most
// particular one last.
func (i *injection) applyProxyConfigs(out *meshv1alpha1.ProxyConfig) {
	root := i.mesh.GetRootNamespace()
	levels := make([]*networkingv1beta1.ProxyConfig, 3) // root namespace, namespace, workload
	for _, o := range i.sortedProxyConfigs() {
		spec, ok := o.Spec.(*networkingv1beta1.ProxyConfig)
		if !ok {
			continue
		}
		selector := spec.GetSelector().GetMatchLabels()
		level := -1
		switch {
		case o.Namespace == i.namespace() && len(selector) > 0:
			if labels.SelectorFromSet(selector).Matches(labels.Set(i.original.Labels)) {
				level = 2
			}
		case len(selector) > 0: // a selector chooses within its own namespace
		case o.Namespace == root:
			level = 0
		case o.Namespace == i.namespace():
			level = 1
		}
		if level >= 0 && levels[level] == nil {
			levels[level] = spec // the oldest wins, as everywhere in Istio
		}
	}
	for _, spec := range levels {
		if spec == nil {
			continue
		}
		if spec.Concurrency != nil {
			out.Concurrency = wrapperspb.Int32(spec.Concurrency.Value)
		}
		if len(spec.EnvironmentVariables) > 0 && out.ProxyMetadata == nil {
			out.ProxyMetadata = map[string]string{}
		}
		maps.Copy(out.ProxyMetadata, spec.EnvironmentVariables)
		if spec.Image != nil {
			out.Image = proto.Clone(spec.Image).(*networkingv1beta1.ProxyImage)
		}
	}
}

func (i *injection) sortedProxyConfigs() []*config.Object {
	all := slices.Clone(i.in.ProxyConfigs)
	config.SortByAge(all)
	return all
}

// proxyConfigJSON is PROXY_CONFIG: the fields that differ from Istio's defaults.
func (i *injection) proxyConfigJSON() (string, error) {
	c := proto.Clone(i.proxy).(*meshv1alpha1.ProxyConfig)
	defaults := config.DefaultMeshConfig().DefaultConfig.ProtoReflect()
	m := c.ProtoReflect()
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if defaults.Has(f) && defaults.Get(f).Equal(v) {
			m.Clear(f)
		}
		return true
	})
	b, err := protojson.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("PROXY_CONFIG: %w", err)
	}
	var compact bytes.Buffer // protojson's blanks are random
	if err := json.Compact(&compact, b); err != nil {
		return "", err
	}
	return compact.String(), nil
}
