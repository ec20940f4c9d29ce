// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blob is where one object lies in an archive.
type blob struct {
	archive      string
	offset, size int64
	mediaType    string // of a manifest
}

// registry answers from archives, by reading only.
type registry struct {
	refs  map[string]string // reference -> digest of its manifest
	blobs map[string]blob   // by digest, sha256:...
}

// Registry serves archives as a read-only OCI registry, for pods whose pull
// policy is Always, which is also what an image without a tag means: kubelet
// then asks a registry even for an image that was imported. A containerd whose
// certs.d/_default/hosts.toml names it as the mirror of every registry asks
//
//	GET /v2/NAME/manifests/{TAG|DIGEST}?ns=REGISTRY   (docker.io without ns)
//	GET /v2/NAME/blobs/DIGEST
//
// (OCI distribution specification, sections "Pulling manifests" and "Pulling
// blobs"; ns is containerd's, docs/hosts.md). The archives stay where they are.
func Registry(archives []Built) (http.Handler, error) {
	r := &registry{refs: map[string]string{}, blobs: map[string]blob{}}
	for _, a := range archives {
		if err := r.add(a.Path); err != nil {
			return nil, fmt.Errorf("registry: %s: %w", a.Path, err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v2/{rest...}", r.serve)
	return mux, nil
}

// add notes where the objects of an archive lie.
func (r *registry) add(archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	var index v1.IndexManifest
	t := tar.NewReader(f)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Name == "index.json" {
			if err := json.NewDecoder(t).Decode(&index); err != nil {
				return fmt.Errorf("index.json: %w", err)
			}
			continue
		}
		// The reader does not read ahead, so the file stands where the entry begins.
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			r.blobs["sha256:"+hex] = blob{archive: archive, offset: at, size: h.Size}
		}
	}
	for _, m := range index.Manifests {
		digest := m.Digest.String()
		b, ok := r.blobs[digest]
		if !ok {
			return fmt.Errorf("manifest %s is missing", digest)
		}
		b.mediaType = string(m.MediaType)
		r.blobs[digest] = b
		r.refs[m.Annotations[refAnnotation]] = digest
	}
	return nil
}

func (r *registry) serve(w http.ResponseWriter, req *http.Request) {
	dir, what := path.Split(req.PathValue("rest"))
	name, isManifest := strings.CutSuffix(dir, "/manifests/")
	digest := what
	switch {
	case isManifest && !strings.HasPrefix(what, "sha256:"):
		ns := req.URL.Query().Get("ns")
		if ns == "" {
			ns = "docker.io"
		}
		digest = r.refs[ns+"/"+name+":"+what]
	case !isManifest && !strings.HasSuffix(dir, "/blobs/"):
		digest = ""
	}
	b, ok := r.blobs[digest]
	if !ok || isManifest != (b.mediaType != "") {
		refuse(w, isManifest)
		return
	}
	f, err := os.Open(b.archive)
	if err != nil {
		http.Error(w, "the archive cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	if isManifest {
		h.Set("Content-Type", b.mediaType)
	}
	h.Set("Docker-Content-Digest", digest)
	http.ServeContent(w, req, "", time.Time{}, io.NewSectionReader(f, b.offset, b.size))
}

// refuse says what is not known in the specification's words ("Error Codes").
func refuse(w http.ResponseWriter, isManifest bool) {
	code := "BLOB_UNKNOWN"
	if isManifest {
		code = "MANIFEST_UNKNOWN"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"the lab has no such image: see lab images"}]}`+"\n", code)
}
