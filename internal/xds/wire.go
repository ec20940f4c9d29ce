// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// wire is a resource as the two protocols send it. Field order is free in
// protobuf, so the body stands last in both and is held once:
//
//	delta: resources=2 { name=3 version=1 resource=2 { type_url=1 value=2 body } }
//	sotw:                       resources=2 { type_url=1 value=2 body }
type wire struct {
	delta mem.Buffer // a whole entry of DeltaDiscoveryResponse.resources
	any   mem.Buffer // the end of it: an Any, without tag and length
}

// NewResource makes a resource with its content hash as version and the bytes
// that are put into responses. The body is copied: Body is a part of what is sent.
func NewResource(typ, name string, body []byte) *Resource {
	r := &Resource{Type: typ, Name: name, Version: contentHash(typ, name, body), Body: body}
	r.wire = encode(r)
	if b := r.wire.any.ReadOnlyData(); len(body) > 0 {
		r.Body = b[len(b)-len(body) : len(b) : len(b)]
	}
	return r
}

// contentHash is 64 bits in hexadecimal of all that the client sees.
func contentHash(typ, name string, body []byte) string {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(typ) // a Digest never fails
	_, _ = d.WriteString("\x00" + name + "\x00")
	_, _ = d.Write(body)
	var sum [8]byte
	binary.BigEndian.PutUint64(sum[:], d.Sum64())
	return hex.EncodeToString(sum[:])
}

func encode(r *Resource) wire {
	anyLen := protowire.SizeTag(1) + protowire.SizeBytes(len(r.Type)) + protowire.SizeTag(2) + protowire.SizeBytes(len(r.Body))
	inner := protowire.SizeTag(3) + protowire.SizeBytes(len(r.Name)) +
		protowire.SizeTag(1) + protowire.SizeBytes(len(r.Version)) +
		protowire.SizeTag(2) + protowire.SizeBytes(anyLen)
	b := make([]byte, 0, protowire.SizeTag(2)+protowire.SizeBytes(inner))
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(inner))
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	b = protowire.AppendString(b, r.Name)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, r.Version)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(anyLen))
	at := len(b)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, r.Type)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendBytes(b, r.Body)
	return wire{delta: mem.SliceBuffer(b), any: mem.SliceBuffer(b[at:])}
}

// DeltaEntry returns the bytes of the resource as one entry of
// DeltaDiscoveryResponse.resources, tag and length included. They are shared.
func (r *Resource) DeltaEntry() mem.Buffer {
	if r.wire.delta == nil {
		return encode(r).delta // not made by NewResource
	}
	return r.wire.delta
}

// AnyBytes returns the resource as the bytes of an Any. They are shared.
func (r *Resource) AnyBytes() mem.Buffer {
	if r.wire.any == nil {
		return encode(r).any
	}
	return r.wire.any
}
