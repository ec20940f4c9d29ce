// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
)

const (
	maxLogBytes = 8 << 20 // of one file; the one before it is kept as .1
	tailBytes   = 2 << 10
)

// logFile is what a process writes, on disk in bounded space, with its last
// lines at hand for the report of a crash.
type logFile struct {
	path string

	mu   sync.Mutex
	f    *os.File
	size int64
	tail []byte
}

func openLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &logFile{path: path, f: f, size: fi.Size()}, nil
}

// Write implements io.Writer. It never fails: a full disk must not stop a
// process whose output nobody reads.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if extra := len(l.tail) - tailBytes; extra > 0 {
		l.tail = append(l.tail[:0], l.tail[extra:]...)
	}
	if l.f == nil {
		return len(p), nil
	}
	if l.size+int64(len(p)) > maxLogBytes {
		l.rotate()
	}
	n, _ := l.f.Write(p)
	l.size += int64(n)
	return len(p), nil
}

func (l *logFile) rotate() {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o600)
	if err != nil {
		return // go on in the renamed file
	}
	l.f.Close()
	l.f, l.size = f, 0
}

// lastLines returns up to n of the last whole lines.
func (l *logFile) lastLines(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(string(bytes.TrimSpace(l.tail)), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}
