// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestRegister(t *testing.T) {
	dir := t.TempDir()
	r := Registration{Name: "demo", Socket: filepath.Join(dir, "demo.sock"), Dir: "/x"}
	remove, err := register(dir, r)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "demo.json")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("registration: %v %v, want mode 0600", fi, err)
	}
	got, err := running(dir)
	if err != nil || len(got) != 1 || got[0].Name != "demo" || got[0].PID != os.Getpid() {
		t.Errorf("running: %+v %v", got, err)
	}
	if _, err := register(dir, r); err == nil || !strings.Contains(err.Error(), `mesh "demo" runs already`) {
		t.Errorf("second registration: %v", err)
	}
	if err := os.WriteFile(r.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	remove()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, bad := range []string{"", "../x", "A", strings.Repeat("a", 41), "-a"} {
		if _, err := register(dir, Registration{Name: bad}); err == nil {
			t.Errorf("name %q was accepted", bad)
		}
	}
}

// TestStale leaves what a killed mesh leaves: a registration of a process that
// is no more, its socket and its temporary directory.
func TestStale(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	dir := filepath.Join(tmp, "run")
	demo := filepath.Join(tmp, TempPrefix+"demo-1")
	precious := filepath.Join(tmp, "precious")
	for _, d := range []string{dir, demo, precious} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	leave := func(r Registration) {
		b, _ := json.Marshal(r)
		if err := os.WriteFile(filepath.Join(dir, r.Name+".json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "demo.sock")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	leave(Registration{Name: "demo", PID: cmd.Process.Pid, Socket: socket, Dir: demo, Temporary: true})
	leave(Registration{Name: "mine", PID: os.Getpid(), StartTime: 1, Dir: precious, Temporary: true}) // a reused PID
	got, err := running(dir)
	if err != nil || len(got) != 0 {
		t.Errorf("running: %+v %v", got, err)
	}
	for _, gone := range []string{socket, demo, filepath.Join(dir, "demo.json"), filepath.Join(dir, "mine.json")} {
		if _, err := os.Lstat(gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("a directory that is not ours was removed: %v", err)
	}
}

func TestRuntimeDir(t *testing.T) {
	x := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", x)
	dir, err := RuntimeDir()
	if err != nil || dir != filepath.Join(x, "lateen") {
		t.Fatalf("%s %v", dir, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := RuntimeDir(); err == nil {
		t.Error("a directory open to others was accepted")
	}
}
