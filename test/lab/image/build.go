// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// workshop is one run of BuildAll.
type workshop struct {
	o      Options
	layers map[string]madeLayer // of the archive at hand
}

func (w *workshop) binDir() string { return filepath.Join(w.o.Dir, "bin") }

// compile builds the programs of specs into a directory that stays, so that go
// itself sees what is up to date: one `go build` for each module, and one more
// for what carries the version.
func (w *workshop) compile(ctx context.Context, specs []Spec) error {
	type run struct {
		module    string
		versioned bool
	}
	var runs []run // in the order of the list
	packages := map[run][]string{}
	for _, s := range specs {
		for _, l := range s.Layers {
			if l.Binary == nil {
				continue
			}
			r := run{l.Binary.Module, l.Binary.Versioned}
			if packages[r] == nil {
				runs = append(runs, r)
			}
			if !slices.Contains(packages[r], l.Binary.Package) {
				packages[r] = append(packages[r], l.Binary.Package)
			}
		}
	}
	if err := os.MkdirAll(w.binDir(), 0o755); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	for _, r := range runs {
		flags := "-s -w"
		if r.versioned {
			flags += " -X main.version=" + w.o.Tag
		}
		if err := w.goBuild(ctx, filepath.Join(w.o.Root, r.module), flags, packages[r]); err != nil {
			return err
		}
	}
	return nil
}

// goBuild uses the flags of the Makefile: what an image holds is what `make
// build` makes.
func (w *workshop) goBuild(ctx context.Context, dir, ldflags string, packages []string) error {
	w.o.Log.Info("building programs", "packages", packages)
	args := []string{"build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags=" + ldflags, "-o", w.binDir() + "/"}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s in %s: %w\n%s", strings.Join(packages, " "), dir, err, bytes.TrimSpace(out))
	}
	return nil
}

// archive puts the images of group into one file, unless it is there already.
func (w *workshop) archive(ctx context.Context, group []Spec) (Built, error) {
	w.layers = map[string]madeLayer{}
	b := Built{Archive: group[0].Archive}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, s := range group {
		img, err := w.image(ctx, s)
		if err != nil {
			return b, fmt.Errorf("%s: %w", s.Refs[0], err)
		}
		digest, err := img.Digest()
		if err != nil {
			return b, err
		}
		for _, ref := range s.Refs {
			tag, err := name.NewTag(ref, name.StrictValidation)
			if err != nil {
				return b, err
			}
			index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
				Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
				Annotations: map[string]string{
					refAnnotation:                       ref,
					"org.opencontainers.image.ref.name": tag.TagStr(),
				},
			}})
			b.Images = append(b.Images, Image{Ref: ref, Digest: digest.String()})
		}
	}
	digest, err := index.Digest()
	if err != nil {
		return b, err
	}
	b.Path = filepath.Join(w.o.Dir, fmt.Sprintf("%s-%.12s.tar", b.Archive, digest.Hex))
	if _, err := os.Stat(b.Path); err == nil {
		b.Cached = true
		now := time.Now()
		return b, os.Chtimes(b.Path, now, now) // prune goes by age
	}
	if err := writeArchive(b.Path, index); err != nil {
		return b, err
	}
	return b, prune(w.o.Dir, b.Archive)
}

// refAnnotation is where containerd looks for the whole name of an image in a
// layout (its images/importexport; the OCI annotation holds the tag only).
const refAnnotation = "io.containerd.image.name"

func (w *workshop) image(ctx context.Context, s Spec) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range s.Layers {
		made, ok := w.layers[l.key()]
		if !ok {
			files, err := w.files(ctx, l)
			if err != nil {
				return nil, err
			}
			if made, err = makeLayer(files); err != nil {
				return nil, err
			}
			w.layers[l.key()] = made
		}
		var err error
		if img, err = mutate.AppendLayers(img, made); err != nil {
			return nil, err
		}
	}
	f, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	f = f.DeepCopy()
	f.OS, f.Architecture = "linux", runtime.GOARCH
	f.Config = v1.Config{
		Env:        append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, s.Env...),
		Entrypoint: s.Entrypoint, Cmd: s.Cmd, User: s.User, WorkingDir: cmp.Or(s.WorkingDir, "/"),
	}
	for _, p := range s.Ports {
		if f.Config.ExposedPorts == nil {
			f.Config.ExposedPorts = map[string]struct{}{}
		}
		f.Config.ExposedPorts[strconv.Itoa(p)+"/tcp"] = struct{}{}
	}
	return mutate.ConfigFile(img, f)
}

// files of one layer.
func (w *workshop) files(ctx context.Context, l Layer) ([]File, error) {
	switch {
	case l.Binary != nil:
		content, err := os.ReadFile(filepath.Join(w.binDir(), l.Binary.name()))
		if err != nil {
			return nil, err
		}
		out := []File{{Path: l.Binary.Path, Mode: 0o755, Content: content}}
		for _, link := range l.Binary.Links {
			out = append(out, File{Path: link, Mode: 0o755, Hard: l.Binary.Path})
		}
		return out, nil
	case l.Debian != "":
		return debianFiles(ctx, l.Debian)
	}
	return l.Files, nil
}

// writeArchive writes index as an OCI image layout in a tar file that appears
// whole or not at all.
func writeArchive(to string, index v1.ImageIndex) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(to), ".layout-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if _, err := layout.Write(dir, index); err != nil {
		return fmt.Errorf("write the image layout: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".archive-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(tarDir(f, dir), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", to, err)
	}
	return os.Rename(f.Name(), to)
}

// tarDir writes the regular files of dir, in their order by name, without times.
func tarDir(to io.Writer, dir string) error {
	w := tar.NewWriter(to)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(rel), Mode: 0o644, Size: info.Size()}); err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		return err
	})
	return errors.Join(err, w.Close())
}

// keep is how many archives of one name stay: an earlier one may be in use by
// someone who has just been given its path.
const keep = 3

func prune(dir, archive string) error {
	paths, err := filepath.Glob(filepath.Join(dir, archive+"-????????????.tar"))
	if err != nil {
		return err
	}
	age := func(p string) time.Time {
		if fi, err := os.Stat(p); err == nil {
			return fi.ModTime()
		}
		return time.Time{}
	}
	slices.SortFunc(paths, func(a, b string) int { return age(b).Compare(age(a)) })
	for _, p := range paths[min(keep, len(paths)):] {
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}
