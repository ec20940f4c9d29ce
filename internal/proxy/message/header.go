// SPDX-License-Identifier: Apache-2.0

package message

import "bytes"

// Field is one header line.
type Field struct {
	Name  []byte // lower case
	Value []byte // without surrounding white space
	ID    ID     // the name's entry in the table of well-known names, or Unknown
}

// Header is an ordered list of fields. Duplicates are kept as separate fields.
// The zero value is an empty list.
type Header struct {
	Fields []Field
}

// Reset empties the list and keeps its memory.
func (h *Header) Reset() { h.Fields = h.Fields[:0] }

// Get returns the first value of a well-known name and whether there is one.
func (h *Header) Get(id ID) ([]byte, bool) {
	for i := range h.Fields {
		if h.Fields[i].ID == id {
			return h.Fields[i].Value, true
		}
	}
	return nil, false
}

// GetName is Get for any lower-case name. Compile time code turns names into
// IDs with Lookup; this is for names that are not well known.
func (h *Header) GetName(name string) ([]byte, bool) {
	for i := range h.Fields {
		if string(h.Fields[i].Name) == name {
			return h.Fields[i].Value, true
		}
	}
	return nil, false
}

// Add appends a field. name must be lower case.
func (h *Header) Add(name, value []byte) {
	h.Fields = append(h.Fields, Field{Name: name, Value: value, ID: Lookup(name)})
}

// AddID appends a field with a well-known name.
func (h *Header) AddID(id ID, value []byte) {
	h.Fields = append(h.Fields, Field{Name: id.Bytes(), Value: value, ID: id})
}

// SetID replaces every field of that name by one with the given value.
func (h *Header) SetID(id ID, value []byte) {
	for i := range h.Fields {
		if h.Fields[i].ID == id {
			h.Fields[i].Value = value
			h.removeFrom(i+1, func(f *Field) bool { return f.ID == id })
			return
		}
	}
	h.AddID(id, value)
}

// Set is SetID for any lower-case name.
func (h *Header) Set(name, value []byte) {
	if id := Lookup(name); id != Unknown {
		h.SetID(id, value)
		return
	}
	for i := range h.Fields {
		if bytes.Equal(h.Fields[i].Name, name) {
			h.Fields[i].Value = value
			h.removeFrom(i+1, func(f *Field) bool { return bytes.Equal(f.Name, name) })
			return
		}
	}
	h.Add(name, value)
}

// RemoveID drops every field of that name.
func (h *Header) RemoveID(id ID) {
	h.removeFrom(0, func(f *Field) bool { return f.ID == id })
}

// Remove drops every field of that lower-case name.
func (h *Header) Remove(name []byte) {
	h.removeFrom(0, func(f *Field) bool { return bytes.Equal(f.Name, name) })
}

func (h *Header) removeFrom(from int, drop func(*Field) bool) {
	kept := h.Fields[:from]
	for i := from; i < len(h.Fields); i++ {
		if !drop(&h.Fields[i]) {
			kept = append(kept, h.Fields[i])
		}
	}
	h.Fields = kept
}
