// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Registration is how a running local mesh is found from any directory: a file
// <name>.json in RuntimeDir, there exactly as long as the mesh runs.
type Registration struct {
	Name string `json:"name"`
	// Socket is the control plane's Unix socket, see internal/controlplane/api.
	Socket string `json:"socket"`
	// Dir is the directory of configuration; Temporary says that it goes with
	// the mesh.
	Dir       string `json:"dir"`
	Temporary bool   `json:"temporary,omitempty"`
	// Gateway is the base URL of the ingress gateway, empty when there is none.
	Gateway string    `json:"gateway,omitempty"`
	Started time.Time `json:"started"`
	// PID and StartTime (clock ticks since boot, proc(5)) name the process
	// that runs the mesh, so that a reused PID is not taken for it.
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
}

// Alive reports whether the process that wrote the registration still runs.
func (r Registration) Alive() bool {
	t, err := startTime(r.PID)
	return err == nil && t == r.StartTime
}

// RuntimeDir returns the directory of the registrations, made if need be:
// $XDG_RUNTIME_DIR/lateen, else a directory of this user's below the temporary
// one.
func RuntimeDir() (string, error) {
	dir := runtimePath()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("directory of running meshes: %w", err)
	}
	return checkRuntimeDir(dir)
}

func runtimePath() string {
	if x := os.Getenv("XDG_RUNTIME_DIR"); x != "" {
		return filepath.Join(x, "lateen")
	}
	return filepath.Join(os.TempDir(), "lateen-"+strconv.Itoa(os.Getuid()))
}

// checkRuntimeDir fails if the directory is open to anybody else, because a
// socket found there would be trusted.
func checkRuntimeDir(dir string) (string, error) {
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("directory of running meshes: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() || fi.Mode().Perm() != 0o700 || !ok || int(st.Uid) != os.Getuid() {
		return "", fmt.Errorf("%s must be a directory of this user with mode 0700, is %s: remove it", dir, fi.Mode())
	}
	return dir, nil
}

// lock keeps two processes from judging and replacing the same registration
// at once. It locks the directory itself, so nothing is left behind.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock running meshes: %w", err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock running meshes: %w", err), d.Close())
	}
	return func() { _ = d.Close() }, nil
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// register makes the file; it fails if a mesh of that name runs. The returned
// function removes it and the socket.
func register(runtimeDir string, r Registration) (remove func(), err error) {
	if !nameRE.MatchString(r.Name) {
		return nil, fmt.Errorf("mesh name %q: use up to 40 lower-case letters, digits and dashes (--name)", r.Name)
	}
	r.PID = os.Getpid()
	if r.StartTime, err = startTime(r.PID); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	// Whoever looked for meshes a moment ago may have removed the empty directory.
	if err := os.Mkdir(runtimeDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("register mesh: %w", err)
	}
	tmp, err := os.CreateTemp(runtimeDir, ".new-")
	if err != nil {
		return nil, fmt.Errorf("register mesh: %w", err)
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(append(b, '\n')); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	if err := tmp.Close(); err != nil {
		return nil, err
	}
	path := filepath.Join(runtimeDir, r.Name+".json")
	unlock, err := lock(runtimeDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if old, err := readRegistration(path); err == nil && old.Alive() {
		return nil, fmt.Errorf("mesh %q runs already (pid %d, %s): stop it or choose another --name", r.Name, old.PID, old.Dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		discard(path, old)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return nil, fmt.Errorf("register mesh: %w", err)
	}
	return func() {
		_ = os.Remove(path)
		_ = os.Remove(r.Socket)
	}, nil
}

// Running returns the meshes that run, by name. What a mesh that was killed
// left behind is cleared away.
func Running() ([]Registration, error) {
	dir, err := checkRuntimeDir(runtimePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return running(dir)
}

func running(dir string) ([]Registration, error) {
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var out []Registration
	for _, p := range paths {
		r, err := readRegistration(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it just ended
		}
		if err != nil || !r.Alive() {
			discard(p, r)
			continue
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		_ = os.Remove(dir) // stays if anything is in it
	}
	slices.SortFunc(out, func(a, b Registration) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func readRegistration(path string) (Registration, error) {
	var r Registration
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r)
}

// discard removes a dead registration with what it owned. Only a directory
// that looks like one of ours is removed.
func discard(path string, r Registration) {
	if r.Socket != "" && filepath.Dir(r.Socket) == filepath.Dir(path) {
		_ = os.Remove(r.Socket)
	}
	if r.Temporary && filepath.Dir(r.Dir) == filepath.Clean(os.TempDir()) && strings.HasPrefix(filepath.Base(r.Dir), TempPrefix) {
		_ = os.RemoveAll(r.Dir)
	}
	_ = os.Remove(path)
}

// startTime reads field 22 of /proc/<pid>/stat. The name in field 2 may hold
// anything, so fields are counted from its closing bracket.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	const after = 22 - 3 // field 3 is the first after the name
	if len(f) <= after || f[0] == "Z" {
		return 0, fmt.Errorf("process %d: not running", pid)
	}
	return strconv.ParseUint(f[after], 10, 64)
}
