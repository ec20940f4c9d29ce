// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a program with its children, in a process group of its own.
type process struct {
	cmd    *exec.Cmd
	out    bytes.Buffer
	exited chan struct{}
}

// startProcess runs argv and waits until it listens on port.
func startProcess(argv []string, port int) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	for range 1000 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			return p, nil
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("%s ended: %w", argv[0], lastLine(p.out.Bytes()))
		case <-time.After(10 * time.Millisecond):
		}
	}
	p.stop()
	return nil, fmt.Errorf("%s does not listen on port %d", argv[0], port)
}

func (p *process) stop() {
	select {
	case <-p.exited:
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(2 * time.Second):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	}
}

// pids are the process and its children.
func (p *process) pids() []int {
	pids := []int{p.cmd.Process.Pid}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[0]))
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		for f := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// tick is the unit of utime and stime; Linux fixes it for user space.
const tick = 10 * time.Millisecond

// cpu is the user and system time used so far.
func (p *process) cpu() (time.Duration, error) {
	var ticks int64
	for _, pid := range p.pids() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		// The command's name, in parentheses, may hold spaces.
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, i := range []int{11, 12} { // utime, stime: fields 14 and 15
			n, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * tick, nil
}

// pss is the proportional set size in KiB.
func (p *process) pss() int64 {
	var sum int64
	for _, pid := range p.pids() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
				n, _ := strconv.ParseInt(f[1], 10, 64)
				sum += n
			}
		}
	}
	return sum
}

// load runs wrk against the setup and measures it.
func (s *setup) load(ctx context.Context, d time.Duration) (result, error) {
	var r result
	before, err := s.cpu()
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, "wrk", "-t1", "-c32", "-d"+strconv.Itoa(max(int(d.Seconds()), 1))+"s", "--latency", fmt.Sprintf("http://127.0.0.1:%d/", s.port))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return r, fmt.Errorf("wrk: %w: %w", err, lastLine(out))
	}
	after, err := s.cpu()
	if err != nil {
		return r, err
	}
	requests, err := parseWrk(string(out), &r)
	if err != nil {
		return r, err
	}
	r.CPU = float64((after - before).Microseconds()) / requests
	for _, p := range s.procs {
		r.Pss += p.pss()
	}
	return r, nil
}

func (s *setup) cpu() (sum time.Duration, err error) {
	for _, p := range s.procs {
		d, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// parseWrk reads wrk's report.
func parseWrk(out string, r *result) (requests float64, err error) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "50%":
			r.P50 = millis(f[1])
		case len(f) == 2 && f[0] == "99%":
			r.P99 = millis(f[1])
		case len(f) > 2 && f[1] == "requests" && f[2] == "in":
			requests, err = strconv.ParseFloat(f[0], 64)
		case len(f) == 2 && f[0] == "Requests/sec:":
			r.Rate, err = strconv.ParseFloat(f[1], 64)
		case strings.HasPrefix(strings.TrimSpace(line), "Non-2xx"):
			n, _ := strconv.Atoi(f[len(f)-1])
			r.Errors += n
		case strings.HasPrefix(strings.TrimSpace(line), "Socket errors"):
			for _, w := range f {
				n, _ := strconv.Atoi(strings.TrimSuffix(w, ","))
				r.Errors += n
			}
		}
		if err != nil {
			return 0, fmt.Errorf("wrk's report %q: %w", line, err)
		}
	}
	if requests == 0 {
		return 0, fmt.Errorf("wrk made no request")
	}
	return requests, nil
}

func millis(s string) float64 {
	d, err := time.ParseDuration(s)
	if err != nil {
		return -1
	}
	return float64(d) / float64(time.Millisecond)
}
