// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lateen-mesh/lateen/test/lab/image"
)

// registryPort is where the lab's registry listens on the first node. Nodes ask
// it in place of every registry there is.
const registryPort = "5000"

func (s *State) registryAddress() string {
	return net.JoinHostPort(s.Nodes[0].Address.String(), registryPort)
}

// mirrors is containerd's hosts.toml for all registries: nothing else is asked.
func (s *State) mirrors() string {
	return fmt.Sprintf("server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", s.registryAddress())
}

// keep puts an archive among those that the registry serves; a later one wins.
// It is a link where the file system allows, as archives are large.
func (s *State) keep(archive string) error {
	dir := s.path("images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The time orders names, and tells one import from the next.
	to := filepath.Join(dir, fmt.Sprintf("%020d-%s", time.Now().UnixNano(), filepath.Base(archive)))
	if err := os.Link(archive, to); err != nil {
		if err := copyFile(archive, to); err != nil {
			return fmt.Errorf("keep %s for the registry: %w", archive, err)
		}
	}
	// The same file again replaces its earlier import.
	earlier, err := filepath.Glob(filepath.Join(dir, "*-"+filepath.Base(archive)))
	if err != nil {
		return err
	}
	for _, p := range earlier {
		if p != to && len(filepath.Base(p)) == len(filepath.Base(to)) {
			if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	// Under another name until it is whole.
	out, err := os.Create(to + ".new")
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(to+".new"))
	}
	return os.Rename(to+".new", to)
}

// shelf serves the archives of a directory as it is at each request.
type shelf struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	names []string
	serve http.Handler
}

func (h *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	serve, err := h.current()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	serve.ServeHTTP(w, r)
}

func (h *shelf) current() (http.Handler, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	names, err := filepath.Glob(filepath.Join(h.dir, "*.tar"))
	if err != nil {
		return nil, err
	}
	if h.serve != nil && slices.Equal(names, h.names) {
		return h.serve, nil
	}
	slices.Sort(names)
	var good []image.Built
	for _, p := range names {
		b := image.Built{Archive: strings.TrimSuffix(filepath.Base(p), ".tar"), Path: p}
		if _, err := image.Registry([]image.Built{b}); err != nil {
			// Such as an archive in Docker's format, which nodes have anyway.
			h.log.Warn("archive is not served", "err", err)
			continue
		}
		good = append(good, b)
	}
	serve, err := image.Registry(good)
	if err != nil {
		return nil, err
	}
	h.names, h.serve = names, serve
	return serve, nil
}

// ServeRegistry serves the images that were imported into the lab of dir to its
// nodes, until ctx ends.
func ServeRegistry(ctx context.Context, dir string, log *slog.Logger) error {
	s, err := load(dir)
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: s.registryAddress(), Handler: &shelf{dir: s.path("images"), log: log},
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 2 * time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
