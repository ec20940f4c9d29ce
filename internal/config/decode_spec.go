// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// specDecoder fills a spec from a document and says what does not fit. It
// follows the JSON mapping of protocol buffers
// (https://protobuf.dev/programming-guides/json), narrowed to what the CRDs
// accept: enums by name, no numbers for strings, durations as Go writes them.
type specDecoder struct {
	// protoNames accepts snake_case field names too, as Istio does for MeshConfig.
	protoNames bool
	problems   []*Problem
	lines      map[string]int // field path -> line
}

// lineOf returns the line of a field, or of its nearest ancestor in the document.
func (s *specDecoder) lineOf(path string, otherwise int) int {
	for path != "" {
		if l, ok := s.lines[path]; ok {
			return l
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			break
		}
		path = path[:i]
	}
	return otherwise
}

func (s *specDecoder) fail(n *node, path, message, fix string) {
	s.problems = append(s.problems, &Problem{Severity: SeverityError, Line: n.line, Field: path, Message: message, Fix: fix})
}

func (s *specDecoder) wrongType(n *node, path, want string) {
	fix := ""
	if want == "a string" {
		fix = quoteFix(n)
	}
	if n.kind == stringNode && !n.plain && !strings.HasPrefix(want, "a map") && !strings.HasPrefix(want, "a list") {
		fix = "remove the quotes"
	}
	msg := "is " + n.kind.String()
	if n.text != "" {
		msg = fmt.Sprintf("%s is %s", clip(n.text), n.kind)
	}
	s.fail(n, path, msg+", want "+want, fix)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (s *specDecoder) message(n *node, m protoreflect.Message, path string) {
	s.lines[path] = n.line
	if s.wellKnown(n, m, path) {
		return
	}
	if n.kind != mapNode {
		s.wrongType(n, path, "a map")
		return
	}
	fields := m.Descriptor().Fields()
	oneofs := map[protoreflect.Name]string{}
	for _, f := range n.fields {
		p := join(path, f.key)
		fd := s.fieldNamed(fields, f.key)
		if fd == nil {
			s.unknown(&node{line: f.line}, m.Descriptor(), f.key, p)
			continue
		}
		s.lines[p] = f.line
		if f.value.kind == nullNode && !isValue(fd) {
			continue
		}
		if o := fd.ContainingOneof(); o != nil {
			if other, set := oneofs[o.Name()]; set {
				s.fail(&node{line: f.line}, p, "cannot be there together with "+other, "keep one of them")
				continue
			}
			oneofs[o.Name()] = f.key
		}
		s.field(f.value, m, fd, p)
	}
}

func isValue(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Value"
}

func (s *specDecoder) fieldNamed(fields protoreflect.FieldDescriptors, key string) protoreflect.FieldDescriptor {
	if fd := fields.ByJSONName(key); fd != nil {
		return fd
	}
	// The VirtualService CRD serves mirror_percent beside mirrorPercent.
	if s.protoNames || key == "mirror_percent" {
		return fields.ByName(protoreflect.Name(key))
	}
	return nil
}

func (s *specDecoder) unknown(n *node, d protoreflect.MessageDescriptor, key, path string) {
	for i := range d.ReservedNames().Len() {
		if name := string(d.ReservedNames().Get(i)); name == key || camel(name) == key {
			s.fail(n, path, "the field was removed from the API", "remove it")
			return
		}
	}
	names := make([]string, d.Fields().Len())
	for i := range names {
		names[i] = d.Fields().Get(i).JSONName()
	}
	s.fail(n, clip(path), "unknown field", didYouMean(key, names))
}

func camel(snake string) string {
	parts := strings.Split(snake, "_")
	for i := 1; i < len(parts); i++ {
		if parts[i] != "" {
			parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
		}
	}
	return strings.Join(parts, "")
}

func (s *specDecoder) field(n *node, m protoreflect.Message, fd protoreflect.FieldDescriptor, path string) {
	switch {
	case fd.IsMap():
		s.mapField(n, m, fd, path)
	case fd.IsList():
		if n.kind != listNode {
			s.wrongType(n, path, "a list")
			return
		}
		// What the user writes replaces a default, it does not add to it.
		m.Clear(fd)
		list := m.Mutable(fd).List()
		for i, item := range n.items {
			p := fmt.Sprintf("%s[%d]", path, i)
			s.lines[p] = item.line
			if item.kind == nullNode {
				s.fail(item, p, "is empty", "write a value or remove the item")
				continue
			}
			if fd.Message() != nil {
				s.message(item, list.AppendMutable().Message(), p)
			} else if v, ok := s.value(item, fd, p); ok {
				list.Append(v)
			}
		}
	case fd.Message() != nil:
		s.message(n, m.Mutable(fd).Message(), path)
	default:
		if v, ok := s.value(n, fd, path); ok {
			m.Set(fd, v)
		}
	}
}

func (s *specDecoder) mapField(n *node, m protoreflect.Message, fd protoreflect.FieldDescriptor, path string) {
	if n.kind != mapNode {
		s.wrongType(n, path, "a map")
		return
	}
	entries := m.Mutable(fd).Map()
	for _, f := range n.fields {
		p := path + "[" + clip(f.key) + "]"
		s.lines[p] = f.line
		key := &node{kind: stringNode, line: f.line, text: f.key}
		if fd.MapKey().Kind() != protoreflect.StringKind {
			key.kind = intNode
		}
		k, ok := s.value(key, fd.MapKey(), p)
		if !ok {
			continue
		}
		if f.value.kind == nullNode {
			s.fail(key, p, "is empty", "write a value or remove the key")
			continue
		}
		if fd.MapValue().Message() != nil {
			v := entries.NewValue()
			s.message(f.value, v.Message(), p)
			entries.Set(k.MapKey(), v)
		} else if v, ok := s.value(f.value, fd.MapValue(), p); ok {
			entries.Set(k.MapKey(), v)
		}
	}
}

// value decodes one scalar.
func (s *specDecoder) value(n *node, fd protoreflect.FieldDescriptor, path string) (protoreflect.Value, bool) {
	none := protoreflect.Value{}
	switch kind := fd.Kind(); kind {
	case protoreflect.BoolKind:
		if n.kind != boolNode {
			s.wrongType(n, path, "a boolean")
			return none, false
		}
		return protoreflect.ValueOfBool(n.truth), true
	case protoreflect.StringKind:
		if n.kind != stringNode {
			s.wrongType(n, path, "a string")
			return none, false
		}
		return protoreflect.ValueOfString(n.text), true
	case protoreflect.BytesKind:
		if n.kind != stringNode {
			s.wrongType(n, path, "a string")
			return none, false
		}
		b, err := base64.StdEncoding.DecodeString(n.text)
		if err != nil {
			s.fail(n, path, "is not base64: "+err.Error(), "")
			return none, false
		}
		return protoreflect.ValueOfBytes(b), true
	case protoreflect.EnumKind:
		return s.enum(n, fd.Enum(), path)
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if n.kind != intNode && n.kind != floatNode {
			s.wrongType(n, path, "a number")
			return none, false
		}
		if kind == protoreflect.FloatKind {
			return protoreflect.ValueOfFloat32(float32(n.float)), true
		}
		return protoreflect.ValueOfFloat64(n.float), true
	default:
		return s.integer(n, kind, path)
	}
}

func (s *specDecoder) integer(n *node, kind protoreflect.Kind, path string) (protoreflect.Value, bool) {
	bits, signed := 32, true
	switch kind {
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		signed = false
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		bits = 64
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		bits, signed = 64, false
	}
	text := n.text
	switch {
	case n.kind == floatNode && n.float == math.Trunc(n.float) && math.Abs(n.float) < 1<<53:
		text = strconv.FormatInt(int64(n.float), 10)
	case n.kind == stringNode && bits == 64: // the JSON mapping writes them so
	case n.kind != intNode:
		s.wrongType(n, path, "a whole number")
		return protoreflect.Value{}, false
	}
	var err error
	var i int64
	var u uint64
	if signed {
		i, err = strconv.ParseInt(text, 10, bits)
	} else {
		u, err = strconv.ParseUint(text, 10, bits)
	}
	if err != nil {
		want := map[bool]string{true: "a whole number", false: "a whole number of 0 or more"}[signed]
		s.fail(n, path, fmt.Sprintf("%s is not %s of %d bits", clip(n.text), want, bits), "")
		return protoreflect.Value{}, false
	}
	switch {
	case signed && bits == 32:
		return protoreflect.ValueOfInt32(int32(i)), true
	case signed:
		return protoreflect.ValueOfInt64(i), true
	case bits == 32:
		return protoreflect.ValueOfUint32(uint32(u)), true
	}
	return protoreflect.ValueOfUint64(u), true
}

func (s *specDecoder) enum(n *node, d protoreflect.EnumDescriptor, path string) (protoreflect.Value, bool) {
	// The text is taken as written, so that OFF needs no quotes.
	if n.kind == stringNode || n.kind == boolNode && n.plain {
		if v := d.Values().ByName(protoreflect.Name(n.text)); v != nil {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
	} else {
		s.wrongType(n, path, "a string")
		return protoreflect.Value{}, false
	}
	names := make([]string, d.Values().Len())
	for i := range names {
		names[i] = string(d.Values().Get(i).Name())
	}
	s.fail(n, path, fmt.Sprintf("%q is not a value of the field", clip(n.text)), didYouMean(n.text, names))
	return protoreflect.Value{}, false
}

// wellKnown decodes the messages that JSON writes in a form of their own.
func (s *specDecoder) wellKnown(n *node, m protoreflect.Message, path string) bool {
	switch name := m.Descriptor().FullName(); name {
	case "google.protobuf.Duration":
		if n.kind != stringNode {
			s.wrongType(n, path, `a duration such as "5s"`)
			return true
		}
		d, err := time.ParseDuration(n.text)
		if err != nil {
			s.fail(n, path, fmt.Sprintf("%q is not a duration", clip(n.text)), `write a number and a unit (h, m, s, ms), such as "1.5s"`)
			return true
		}
		proto.Merge(reset(m), durationpb.New(d))
	case "google.protobuf.BoolValue", "google.protobuf.StringValue", "google.protobuf.BytesValue",
		"google.protobuf.Int32Value", "google.protobuf.Int64Value", "google.protobuf.UInt32Value", "google.protobuf.UInt64Value",
		"google.protobuf.FloatValue", "google.protobuf.DoubleValue":
		fd := m.Descriptor().Fields().ByName("value")
		if v, ok := s.value(n, fd, path); ok {
			m.Set(fd, v)
		}
	case "google.protobuf.Struct", "google.protobuf.ListValue", "google.protobuf.Value":
		want := map[protoreflect.FullName]nodeKind{"google.protobuf.Struct": mapNode, "google.protobuf.ListValue": listNode}[name]
		if name != "google.protobuf.Value" && n.kind != want {
			s.wrongType(n, path, want.String())
			return true
		}
		v := jsonValue(n)
		switch name {
		case "google.protobuf.Struct":
			proto.Merge(reset(m), v.GetStructValue())
		case "google.protobuf.ListValue":
			proto.Merge(reset(m), v.GetListValue())
		default:
			proto.Merge(reset(m), v)
		}
	default:
		return false
	}
	return true
}

func reset(m protoreflect.Message) proto.Message {
	proto.Reset(m.Interface())
	return m.Interface()
}

func jsonValue(n *node) *structpb.Value {
	switch n.kind {
	case boolNode:
		return structpb.NewBoolValue(n.truth)
	case intNode, floatNode:
		return structpb.NewNumberValue(n.float)
	case stringNode:
		return structpb.NewStringValue(n.text)
	case listNode:
		l := &structpb.ListValue{}
		for _, i := range n.items {
			l.Values = append(l.Values, jsonValue(i))
		}
		return structpb.NewListValue(l)
	case mapNode:
		m := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for _, f := range n.fields {
			m.Fields[f.key] = jsonValue(f.value)
		}
		return structpb.NewStructValue(m)
	}
	return structpb.NewNullValue()
}

// isDeprecated reports the API's own mark.
func isDeprecated(d protoreflect.Descriptor) bool {
	switch o := d.Options().(type) {
	case *descriptorpb.FieldOptions:
		return o.GetDeprecated()
	case *descriptorpb.EnumValueOptions:
		return o.GetDeprecated()
	}
	return false
}
