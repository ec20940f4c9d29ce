// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long the directory must be still before it is read: an
	// editor empties, writes and renames within it. It is part of the time
	// from a user's save to the proxies.
	quiet = 10 * time.Millisecond
	// patience bounds the wait for quiet.
	patience = 200 * time.Millisecond
	// recheck is how often the directory is read without a notification, for
	// those that are lost (full queue, network file systems).
	recheck = 10 * time.Second
)

// notifier follows the directories of a store.
type notifier struct {
	*fsnotify.Watcher
	log      *slog.Logger
	followed map[string]bool
}

func newNotifier(log *slog.Logger) (*notifier, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch configuration directory: %w", err)
	}
	return &notifier{w, log, map[string]bool{}}, nil
}

// follow watches exactly these directories and reports whether one is new.
func (n *notifier) follow(dirs []string) (added bool) {
	wanted := map[string]bool{}
	for _, d := range dirs {
		wanted[d] = true
		// A directory that was replaced has the same name and no watch, so Add
		// is called each time; it does nothing for one that is watched.
		if err := n.Add(d); err != nil {
			n.log.Warn("cannot watch directory; it is looked at from time to time", "directory", d, "error", err)
			continue
		}
		added = added || !n.followed[d]
		n.followed[d] = true
	}
	for d := range n.followed {
		if !wanted[d] {
			delete(n.followed, d)
			_ = n.Remove(d) // it is gone: the watch went with it
		}
	}
	return added
}

// watch scans the directory at every change until ctx is done.
func (s *Store) watch(ctx context.Context, n *notifier) {
	defer n.Close()
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		dirty := map[string]bool{}
		var again <-chan time.Time
		if s.isUnsettled() {
			again = time.After(emptyGrace)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-again:
		case err := <-n.Errors:
			s.opts.Log.Warn("lost notifications of the configuration directory; reading it again", "error", err)
		case e := <-n.Events:
			if e.Op == fsnotify.Chmod {
				continue
			}
			dirty[e.Name] = true
			if !n.settle(ctx, dirty) {
				return
			}
		}
		// Files put into a new directory before it was watched are seen by one more scan.
		for n.follow(s.scan(dirty)) {
			dirty = nil
		}
	}
}

func (s *Store) isUnsettled() bool {
	s.work.Lock()
	defer s.work.Unlock()
	return s.unsettled
}

// settle collects events until the directory is quiet.
func (n *notifier) settle(ctx context.Context, dirty map[string]bool) bool {
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		still := time.NewTimer(quiet)
		select {
		case <-ctx.Done():
			still.Stop()
			return false
		case e := <-n.Events:
			dirty[e.Name] = true
		case <-still.C:
			return true
		case <-end.C:
			still.Stop()
			return true
		}
		still.Stop()
	}
}
