// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// goValue fills a spec that is a Go type, by its JSON tags: the same strictness
// as for messages. target is a non-nil pointer to a struct of strings,
// booleans, integers, structs, pointers, slices and maps with string keys.
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
	byName := map[string]int{}
	var names []string
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			byName[name] = i
			names = append(names, name)
		}
	}
	for _, f := range n.fields {
		p := join(path, f.key)
		i, ok := byName[f.key]
		if !ok {
			s.fail(&node{line: f.line}, clip(p), "unknown field", didYouMean(f.key, names))
			continue
		}
		if f.value.kind != nullNode {
			s.goReflect(f.value, v.Field(i), p)
		}
		s.lines[p] = f.line
	}
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
	default:
		s.wrongType(n, path, "a value of type "+v.Type().String())
	}
}
