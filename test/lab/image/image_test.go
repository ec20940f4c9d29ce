// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// fake is a workshop whose programs are there already, each with its name as
// its content.
func fake(t *testing.T) *workshop {
	t.Helper()
	w := &workshop{o: Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	if err := os.Mkdir(w.binDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range List("v1") {
		for _, l := range s.Layers {
			if l.Binary != nil {
				if err := os.WriteFile(filepath.Join(w.binDir(), l.Binary.name()), []byte(l.Binary.name()), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return w
}

func specs(t *testing.T, only ...string) []Spec {
	t.Helper()
	s, err := pick(List("v1"), only)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// opened is what stands in an archive.
type opened struct {
	index v1.IndexManifest
	blobs map[string][]byte
}

func open(t *testing.T, path string) opened {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := opened{blobs: map[string][]byte{}}
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "index.json" {
			if err := json.Unmarshal(content, &out.index); err != nil {
				t.Fatal(err)
			}
		}
		if digest, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != digest {
				t.Errorf("%s has other content", h.Name)
			}
			out.blobs["sha256:"+digest] = content
		}
	}
}

// image returns the config of ref, the digests of its layers, and its files.
func (o opened) image(t *testing.T, ref string) (v1.ConfigFile, []string, map[string]*tar.Header) {
	t.Helper()
	i := slices.IndexFunc(o.index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[refAnnotation] == ref })
	if i < 0 {
		t.Fatalf("no image %s", ref)
	}
	var m v1.Manifest
	var c v1.ConfigFile
	if err := json.Unmarshal(o.blobs[o.index.Manifests[i].Digest.String()], &m); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(o.blobs[m.Config.Digest.String()], &c); err != nil {
		t.Fatal(err)
	}
	var layers []string
	files := map[string]*tar.Header{}
	for _, l := range m.Layers {
		layers = append(layers, l.Digest.String())
		r := tar.NewReader(bytes.NewReader(o.blobs[l.Digest.String()]))
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			files["/"+h.Name] = h
		}
	}
	return c, layers, files
}

func TestArchive(t *testing.T) {
	w := fake(t)
	group := specs(t, "bookinfo")
	b, err := w.archive(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	if b.Archive != "bookinfo" || b.Cached || len(b.Images) != 24 {
		t.Errorf("built %s, cached %v, %d images", b.Archive, b.Cached, len(b.Images))
	}
	o := open(t, b.Path)
	c, layers, _ := o.image(t, "registry.istio.io/release/examples-bookinfo-reviews-v3:1.20.3")
	if got := strings.Join(c.Config.Entrypoint, " "); got != "/usr/local/bin/bookinfo" || c.Config.User != "1000:1000" || c.Config.WorkingDir != "/" {
		t.Errorf("entry point %q as %s in %s", got, c.Config.User, c.Config.WorkingDir)
	}
	for _, e := range []string{"SERVICE_NAME=reviews", "SERVICE_VERSION=v3"} {
		if !slices.Contains(c.Config.Env, e) {
			t.Errorf("%s is not in %v", e, c.Config.Env)
		}
	}
	if _, ok := c.Config.ExposedPorts["9080/tcp"]; !ok || c.OS != "linux" || c.Architecture == "" {
		t.Errorf("ports %v, %s/%s", c.Config.ExposedPorts, c.OS, c.Architecture)
	}
	// Every image of the group has the same layers, written once.
	_, others, _ := o.image(t, "docker.io/istio/examples-bookinfo-ratings-v1:1.20.1")
	if !slices.Equal(layers, others) {
		t.Errorf("reviews has the layers %v, ratings %v", layers, others)
	}
	if want := len(group)*2 + len(layers); len(o.blobs) != want {
		t.Errorf("%d blobs, want %d: a manifest and a config for each image, and the layers", len(o.blobs), want)
	}
	var digests []string
	for _, i := range b.Images {
		digests = append(digests, i.Digest)
	}
	slices.Sort(digests)
	if n := len(slices.Compact(digests)); n != len(group) {
		t.Errorf("%d different images, want %d", n, len(group))
	}
}

func TestProxyImage(t *testing.T) {
	b, err := fake(t).archive(t.Context(), specs(t, "docker.io/lateen/lateen-proxy:v1"))
	if err != nil {
		t.Fatal(err)
	}
	c, _, files := open(t, b.Path).image(t, "docker.io/lateen/lateen-proxy:v1")
	if c.Config.User != "1337:1337" || !slices.Equal(c.Config.Entrypoint, []string{"/usr/local/bin/lateen-proxy"}) {
		t.Errorf("%v as %s", c.Config.Entrypoint, c.Config.User)
	}
	agent := files["/usr/local/bin/pilot-agent"]
	if agent == nil || agent.Typeflag != tar.TypeLink || agent.Linkname != "usr/local/bin/lateen-proxy" {
		t.Errorf("pilot-agent is %+v", agent)
	}
	for _, dir := range []string{"/etc/istio/proxy/", "/var/lib/istio/data/"} {
		if h := files[dir]; h == nil || h.Typeflag != tar.TypeDir || h.Uid != 1337 || h.Gid != 1337 || h.Mode&0o200 == 0 {
			t.Errorf("%s is %+v", dir, h)
		}
	}
	if h := files["/tmp/"]; h == nil || h.Mode != 0o1777 {
		t.Errorf("/tmp is %+v", h)
	}
	if h := files["/usr/local/bin/lateen-proxy"]; h == nil || h.Mode != 0o755 || !h.ModTime.Equal(time.Unix(0, 0)) {
		t.Errorf("the program is %+v", h)
	}
}

// The same input gives the same bytes wherever and whenever it is built;
// another program gives another archive, and the old ones go in the end.
func TestDeterministic(t *testing.T) {
	group := specs(t, "todo")
	var paths []string
	for range 2 {
		b, err := fake(t).archive(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, b.Path)
	}
	x, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(paths[1])
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(paths[0]) != filepath.Base(paths[1]) || !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", paths[0], paths[1])
	}

	w := fake(t)
	seen := map[string]bool{}
	for i, content := range []string{"a", "b", "c", "d", "e", "e"} {
		if err := os.WriteFile(filepath.Join(w.binDir(), "todo"), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		b, err := w.archive(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		if b.Cached != seen[b.Path] || b.Cached != (i == 5) {
			t.Errorf("build %d: cached %v", i, b.Cached)
		}
		seen[b.Path] = true
	}
	left, err := filepath.Glob(filepath.Join(w.o.Dir, "*"))
	if err != nil || len(left) != keep+1 { // and the programs
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBuildAll(t *testing.T) {
	o := Options{Dir: t.TempDir(), Only: []string{"servers"}, Log: slog.New(slog.DiscardHandler)}
	for i := range 2 {
		built, err := BuildAll(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if len(built) != 1 || built[0].Cached != (i == 1) {
			t.Fatalf("build %d: %+v", i, built)
		}
		c, _, files := open(t, built[0].Path).image(t, "registry.istio.io/release/tcp-echo-server:1.3")
		if got := strings.Join(append(c.Config.Entrypoint, c.Config.Cmd...), " "); got != "/usr/local/bin/servers tcp-echo 9000 hello" {
			t.Errorf("runs %q", got)
		}
		if h := files["/usr/local/bin/servers"]; h == nil || h.Size < 1<<20 {
			t.Errorf("the program is %+v", h)
		}
	}
	o.Root = t.TempDir()
	if _, err := BuildAll(t.Context(), o); err == nil || !strings.Contains(err.Error(), "go build ./cmd/servers") {
		t.Errorf("from an empty repository: %v", err)
	}
	o.Only = []string{"sevrers"}
	if _, err := BuildAll(t.Context(), o); err == nil || !strings.Contains(err.Error(), `no image or archive "sevrers": archives are lateend, lateen-proxy, bookinfo`) {
		t.Errorf("an archive that is none: %v", err)
	}
}

func TestList(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range List("v1.2.3") {
		if len(s.Refs) == 0 || len(s.Entrypoint)+len(s.Cmd) == 0 || !regexp.MustCompile(`^(\d+:\d+)?$`).MatchString(s.User) {
			t.Errorf("%v: nothing to run, or user %q is not numeric", s.Refs, s.User)
		}
		for _, ref := range s.Refs {
			// A short name would be looked up under another one.
			if tag, err := name.NewTag(ref, name.StrictValidation); err != nil || tag.String() != ref || !strings.Contains(strings.Split(ref, "/")[0], ".") {
				t.Errorf("%s is no full name: %v", ref, err)
			}
			if seen[ref] {
				t.Errorf("%s is there twice", ref)
			}
			seen[ref] = true
		}
		for _, l := range s.Layers {
			if b := l.Binary; b != nil && (!path.IsAbs(b.Path) || b.Versioned != strings.HasPrefix(s.Archive, "lateen")) {
				t.Errorf("%s: %+v", s.Refs[0], b)
			}
		}
	}
	if !seen["docker.io/lateen/lateend:v1.2.3"] {
		t.Error("no lateend of the tag")
	}
}

// Every image of Istio's samples, add-ons aside, is in the list or is named
// with the reason why it is not.
func TestListHasWhatTheSamplesAskFor(t *testing.T) {
	dir := os.Getenv("LATEEN_ISTIO_SAMPLES")
	if dir == "" {
		t.Skip("LATEEN_ISTIO_SAMPLES names no directory with Istio's samples")
	}
	known := map[string]bool{}
	for _, s := range List("v1") {
		for _, ref := range s.Refs {
			known[ref] = true
		}
	}
	line := regexp.MustCompile(`(?m)^[\s-]*image:\s*"?([^\s"]+)`)
	wanted := map[string]string{}
	err := filepath.WalkDir(filepath.Join(dir, "samples"), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "addons" {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(p) != ".yaml" {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, m := range line.FindAllStringSubmatch(string(b), -1) {
			ref := m[1]
			if !strings.Contains(path.Base(ref), ":") {
				ref += ":latest"
			}
			wanted[ref] = p
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for ref, file := range wanted {
		if _, not := NotBuilt[ref]; !not && !known[ref] {
			t.Errorf("%s asks for %s: add it to List or, with the reason, to NotBuilt", file, ref)
		}
	}
	for ref := range NotBuilt {
		if wanted[ref] == "" || known[ref] {
			t.Errorf("NotBuilt has %s, which is built or asked for by nobody", ref)
		}
	}
	if len(wanted) < 15 {
		t.Errorf("only %d images found in %s", len(wanted), dir)
	}
}

func TestDebianFiles(t *testing.T) {
	if _, err := debianFiles(t.Context(), "emacs"); err == nil {
		t.Error("no error for a package that is not known")
	}
	has := func(files []File, path string) *File {
		i := slices.IndexFunc(files, func(f File) bool { return f.Path == path })
		if i < 0 {
			t.Errorf("%s is missing", path)
			return &File{}
		}
		return &files[i]
	}
	t.Run("busybox", func(t *testing.T) {
		if _, err := staticBusybox(); err != nil {
			t.Skip("Debian's busybox-static is not installed: ", err)
		}
		files, err := debianFiles(t.Context(), Busybox)
		if err != nil {
			t.Fatal(err)
		}
		if len(has(files, "/bin/busybox").Content) == 0 {
			t.Error("busybox is empty")
		}
		for _, applet := range []string{"sh", "sleep", "cat", "touch"} { // what the samples run
			if f := has(files, "/bin/"+applet); f.Link != "busybox" {
				t.Errorf("%s leads to %q", applet, f.Link)
			}
		}
	})
	t.Run("curl", func(t *testing.T) {
		if _, err := os.Stat("/usr/bin/curl"); err != nil {
			t.Skip("Debian's curl is not installed: ", err)
		}
		files, err := debianFiles(t.Context(), Curl)
		if err != nil {
			t.Fatal(err)
		}
		if f := has(files, "/usr/bin/curl"); len(f.Content) == 0 || f.Mode != 0o755 {
			t.Errorf("curl has %d bytes, mode %o", len(f.Content), f.Mode)
		}
		for _, want := range []string{"/libcurl.so.4", "/libc.so.6", "/ld-linux"} {
			if !slices.ContainsFunc(files, func(f File) bool { return strings.Contains(f.Path, want) && len(f.Content) > 0 }) {
				t.Errorf("no library %s", want)
			}
		}
	})
}

func TestMakeLayerRefusesRelativePaths(t *testing.T) {
	if _, err := makeLayer([]File{{Path: "etc/passwd"}}); err == nil {
		t.Error("no error")
	}
}

func TestRegistry(t *testing.T) {
	w := fake(t)
	var built []Built
	for _, archive := range []string{"todo", "servers"} {
		b, err := w.archive(t.Context(), specs(t, archive))
		if err != nil {
			t.Fatal(err)
		}
		built = append(built, b)
	}
	h, err := Registry(built)
	if err != nil {
		t.Fatal(err)
	}
	get := func(method, target string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
		return w
	}
	const repo = "/v2/novatec/technologyconsulting-containerexerciseapp-todoui/"
	m := get("GET", repo+"manifests/v0.2")
	var manifest v1.Manifest
	if err := json.Unmarshal(m.Body.Bytes(), &manifest); m.Code != 200 || err != nil {
		t.Fatalf("manifest: %d, %v", m.Code, err)
	}
	digest := m.Header().Get("Docker-Content-Digest")
	if sum := sha256.Sum256(m.Body.Bytes()); digest != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("digest %s is not that of the manifest", digest)
	}
	if got := m.Header().Get("Content-Type"); got != "application/vnd.oci.image.manifest.v1+json" {
		t.Errorf("the manifest is %s", got)
	}
	if again := get("GET", repo+"manifests/"+digest); !bytes.Equal(again.Body.Bytes(), m.Body.Bytes()) {
		t.Errorf("by digest: %d %s", again.Code, again.Body)
	}
	for _, d := range append(manifest.Layers, manifest.Config) {
		b := get("GET", repo+"blobs/"+d.Digest.String())
		if sum := sha256.Sum256(b.Body.Bytes()); b.Code != 200 || d.Digest.String() != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("blob %s: %d", d.Digest, b.Code)
		}
	}
	for _, c := range []struct {
		method, target string
		status         int
	}{
		{"GET", "/v2/", 200},
		{"HEAD", repo + "manifests/v0.1?ns=docker.io", 200},
		{"HEAD", "/v2/release/health/manifests/example?ns=registry.istio.io", 200},
		{"GET", "/v2/release/health/manifests/example", 404},
		{"GET", repo + "manifests/v0.3", 404},
		{"GET", repo + "blobs/" + digest, 404},
		{"GET", repo + "manifests/" + manifest.Config.Digest.String(), 404},
		{"GET", repo + "tags/list", 404},
		{"GET", "/v2/x", 404},
		{"POST", repo + "blobs/uploads/", 405},
	} {
		if got := get(c.method, c.target); got.Code != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.target, got.Code, c.status)
		}
	}
	if _, err := Registry([]Built{{Path: filepath.Join(t.TempDir(), "none.tar")}}); err == nil {
		t.Error("no error for an archive that is not there")
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	res, err := http.Head(srv.URL + repo + "manifests/v0.2")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.ContentLength != int64(m.Body.Len()) {
		t.Errorf("HEAD says %d bytes, GET gave %d", res.ContentLength, m.Body.Len())
	}
}
