// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"sync/atomic"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
)

// watchPeriod is how long an exchange waits before anybody looks whether the
// client is still there (it takes one to two periods).
const watchPeriod = 100 * time.Millisecond

// watcher looks for a client that leaves while its request waits upstream.
//
// A short wait costs two atomic operations: one timer per connection is not
// stopped at a wait's end but finds out when it fires, and lives on only while
// there are waits.
type watcher struct {
	ctl   *sockio.Conn
	state atomic.Int32 // watchIdle, watchWaiting, watchLooking
	seq   atomic.Uint32
	armed atomic.Bool
	timer *time.Timer
	seen  uint32 // seq at the last tick; the timer's own
	gone  func()
	done  chan struct{}
}

const (
	watchIdle int32 = iota
	watchWaiting
	watchLooking
)

func (w *watcher) init(ctl *sockio.Conn) { w.ctl = ctl }

func (w *watcher) start(gone func()) {
	w.gone = gone
	w.seq.Add(1)
	w.state.Store(watchWaiting)
	if !w.armed.Load() && w.armed.CompareAndSwap(false, true) {
		w.arm()
	}
}

func (w *watcher) arm() {
	if w.timer == nil {
		w.done = make(chan struct{}, 1)
		// Started by Reset below, which orders this assignment before the tick.
		w.timer = time.AfterFunc(time.Hour, w.tick)
	}
	w.timer.Reset(watchPeriod)
}

// stop returns once gone can no longer be called.
func (w *watcher) stop() {
	if w.state.Load() == watchIdle || w.state.CompareAndSwap(watchWaiting, watchIdle) {
		return
	}
	w.ctl.Interrupt()
	<-w.done
	w.ctl.Resume()
	w.state.Store(watchIdle)
}

// tick runs on the timer's goroutine.
func (w *watcher) tick() {
	seq := w.seq.Load()
	if w.state.Load() == watchWaiting && seq == w.seen && w.state.CompareAndSwap(watchWaiting, watchLooking) {
		w.armed.Store(false)
		if w.ctl.WaitGone() {
			w.gone()
		}
		w.done <- struct{}{}
		return
	}
	if w.state.Load() == watchWaiting {
		w.seen = seq
		w.timer.Reset(watchPeriod)
		return
	}
	w.armed.Store(false)
	// A wait that began since then saw the timer armed and relies on it.
	if w.state.Load() == watchWaiting && w.armed.CompareAndSwap(false, true) {
		w.timer.Reset(watchPeriod)
	}
}
