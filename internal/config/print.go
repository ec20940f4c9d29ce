// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"sigs.k8s.io/yaml"
)

// Map returns the object as kubectl's output has it: apiVersion, kind,
// metadata and spec, made of maps, slices and scalars. Decode reads it back.
func (o *Object) Map() (map[string]any, error) {
	spec, err := o.specJSON()
	if err != nil {
		return nil, err
	}
	meta := map[string]any{"name": o.Name, "namespace": o.Namespace}
	if len(o.Labels) > 0 {
		meta["labels"] = o.Labels
	}
	if len(o.Annotations) > 0 {
		meta["annotations"] = o.Annotations
	}
	if !o.CreationTimestamp.IsZero() {
		meta["creationTimestamp"] = o.CreationTimestamp.UTC().Format(time.RFC3339)
	}
	if o.Generation != 0 {
		meta["generation"] = o.Generation
	}
	if o.ResourceVersion != "" {
		meta["resourceVersion"] = o.ResourceVersion
	}
	return map[string]any{"apiVersion": o.APIVersion, "kind": o.Kind.Name, "metadata": meta, "spec": spec}, nil
}

// specJSON returns the spec as decoded JSON, numbers kept as written.
func (o *Object) specJSON() (any, error) {
	var b []byte
	var err error
	if m, ok := o.Spec.(proto.Message); ok {
		b, err = protojson.Marshal(m)
	} else {
		b, err = json.Marshal(o.Spec)
	}
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", o.Key, err)
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("write %s: %w", o.Key, err)
	}
	if m, ok := o.Spec.(proto.Message); ok {
		wholeNumbers(m.ProtoReflect().Descriptor(), v)
	}
	return v, nil
}

// wholeNumbers writes integers of 64 bits as numbers. The JSON mapping of
// protocol buffers has them as strings, which the definitions of Istio's kinds
// do not accept.
func wholeNumbers(d protoreflect.MessageDescriptor, v any) {
	m, ok := v.(map[string]any)
	if !ok || strings.HasPrefix(string(d.FullName()), "google.protobuf.") {
		return
	}
	for name, field := range m {
		fd := d.Fields().ByJSONName(name)
		switch {
		case fd == nil:
		case fd.IsMap():
			if entries, ok := field.(map[string]any); ok && fd.MapValue().Message() != nil {
				for _, e := range entries {
					wholeNumbers(fd.MapValue().Message(), e)
				}
			}
		case fd.Message() != nil:
			items, isList := field.([]any)
			if !isList {
				items = []any{field}
			}
			for _, item := range items {
				wholeNumbers(fd.Message(), item)
			}
		case fd.Kind() == protoreflect.Int64Kind || fd.Kind() == protoreflect.Uint64Kind:
			if text, ok := field.(string); ok {
				m[name] = json.Number(text)
			}
		}
	}
}

// YAML writes the object as `kubectl get -o yaml` would.
func (o *Object) YAML() ([]byte, error) {
	m, err := o.Map()
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(m)
}

// JSON writes the object as `kubectl get -o json` would.
func (o *Object) JSON() ([]byte, error) {
	m, err := o.Map()
	if err != nil {
		return nil, err
	}
	return indented(m)
}

// List returns objects as one Kubernetes List, for printing several.
func List(objects []*Object) (map[string]any, error) {
	items := make([]any, 0, len(objects))
	for _, o := range objects {
		m, err := o.Map()
		if err != nil {
			return nil, err
		}
		items = append(items, m)
	}
	return map[string]any{"apiVersion": "v1", "kind": "List", "items": items}, nil
}

// ListYAML writes objects as one List in YAML.
func ListYAML(objects []*Object) ([]byte, error) {
	m, err := List(objects)
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(m)
}

// ListJSON writes objects as one List in JSON.
func ListJSON(objects []*Object) ([]byte, error) {
	m, err := List(objects)
	if err != nil {
		return nil, err
	}
	return indented(m)
}

func indented(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Hash returns a hash of what the user decides: API version, labels,
// annotations and spec. It is the same wherever and whenever it is computed,
// so it serves as resource version.
func (o *Object) Hash() (string, error) {
	spec, err := o.specJSON()
	if err != nil {
		return "", err
	}
	// Maps are written in the order of their keys; an empty map is no map.
	user := map[string]any{"apiVersion": o.APIVersion, "spec": spec}
	if len(o.Labels) > 0 {
		user["labels"] = o.Labels
	}
	if len(o.Annotations) > 0 {
		user["annotations"] = o.Annotations
	}
	b, err := json.Marshal(user)
	if err != nil {
		return "", fmt.Errorf("hash %s: %w", o.Key, err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}

// SameSpec reports whether two objects of one kind have equal specs.
func SameSpec(a, b *Object) bool {
	if a.Spec == b.Spec {
		return true
	}
	x, ok1 := a.Spec.(proto.Message)
	y, ok2 := b.Spec.(proto.Message)
	if ok1 && ok2 {
		return proto.Equal(x, y)
	}
	i, err1 := json.Marshal(a.Spec)
	j, err2 := json.Marshal(b.Spec)
	return err1 == nil && err2 == nil && bytes.Equal(i, j)
}
