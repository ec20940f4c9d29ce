// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Report is what was found when one version of a stored object was read.
type Report struct {
	Key        config.Key
	UID        types.UID
	APIVersion string
	Generation int64
	// Refused: this version is not in force.
	Refused  bool
	Problems []*config.Problem
	// Status is the object's status as it is stored; not to be changed.
	Status map[string]any
}

func (it *item) report() *Report {
	return &Report{
		Key: it.key, UID: it.uid, APIVersion: it.apiVersion, Generation: it.generation,
		Refused:  config.Errors(it.problems) != nil,
		Problems: it.problems,
		Status:   it.status,
	}
}

// Reports returns the reports of all objects of kinds that users write, then
// those that change, until ctx is done, when the channel is closed. Nothing is
// sent before Synced. A slow receiver gets fewer, larger batches, in which an
// object occurs once. An object that is gone has no report.
func (s *Store) Reports(ctx context.Context) <-chan []*Report {
	out := make(chan []*Report)
	go func() {
		defer close(out)
		select {
		case <-s.synced:
		case <-ctx.Done():
			return
		}
		w := &reportWatcher{pending: map[config.Key]*Report{}, wake: make(chan struct{}, 1)}
		s.mu.Lock()
		for k, it := range s.items {
			if !isCluster(k.Kind) && s.visible(k) {
				w.pending[k] = it.report()
			}
		}
		s.reports.add(w)
		s.mu.Unlock()
		w.signal()
		s.reports.run(ctx, w, out)
	}()
	return out
}

// Problems returns what is wrong with what is stored, ordered by object:
// versions that were refused, and warnings about those that were accepted.
func (s *Store) Problems() []*config.Problem {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*config.Problem
	for k, it := range s.items {
		if s.visible(k) {
			out = append(out, it.problems...)
		}
	}
	slices.SortStableFunc(out, func(a, b *config.Problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Field, b.Field))
	})
	return out
}

// Status returns the stored status of an object of a kind that users write,
// and its generation; it is not to be changed.
func (s *Store) Status(key config.Key) (status map[string]any, generation int64, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	it := s.items[key]
	if it == nil || !s.visible(key) {
		return nil, 0, false
	}
	return it.status, it.generation, true
}

// reportFeed carries reports to their watchers, as config.Feed does events.
type reportFeed struct {
	mu       sync.Mutex
	watchers map[*reportWatcher]struct{}
}

type reportWatcher struct {
	pending map[config.Key]*Report
	wake    chan struct{}
}

func (w *reportWatcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (f *reportFeed) publish(k config.Key, r *Report) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		if r == nil {
			delete(w.pending, k)
			continue
		}
		w.pending[k] = r
		w.signal()
	}
}

func (f *reportFeed) add(w *reportWatcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers == nil {
		f.watchers = map[*reportWatcher]struct{}{}
	}
	f.watchers[w] = struct{}{}
}

func (f *reportFeed) run(ctx context.Context, w *reportWatcher, out chan<- []*Report) {
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
		}
		f.mu.Lock()
		batch := make([]*Report, 0, len(w.pending))
		for _, r := range w.pending {
			batch = append(batch, r)
		}
		clear(w.pending)
		f.mu.Unlock()
		slices.SortFunc(batch, func(a, b *Report) int { return a.Key.Compare(b.Key) })
		select {
		case out <- batch:
		case <-ctx.Done():
			return
		}
	}
}
