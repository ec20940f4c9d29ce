// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/test/lab/netns"
	"golang.org/x/sys/unix"
)

// marker is in the environment of every process of a lab, and names its
// directory.
const marker = "LATEEN_LAB_DIR"

// tick is how often what cannot be waited for is looked at.
const tick = 50 * time.Millisecond

// environ of a process of the lab: no more of the user's than it needs.
func (s *State) environ() []string {
	return []string{
		marker + "=" + s.Dir, "HOME=" + s.Dir,
		"PATH=" + strings.Join(s.Programs, ":") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
}

// program finds name among the lab's own programs.
func (s *State) program(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, dir := range s.Programs {
		if p := filepath.Join(dir, name); unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("the lab has no program %s", name)
}

// mounts is the path of the mount namespace that node's processes share.
func (s *State) mounts(node string) (string, error) {
	a := s.component(anchorName(node))
	if a == nil || !a.alive() {
		return "", fmt.Errorf("the process that holds the namespaces of %s is gone: lab down, then lab up", node)
	}
	return fmt.Sprintf("/proc/%d/ns/mnt", a.PID), nil
}

func anchorName(node string) string { return "anchor-" + node }

// command prepares args to run as a process of node.
func (s *State) command(args ...string) (*exec.Cmd, error) {
	p, err := s.program(args[0])
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: p, Args: args, Env: s.environ(), Dir: s.Dir}
	return cmd, nil
}

// start starts c, apart from the terminal, and records its id. The caller saves.
func (s *State) start(c *Component) error {
	n, ok := s.node(c.Node)
	if !ok {
		return fmt.Errorf("%s: there is no node %s", c.Name, c.Node)
	}
	cmd, err := s.command(c.Args...)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.LogFile(c.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	mnt := ""
	if c.Name == anchorName(c.Node) {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	} else if mnt, err = s.mounts(c.Node); err != nil {
		return err
	}
	if err := netns.Start(cmd, netns.Path(n.NetNS), mnt); err != nil {
		return fmt.Errorf("start %s: %w", c.Name, err)
	}
	c.PID, c.Started = cmd.Process.Pid, startTime(cmd.Process.Pid)
	// Whoever is still here when it ends leaves no zombie.
	go func() { _ = cmd.Wait() }()
	return nil
}

// startTime is field 22 of /proc/PID/stat (see proc(5)), 0 when there is no
// such process or it has ended and waits to be reaped.
func startTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is in parentheses and may hold anything.
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:]))
	if i < 0 || len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	t, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return t
}

func (c *Component) alive() bool {
	return c.PID != 0 && c.Started != 0 && startTime(c.PID) == c.Started
}

// stop ends c: politely, and after grace without asking.
func (c *Component) stop(ctx context.Context, grace time.Duration) error {
	if c.alive() {
		if err := end(ctx, []int{c.PID}, c.alive, grace); err != nil {
			return fmt.Errorf("stop %s: %w", c.Name, err)
		}
	}
	c.PID, c.Started = 0, 0
	return nil
}

// end signals pids until alive is false.
func end(ctx context.Context, pids []int, alive func() bool, grace time.Duration) error {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, grace}, {syscall.SIGKILL, 10 * time.Second}} {
		for _, pid := range pids {
			if err := syscall.Kill(pid, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("signal process %d: %w", pid, err)
			}
		}
		err := poll(ctx, step.wait, func() (bool, error) { return !alive(), nil })
		if !errors.Is(err, errWaited) {
			return err
		}
	}
	return fmt.Errorf("processes %v do not end", pids)
}

var errWaited = errors.New("waited too long")

// poll calls done until it says so, fails, or wait is over.
func poll(ctx context.Context, wait time.Duration, done func() (bool, error)) error {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-limit.C:
			return errWaited
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ours lists the processes of this lab but this one: those in its network
// namespaces or cgroups, and those that its directory is in the environment of.
func (s *State) ours() []int { return s.find(true) }

// pods lists the processes in the lab's cgroups.
func (s *State) pods() []int { return s.find(false) }

func (s *State) find(all bool) []int {
	spaces := map[string]bool{}
	for _, n := range s.Nodes {
		var st unix.Stat_t
		if netns.Exists(n.NetNS) && unix.Stat(netns.Path(n.NetNS), &st) == nil {
			spaces[fmt.Sprintf("net:[%d]", st.Ino)] = true
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || startTime(pid) == 0 {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if strings.Contains(string(groups), ":/"+s.cgroup()+"/") {
			out = append(out, pid)
			continue
		}
		if !all {
			continue
		}
		space, _ := os.Readlink(filepath.Join(dir, "ns", "net"))
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if spaces[space] || strings.Contains("\x00"+string(env), "\x00"+marker+"="+s.Dir+"\x00") {
			out = append(out, pid)
		}
	}
	return out
}

// tail is the end of a component's log, for a message.
func (s *State) tail(name string) string {
	b, err := os.ReadFile(s.LogFile(name))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}
