// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/test/lab/netns"
	"golang.org/x/sys/unix"
)

// Cluster is a lab that is up.
type Cluster struct {
	state *State
}

// Open returns the lab of o.Name and o.Dir, or an error that is ErrNone.
func Open(o Options) (*Cluster, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	s, err := load(o.Dir)
	if err != nil {
		return nil, err
	}
	return &Cluster{state: s}, nil
}

// State returns what is known of the lab. The caller must not change it.
func (c *Cluster) State() *State { return c.state }

// Down ends the lab.
func (c *Cluster) Down(ctx context.Context) error {
	return Down(ctx, Options{Name: c.state.Name, Dir: c.state.Dir})
}

// Environ is base with what a program needs to use the lab from inside it.
func (c *Cluster) Environ(base []string) []string {
	path := ""
	var out []string
	for _, kv := range base {
		switch k, v, _ := strings.Cut(kv, "="); k {
		case "PATH":
			path = v
		case "KUBECONFIG", marker:
		default:
			out = append(out, kv)
		}
	}
	return append(out, "PATH="+c.state.Programs[0]+":"+path, "KUBECONFIG="+c.state.Kubeconfig, marker+"="+c.state.Dir)
}

// Exec turns this process into args, run in the first node's network with the
// lab's name server. It returns only an error.
func (c *Cluster) Exec(args []string) error {
	env := c.Environ(os.Environ())
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: it becomes the program
		done <- c.exec(args, env)
	}()
	return <-done
}

func (c *Cluster) exec(args, env []string) error {
	n := c.state.Nodes[0]
	if !netns.Exists(n.NetNS) {
		return fmt.Errorf("the network namespace %s of the lab is gone: lab down, then lab up", n.NetNS)
	}
	program, err := lookPath(args[0], env)
	if err != nil {
		return err
	}
	// Only this program sees the lab's resolver.
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("the lab's name server goes in place of /etc/resolv.conf: %w", err)
	}
	if err := unix.Mount(c.state.path("resolv.conf"), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	if err := netns.Enter(netns.Path(n.NetNS)); err != nil {
		return err
	}
	if err := syscall.Exec(program, args, env); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}

// lookPath finds a program by the PATH of env.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			p := filepath.Join(dir, name)
			if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// Run runs a program in the first node's network and returns what it printed.
// It is for programs that look up no names; Exec is for all others.
func (c *Cluster) Run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	env := c.Environ(os.Environ())
	program, err := lookPath(args[0], env)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Env, cmd.Stdin = env, stdin
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := netns.Start(cmd, netns.Path(c.state.Nodes[0].NetNS), ""); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out.Bytes(), nil
}

// Kubectl runs kubectl as the cluster's administrator.
func (c *Cluster) Kubectl(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	return c.Run(ctx, stdin, append([]string{"kubectl"}, args...)...)
}

// Import gives all nodes the images in archives (OCI or docker-archive), and
// serves those in OCI layout to pods that insist on pulling.
func (c *Cluster) Import(ctx context.Context, archives ...string) error {
	for _, a := range archives {
		if err := c.state.keep(a); err != nil {
			return err
		}
	}
	for _, n := range c.state.Nodes {
		if err := c.state.importImages(ctx, n, archives); err != nil {
			return err
		}
	}
	return nil
}

func (s *State) importImages(ctx context.Context, n Node, archives []string) error {
	mnt, err := s.mounts(n.Name)
	if err != nil {
		return err
	}
	for _, a := range archives {
		if a, err = filepath.Abs(a); err != nil {
			return err
		}
		cmd, err := s.command("ctr", "--address", s.nodeDir(n, "containerd.sock"), "--namespace", "k8s.io", "images", "import", "--local", a)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := netns.Start(cmd, netns.Path(n.NetNS), mnt); err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		stop()
		if err != nil {
			return fmt.Errorf("import %s into %s: %w\n%s", a, n.Name, err, bytes.TrimSpace(out.Bytes()))
		}
	}
	return nil
}

// Stop ends one component and leaves it so.
func (c *Cluster) Stop(ctx context.Context, name string) error {
	p, err := c.known(name)
	if err != nil {
		return err
	}
	if p.Name == anchorName(p.Node) {
		return errors.New("an anchor holds a node together and is only stopped with the lab")
	}
	return errors.Join(p.stop(ctx, componentGrace), c.state.save())
}

// Start starts a component that was stopped or ended.
func (c *Cluster) Start(name string) error {
	p, err := c.known(name)
	if err != nil {
		return err
	}
	if p.alive() {
		return nil
	}
	return errors.Join(c.state.start(p), c.state.save())
}

// known finds a component. The part after the dash may be left out when there
// is only one node.
func (c *Cluster) known(name string) (*Component, error) {
	if p := c.state.component(name); p != nil {
		return p, nil
	}
	if p := c.state.component(name + "-" + c.state.Nodes[0].Name); p != nil && len(c.state.Nodes) == 1 {
		return p, nil
	}
	return nil, fmt.Errorf("the lab has no component %q: it has %s", name, strings.Join(c.Components(), ", "))
}

// Components names them all.
func (c *Cluster) Components() []string {
	var out []string
	for _, p := range c.state.Components {
		out = append(out, p.Name)
	}
	return out
}

// Log copies the log of a component to w, and what is added to it until ctx
// ends when follow is set.
func (c *Cluster) Log(ctx context.Context, w io.Writer, name string, follow bool) error {
	p, err := c.known(name)
	if err != nil {
		return err
	}
	f, err := os.Open(c.state.LogFile(p.Name))
	if err != nil {
		return err
	}
	defer f.Close()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := io.Copy(w, f); err != nil || !follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Running tells whether the process of a component is there.
func (c *Cluster) Running(name string) bool {
	p := c.state.component(name)
	return p != nil && p.alive()
}
