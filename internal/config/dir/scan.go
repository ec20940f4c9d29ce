// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lateen-mesh/lateen/internal/config"
)

// maxFileSize bounds one file; 1,000 services with 10 endpoints each are about 1 MB.
const maxFileSize = 64 << 20

// A file as young as this when it was read may change again without its time
// changing, so that the next scan reads it whatever its time says.
const timeGrain = 2 * time.Second

// emptyGrace is how long a file that was just emptied keeps its objects: whoever
// writes a file in place empties it first, and must not take the mesh's
// configuration away for that moment.
const emptyGrace = 500 * time.Millisecond

// file is what was last read of one file.
type file struct {
	path     string
	applied  bool // below DIR/applied
	size     int64
	modified time.Time
	readAt   time.Time
	sum      [sha256.Size]byte

	objects  []*config.Object // good, of the current content
	kept     []*config.Object // of an earlier content, because the current has errors
	problems []*config.Problem
	cache    config.Cache
	// tomb is the object that a tombstone hides; objects is empty then.
	tomb        config.Key
	tombVersion string
}

func (f *file) has(key config.Key) bool {
	return slices.ContainsFunc(f.objects, func(o *config.Object) bool { return o.Key == key }) ||
		slices.ContainsFunc(f.kept, func(o *config.Object) bool { return o.Key == key })
}

// scan brings the store up to date with the directory and returns the
// directories to watch. Files named in dirty are read whatever their times say.
func (s *Store) scan(dirty map[string]bool) []string {
	s.work.Lock()
	defer s.work.Unlock()
	return s.scanLocked(dirty)
}

func (s *Store) scanLocked(dirty map[string]bool) []string {
	s.unsettled = false
	dirs, found, problems := s.walk()
	for path, fi := range found {
		s.read(path, fi, dirty[path])
	}
	for path := range s.files {
		if _, ok := found[path]; !ok {
			delete(s.files, path)
		}
	}
	s.publish(problems)
	return dirs
}

// walk lists the directories and files that count.
func (s *Store) walk() (dirs []string, files map[string]fs.FileInfo, problems []*config.Problem) {
	files = map[string]fs.FileInfo{}
	keep := func(path string) {
		// What cannot be looked at is not known to be gone.
		for known := range s.files {
			if known == path || strings.HasPrefix(known, path+string(filepath.Separator)) {
				files[known] = nil
			}
		}
	}
	_ = filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path != s.dir && errors.Is(err, fs.ErrNotExist) {
				return nil // removed while we look
			}
			problems = append(problems, &config.Problem{Severity: config.SeverityError, File: path, Message: err.Error(), Fix: "what was there before stays in force"})
			keep(path)
			return nil
		}
		if path != s.dir && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			dirs = append(dirs, path)
			return nil
		}
		inApplied := filepath.Dir(path) == filepath.Join(s.dir, appliedDir)
		if !isConfigFile(path) && !(inApplied && strings.HasSuffix(path, tombSuffix)) {
			return nil
		}
		fi, err := os.Stat(path) // follows a link, as ConfigMap volumes have them
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			problems = append(problems, &config.Problem{Severity: config.SeverityError, File: path, Message: err.Error(), Fix: "what was there before stays in force"})
			keep(path)
		case fi.Mode().IsRegular():
			files[path] = fi
		}
		return nil
	})
	return dirs, files, problems
}

// read brings one file up to date. A nil fi keeps what is known of it.
func (s *Store) read(path string, fi fs.FileInfo, force bool) {
	old := s.files[path]
	if fi == nil {
		return
	}
	if old != nil && !force && old.size == fi.Size() && old.modified.Equal(fi.ModTime()) && old.readAt.Sub(fi.ModTime()) > timeGrain {
		return
	}
	f := &file{path: path, size: fi.Size(), modified: fi.ModTime(), readAt: time.Now(),
		applied: filepath.Dir(path) == filepath.Join(s.dir, appliedDir)}
	data, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		delete(s.files, path)
		return
	}
	if err != nil {
		f.size = -1 // read it again next time
		f.problems = []*config.Problem{{Severity: config.SeverityError, File: path, Message: err.Error()}}
		s.files[path] = f.keepFrom(old)
		return
	}
	if len(data) == 0 && old != nil && len(old.objects)+len(old.kept) > 0 && s.opts.Now().Sub(fi.ModTime()).Abs() < emptyGrace {
		s.unsettled = true
		return
	}
	f.sum = sha256.Sum256(data)
	if old != nil && old.size >= 0 && old.sum == f.sum {
		old.modified, old.readAt = f.modified, f.readAt
		return
	}
	s.files[path] = f
	if f.applied && strings.HasSuffix(path, tombSuffix) {
		f.tomb, f.tombVersion, err = readTombstone(data)
		if err != nil {
			f.problems = []*config.Problem{{Severity: config.SeverityError, File: path, Message: err.Error(), Fix: "remove the file"}}
		}
		return
	}
	if old != nil {
		f.cache = old.cache
	}
	r := f.cache.Decode(data, path, s.opts.Namespace)
	f.problems = r.Problems
	before := map[config.Key]*config.Object{}
	if old != nil {
		for _, o := range slices.Concat(old.objects, old.kept) {
			before[o.Key] = o
		}
	}
	for _, o := range r.Objects {
		if o, err := complete(o, before[o.Key], f); err != nil {
			f.problems = append(f.problems, &config.Problem{Severity: config.SeverityError, File: path, Line: o.Source.Line, Object: o.Key.String(), Message: err.Error()})
		} else {
			f.objects = append(f.objects, o)
		}
	}
	if config.Errors(f.problems) != nil {
		f.keepFrom(old)
	}
}

// complete gives an object the metadata that the server would give it. before
// is what the file had under its key, or nil.
func complete(o, before *config.Object, f *file) (*config.Object, error) {
	if before != nil && before.Spec == o.Spec { // of the very same text
		if before.Source == o.Source {
			return before, nil
		}
		moved := before.Clone()
		moved.Source = o.Source
		return moved, nil
	}
	hash, err := o.Hash()
	if err != nil {
		return o, err
	}
	o = o.Clone()
	o.ResourceVersion = hash
	switch {
	case !o.CreationTimestamp.IsZero():
	case before != nil:
		// An edit of the file does not make its objects younger.
		o.CreationTimestamp = before.CreationTimestamp
	default:
		o.CreationTimestamp = f.modified.UTC()
	}
	o.CreationTimestamp = o.CreationTimestamp.Truncate(time.Second)
	return o, nil
}

// keepFrom keeps the objects that the file had before and has not now: with
// errors in it, nobody knows whether they were removed or spoilt.
func (f *file) keepFrom(old *file) *file {
	if old == nil {
		return f
	}
	for _, o := range slices.Concat(old.objects, old.kept) {
		if !f.has(o.Key) {
			f.kept = append(f.kept, o)
		}
	}
	f.tomb, f.tombVersion = old.tomb, old.tombVersion
	return f
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("the file is larger than %d MiB; split it", maxFileSize>>20)
	}
	return data, err
}

// publish computes the objects in effect from the files, and tells watchers
// what changed, as one batch.
func (s *Store) publish(problems []*config.Problem) {
	objects, found := s.effective()
	problems = append(problems, found...)
	if config.Errors(problems) == nil {
		s.sweep()
	}
	slices.SortStableFunc(problems, func(a, b *config.Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	s.log(problems)

	s.mu.Lock()
	defer s.mu.Unlock()
	var events []config.Event
	for key, o := range objects {
		before := s.objects[key]
		if before == nil {
			if o.Generation == 0 {
				o = o.Clone()
				o.Generation = 1
				objects[key] = o
			}
			events = append(events, config.Event{Key: key, Object: o})
			continue
		}
		if before.Spec == o.Spec && before.Source == o.Source && before.ResourceVersion == o.ResourceVersion && before.CreationTimestamp.Equal(o.CreationTimestamp) {
			objects[key] = before // it was not read again
			continue
		}
		generation := before.Generation
		if !config.SameSpec(before, o) {
			generation++
		}
		if o.Generation != generation {
			o = o.Clone()
			o.Generation = generation
			objects[key] = o
		}
		if before.ResourceVersion != o.ResourceVersion || !before.CreationTimestamp.Equal(o.CreationTimestamp) {
			events = append(events, config.Event{Key: key, Object: o})
		}
	}
	for key := range s.objects {
		if objects[key] == nil {
			events = append(events, config.Event{Key: key})
		}
	}
	s.objects, s.problems = objects, problems
	s.feed.Publish(events)
}

// effective merges the files: applied objects first, then the users' files in
// the order of their paths, without what tombstones hide; then what bad files had.
func (s *Store) effective() (map[config.Key]*config.Object, []*config.Problem) {
	objects := map[config.Key]*config.Object{}
	var problems []*config.Problem
	note := func(severity config.Severity, o *config.Object, message, fix string) {
		problems = append(problems, &config.Problem{Severity: severity, File: o.Source.File, Line: o.Source.Line, Object: o.Key.String(), Message: message, Fix: fix})
	}
	paths := slices.SortedFunc(maps.Keys(s.files), func(a, b string) int {
		if s.files[a].applied != s.files[b].applied {
			if s.files[a].applied {
				return -1
			}
			return 1
		}
		return cmp.Compare(a, b)
	})
	for _, path := range paths {
		f := s.files[path]
		problems = append(problems, f.problems...)
		for _, o := range f.objects {
			winner := objects[o.Key]
			switch {
			case winner == nil && !f.applied && s.buried(o):
				note(config.SeverityInfo, o, "was deleted and is hidden", "apply it or edit it to have it back")
			case winner == nil:
				objects[o.Key] = o
			case s.files[winner.Source.File].applied && !f.applied:
				note(config.SeverityInfo, o, "is overridden by an applied object, "+winner.Source.String(), "which is in force; `lateen delete` removes both, an edit of the applied file only that one")
			default:
				note(config.SeverityError, o, "is there already, in "+winner.Source.String(), "keep one of them")
			}
		}
	}
	for _, path := range paths {
		for _, o := range s.files[path].kept {
			if objects[o.Key] == nil && (s.files[path].applied || !s.buried(o)) {
				objects[o.Key] = o
				note(config.SeverityWarning, o, "an earlier version stays in force while the file has errors", "")
			}
		}
	}
	return objects, problems
}

// buried reports whether a tombstone hides this very object.
func (s *Store) buried(o *config.Object) bool {
	t := s.files[s.tombPath(o.Key)]
	return t != nil && t.tomb == o.Key && t.tombVersion == o.ResourceVersion
}

// sweep removes the tombstones of objects that are in no user's file any more
// or that have been written anew, so that putting one back works. With errors
// in the files nobody knows what is in them.
func (s *Store) sweep() {
	for path, t := range s.files {
		if t.tomb.Kind == nil {
			continue
		}
		if o := s.inUserFile(t.tomb); o == nil || o.ResourceVersion != t.tombVersion {
			if err := os.Remove(path); err == nil || errors.Is(err, fs.ErrNotExist) {
				delete(s.files, path)
			}
		}
	}
}

// inUserFile returns the object as the users' files have it, or nil.
func (s *Store) inUserFile(key config.Key) *config.Object {
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[path]
		if f.applied {
			continue
		}
		for _, o := range slices.Concat(f.objects, f.kept) {
			if o.Key == key {
				return o
			}
		}
	}
	return nil
}

// log writes the problems that were not there at the scan before.
func (s *Store) log(problems []*config.Problem) {
	now := make(map[config.Problem]bool, len(problems))
	for _, p := range problems {
		if !now[*p] && !s.logged[*p] {
			level := map[config.Severity]slog.Level{config.SeverityError: slog.LevelError, config.SeverityWarning: slog.LevelWarn}[p.Severity]
			s.opts.Log.Log(context.Background(), level, "configuration problem", "file", p.File, "line", p.Line, "object", p.Object, "field", p.Field, "problem", p.Message, "fix", p.Fix)
		}
		now[*p] = true
	}
	s.logged = now
}
