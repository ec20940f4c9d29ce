// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Layer is where one layer's files come from. Exactly one field is set.
type Layer struct {
	Files  []File
	Binary *Binary
	Debian Debian
}

// File is one entry of a layer: a directory when its path ends in a slash, a
// link when Link or Hard is set, else a regular file.
type File struct {
	Path     string // absolute
	Mode     int64  // permission bits
	UID, GID int
	Content  []byte
	Link     string // target of a symbolic link
	Hard     string // absolute path, earlier in the same layer, that this is another name of
}

// Binary is a static Go program.
type Binary struct {
	Module  string   // directory of its module in the repository
	Package string   // as `go build` takes it there
	Path    string   // in the image
	Links   []string // further names, as hard links
	// Versioned programs print Options.Tag as their version. The others stay the
	// same from one tag to the next, and with them their images.
	Versioned bool
}

// name of the program among the built ones.
func (b Binary) name() string { return path.Base(b.Package) }

// Debian names a set of files taken from the machine's Debian packages.
type Debian string

const (
	// Busybox is the package busybox-static, with a link for each applet in /bin.
	Busybox Debian = "busybox-static"
	// Curl is the package curl, with the shared libraries it needs.
	Curl Debian = "curl"
)

// key is what makes two layers the same layer.
func (l Layer) key() string {
	switch {
	case l.Binary != nil:
		return fmt.Sprintf("binary %+v", *l.Binary)
	case l.Debian != "":
		return "debian " + string(l.Debian)
	}
	return fmt.Sprintf("files %+v", l.Files)
}

type madeLayer struct{ v1.Layer }

// makeLayer writes files as a tar layer without times. It is not compressed:
// it goes to a runtime on the same machine, which would only undo it.
func makeLayer(files []File) (madeLayer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{
			Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode, Uid: f.UID, Gid: f.GID,
			ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}
		switch {
		case !path.IsAbs(f.Path):
			return madeLayer{}, fmt.Errorf("file %q of a layer: path is not absolute", f.Path)
		case strings.HasSuffix(f.Path, "/"):
			h.Typeflag = tar.TypeDir
		case f.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		case f.Hard != "":
			h.Typeflag, h.Linkname = tar.TypeLink, strings.TrimPrefix(f.Hard, "/")
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Content))
		}
		if err := w.WriteHeader(h); err != nil {
			return madeLayer{}, fmt.Errorf("file %s of a layer: %w", f.Path, err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(f.Content); err != nil {
				return madeLayer{}, fmt.Errorf("file %s of a layer: %w", f.Path, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return madeLayer{}, fmt.Errorf("write a layer: %w", err)
	}
	return madeLayer{static.NewLayer(b.Bytes(), types.OCIUncompressedLayer)}, nil
}
