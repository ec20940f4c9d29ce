// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 deprecated fields are honoured: control planes still send them

package route

import (
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/match"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// mutations are the header operations of one level: removals first, then
// additions in order (Envoy: HeaderParser::evaluateHeaders).
type mutations struct {
	remove []headerName
	add    []addition
}

type addition struct {
	headerName
	action    corev3.HeaderValueOption_HeaderAppendAction
	keepEmpty bool
	value     []byte
	format    *format.Format // nil for a literal
}

func compileMutations(add []*corev3.HeaderValueOption, remove []string) (*mutations, error) {
	if len(add) == 0 && len(remove) == 0 {
		return nil, nil
	}
	m := &mutations{}
	for i, r := range remove {
		if err := modifiable(r); err != nil {
			return nil, fmt.Errorf("headers_to_remove[%d]: %w", i, err)
		}
		m.remove = append(m.remove, newHeaderName(r))
	}
	for i, o := range add {
		a, err := compileAddition(o)
		if err != nil {
			return nil, fmt.Errorf("headers_to_add[%d]: %w", i, err)
		}
		m.add = append(m.add, a)
	}
	return m, nil
}

func compileAddition(o *corev3.HeaderValueOption) (addition, error) {
	key := o.GetHeader().GetKey()
	if err := modifiable(key); err != nil {
		return addition{}, err
	}
	a := addition{headerName: newHeaderName(key), action: o.GetAppendAction(), keepEmpty: o.GetKeepEmptyValue()}
	if v := o.GetAppend(); v != nil { // deprecated, but it wins where it is set
		a.action = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
		if !v.GetValue() {
			a.action = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		}
	}
	if _, ok := corev3.HeaderValueOption_HeaderAppendAction_name[int32(a.action)]; !ok {
		return addition{}, fmt.Errorf("append_action: %d is not known", a.action)
	}
	if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
		a.value = raw
		return a, validValue(a.value)
	}
	f, err := format.Compile(o.GetHeader().GetValue(), true)
	if err != nil {
		return addition{}, fmt.Errorf("header %q: value: %w", key, err)
	}
	if lit, ok := f.Literal(); ok {
		a.value = []byte(lit)
		return a, validValue(a.value)
	}
	a.format = f
	return a, nil
}

// modifiable refuses what routing depends on: pseudo-headers and Host.
func modifiable(name string) error {
	if name == "" {
		return errors.New("the header's name is empty")
	}
	if name[0] == ':' || match.EqualFold([]byte(name), "host") {
		return fmt.Errorf("header %q: pseudo-headers and Host may not be modified; use host_rewrite or prefix_rewrite", name)
	}
	for i := range len(name) {
		if !tokenByte(name[i]) {
			return fmt.Errorf("header %q: byte %q is not allowed in a name", name, name[i])
		}
	}
	return nil
}

// tokenByte is RFC 9110 section 5.6.2.
func tokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	for _, t := range []byte("!#$%&'*+-.^_`|~") {
		if c == t {
			return true
		}
	}
	return false
}

func validValue(v []byte) error {
	for _, c := range v {
		if c == '\r' || c == '\n' || c == 0 {
			return errors.New("value holds a line break or NUL")
		}
	}
	return nil
}

func (m *mutations) apply(h *message.Header, e *format.Entry, a *message.Arena) {
	if m == nil {
		return
	}
	for i := range m.remove {
		m.remove[i].remove(h)
	}
	for i := range m.add {
		m.add[i].apply(h, e, a)
	}
}

func (d *addition) apply(h *message.Header, e *format.Entry, a *message.Arena) {
	_, exists := d.get(h)
	switch d.action {
	case corev3.HeaderValueOption_ADD_IF_ABSENT:
		if exists {
			return
		}
	case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
		if !exists {
			return
		}
	}
	v := d.value
	if d.format != nil {
		v = a.Commit(d.format.Append(a.Tail(), e))
	}
	if len(v) == 0 && !d.keepEmpty {
		return
	}
	if d.action == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS || d.action == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
		if d.id != message.Unknown {
			h.SetID(d.id, v)
		} else {
			h.Set(d.name, v)
		}
		return
	}
	h.Fields = append(h.Fields, message.Field{Name: d.name, Value: v, ID: d.id})
}
