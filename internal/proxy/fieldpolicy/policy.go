// SPDX-License-Identifier: Apache-2.0

// Package fieldpolicy decides, field by field, what lateen-proxy makes of an
// xDS message: a field is honoured, or on the one documented list of fields
// accepted without effect, or the message is refused and the field is named.
// Nothing that a control plane sends is dropped silently.
package fieldpolicy

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

//go:embed fields.txt
var fieldsText string

// class is what the policy makes of one field. The zero value refuses, so that
// a field nobody thought of is never ignored.
type class uint8

const (
	refused class = iota
	honoured
	accepted
)

// table is the parsed form of fields.txt: per message the class of each field
// by its index in the descriptor. Rows are made on first use, so that a sidecar
// pays for the messages it meets.
type table struct {
	mu   sync.RWMutex
	text map[protoreflect.FullName]string
	rows map[protoreflect.FullName][]class
}

var policies = sync.OnceValue(func() *table {
	t := &table{text: map[protoreflect.FullName]string{}, rows: map[protoreflect.FullName][]class{}}
	rest := fieldsText
	for {
		_, after, ok := strings.Cut(rest, "\nmessage ")
		if !ok {
			return t
		}
		name, body, _ := strings.Cut(after, "\n")
		end := strings.Index(body, "\nmessage ")
		if end < 0 {
			end = len(body)
		}
		t.text[protoreflect.FullName(name)] = body[:end]
		if strings.HasPrefix(body, "message ") { // an entry without fields
			t.text[protoreflect.FullName(name)] = ""
			rest = "\n" + body
			continue
		}
		rest = body[end:]
	}
})

// row returns the classes of d's fields, nil when the table does not know d.
func (t *table) row(d protoreflect.MessageDescriptor) []class {
	t.mu.RLock()
	r, ok := t.rows[d.FullName()]
	t.mu.RUnlock()
	if ok {
		return r
	}
	text, known := t.text[d.FullName()]
	if known {
		r = make([]class, d.Fields().Len())
		for _, e := range parseEntry(text) {
			if f := d.Fields().ByName(protoreflect.Name(e.field)); f != nil {
				r[f.Index()] = e.class
			}
		}
	}
	t.mu.Lock()
	t.rows[d.FullName()] = r
	t.mu.Unlock()
	return r
}

type entry struct {
	field string
	class class
	// reason is why an accepted field has no effect, or where an honoured one
	// has none.
	reason string
}

// parseEntry reads the lines of one message.
func parseEntry(text string) []entry {
	var out []entry
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if len(line) < 2 {
			continue
		}
		c := refused
		fields, reason, _ := strings.Cut(line[2:], " : ")
		switch line[0] {
		case '+':
			c = honoured
		case '~':
			c = accepted
		case '-':
		default:
			continue
		}
		for f := range strings.FieldsSeq(fields) {
			out = append(out, entry{f, c, reason})
		}
	}
	return out
}

// Check walks m, and the messages inside its Any fields, and returns an error
// that names every refused field by its path, nil when there is none.
func Check(m proto.Message) error {
	w := walker{t: policies()}
	w.message(m.ProtoReflect())
	return errors.Join(w.errs...)
}

// maxErrors bounds what one resource may add to a NACK.
const maxErrors = 8

type walker struct {
	t    *table
	path []segment
	errs []error
}

// segment is one step of the path to a field; building the text waits until it
// is needed.
type segment struct {
	field protoreflect.FieldDescriptor
	index int // list index, -1 when the field is no list
	key   string
}

func (w *walker) refuse(format string, args ...any) {
	if len(w.errs) < maxErrors {
		w.errs = append(w.errs, fmt.Errorf("%s: %w", w.pathString(), fmt.Errorf(format, args...)))
	}
}

func (w *walker) pathString() string {
	var b strings.Builder
	for _, s := range w.path {
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(string(s.field.Name()))
		if s.index >= 0 {
			fmt.Fprintf(&b, "[%d]", s.index)
		} else if s.key != "" {
			fmt.Fprintf(&b, "[%q]", s.key)
		}
	}
	return b.String()
}

func (w *walker) message(m protoreflect.Message) {
	d := m.Descriptor()
	if strings.HasPrefix(string(d.FullName()), "google.protobuf.") {
		if a, ok := m.Interface().(*anypb.Any); ok {
			w.any(a)
		}
		return
	}
	row := w.t.row(d)
	if row == nil {
		w.refuse("message %s is not supported", d.FullName())
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch row[f.Index()] {
		case accepted:
			return true
		case refused:
			w.path = append(w.path, segment{field: f, index: -1})
			w.refuse("field is not supported")
			w.path = w.path[:len(w.path)-1]
			return true
		}
		w.field(m, f, v)
		return true
	})
	if u := m.GetUnknown(); len(u) > 0 {
		num, _, _ := protowire.ConsumeTag(u)
		w.refuse("%s has an unknown field with number %d", d.FullName(), num)
	}
}

// field walks the messages that an honoured field holds.
func (w *walker) field(parent protoreflect.Message, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	step := func(s segment, m protoreflect.Message) {
		w.path = append(w.path, s)
		w.message(m)
		w.path = w.path[:len(w.path)-1]
	}
	switch {
	case f.IsMap():
		if f.MapValue().Message() == nil {
			return
		}
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			step(segment{field: f, index: -1, key: k.String()}, v.Message())
			return true
		})
	case f.Message() == nil:
	case f.IsList():
		l := v.List()
		for i := range l.Len() {
			step(segment{field: f, index: i}, l.Get(i).Message())
		}
	default:
		if optional(parent) {
			// An optional extension that is not known may be left out, one
			// that is known has to be right.
			if a, ok := v.Message().Interface().(*anypb.Any); ok && !known(a) {
				return
			}
		}
		step(segment{field: f, index: -1}, v.Message())
	}
}

// optional says whether m is an extension marked is_optional.
func optional(m protoreflect.Message) bool {
	f := m.Descriptor().Fields().ByName("is_optional")
	return f != nil && f.Kind() == protoreflect.BoolKind && m.Get(f).Bool()
}

var rootNames = sync.OnceValue(func() map[string]proto.Message {
	out := make(map[string]proto.Message, len(roots))
	for _, m := range roots {
		out[string(m.ProtoReflect().Descriptor().FullName())] = m
	}
	return out
})

func known(a *anypb.Any) bool {
	_, ok := rootNames()[strings.TrimPrefix(innerType(a), typePrefix)]
	return ok || Accepted(innerType(a))
}

func (w *walker) any(a *anypb.Any) {
	if Accepted(innerType(a)) {
		return
	}
	name := strings.TrimPrefix(a.GetTypeUrl(), typePrefix)
	root, ok := rootNames()[name]
	if !ok {
		w.refuse("extension type %q is not supported", innerType(a))
		return
	}
	m := root.ProtoReflect().New()
	if err := proto.Unmarshal(a.GetValue(), m.Interface()); err != nil {
		w.refuse("decode %s: %w", name, err)
		return
	}
	w.message(m)
}

// innerType is the type URL of what a holds, through one TypedStruct.
func innerType(a *anypb.Any) string {
	if !typedStructs[strings.TrimPrefix(a.GetTypeUrl(), typePrefix)] {
		return a.GetTypeUrl()
	}
	b := a.GetValue()
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			break
		}
		if num == 1 && typ == protowire.BytesType {
			if s, n := protowire.ConsumeString(b[n:]); n >= 0 {
				return s
			}
			break
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			break
		}
		b = b[n+m:]
	}
	return a.GetTypeUrl()
}

// entriesOf returns the lines of a message in the order they are written.
func entriesOf(name string) []entry { return parseEntry(policies().text[protoreflect.FullName(name)]) }
