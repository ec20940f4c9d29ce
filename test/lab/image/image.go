// SPDX-License-Identifier: Apache-2.0

// Package image builds the container images that a lab cluster needs, from
// this repository's own programs and a few of the machine's, without a network:
// OCI archives that `ctr -n k8s.io images import` takes.
//
// The same inputs give the same bytes: layers carry no times, and an archive is
// named after its content, so a second build only finds that nothing changed.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Spec describes one image.
type Spec struct {
	// Archive names the file that carries this image and those that share its
	// layers, such as "bookinfo".
	Archive string
	// Refs are its full names, registry and tag included.
	Refs []string
	// Layers lie on each other, the first at the bottom.
	Layers []Layer

	// What a container runs when its pod says nothing else.
	Env        []string
	Entrypoint []string
	Cmd        []string
	// User is a numeric uid:gid, so that runAsNonRoot can be checked; empty is root.
	User       string
	WorkingDir string
	Ports      []int
}

// Image is one name in an archive.
type Image struct {
	Ref    string // as a manifest asks for it, registry and tag included
	Digest string // of the image manifest, sha256:...
}

// Built is one finished archive.
type Built struct {
	Archive string // Spec.Archive
	Path    string // an OCI image layout as a tar file
	Images  []Image
	Cached  bool // it was there already
}

// Options of BuildAll.
type Options struct {
	// Dir takes the archives and the programs in them; empty is DefaultDir.
	Dir string
	// Root is the repository; empty looks upward from the working directory and
	// then from the running program.
	Root string
	// Tag of Lateen's own images; empty is "dev". It is also the version that
	// the programs in them print.
	Tag string
	// Only builds the archives of these names or holding these refs; empty is all.
	Only []string
	// Log tells what is built; nil is slog.Default.
	Log *slog.Logger
}

// DefaultDir is $XDG_CACHE_HOME/lateen/images.
func DefaultDir() (string, error) {
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("where do images go: %w", err)
	}
	return filepath.Join(d, "lateen", "images"), nil
}

// BuildAll builds what List names and o.Only keeps, and returns one Built for
// each archive in List's order. Builders that share a directory take turns.
func BuildAll(ctx context.Context, o Options) ([]Built, error) {
	if o.Tag == "" {
		o.Tag = "dev"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	specs, err := pick(List(o.Tag), o.Only)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		if o.Dir, err = DefaultDir(); err != nil {
			return nil, err
		}
	}
	if o.Root == "" {
		if o.Root, err = findRoot(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	unlock, err := lock(o.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	w := &workshop{o: o, layers: map[string]madeLayer{}}
	if err := w.compile(ctx, specs); err != nil {
		return nil, err
	}
	var out []Built
	for _, group := range byArchive(specs) {
		b, err := w.archive(ctx, group)
		if err != nil {
			return nil, fmt.Errorf("image archive %s: %w", group[0].Archive, err)
		}
		o.Log.Info("image archive", "name", b.Archive, "images", len(b.Images), "cached", b.Cached, "path", b.Path)
		out = append(out, b)
	}
	return out, nil
}

// pick keeps whole archives: what shares a file is imported together.
func pick(specs []Spec, only []string) ([]Spec, error) {
	if len(only) == 0 {
		return specs, nil
	}
	archives := map[string]bool{}
	for _, want := range only {
		known := false
		for _, s := range specs {
			if s.Archive == want || slices.Contains(s.Refs, want) {
				archives[s.Archive], known = true, true
			}
		}
		if !known {
			return nil, fmt.Errorf("no image or archive %q: archives are %s", want, strings.Join(archiveNames(specs), ", "))
		}
	}
	return slices.DeleteFunc(specs, func(s Spec) bool { return !archives[s.Archive] }), nil
}

func archiveNames(specs []Spec) []string {
	var out []string
	for _, s := range specs {
		if !slices.Contains(out, s.Archive) {
			out = append(out, s.Archive)
		}
	}
	return out
}

func byArchive(specs []Spec) [][]Spec {
	var out [][]Spec
	for _, name := range archiveNames(specs) {
		var group []Spec
		for _, s := range specs {
			if s.Archive == name {
				group = append(group, s)
			}
		}
		out = append(out, group)
	}
	return out
}

const rootModule = "module github.com/lateen-mesh/lateen\n"

func findRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	from := []string{wd}
	if exe, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(exe))
	}
	for _, dir := range from {
		for {
			if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(b), rootModule) {
				return dir, nil
			}
			up := filepath.Dir(dir)
			if up == dir {
				break
			}
			dir = up
		}
	}
	return "", errors.New("no Lateen repository around the working directory: run it there, or set Options.Root")
}

// lock keeps two builders from writing the same program at once. It ends with
// the process at the latest.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}
