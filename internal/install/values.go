// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
)

// apply puts a setting into the values, which hold the chart's defaults. What
// the chart has no value for is an error that names the nearest.
func applySetting(values map[string]any, s setting, to path) error {
	if to[0].key == "meshConfig" {
		return applyMeshConfig(values, s, to)
	}
	if err := known(values, s, to); err != nil {
		return err
	}
	v := s.value
	if text, ok := v.(string); ok && !s.typed {
		old, there := get(values, to)
		typed, err := typeAs(text, old, there)
		if err != nil {
			return fmt.Errorf("%s: %w", s.from, err)
		}
		v = typed
	}
	if err := sameShape(values, to, v); err != nil {
		return fmt.Errorf("%s: %w", s.from, err)
	}
	if _, err := put(values, to, v); err != nil {
		return fmt.Errorf("%s: %w", s.from, err)
	}
	return nil
}

// free are the values whose fields are the user's or Kubernetes': their
// defaults are empty, or these.
var free = []string{"resources", "labels", "ports", "meshNetworks"}

// known reports a path that the chart does not have.
func known(values map[string]any, s setting, to path) error {
	var at any = values
	for i, step := range to {
		m, ok := at.(map[string]any)
		if !ok || i > 0 && (len(m) == 0 || slices.Contains(free, to[i-1].key)) {
			return nil // a list, or a map without fields of its own; put checks the rest
		}
		if step.isIndex() || step.isMatch {
			return fmt.Errorf("%s: %s is no list", s.from, to[:i])
		}
		next, ok := m[step.key]
		if !ok {
			return fmt.Errorf("%s: there is no value %q; %s", s.from, to[:i+1], hint(step.key, slices.Collect(maps.Keys(m))))
		}
		at = next
	}
	return nil
}

// sameShape keeps a scalar from replacing a map and the other way round.
func sameShape(values map[string]any, to path, v any) error {
	old, there := get(values, to)
	if !there || old == nil || v == nil {
		return nil
	}
	shape := func(v any) string {
		switch v.(type) {
		case map[string]any:
			return "a map"
		case []any:
			return "a list"
		}
		return "a single value"
	}
	if a, b := shape(old), shape(v); a != b {
		return fmt.Errorf("want %s, not %s", a, b)
	}
	return nil
}

// typeAs reads text as a value like old; without one its looks decide.
func typeAs(text string, old any, there bool) (any, error) {
	if !there || old == nil {
		return guess(text), nil
	}
	switch old.(type) {
	case string:
		return text, nil
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%q: want true or false", text)
		}
		return b, nil
	case float64, int64, int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q: want a number", text)
		}
		return n, nil
	case []any:
		if l, ok := braces(text); ok {
			return l, nil
		}
		return nil, fmt.Errorf("%q: want a list, such as {a,b}", text)
	}
	return nil, fmt.Errorf("%q: want one of its fields", text)
}

// guess types a value by its looks, as helm's --set does.
func guess(text string) any {
	switch text {
	case "true":
		return true
	case "false":
		return false
	case "null":
		return nil
	}
	if l, ok := braces(text); ok {
		return l
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && !(len(text) > 1 && text[0] == '0') {
		return n
	}
	return text
}

// braces reads {a,b}, a list as helm writes it.
func braces(text string) ([]any, bool) {
	inner, ok := strings.CutPrefix(text, "{")
	if !ok || !strings.HasSuffix(inner, "}") {
		return nil, false
	}
	inner = strings.TrimSuffix(inner, "}")
	out := []any{}
	if inner == "" {
		return out, true
	}
	for e := range strings.SplitSeq(inner, ",") {
		out = append(out, guess(strings.TrimSpace(e)))
	}
	return out, true
}

// applyMeshConfig puts a field of MeshConfig; checkMeshConfig judges the whole.
func applyMeshConfig(values map[string]any, s setting, to path) error {
	v := s.value
	if text, ok := v.(string); ok && !s.typed {
		var err error
		if v, err = typeByField(text, to[1:]); err != nil {
			return fmt.Errorf("%s: %w", s.from, err)
		}
	}
	if _, err := put(values, to, v); err != nil {
		return fmt.Errorf("%s: %w", s.from, err)
	}
	return nil
}

// typeByField types text as the field of MeshConfig that p leads to. An
// unknown field is left to the check of the whole, which names the nearest.
func typeByField(text string, p path) (any, error) {
	md := (&meshv1alpha1.MeshConfig{}).ProtoReflect().Descriptor()
	var fd protoreflect.FieldDescriptor
	for i, s := range p {
		if s.isIndex() {
			continue
		}
		if fd != nil && fd.IsMap() {
			fd = fd.MapValue() // s is a key of the map
		} else {
			if md == nil {
				return guess(text), nil
			}
			name := s.key
			if fd = md.Fields().ByJSONName(name); fd == nil {
				fd = md.Fields().ByName(protoreflect.Name(name))
			}
			if fd == nil {
				return guess(text), nil
			}
		}
		md = nil
		if fd.Kind() == protoreflect.MessageKind && !fd.IsMap() {
			md = fd.Message()
		}
		if fd.IsList() && i == len(p)-1 {
			if l, ok := braces(text); ok {
				return l, nil
			}
			return nil, fmt.Errorf("%q: want a list, such as {a,b}", text)
		}
	}
	if fd == nil {
		return nil, fmt.Errorf("%q: want one of its fields", text)
	}
	switch {
	case fd.Kind() == protoreflect.StringKind, fd.Kind() == protoreflect.EnumKind, fd.Kind() == protoreflect.BytesKind:
		return text, nil
	case md != nil && (md.FullName() == "google.protobuf.StringValue" || md.FullName() == "google.protobuf.Duration"):
		return text, nil
	}
	return guess(text), nil
}

// checkMeshConfig decodes the mesh's configuration as the control plane will.
// It returns the warnings.
func checkMeshConfig(values map[string]any) ([]string, error) {
	b, err := yaml.Marshal(values["meshConfig"])
	if err != nil {
		return nil, err
	}
	var warnings []string
	res := config.Decode(b, config.MeshConfigFile, "")
	for _, p := range res.Problems {
		q := *p
		q.File, q.Line, q.Object = "", 0, ""
		if q.Field != "" {
			q.Field = "meshConfig." + strings.TrimPrefix(q.Field, "spec.")
		} else {
			q.Message = "meshConfig: " + q.Message
		}
		if p.Severity == config.SeverityError {
			return nil, &q
		}
		warnings = append(warnings, q.Error())
	}
	return warnings, nil
}
