// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// goValue fills a spec that is a Go type, by its JSON tags: the same strictness
// as for messages. target is a non-nil pointer to a struct of strings,
// booleans, numbers, structs, pointers, slices and maps with string keys, and
// of types that unmarshal their own JSON (Kubernetes' times, quantities,
// IntOrString). The fields of an embedded struct without a name of its own are
// fields of the outer one, as in encoding/json.
func (s *specDecoder) goValue(n *node, target any, path string) {
	s.goReflect(n, reflect.ValueOf(target).Elem(), path)
}

func (s *specDecoder) goReflect(n *node, v reflect.Value, path string) {
	s.lines[path] = n.line
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok && n.kind == stringNode {
		if err := u.UnmarshalText([]byte(n.text)); err != nil {
			s.fail(n, path, err.Error(), "")
		}
		return
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		text, err := json.Marshal(jsonOf(n))
		if err == nil {
			err = u.UnmarshalJSON(text)
		}
		if err != nil {
			s.fail(n, path, clip(string(text))+" does not fit: "+err.Error(), "")
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		s.goReflect(n, v.Elem(), path)
	case reflect.Struct:
		s.goStruct(n, v, path)
	case reflect.Slice:
		if n.kind != listNode {
			s.wrongType(n, path, "a list")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
		for i, item := range n.items {
			s.goReflect(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Map:
		if n.kind != mapNode {
			s.wrongType(n, path, "a map")
			return
		}
		v.Set(reflect.MakeMapWithSize(v.Type(), len(n.fields)))
		for _, f := range n.fields {
			e := reflect.New(v.Type().Elem()).Elem()
			s.goReflect(f.value, e, path+"["+clip(f.key)+"]")
			v.SetMapIndex(reflect.ValueOf(f.key).Convert(v.Type().Key()), e)
		}
	default:
		s.goScalar(n, v, path)
	}
}

func (s *specDecoder) goStruct(n *node, v reflect.Value, path string) {
	if n.kind != mapNode {
		s.wrongType(n, path, "a map")
		return
	}
	byName := map[string]reflect.Value{}
	goFields(v, byName)
	for _, f := range n.fields {
		p := join(path, f.key)
		target, ok := byName[f.key]
		if !ok {
			s.fail(&node{line: f.line}, clip(p), "unknown field", didYouMean(f.key, slices.Sorted(maps.Keys(byName))))
			continue
		}
		if f.value.kind != nullNode {
			s.goReflect(f.value, target, p)
		}
		s.lines[p] = f.line
	}
}

// goFields adds the fields of a struct by their JSON names.
func goFields(v reflect.Value, byName map[string]reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name != "":
			byName[name] = v.Field(i)
		case f.Anonymous && f.Type.Kind() == reflect.Struct:
			goFields(v.Field(i), byName)
		}
	}
}

// jsonOf returns a value of a document as encoding/json has it, numbers as written.
func jsonOf(n *node) any {
	switch n.kind {
	case stringNode:
		return n.text
	case boolNode:
		return n.truth
	case intNode:
		if i, err := strconv.ParseInt(n.text, 10, 64); err == nil {
			return i
		}
		return n.float
	case floatNode:
		return n.float
	case listNode:
		l := make([]any, len(n.items))
		for i, item := range n.items {
			l[i] = jsonOf(item)
		}
		return l
	case mapNode:
		m := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			m[f.key] = jsonOf(f.value)
		}
		return m
	}
	return nil
}

func (s *specDecoder) goScalar(n *node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.String:
		if n.kind != stringNode {
			s.wrongType(n, path, "a string")
			return
		}
		v.SetString(n.text)
	case reflect.Bool:
		if n.kind != boolNode {
			s.wrongType(n, path, "a boolean")
			return
		}
		v.SetBool(n.truth)
	case reflect.Int, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(n.text, 10, v.Type().Bits())
		if n.kind != intNode || err != nil {
			s.wrongType(n, path, "a whole number")
			return
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		u, err := strconv.ParseUint(n.text, 10, v.Type().Bits())
		if n.kind != intNode || err != nil {
			s.wrongType(n, path, "a whole number of 0 or more")
			return
		}
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		if n.kind != intNode && n.kind != floatNode {
			s.wrongType(n, path, "a number")
			return
		}
		v.SetFloat(n.float)
	default:
		s.wrongType(n, path, "a value of type "+v.Type().String())
	}
}
