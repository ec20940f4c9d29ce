// SPDX-License-Identifier: Apache-2.0

package http1

import "sync"

const (
	headSize = 8 << 10  // read buffer that holds a head and a small body
	bodySize = 32 << 10 // read buffer for the rest of a large body
	outSize  = 8 << 10  // write buffer: a head and a small body in one write
)

// Buffers come from pools and go back as soon as nothing in them is needed, so
// that idle connections hold none. Pools of pointers to arrays, because a slice
// put into an interface would be allocated.
var (
	headPool = sync.Pool{New: func() any { return new([headSize]byte) }}
	bodyPool = sync.Pool{New: func() any { return new([bodySize]byte) }}
	outPool  = sync.Pool{New: func() any { return new(outBuffer) }}
)

type outBuffer struct{ b [outSize]byte }
