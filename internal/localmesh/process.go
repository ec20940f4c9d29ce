// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is what one supervised program is run from.
type process struct {
	Name  string // as the user knows it, such as "reviews-v1 sidecar"
	Argv  []string
	Dir   string
	Env   []string
	Files []*os.File // inherited, from descriptor 3 on
	Log   io.Writer  // standard output and error

	// Ready blocks until the program takes requests. Nil: ready once started.
	Ready func(context.Context) error
	// Grace tells, at the end, how long the program may take after SIGTERM.
	Grace func() time.Duration
}

type eventKind int

const (
	eventReady eventKind = iota
	eventCrashed
	eventNotReady
)

// event tells what happened to a process. Err is set but for eventReady.
type event struct {
	Kind    eventKind
	Process string
	Took    time.Duration // from start to ready
	Err     error
	Retry   time.Duration // until the next start
}

// backoff is the time between a crash and the next start.
type backoff struct {
	min, max time.Duration
	healthy  time.Duration // a run at least this long starts over from min
	next     time.Duration
}

func (b *backoff) after(ran time.Duration) time.Duration {
	if b.next == 0 || ran >= b.healthy {
		b.next = b.min
	}
	d := b.next
	b.next = min(b.next*2, b.max)
	return d
}

// starter starts processes from one thread that never ends. The kernel sends
// PR_SET_PDEATHSIG when the *thread* that forked ends, so a child must not be
// started from a thread the runtime may retire.
type starter struct{ jobs chan func() }

func newStarter() *starter {
	s := &starter{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range s.jobs {
			f()
		}
		// Unlocking keeps the thread, and with it the children, alive.
		runtime.UnlockOSThread()
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) error {
	done := make(chan error)
	s.jobs <- func() { done <- cmd.Start() }
	return <-done
}

func (s *starter) close() { close(s.jobs) }

// run keeps the process running until ctx ends, restarting it with back-off
// when it exits by itself, and returns when it and its process group are gone.
func (s *starter) run(ctx context.Context, p process, notify func(event)) {
	wait := backoff{min: 200 * time.Millisecond, max: 10 * time.Second, healthy: 30 * time.Second}
	for {
		began := time.Now()
		err := s.once(ctx, p, notify)
		if ctx.Err() != nil {
			return
		}
		retry := wait.after(time.Since(began))
		notify(event{Kind: eventCrashed, Process: p.Name, Err: err, Retry: retry})
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry):
		}
	}
}

// once runs the process until it exits or ctx ends; the error says how it ended.
func (s *starter) once(ctx context.Context, p process, notify func(event)) error {
	cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = p.Dir, p.Env, p.Files
	cmd.Stdout, cmd.Stderr = p.Log, p.Log
	// A group of its own keeps the terminal's Ctrl-C away from it: we stop
	// things in order. The death signal covers our own sudden end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // for descendants that hold our pipe
	began := time.Now()
	if err := s.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.Argv[0], err)
	}
	exited := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind
		exited <- err
	}()
	probe, stopProbe := context.WithCancel(ctx)
	defer stopProbe()
	go func() {
		if p.Ready != nil {
			if err := p.Ready(probe); err != nil {
				if probe.Err() == nil {
					notify(event{Kind: eventNotReady, Process: p.Name, Err: err})
				}
				return
			}
		}
		if probe.Err() == nil {
			notify(event{Kind: eventReady, Process: p.Name, Took: time.Since(began)})
		}
	}()
	select {
	case err := <-exited:
		return exitReason(err)
	case <-ctx.Done():
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-exited:
	case <-time.After(p.Grace()):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
	}
	return ctx.Err()
}

func exitReason(err error) error {
	var e *exec.ExitError
	switch {
	case err == nil:
		return errors.New("exited with status 0")
	case errors.As(err, &e):
		if ws, ok := e.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return fmt.Errorf("killed by %s", unix.SignalName(ws.Signal()))
		}
		return fmt.Errorf("exited with status %d", e.ExitCode())
	}
	return err
}
