// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// safeBuffer is a bytes.Buffer that a process and the test may share.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func shell(name, script string, log *safeBuffer) process {
	return process{Name: name, Argv: []string{"/bin/sh", "-c", script}, Env: os.Environ(), Log: log, Grace: func() time.Duration { return 20 * time.Second }}
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// eventually polls for what the kernel does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestRunRestartsWithReason(t *testing.T) {
	s := newStarter()
	defer s.close()
	ctx, cancel := context.WithCancel(t.Context())
	var log safeBuffer
	crashes := make(chan event, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.run(ctx, shell("p", "echo out of cheese; exit 3", &log), func(e event) {
			if e.Kind == eventCrashed {
				crashes <- e
			}
		})
	}()
	a, b := <-crashes, <-crashes
	cancel()
	<-done
	if a.Err.Error() != "exited with status 3" || !strings.Contains(log.String(), "out of cheese") {
		t.Errorf("crash reported as %v, log %q", a.Err, log.String())
	}
	if b.Retry != 2*a.Retry {
		t.Errorf("second wait %s, want twice the first, %s", b.Retry, a.Retry)
	}
}

func TestRunEndsTheGroup(t *testing.T) {
	s := newStarter()
	defer s.close()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var log safeBuffer
	// A child of the program that ignores the polite signal.
	p := shell("p", `sh -c 'trap "" TERM; echo $$ > `+dir+`/child; while :; do sleep 1; done' & trap 'exit 0' TERM; while [ ! -s `+dir+`/child ]; do sleep 0.01; done; touch `+dir+`/up; wait`, &log)
	p.Ready = func(ctx context.Context) error {
		return await(ctx, 30*time.Second, func(context.Context) error { _, err := os.Stat(dir + "/up"); return err })
	}
	ready := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.run(ctx, p, func(e event) {
			if e.Kind == eventReady {
				close(ready)
			}
		})
	}()
	<-ready
	cancel()
	<-done
	b, err := os.ReadFile(dir + "/child")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child of the program ends", func() bool { return gone(pid) })
}

func TestNotReady(t *testing.T) {
	s := newStarter()
	defer s.close()
	ctx, cancel := context.WithCancel(t.Context())
	var log safeBuffer
	p := shell("p", "exec sleep 1000", &log)
	p.Ready = func(context.Context) error { return errors.New("no port") }
	got := make(chan event, 1)
	done := make(chan struct{})
	go func() { defer close(done); s.run(ctx, p, func(e event) { got <- e }) }()
	if e := <-got; e.Kind != eventNotReady || e.Err.Error() != "no port" {
		t.Errorf("%+v", e)
	}
	cancel()
	<-done
}

// TestOrphan runs this test binary as a parent that starts a child and is then
// killed without a chance to clean up.
func TestOrphan(t *testing.T) {
	if os.Getenv("LATEEN_TEST_PARENT") != "" {
		s := newStarter()
		var log safeBuffer
		p := process{Argv: []string{"/bin/sleep", "1000"}, Log: &log}
		cmd := exec.Command(p.Argv[0], p.Argv[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if err := s.start(cmd); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("child %d\n", cmd.Process.Pid)
		select {}
	}
	parent := exec.Command(os.Args[0], "-test.run=^TestOrphan$")
	parent.Env = append(os.Environ(), "LATEEN_TEST_PARENT=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "child %d\n", &pid); err != nil {
		t.Fatal(err)
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	eventually(t, "the child dies with its parent", func() bool { return gone(pid) || zombie(pid) })
}

// zombie: dead, and whoever inherited it has not looked yet.
func zombie(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(rest, "Z")
}

func TestBackoff(t *testing.T) {
	b := backoff{min: 1, max: 5, healthy: 100}
	var got []time.Duration
	for _, ran := range []time.Duration{0, 0, 0, 0, 100, 0} {
		got = append(got, b.after(ran))
	}
	if want := "[1ns 2ns 4ns 5ns 1ns 2ns]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestLogIsBounded(t *testing.T) {
	l, err := openLog(filepath.Join(t.TempDir(), "x.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	block := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	for range 20 {
		if _, err := l.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{l.path, l.path + ".1"} {
		fi, err := os.Stat(p)
		if err != nil || fi.Size() > maxLogBytes {
			t.Errorf("%s: %v %v", p, fi, err)
		}
	}
	_, _ = l.Write([]byte("a\nb\n"))
	if got := l.lastLines(2); fmt.Sprint(got) != "[a b]" {
		t.Errorf("last lines %q", got)
	}
}

func TestHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := netip.MustParseAddrPort(l.Addr().String())
	err = checkFree(at)
	if !errors.Is(err, errBusy) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("%v", err)
	}
	// The same port of another address is free.
	if err := checkFree(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())); err != nil {
		t.Error(err)
	}
	l.Close()
	if err := checkFree(at); err != nil {
		t.Error(err)
	}
}

func TestListening(t *testing.T) {
	const any4 = "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0"
	const any6 = "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4243 1"
	const busy = "   0: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4244 1"
	at := netip.MustParseAddrPort("127.0.0.1:8080")
	for line, want := range map[string]string{any4: "4242", any6: "4243", busy: "", "  sl  local_address": ""} {
		if got, _ := listening(line, at); got != want {
			t.Errorf("%s: inode %q, want %q", line, got, want)
		}
	}
	if _, ok := listening(any4, netip.MustParseAddrPort("127.0.0.1:8081")); ok {
		t.Error("another port matches")
	}
}

func FuzzListening(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1")
	f.Add("   0: 00000000000000000000000001000000:1F90 0:0 0A 0 0 0 0 0 4242 1")
	at := netip.MustParseAddrPort("127.0.0.1:8080")
	f.Fuzz(func(t *testing.T, line string) {
		if inode, ok := listening(line, at); ok != (inode != "") {
			t.Errorf("%q: inode %q, %v", line, inode, ok)
		}
	})
}

func TestTokenFile(t *testing.T) {
	f, err := newTokenFile("first-and-longer")
	if err != nil {
		t.Fatal(err)
	}
	defer f.f.Close()
	read := func() string {
		cmd := exec.Command("/bin/cat", tokenPath, tokenPath)
		cmd.ExtraFiles = []*os.File{f.f}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if got := read(); got != "first-and-longerfirst-and-longer" {
		t.Errorf("child read %q", got)
	}
	if err := f.set("second"); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "secondsecond" {
		t.Errorf("child read %q", got)
	}
}
