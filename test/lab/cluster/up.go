// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lateen-mesh/lateen/test/lab/build"
	"github.com/lateen-mesh/lateen/test/lab/netns"
)

// DefaultName is that of a lab which was given none.
const DefaultName = "lateen"

// Options of a lab.
type Options struct {
	// Name tells labs on one machine apart; empty is DefaultName.
	Name string
	// Dir takes all that the lab writes; empty is DefaultDir of the name.
	Dir string
	// Nodes is how many; 0 is one.
	Nodes int
	// Root is the repository, which programs are built from; empty looks for it.
	Root string
	// Self is the lab program, which is run for some of the lab's processes;
	// empty is the program at hand.
	Self string
	// Log takes a line for each step; nil is none.
	Log io.Writer
}

func (o *Options) defaults() error {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	var err error
	if o.Dir == "" {
		o.Dir = DefaultDir(o.Name)
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return err
	}
	// A Unix socket's path has room for 107 bytes.
	if len(o.Dir) > 60 {
		return fmt.Errorf("state directory %s: its path is longer than 60 bytes, which leaves no room for sockets in it", o.Dir)
	}
	if o.Root == "" {
		if o.Root, err = build.FindRoot(); err != nil {
			return err
		}
	}
	if o.Self == "" {
		if o.Self, err = os.Executable(); err != nil {
			return err
		}
	}
	return nil
}

// Prepare does what Up does before it starts anything: it installs Debian
// packages that are missing and builds the programs that are not in the cache.
func Prepare(ctx context.Context, o Options) error {
	if err := o.defaults(); err != nil {
		return err
	}
	_, err := o.prepare(ctx)
	return err
}

func (o *Options) prepare(ctx context.Context) (build.Programs, error) {
	if err := ensurePackages(ctx, o.Log); err != nil {
		return build.Programs{}, err
	}
	return build.Ensure(ctx, build.Options{Root: o.Root, Log: o.Log})
}

// Up starts a lab, or returns the one that is up. When it fails or ctx ends,
// nothing of it stays.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes network namespaces and containers: run it as root")
	}
	unlock, err := lockName(o.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if s, err := load(o.Dir); err == nil {
		if dead := s.dead(); len(dead) == 0 && s.Ready && len(s.Nodes) == o.Nodes {
			fmt.Fprintf(o.Log, "lab %s is up already\n", s.Name)
			return &Cluster{state: s}, nil
		} else if len(dead) == 0 && s.Ready {
			return nil, fmt.Errorf("lab %s is up with %d nodes: lab down first", s.Name, len(s.Nodes))
		}
		fmt.Fprintf(o.Log, "lab %s is half up: starting anew\n", s.Name)
		if err := down(ctx, s, o.Log); err != nil {
			return nil, err
		}
	}
	programs, err := o.prepare(ctx)
	if err != nil {
		return nil, err
	}
	s, err := plan(o.Name, o.Dir, o.Nodes)
	if err != nil {
		return nil, err
	}
	s.Programs, s.CNI = programs.Dirs, programs.CNI
	u := &upper{s: s, log: o.Log, begin: time.Now(), self: o.Self, pause: programs.Pause}
	if err := u.run(ctx); err != nil {
		// The context may be the reason.
		if e := down(context.WithoutCancel(ctx), s, o.Log); e != nil {
			err = errors.Join(err, e)
		}
		return nil, err
	}
	return &Cluster{state: s}, nil
}

// upper is one start of a lab.
type upper struct {
	s     *State
	log   io.Writer
	begin time.Time
	self  string
	pause string
}

func (u *upper) step(format string, args ...any) {
	fmt.Fprintf(u.log, "%6.1fs  %s\n", time.Since(u.begin).Seconds(), fmt.Sprintf(format, args...))
}

func (u *upper) run(ctx context.Context) error {
	s := u.s
	for _, n := range s.Nodes {
		if netns.Exists(n.NetNS) {
			return fmt.Errorf("there is a network namespace %s that is not of a lab in %s: choose another --name", n.NetNS, s.Dir)
		}
	}
	if err := os.MkdirAll(s.path("logs"), 0o755); err != nil {
		return err
	}
	s.saveSysctls()
	// From here on `lab down` finds what there is to undo.
	if err := errors.Join(s.save(), s.makeMountPoints(), s.makeCgroups(), s.makeNetwork(), s.writePKI(), s.writeConfig()); err != nil {
		return err
	}
	u.step("network namespace %s, keys, configuration", s.Name)
	for _, n := range s.Nodes {
		if err := u.start(ctx, Component{Name: anchorName(n.Name), Node: n.Name, Args: []string{u.self, "anchor", "--dir", s.Dir, "--node", n.Name}}); err != nil {
			return err
		}
		if err := u.wait(ctx, "mounts of "+n.Name, func() bool {
			b, err := os.ReadFile(s.LogFile(anchorName(n.Name)))
			return err == nil && strings.HasSuffix(string(b), AnchorReady+"\n")
		}); err != nil {
			return err
		}
	}
	a, err := s.api()
	if err != nil {
		return err
	}
	defer a.close()
	for _, c := range s.components(u.self) {
		if c.Name == "kube-controller-manager" {
			// The rest would only fail and wait before it.
			if err := u.control(ctx, a); err != nil {
				return err
			}
		}
		if err := u.start(ctx, c); err != nil {
			return err
		}
	}
	return u.ready(ctx, a)
}

// AnchorReady is what an anchor prints when its namespace is complete.
const AnchorReady = "ready"

// control waits for the API server, importing the first image meanwhile.
func (u *upper) control(ctx context.Context, a *api) error {
	s := u.s
	for _, n := range s.Nodes {
		if err := u.wait(ctx, "containerd of "+n.Name, func() bool {
			fi, err := os.Stat(s.nodeDir(n, "containerd.sock"))
			return err == nil && fi.Mode()&os.ModeSocket != 0
		}); err != nil {
			return err
		}
		if err := s.importImages(ctx, n, []string{u.pause}); err != nil {
			return err
		}
	}
	u.step("containerd")
	if err := u.wait(ctx, "kube-apiserver", func() bool { return a.do(ctx, http.MethodGet, "/readyz", nil, nil) == nil }); err != nil {
		return err
	}
	u.step("kube-apiserver at %s", s.Server())
	return nil
}

func (u *upper) ready(ctx context.Context, a *api) error {
	s := u.s
	if err := s.addons(ctx, a); err != nil {
		return err
	}
	for _, n := range s.Nodes {
		if err := u.wait(ctx, "node "+n.Name+" to be Ready", func() bool { return a.nodeReady(ctx, n.Name) }); err != nil {
			return err
		}
		u.step("node %s is Ready", n.Name)
	}
	for _, n := range s.Nodes {
		if err := u.wait(ctx, "the name server, asked from "+n.Name, func() bool { return s.resolves(ctx, n, "kubernetes.default.svc."+Domain+".") }); err != nil {
			return err
		}
	}
	u.step("names are answered at %s", DNS)
	s.Ready = true
	return s.save()
}

func (u *upper) start(ctx context.Context, c Component) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u.s.Components = append(u.s.Components, c)
	return errors.Join(u.s.start(&u.s.Components[len(u.s.Components)-1]), u.s.save())
}

// startLimit bounds the wait for one thing; a machine with other work is slow.
const startLimit = 3 * time.Minute

// wait polls done, and gives up when a component ends.
func (u *upper) wait(ctx context.Context, what string, done func() bool) error {
	err := poll(ctx, startLimit, func() (bool, error) {
		if dead := u.s.dead(); len(dead) > 0 {
			return false, fmt.Errorf("%s ended; the end of its log:\n%s", dead[0], u.s.tail(dead[0]))
		}
		return done(), nil
	})
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}

// dead names the components that should run and do not.
func (s *State) dead() []string {
	var out []string
	for i := range s.Components {
		if c := &s.Components[i]; c.PID != 0 && !c.alive() {
			out = append(out, c.Name)
		}
	}
	return out
}

// lockName keeps two from starting or ending the lab name at once.
func lockName(name string) (unlock func(), err error) {
	dir, err := build.DefaultDir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lab-"+name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lab %s is being started or stopped by someone else", name)
	}
	return func() { f.Close() }, nil
}
