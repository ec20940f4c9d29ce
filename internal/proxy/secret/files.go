// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// filePoll is how often watched files are read again. Contents are compared,
// not times: Kubernetes swaps a symbolic link, editors rename, and a missed
// notification must not leave an expired certificate in use.
const filePoll = 5 * time.Second

// files are the secrets read from disk and what was last read for each.
type files struct {
	mu      sync.Mutex // guards watched
	watched map[string]*watchedFiles
}

type watchedFiles struct {
	names []string
	sum   [sha256.Size]byte
	load  func() error
}

// watch reads a secret's files again and again once WatchFiles runs. Sources
// that are no files are left out; key replaces an earlier watch of that key.
func (s *Store) watch(key string, load func() error, sources ...*corev3.DataSource) {
	w := &watchedFiles{load: load}
	for _, src := range sources {
		if n := src.GetFilename(); n != "" {
			w.names = append(w.names, n)
		}
	}
	s.mu.Lock()
	if s.files == nil {
		s.files = &files{watched: make(map[string]*watchedFiles)}
	}
	f := s.files
	s.mu.Unlock()
	w.sum = digest(w.names)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(w.names) == 0 {
		delete(f.watched, key)
		return
	}
	f.watched[key] = w
}

// WatchFiles takes over changed certificate and key files until ctx is done. A
// set of files that does not parse or does not fit together (half of it
// written) is reported and the last good value stays.
func (s *Store) WatchFiles(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(filePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.rereadFiles(log)
		}
	}
}

func (s *Store) rereadFiles(log *slog.Logger) {
	s.mu.Lock()
	f := s.files
	s.mu.Unlock()
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, w := range f.watched {
		sum := digest(w.names)
		if sum == w.sum {
			continue
		}
		// Also when loading fails: the same bytes would fail again, and whoever
		// mends them changes the sum.
		w.sum = sum
		if err := w.load(); err != nil {
			log.Warn("secret files changed and cannot be used, keeping the last good secret", "secret", key, "error", err)
			continue
		}
		log.Info("secret files changed", "secret", key)
	}
}

// digest is over names and contents; an unreadable file counts as its error.
func digest(names []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, n := range names {
		b, err := readFile(n)
		if err != nil {
			b = []byte(err.Error())
		}
		d := sha256.Sum256(b)
		h.Write(d[:])
	}
	h.Sum(sum[:0])
	return sum
}
