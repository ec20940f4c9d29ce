// SPDX-License-Identifier: Apache-2.0

// Package http2 is the HTTP/2 connection and stream machine (RFC 9113), both
// sides. It presents each stream as a message.ServerStream or
// message.ClientStream: blocking reads and writes from the goroutine that runs
// the exchange.
//
// On each connection one goroutine reads frames and hands them to their
// streams; it never writes, so two proxies whose sockets are full cannot wait
// for each other. Streams write their own frames: whoever holds the write lock
// last flushes for those before it, so that concurrent small frames share one
// system call. Frames that answer the peer (SETTINGS and PING
// acknowledgements, WINDOW_UPDATE, RST_STREAM) go to a bounded list that the
// next writer, or a flusher goroutine, takes along.
//
// Lock order: writer.mu before conn.mu before writer.ctlMu; stream.watchMu before
// conn.mu.
package http2

import (
	"time"

	"golang.org/x/net/http2"
)

// Options bounds a connection. The zero value of a field means its default,
// which is Envoy's unless the field says otherwise.
type Options struct {
	// MaxConcurrentStreams is what the peer may have open at once; default 1024.
	MaxConcurrentStreams uint32
	// StreamWindow is the initial receive window of a stream in bytes; default
	// 256 KiB (Envoy: 16 MiB), because a stream's unread body stays in memory.
	StreamWindow uint32
	// ConnWindow is the receive window of the connection in bytes; default
	// 1 MiB (Envoy: 24 MiB), for the same reason.
	ConnWindow uint32
	// MaxHeaderBytes bounds a decoded header block as RFC 9113 section 6.5.2
	// counts it; default 60 KiB for requests and responses.
	MaxHeaderBytes uint32
	// MaxHeaderFields bounds the number of fields, cookie crumbs counted one by
	// one; default 100.
	MaxHeaderFields int
	// AllowConnect offers and accepts RFC 8441 extended CONNECT.
	AllowConnect bool
	// IdleTimeout closes a connection without streams; 0 means never.
	IdleTimeout time.Duration
	// DrainTimeout is how long after the first GOAWAY new streams are still
	// taken; default 5 s. The peer's answer to a ping ends it earlier.
	DrainTimeout time.Duration
	// WriteTimeout bounds one write to the socket; default 30 s.
	WriteTimeout time.Duration
}

func (o Options) withDefaults() Options {
	def := func(v *uint32, d uint32) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.MaxConcurrentStreams, 1024)
	def(&o.StreamWindow, 256<<10)
	def(&o.ConnWindow, 1<<20)
	def(&o.MaxHeaderBytes, 60<<10)
	if o.MaxHeaderFields == 0 {
		o.MaxHeaderFields = 100
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = 5 * time.Second
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 30 * time.Second
	}
	return o
}

// Preface is what a client sends first (RFC 9113 section 3.4).
const Preface = http2.ClientPreface

const (
	frameHeaderLen   = 9
	defaultWindow    = 65535
	maxWindow        = 1<<31 - 1
	defaultMaxFrame  = 16384
	prefaceTimeout   = 10 * time.Second
	closeGrace       = time.Second // to let a GOAWAY reach the peer
	maxContinuations = 32

	// maxHeldHeads bounds the decoded request heads that a connection's streams
	// keep alive together, as SETTINGS_MAX_HEADER_LIST_SIZE counts them. Without
	// it a few bytes of indexed fields per stream, and streams that stall, make
	// gigabytes out of kilobytes (CVE-2026-47774).
	maxHeldHeads = 4 << 20
)
