// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"errors"
	"slices"
)

var errFlood = errors.New("flood of frames that carry nothing")

// floodGuard bounds what a peer may make us do without moving data. Only the
// reading goroutine uses it. Each budget refills as streams do real work, so a
// long-lived busy connection never runs dry.
type floodGuard struct {
	opened   int
	resets   int // RST_STREAM from either side (CVE-2023-44487, CVE-2025-8671)
	controls int // PING, SETTINGS, PRIORITY, unknown (CVE-2019-9512..9515)
	empties  int // DATA without bytes (CVE-2019-9518)
	windows  int // WINDOW_UPDATE
}

const (
	maxResets   = 200
	maxControls = 1000
	maxEmpties  = 100
	maxWindows  = 1000
)

// stream notes a new stream: it pays for the frames around it.
func (g *floodGuard) stream() {
	g.opened++
	g.controls = max(0, g.controls-4)
	g.windows = max(0, g.windows-10)
}

// data notes a DATA frame with bytes.
func (g *floodGuard) data() {
	g.controls = max(0, g.controls-1)
	g.empties = 0
	g.windows = max(0, g.windows-10)
}

func over(n *int, limit int) error {
	if *n++; *n > limit {
		return errFlood
	}
	return nil
}

// reset allows for clients that cancel a good part of what they ask for.
func (g *floodGuard) reset() error {
	if g.resets++; g.resets > maxResets && g.resets > g.opened/2 {
		return errFlood
	}
	return nil
}

func (g *floodGuard) control() error { return over(&g.controls, maxControls) }
func (g *floodGuard) empty() error   { return over(&g.empties, maxEmpties) }
func (g *floodGuard) window() error  { return over(&g.windows, maxWindows) }

type closeKind uint8

const (
	neverOpened closeKind = iota
	closedInOrder
	closedByReset // the peer reset it, or broke it
	closedByUs    // we reset it: frames may still be in flight
)

// closedStreams remembers how the last streams ended, to tell frames that were
// in flight from frames that should not exist (RFC 9113 section 5.1).
type closedStreams struct {
	id   [128]uint32
	kind [128]closeKind
	next int
}

func (s *closedStreams) add(id uint32, kind closeKind) {
	if slices.Contains(s.id[:], id) {
		return
	}
	s.id[s.next], s.kind[s.next] = id, kind
	s.next = (s.next + 1) % len(s.id)
}

func (s *closedStreams) how(id uint32) closeKind {
	for i, known := range s.id {
		if known == id {
			return s.kind[i]
		}
	}
	return neverOpened
}
