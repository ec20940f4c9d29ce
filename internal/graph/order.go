// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unsafe"
)

// leaf is one ordered field of a key.
type leaf struct {
	offset uintptr
	kind   reflect.Kind
}

// compareFor returns the order of keys of type K: its own Compare method, else
// field by field in declaration order.
func compareFor[K comparable]() func(a, b *K) int {
	var zero K
	if _, ok := any(zero).(interface{ Compare(K) int }); ok {
		return func(a, b *K) int { return any(*a).(interface{ Compare(K) int }).Compare(*b) }
	}
	typ := reflect.TypeFor[K]()
	leaves := flatten(nil, typ, typ, 0)
	return func(a, b *K) int {
		for _, l := range leaves {
			if n := l.compare(unsafe.Add(unsafe.Pointer(a), l.offset), unsafe.Add(unsafe.Pointer(b), l.offset)); n != 0 {
				return n
			}
		}
		return 0
	}
}

func flatten(out []leaf, root, t reflect.Type, at uintptr) []leaf {
	switch k := t.Kind(); k {
	case reflect.String, reflect.Bool,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return append(out, leaf{at, k})
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			out = flatten(out, root, f.Type, at+f.Offset)
		}
		return out
	case reflect.Array:
		for i := range t.Len() {
			out = flatten(out, root, t.Elem(), at+uintptr(i)*t.Elem().Size())
		}
		return out
	}
	panic(fmt.Sprintf("graph: key type %v has no order because of %v; use strings, integers, booleans, or give it a method Compare(%v) int", root, t, root))
}

func (l leaf) compare(a, b unsafe.Pointer) int {
	switch l.kind {
	case reflect.String:
		return strings.Compare(*(*string)(a), *(*string)(b))
	case reflect.Bool, reflect.Uint8:
		return cmp.Compare(*(*uint8)(a), *(*uint8)(b))
	case reflect.Int8:
		return cmp.Compare(*(*int8)(a), *(*int8)(b))
	case reflect.Int16:
		return cmp.Compare(*(*int16)(a), *(*int16)(b))
	case reflect.Uint16:
		return cmp.Compare(*(*uint16)(a), *(*uint16)(b))
	case reflect.Int32:
		return cmp.Compare(*(*int32)(a), *(*int32)(b))
	case reflect.Uint32:
		return cmp.Compare(*(*uint32)(a), *(*uint32)(b))
	case reflect.Int64:
		return cmp.Compare(*(*int64)(a), *(*int64)(b))
	case reflect.Uint64:
		return cmp.Compare(*(*uint64)(a), *(*uint64)(b))
	case reflect.Int:
		return cmp.Compare(*(*int)(a), *(*int)(b))
	default: // Uint, Uintptr
		return cmp.Compare(*(*uint)(a), *(*uint)(b))
	}
}

// ordered is a set of entries in key order. Additions wait in pending until the
// next read, so that loading many at once costs one sort.
type ordered[K comparable, V any] struct {
	list    []*entry[K, V]
	pending []*entry[K, V]
}

func (o *ordered[K, V]) add(e *entry[K, V]) { o.pending = append(o.pending, e) }

func (o *ordered[K, V]) remove(t *Table[K, V], e *entry[K, V]) {
	if i := slices.Index(o.pending, e); i >= 0 {
		o.pending = slices.Delete(o.pending, i, i+1)
		return
	}
	if i, ok := o.find(t, e); ok {
		o.list = slices.Delete(o.list, i, i+1)
	}
}

func (o *ordered[K, V]) find(t *Table[K, V], e *entry[K, V]) (int, bool) {
	return slices.BinarySearchFunc(o.list, e, func(a, b *entry[K, V]) int { return t.compare(&a.key, &b.key) })
}

func (o *ordered[K, V]) sorted(t *Table[K, V]) []*entry[K, V] {
	const few = 8
	if len(o.pending) <= few {
		for _, e := range o.pending {
			i, _ := o.find(t, e)
			o.list = slices.Insert(o.list, i, e)
		}
	} else {
		o.list = append(o.list, o.pending...)
		slices.SortFunc(o.list, func(a, b *entry[K, V]) int { return t.compare(&a.key, &b.key) })
	}
	o.pending = nil
	return o.list
}

func (o *ordered[K, V]) len() int { return len(o.list) + len(o.pending) }
