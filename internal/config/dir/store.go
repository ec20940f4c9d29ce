// SPDX-License-Identifier: Apache-2.0

// Package dir keeps configuration in a directory: the user's own files, which
// are only read, and DIR/applied, where applied objects are written.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Options are the choices of Open; the zero value is the usual one.
type Options struct {
	// Namespace of objects that name none; default: config.DefaultNamespace.
	Namespace string
	// Log receives every new problem; default: discarded.
	Log *slog.Logger
	// Now is the clock for creation times of applied objects and for the age of
	// files; default: time.Now.
	Now func() time.Time
}

// Store is a config.Store over a directory.
//
// It reads every *.yaml, *.yml and *.json below the directory, hidden entries
// left out. Of several files with one object, the first in the order of paths
// counts. An applied object wins over one in a user's file; deleting an object
// of a user's file leaves a tombstone in DIR/applied, which hides it until that
// text of the object changes or the object is applied. A file with errors keeps
// what it last had: its good objects are taken, none is removed.
type Store struct {
	dir  string
	opts Options

	// work serializes scans, applies and deletes, and guards files and tombs.
	// It is taken before mu.
	work  sync.Mutex
	files map[string]*file // by path
	// unsettled says that a file is being written and has to be looked at again.
	unsettled bool
	// logged holds the problems already logged.
	logged map[config.Problem]bool

	mu       sync.RWMutex // guards what follows
	objects  map[config.Key]*config.Object
	problems []*config.Problem
	feed     config.Feed

	stop func()
	done chan struct{}
}

var _ config.Store = (*Store)(nil)

// Open reads the directory and watches it until Close. That objects in it are
// bad is no error: see Problems.
func Open(path string, opts Options) (*Store, error) {
	if opts.Namespace == "" {
		opts.Namespace = config.DefaultNamespace
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open configuration directory: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("open configuration directory: %s is a file; name its directory", path)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, fmt.Errorf("open configuration directory: %w", err)
	}
	s := &Store{
		dir: filepath.Clean(path), opts: opts,
		files: map[string]*file{}, logged: map[config.Problem]bool{},
		objects: map[config.Key]*config.Object{}, done: make(chan struct{}),
	}
	removeUnfinished(filepath.Join(s.dir, appliedDir))
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	// Watch before the first scan, so that no change falls between.
	w, err := newNotifier(s.opts.Log)
	if err != nil {
		cancel()
		return nil, err
	}
	w.follow(s.scan(nil))
	go func() {
		defer close(s.done)
		s.watch(ctx, w)
	}()
	return s, nil
}

// Close stops watching the directory and ends all watches.
func (s *Store) Close() error {
	s.stop()
	<-s.done
	s.feed.Close()
	return nil
}

// Rescan reads what has changed now, without waiting for a notification.
func (s *Store) Rescan() { s.scan(nil) }

// Problems returns what is wrong in the directory now, ordered by file and
// line: objects that were refused, hidden or overridden, files that cannot be
// read, and warnings about objects that were accepted.
func (s *Store) Problems() []*config.Problem {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.problems)
}

// Get implements config.Store.
func (s *Store) Get(_ context.Context, key config.Key) (*config.Object, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if o := s.objects[key]; o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("%s: %w", key, config.ErrNotFound)
}

// List implements config.Store.
func (s *Store) List(_ context.Context, kind *config.Kind, namespace string) ([]*config.Object, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*config.Object
	for k, o := range s.objects {
		if (kind == nil || k.Kind == kind) && (namespace == "" || k.Namespace == namespace) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b *config.Object) int { return a.Key.Compare(b.Key) })
	return out, nil
}

// Watch implements config.Store.
func (s *Store) Watch(ctx context.Context) <-chan config.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feed.Watch(ctx, slices.Collect(maps.Values(s.objects)))
}

// Apply implements config.Store.
func (s *Store) Apply(_ context.Context, obj *config.Object) (config.Applied, error) {
	warnings, errs := config.Validate(obj)
	if len(errs) > 0 {
		return config.Applied{}, fmt.Errorf("%w: %w", config.ErrInvalid, config.Errors(errs))
	}
	hash, err := obj.Hash()
	if err != nil {
		return config.Applied{}, err
	}
	s.work.Lock()
	defer s.work.Unlock()
	old := s.current(obj.Key)
	if obj.ResourceVersion != "" && (old == nil || old.ResourceVersion != obj.ResourceVersion) {
		return config.Applied{}, fmt.Errorf("%s: %w", obj.Key, config.ErrConflict)
	}
	if old != nil && old.ResourceVersion == hash {
		return config.Applied{Outcome: config.Unchanged, Object: old, Notes: warnings}, nil
	}
	stored := obj.Clone()
	stored.ResourceVersion, stored.Source = "", config.Source{}
	stored.Generation, stored.CreationTimestamp = 1, s.opts.Now().UTC().Truncate(time.Second)
	outcome := config.Created
	if old != nil {
		outcome = config.Configured
		stored.CreationTimestamp, stored.Generation = old.CreationTimestamp, old.Generation
		if !config.SameSpec(old, stored) {
			stored.Generation++
		}
	}
	path := s.appliedPath(obj.Key)
	text, err := stored.YAML()
	if err != nil {
		return config.Applied{}, err
	}
	if err := writeAtomically(path, text); err != nil {
		return config.Applied{}, fmt.Errorf("store %s: %w", obj.Key, err)
	}
	if err := os.Remove(s.tombPath(obj.Key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return config.Applied{}, fmt.Errorf("store %s: %w", obj.Key, err)
	}
	s.scanLocked(map[string]bool{path: true, s.tombPath(obj.Key): true})
	now := s.current(obj.Key)
	if now == nil {
		// What was written must be what is read.
		return config.Applied{}, fmt.Errorf("store %s: %s does not read back", obj.Key, path)
	}
	return config.Applied{Outcome: outcome, Object: now, Notes: warnings}, nil
}

// Delete implements config.Store.
func (s *Store) Delete(_ context.Context, key config.Key, resourceVersion string) error {
	s.work.Lock()
	defer s.work.Unlock()
	old := s.current(key)
	if old == nil {
		return fmt.Errorf("%s: %w", key, config.ErrNotFound)
	}
	if resourceVersion != "" && resourceVersion != old.ResourceVersion {
		return fmt.Errorf("%s: %w", key, config.ErrConflict)
	}
	// The tombstone first: if this ends half way, the object is still there.
	dirty := map[string]bool{}
	if hidden := s.inUserFile(key); hidden != nil {
		path := s.tombPath(key)
		text, err := entomb(hidden)
		if err == nil {
			err = writeAtomically(path, text)
		}
		if err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		dirty[path] = true
	}
	for path, f := range s.files {
		if f.applied && f.has(key) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("delete %s: %w", key, err)
			}
			dirty[path] = true
		}
	}
	s.scanLocked(dirty)
	return nil
}

func (s *Store) current(key config.Key) *config.Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.objects[key]
}
