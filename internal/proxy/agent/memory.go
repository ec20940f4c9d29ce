// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The garbage collector's settings. A sidecar is idle most of the time, when
// memory counts; under load the collector must not run all the time.
const (
	idlePercent = 50
	busyPercent = 400
	// lookEvery is how often the collector's work is looked at; more than
	// busyCycles in that time is load.
	lookEvery  = 2 * time.Second
	busyCycles = 3
	// Allocating less than quietBytes between looks, quietLooks times in a row,
	// is quiet; memory is given back when worthBytes were allocated since then.
	quietBytes = 64 << 10
	quietLooks = 5
	worthBytes = 1 << 20
	// returnAfter is how long after the last push memory goes back to the system.
	returnAfter = 2 * time.Second
)

// memory tunes the collector to what the process is doing.
type memory struct {
	mu    sync.Mutex
	timer *time.Timer
}

// start sets the idle percent and, unless GOMEMLIMIT is set, nine tenths of the
// cgroup's limit as the soft bound.
func (m *memory) start() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(idlePercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		if n := cgroupLimit("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"); n > 0 {
			debug.SetMemoryLimit(n / 10 * 9)
		}
	}
}

// cgroupLimit reads the first file that holds a limit in bytes, 0 for none.
func cgroupLimit(files ...string) int64 {
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && n > 0 && n < math.MaxInt64/2 {
			return n
		}
	}
	return 0
}

// run follows the collector's work until ctx is done: under load it makes the
// collector lazier, and once the process is quiet it gives back what the load
// has left, stacks included.
func (m *memory) run(ctx context.Context) {
	fixed := os.Getenv("GOGC") != ""
	sample := []metrics.Sample{{Name: "/gc/cycles/automatic:gc-cycles"}, {Name: "/gc/heap/allocs:bytes"}}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var cycles, allocs, given uint64
	quiet, busy := 0, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		metrics.Read(sample)
		c, a := sample[0].Value.Uint64(), sample[1].Value.Uint64()
		if a-allocs > quietBytes {
			quiet = 0
		} else {
			quiet++
		}
		if !busy && !fixed && c-cycles > busyCycles {
			busy = true
			debug.SetGCPercent(busyPercent)
		}
		cycles, allocs = c, a
		if quiet < quietLooks {
			continue
		}
		if busy {
			busy = false
			debug.SetGCPercent(idlePercent)
		}
		if a-given > worthBytes {
			given = a
			giveBack()
		}
	}
}

// pushed says that configuration has arrived: what decoding it took is given
// back once it is quiet.
func (m *memory) pushed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer == nil {
		m.timer = time.AfterFunc(returnAfter, giveBack)
		return
	}
	m.timer.Reset(returnAfter)
}

func (m *memory) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer != nil {
		m.timer.Stop()
	}
}

// giveBack returns to the system what decoding configuration has left behind:
// free heap, and the pages of the program that start-up touched once (message
// descriptors above all). Those are clean pages of a file; what is needed again
// is mapped again from the page cache.
func giveBack() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != exe || f[1] != "r-xp" && f[1] != "r--p" {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		begin, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && end > begin {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_DONTNEED)
		}
	}
}
