// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
)

// JSON is one compiled json_format: it writes one JSON object in a line. Keys
// are sorted. A string with exactly one operator keeps the value's type, and is
// null when the value is missing.
type JSON struct {
	root      node
	omitEmpty bool
}

// node is one value of the object.
type node struct {
	fields  []member
	items   []node
	literal []byte  // ready JSON
	format  *Format // a string with operators
	object  bool
	list    bool
}

type member struct {
	key   []byte // with quotes and colon
	value node
}

// maxDepth bounds the nesting of a json_format.
const maxDepth = 16

// CompileJSON builds a JSON format. With omitEmpty, members whose value is
// missing are left out.
func CompileJSON(s *structpb.Struct, omitEmpty bool) (*JSON, error) {
	n, err := compileNode(structpb.NewStructValue(s), omitEmpty, 0)
	if err != nil {
		return nil, fmt.Errorf("json_format: %w", err)
	}
	return &JSON{root: n, omitEmpty: omitEmpty}, nil
}

func compileNode(v *structpb.Value, omitEmpty bool, depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		f, err := Compile(k.StringValue, omitEmpty)
		if err != nil {
			return node{}, err
		}
		if lit, ok := f.Literal(); ok {
			return node{literal: appendString(nil, lit)}, nil
		}
		return node{format: f}, nil
	case *structpb.Value_StructValue:
		n := node{object: true}
		keys := make([]string, 0, len(k.StructValue.GetFields()))
		for name := range k.StructValue.GetFields() {
			keys = append(keys, name)
		}
		slices.Sort(keys)
		for _, name := range keys {
			c, err := compileNode(k.StructValue.GetFields()[name], omitEmpty, depth+1)
			if err != nil {
				return node{}, fmt.Errorf("%s: %w", name, err)
			}
			n.fields = append(n.fields, member{key: append(appendString(nil, name), ':'), value: c})
		}
		return n, nil
	case *structpb.Value_ListValue:
		n := node{list: true}
		for i, item := range k.ListValue.GetValues() {
			c, err := compileNode(item, omitEmpty, depth+1)
			if err != nil {
				return node{}, fmt.Errorf("[%d]: %w", i, err)
			}
			n.items = append(n.items, c)
		}
		return n, nil
	}
	b, err := json.Marshal(v.AsInterface())
	if err != nil {
		return node{}, err
	}
	return node{literal: b}, nil
}

// Append appends the object and a line break.
func (j *JSON) Append(dst []byte, e *Entry) []byte {
	return append(j.root.append(dst, e, j.omitEmpty), '\n')
}

func (n *node) append(dst []byte, e *Entry, omitEmpty bool) []byte {
	switch {
	case n.object:
		dst = append(dst, '{')
		first := true
		for i := range n.fields {
			start := len(dst)
			if !first {
				dst = append(dst, ',')
			}
			dst = append(dst, n.fields[i].key...)
			v := len(dst)
			dst = n.fields[i].value.append(dst, e, omitEmpty)
			if omitEmpty && string(dst[v:]) == "null" && n.fields[i].value.format != nil {
				dst = dst[:start]
				continue
			}
			first = false
		}
		return append(dst, '}')
	case n.list:
		dst = append(dst, '[')
		for i := range n.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = n.items[i].append(dst, e, omitEmpty)
		}
		return append(dst, ']')
	case n.format != nil:
		return n.format.appendJSON(dst, e)
	}
	return append(dst, n.literal...)
}

// appendJSON appends the format's value as JSON.
func (f *Format) appendJSON(dst []byte, e *Entry) []byte {
	n := len(dst)
	if len(f.ops) != 1 || f.ops[0].eval == nil {
		return quote(f.Append(append(dst, '"'), e), n)
	}
	o := &f.ops[0]
	if o.number {
		dst, ok := o.value(dst, e)
		if !ok {
			return append(dst, "null"...)
		}
		return dst
	}
	dst, ok := o.value(append(dst, '"'), e)
	if !ok {
		return append(dst[:n], "null"...)
	}
	return quote(dst, n)
}

// quote closes the string that begins with the quotation mark at n, escaping
// what needs it: mostly nothing does.
func quote(dst []byte, n int) []byte {
	body := dst[n+1:]
	for i := 0; i < len(body); i++ {
		if c := body[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			end := len(dst)
			// body aliases dst; appending never changes what is before end.
			dst = appendEscaped(dst, body)
			return append(append(dst[:n+1], dst[end:]...), '"')
		}
	}
	return append(dst, '"')
}

func appendString(dst []byte, s string) []byte {
	return append(appendEscaped(append(dst, '"'), []byte(s)), '"')
}

const hex = "0123456789abcdef"

func appendEscaped(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(s[i:])
			dst = utf8.AppendRune(dst, r) // RuneError prints as U+FFFD
			i += size
			continue
		default:
			dst = append(dst, c)
		}
		i++
	}
	return dst
}
