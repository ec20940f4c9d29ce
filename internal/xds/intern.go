// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"runtime"
	"sync"
	"weak"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

var deterministic = proto.MarshalOptions{Deterministic: true}

// Interner makes resources so that equal content is one pointer. It holds them
// weakly: what no view refers to any more is collected.
type Interner struct {
	mu   sync.Mutex
	seen map[internKey]weak.Pointer[Resource]
}

type internKey struct{ typ, name, version string }

// NewInterner returns an empty interner.
func NewInterner() *Interner { return &Interner{seen: map[internKey]weak.Pointer[Resource]{}} }

// Make marshals a message into the one resource with that content.
func (in *Interner) Make(typ, name string, m proto.Message) *Resource {
	body, err := deterministic.Marshal(m)
	if err != nil {
		// Only invalid UTF-8 can do this, and decoding refuses that.
		panic(fmt.Sprintf("xds: marshal %s %q: %v", typ, name, err))
	}
	return in.makeRaw(typ, name, body)
}

// makeRaw is Make for a message that is marshalled already.
func (in *Interner) makeRaw(typ, name string, body []byte) *Resource {
	key := internKey{typ, name, contentHash(typ, name, body)}
	in.mu.Lock()
	defer in.mu.Unlock()
	if r := in.seen[key].Value(); r != nil {
		return r
	}
	r := NewResource(typ, name, body)
	in.seen[key] = weak.Make(r)
	runtime.AddCleanup(r, in.forget, key)
	return r
}

func (in *Interner) forget(key internKey) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.seen[key].Value() == nil {
		delete(in.seen, key)
	}
}

// typed puts a message into an Any.
func typed(m proto.Message) *anypb.Any {
	body, err := deterministic.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("xds: marshal %T: %v", m, err))
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: body}
}
