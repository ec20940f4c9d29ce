// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// smallResponse is the size up to which copying into one buffer is cheaper than
// handing over pieces.
const smallResponse = 16 << 10

// encodeDelta makes a DeltaDiscoveryResponse of shared entries: resources=2,
// then system_version_info=1 type_url=4 nonce=5 removed_resources=6.
func encodeDelta(p *push) *encoded {
	tail := appendText(nil, 1, p.st.version)
	tail = appendText(tail, 4, p.st.url)
	tail = appendText(tail, 5, p.nonce)
	for _, n := range p.gone {
		tail = appendText(tail, 6, n)
	}
	pieces := make(mem.BufferSlice, 0, len(p.put)+1)
	for _, r := range p.put {
		pieces = append(pieces, r.DeltaEntry())
	}
	return join(append(pieces, mem.SliceBuffer(tail)))
}

// encodeWorld makes a DiscoveryResponse: version_info=1, type_url=4, nonce=5,
// resources=2 as Any.
func encodeWorld(p *push) *encoded {
	const room = 1 + 10 // tag and length of one resource
	heads := appendText(nil, 1, p.st.version)
	heads = appendText(heads, 4, p.st.url)
	heads = appendText(heads, 5, p.nonce)
	heads = append(make([]byte, 0, len(heads)+room*len(p.put)), heads...)
	pieces := make(mem.BufferSlice, 0, 2*len(p.put)+1)
	at := 0
	for _, r := range p.put {
		body := r.AnyBytes()
		heads = protowire.AppendTag(heads, 2, protowire.BytesType)
		heads = protowire.AppendVarint(heads, uint64(body.Len()))
		pieces = append(pieces, mem.SliceBuffer(heads[at:]), body)
		at = len(heads)
	}
	if len(p.put) == 0 {
		pieces = append(pieces, mem.SliceBuffer(heads))
	}
	return join(pieces)
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}

func join(pieces mem.BufferSlice) *encoded {
	e := &encoded{pieces: pieces, size: pieces.Len()}
	if e.size <= smallResponse && len(pieces) > 1 {
		e.pieces = mem.BufferSlice{mem.SliceBuffer(pieces.Materialize())}
	}
	return e
}
