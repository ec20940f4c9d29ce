// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"slices"
	"sync"
)

// Feed carries the changes of a Store to its watchers. The zero value is ready
// for use. A Store calls Publish and Watch under the lock that guards its
// objects, so that no watcher misses a change or sees one twice.
type Feed struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	closed   bool
}

// watcher holds what one receiver has not been given yet.
type watcher struct {
	pending map[Key]*Object // nil: deleted
	initial bool
	wake    chan struct{} // holds one token while there is something to give
	done    chan struct{} // closed by Close
}

// Publish gives events to every watcher. It does not wait for any of them: a
// later event of a key replaces one that is still pending.
func (f *Feed) Publish(events []Event) {
	if len(events) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		for _, e := range events {
			w.pending[e.Key] = e.Object
		}
		w.signal()
	}
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch returns a channel that gives first the objects, then what is published
// after this call. It is closed when ctx is done or the feed is closed.
func (f *Feed) Watch(ctx context.Context, objects []*Object) <-chan Batch {
	w := &watcher{pending: make(map[Key]*Object, len(objects)), initial: true, wake: make(chan struct{}, 1), done: make(chan struct{})}
	for _, o := range objects {
		w.pending[o.Key] = o
	}
	w.signal()
	out := make(chan Batch)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		close(out)
		return out
	}
	if f.watchers == nil {
		f.watchers = map[*watcher]struct{}{}
	}
	f.watchers[w] = struct{}{}
	go f.run(ctx, w, out)
	return out
}

func (f *Feed) run(ctx context.Context, w *watcher, out chan<- Batch) {
	defer close(out)
	defer func() {
		f.mu.Lock()
		delete(f.watchers, w)
		f.mu.Unlock()
	}()
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		case <-w.done:
			return
		}
		f.mu.Lock()
		b := Batch{Initial: w.initial}
		for k, o := range w.pending {
			if o == nil && b.Initial {
				continue
			}
			b.Events = append(b.Events, Event{k, o})
		}
		clear(w.pending)
		w.initial = false
		f.mu.Unlock()
		slices.SortFunc(b.Events, func(x, y Event) int { return x.Key.Compare(y.Key) })
		select {
		case out <- b:
		case <-ctx.Done():
			return
		case <-w.done:
			return
		}
	}
}

// Close ends every watch.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.closed = true
	for w := range f.watchers {
		close(w.done)
	}
}
