// SPDX-License-Identifier: Apache-2.0

// Package build makes the programs of a Kubernetes cluster from their Go
// modules, once: they stay in the user's cache, under a key of all that went
// into them.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Versions of what the lab runs.
const (
	Kubernetes    = "v1.36.3"
	containerd    = "v2.4.2"
	cniPlugins    = "v1.9.1"
	coreDNS       = "v1.14.7"
	metricsServer = "v0.9.0"
)

// A recipe makes some programs with one go command.
type recipe struct {
	name string
	// module is a directory of this repository with a main package, built in
	// place; empty means that packages are installed at version.
	module   string
	packages []string
	version  string
	tags     string
	ldflags  string
	// links are further names of the only program.
	links []string
}

// recipes, the slowest first: what is slow should fail early.
func recipes() []recipe {
	stamp := ""
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		stamp += fmt.Sprintf(" -X %[1]s.gitVersion=%s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=36 -X %[1]s.gitTreeState=clean", p, Kubernetes)
	}
	plugin := "github.com/containernetworking/plugins/plugins/"
	daemon := "github.com/containerd/containerd/v2/cmd/"
	return []recipe{
		{
			name: "kubernetes", module: "test/lab/programs/kubernetes", ldflags: stamp,
			links: []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"},
		},
		{
			name: "containerd", version: containerd, tags: "no_btrfs no_devmapper no_zfs no_aufs",
			packages: []string{daemon + "containerd", daemon + "ctr", daemon + "containerd-shim-runc-v2"},
		},
		{name: "coredns", version: coreDNS, packages: []string{"github.com/coredns/coredns"}},
		{name: "metrics-server", version: metricsServer, packages: []string{"sigs.k8s.io/metrics-server/cmd/metrics-server"}},
		{name: "etcd", module: "test/lab/programs/etcd"},
		{
			name: "cni", version: cniPlugins,
			packages: []string{plugin + "main/ptp", plugin + "main/loopback", plugin + "ipam/host-local", plugin + "meta/portmap"},
		},
		{name: "pause", module: "test/lab/cmd/pause"},
	}
}

// Options of Ensure.
type Options struct {
	// Dir keeps the programs; empty is DefaultDir.
	Dir string
	// Root is the repository; empty is FindRoot.
	Root string
	// Log takes a line for each thing made; nil is none.
	Log io.Writer
}

// Programs are ready to run.
type Programs struct {
	// Dirs hold them, for PATH. Each was made whole.
	Dirs []string
	// CNI is the one with the network plugins.
	CNI string
	// Pause is an image archive with the process that holds a pod's namespaces.
	Pause string
}

// DefaultDir is $XDG_CACHE_HOME/lateen/lab.
func DefaultDir() (string, error) {
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("where do the lab's programs go: %w", err)
	}
	return filepath.Join(d, "lateen", "lab"), nil
}

// Ensure builds what is not there yet. Builders that share a directory take
// turns; one that is interrupted leaves nothing that looks finished.
func Ensure(ctx context.Context, o Options) (Programs, error) {
	var p Programs
	if err := o.defaults(); err != nil {
		return p, err
	}
	unlock, err := lock(o.Dir)
	if err != nil {
		return p, err
	}
	defer unlock()
	goVersion, err := toolchain(ctx)
	if err != nil {
		return p, err
	}
	for _, r := range recipes() {
		dir, err := ensure(ctx, o, r, goVersion)
		if err != nil {
			return p, fmt.Errorf("build %s: %w", r.name, err)
		}
		p.Dirs = append(p.Dirs, dir)
		switch r.name {
		case "cni":
			p.CNI = dir
		case "pause":
			p.Pause = filepath.Join(dir, pauseArchive)
		}
	}
	return p, nil
}

// Missing names what Ensure would have to build, which takes minutes.
func Missing(ctx context.Context, o Options) ([]string, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	goVersion, err := toolchain(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, r := range recipes() {
		key, err := r.key(o.Root, goVersion)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(filepath.Join(o.Dir, r.name+"-"+key)); err != nil {
			out = append(out, r.String())
		}
	}
	return out, nil
}

func (o *Options) defaults() (err error) {
	if o.Dir == "" {
		if o.Dir, err = DefaultDir(); err != nil {
			return err
		}
	}
	if o.Root == "" {
		if o.Root, err = FindRoot(); err != nil {
			return err
		}
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return nil
}

func toolchain(ctx context.Context) ([]byte, error) {
	b, err := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOOS", "GOARCH").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w; the lab builds Kubernetes, so it needs Go", err)
	}
	return b, nil
}

func ensure(ctx context.Context, o Options, r recipe, goVersion []byte) (string, error) {
	key, err := r.key(o.Root, goVersion)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(o.Dir, r.name+"-"+key)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	start := time.Now()
	fmt.Fprintf(o.Log, "building %s\n", r)
	tmp, err := os.MkdirTemp(o.Dir, ".building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := r.run(ctx, o.Root, tmp); err != nil {
		return "", err
	}
	for _, l := range r.links {
		if err := os.Symlink(r.name, filepath.Join(tmp, l)); err != nil {
			return "", err
		}
	}
	if r.name == "pause" {
		if err := writePause(filepath.Join(tmp, pauseArchive), filepath.Join(tmp, r.name)); err != nil {
			return "", err
		}
	}
	if err := errors.Join(os.Chmod(tmp, 0o755), os.Rename(tmp, dir)); err != nil {
		return "", err
	}
	fmt.Fprintf(o.Log, "built %s in %s\n", r, time.Since(start).Round(time.Second))
	return dir, nil
}

func (r recipe) String() string {
	if r.name == "kubernetes" {
		return r.name + " " + Kubernetes
	}
	return strings.TrimSpace(r.name + " " + r.version)
}

func (r recipe) run(ctx context.Context, root, out string) error {
	args := []string{"-trimpath", "-ldflags=-s -w" + r.ldflags, "-tags=" + r.tags}
	if r.module != "" {
		args = append([]string{"build"}, append(args, "-o", filepath.Join(out, r.name), ".")...)
	} else {
		args = append([]string{"install"}, args...)
		for _, p := range r.packages {
			args = append(args, p+"@"+r.version)
		}
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = out
	if r.module != "" {
		cmd.Dir = filepath.Join(root, r.module)
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+out, "GOWORK=off", "GOFLAGS=-buildvcs=false")
	// A build of many minutes must not outlive whoever wanted it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, bytes.TrimSpace(b))
	}
	return nil
}

// key is a hash of all that makes a difference to the result.
func (r recipe) key(root string, goVersion []byte) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%#v\n%s\n", r, goVersion)
	if r.module != "" {
		var files []string
		for _, pattern := range []string{"*.go", "go.mod", "go.sum"} {
			found, err := filepath.Glob(filepath.Join(root, r.module, pattern))
			if err != nil {
				return "", err
			}
			files = append(files, found...)
		}
		if len(files) == 0 {
			return "", fmt.Errorf("no Go files in %s", filepath.Join(root, r.module))
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%s %d\n%s", filepath.Base(f), len(b), b)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// FindRoot looks for the repository upward from the working directory, then
// from the running program.
func FindRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	from := []string{wd}
	if exe, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(exe))
	}
	for _, dir := range from {
		for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && bytes.HasPrefix(b, []byte("module github.com/lateen-mesh/lateen\n")) {
				return dir, nil
			}
		}
	}
	return "", errors.New("no Lateen repository around the working directory or this program: run it in one")
}
