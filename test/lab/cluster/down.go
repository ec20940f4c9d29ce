// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long processes have to end by themselves.
const (
	podGrace       = 3 * time.Second
	componentGrace = 5 * time.Second
)

// Down ends the lab and removes what it left on the machine, however it was
// ended before. It is no error when there is none.
func Down(ctx context.Context, o Options) error {
	if err := o.defaults(); err != nil {
		return err
	}
	unlock, err := lockName(o.Name)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := load(o.Dir)
	if errors.Is(err, ErrNone) {
		fmt.Fprintf(o.Log, "lab %s is not up\n", o.Name)
		return nil
	}
	if err != nil {
		return err
	}
	return down(ctx, s, o.Log)
}

func down(ctx context.Context, s *State, log io.Writer) error {
	begin := time.Now()
	var errs []error
	// Kubelet first: it would start again what ends.
	isKubelet := func(c Component) bool { return strings.HasPrefix(c.Name, "kubelet-") }
	errs = append(errs, s.stopAll(ctx, isKubelet))
	if pids := s.pods(); len(pids) > 0 {
		errs = append(errs, end(ctx, pids, func() bool { return len(s.pods()) > 0 }, podGrace))
	}
	// The API server waits for an etcd that is gone, so that one ends after it.
	last := func(c Component) bool {
		return c.Name == "etcd" || strings.HasPrefix(c.Name, "containerd-") || c.Name == anchorName(c.Node)
	}
	errs = append(errs, s.stopAll(ctx, func(c Component) bool { return !last(c) }), s.stopAll(ctx, last))
	// Shims, and whatever was run in the lab. What they start meanwhile is met in
	// the next round.
	for range 3 {
		pids := s.ours()
		if len(pids) == 0 {
			break
		}
		errs = append(errs, end(ctx, pids, func() bool { return len(s.ours()) > 0 }, componentGrace))
	}
	errs = append(errs, s.removeNetwork(), s.removeCgroups(), s.restoreSysctls())
	for _, d := range slices.Backward(s.MadeDirs) {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("remove %s: %w", d, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lab %s is not all down, run lab down again: %w", s.Name, err)
	}
	// The state goes last: without it nobody knows what to undo.
	if err := removeState(s); err != nil {
		return err
	}
	fmt.Fprintf(log, "lab %s is down after %.1fs\n", s.Name, time.Since(begin).Seconds())
	return nil
}

// stopAll stops the components that which keeps, all at once.
func (s *State) stopAll(ctx context.Context, which func(Component) bool) error {
	var pids []int
	alive := func() bool {
		return slices.ContainsFunc(s.Components, func(c Component) bool { return which(c) && c.alive() })
	}
	for _, c := range s.Components {
		if which(c) && c.alive() {
			pids = append(pids, c.PID)
		}
	}
	if len(pids) == 0 {
		return nil
	}
	return end(ctx, pids, alive, componentGrace)
}

func removeState(s *State) error {
	// A file system that is still mounted in there is not ours to empty.
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], s.Dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", f[4], err)
			}
		}
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(s.file()) {
			if err := os.RemoveAll(s.path(e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		return err
	}
	if s.Dir == DefaultDir(s.Name) {
		_ = unix.Rmdir(filepath.Dir(s.Dir)) // goes with the last lab
	}
	return nil
}
