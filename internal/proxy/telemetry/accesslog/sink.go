// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	stdout = "/dev/stdout"
	stderr = "/dev/stderr"

	// flushBytes wakes the writer at once; flushAfter bounds how long a line
	// waits for company.
	flushBytes = 64 << 10
	flushAfter = 200 * time.Millisecond
	// maxPending bounds what a slow sink can hold back, in bytes.
	maxPending = 1 << 20
)

// Sinks are the open outputs of a process: one per path, shared by all logs.
type Sinks struct {
	out, err io.Writer
	dropped  func()

	mu     sync.Mutex
	byPath map[string]*sink
	closed bool
}

// NewSinks returns sinks for the process's standard streams and files. dropped
// is called for each line that a slow output loses; it may be nil and must not block.
func NewSinks(out, err io.Writer, dropped func()) *Sinks {
	if dropped == nil {
		dropped = func() {}
	}
	return &Sinks{out: out, err: err, dropped: dropped, byPath: map[string]*sink{}}
}

func (s *Sinks) open(path string) (*sink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("path: %s: the log outputs are closed", path)
	}
	if k := s.byPath[path]; k != nil {
		return k, nil
	}
	k := &sink{wake: make(chan struct{}, 1), full: make(chan struct{}, 1), done: make(chan struct{}), dropped: s.dropped}
	switch path {
	case stdout:
		k.w = s.out
	case stderr:
		k.w = s.err
	default:
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
		if err != nil {
			return nil, fmt.Errorf("path: %w", err)
		}
		k.w, k.file = f, f
	}
	s.byPath[path] = k
	go k.run()
	return k, nil
}

// Close writes what is pending and closes the files. Lines logged later are
// dropped. A sink whose reader hangs is given up when the wait has passed.
func (s *Sinks) Close(wait time.Duration) {
	s.mu.Lock()
	s.closed = true
	sinks := make([]*sink, 0, len(s.byPath))
	for _, k := range s.byPath {
		sinks = append(sinks, k)
	}
	s.mu.Unlock()
	for _, k := range sinks {
		k.stop()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for _, k := range sinks {
		select {
		case <-k.done:
		case <-timer.C:
			return
		}
	}
}

// sink is one output: lines are collected in one buffer while the writer
// goroutine writes the other.
type sink struct {
	w       io.Writer
	file    *os.File // nil for the standard streams
	dropped func()
	wake    chan struct{} // there is something to write
	full    chan struct{} // there is much to write, or it is time to stop
	done    chan struct{}

	mu      sync.Mutex
	pending []byte
	spare   []byte
	stopped bool
}

func (k *sink) write(line []byte) {
	k.mu.Lock()
	if k.stopped || len(k.pending)+len(line) > maxPending {
		k.mu.Unlock()
		k.dropped()
		return
	}
	first := len(k.pending) == 0
	was := len(k.pending) >= flushBytes
	k.pending = append(k.pending, line...)
	much := !was && len(k.pending) >= flushBytes
	k.mu.Unlock()
	if first {
		signal(k.wake)
	}
	if much {
		signal(k.full)
	}
}

func (k *sink) stop() {
	k.mu.Lock()
	k.stopped = true
	k.mu.Unlock()
	signal(k.wake)
	signal(k.full)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (k *sink) run() {
	defer close(k.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		<-k.wake
		timer.Reset(flushAfter)
		select {
		case <-timer.C:
		case <-k.full:
		}
		if k.flush() {
			if k.file != nil {
				k.file.Close()
			}
			return
		}
	}
}

// flush writes what is pending and reports whether the sink has stopped. A
// failed write loses its lines: there is nowhere better to report it than the
// count.
func (k *sink) flush() (stopped bool) {
	k.mu.Lock()
	b := k.pending
	k.pending = k.spare[:0]
	stopped = k.stopped
	k.mu.Unlock()
	if len(b) > 0 {
		if _, err := k.w.Write(b); err != nil {
			k.dropped()
		}
	}
	// An idle sink keeps no large buffer.
	if cap(b) > flushBytes*2 {
		b = nil
	}
	k.mu.Lock()
	k.spare = b
	k.mu.Unlock()
	return stopped
}
