// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec this one falls back to
	"google.golang.org/grpc/mem"
)

// encoded is a response already in bytes, most of them shared with other streams.
type encoded struct {
	pieces mem.BufferSlice
	size   int
}

// codec is gRPC's protobuf codec, except that an *encoded is sent as it is.
type codec struct{}

var protoCodec = encoding.GetCodecV2("proto")

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if e, ok := v.(*encoded); ok {
		return e.pieces, nil
	}
	return protoCodec.Marshal(v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error { return protoCodec.Unmarshal(data, v) }
