// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	s, err := plan("two", "/lab", 2)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"name":"node1","address":"172.30.0.1","pods":"10.244.0.0/24","netns":"two","region":"region1","zone":"zone1"},` +
		`{"name":"node2","address":"172.30.0.2","pods":"10.244.1.0/24","netns":"two-node2","region":"region1","zone":"zone2"}]`
	if string(got) != want {
		t.Errorf("nodes are\n%s, want\n%s", got, want)
	}
	for name, n := range map[string]int{"": 1, "Upper": 1, "a/b": 1, "much-too-long-a-name": 1, "none": 0, "many": MaxNodes + 1} {
		if _, err := plan(name, "/lab", n); err == nil {
			t.Errorf("a lab %q of %d nodes was planned", name, n)
		}
	}
}

// Every file that a component is told to read must have been written.
func TestComponentsFindTheirFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := plan("t", dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	s.CNI = filepath.Join(dir, "plugins")
	if err := errors.Join(s.writePKI(), s.writeConfig()); err != nil {
		t.Fatal(err)
	}
	written := func(arg string) {
		for _, suffix := range []string{".crt", ".key", ".pub", ".conf", ".json", ".toml", "Corefile"} {
			if _, err := os.Stat(arg); strings.HasPrefix(arg, "/") && strings.HasSuffix(arg, suffix) && err != nil {
				t.Error(err)
			}
		}
	}
	names := map[string]bool{}
	for _, c := range s.components("/bin/lab") {
		if names[c.Name] {
			t.Errorf("two components are called %s", c.Name)
		}
		names[c.Name] = true
		if _, ok := s.node(c.Node); !ok {
			t.Errorf("%s is on no node: %q", c.Name, c.Node)
		}
		for _, arg := range c.Args {
			_, value, _ := strings.Cut(arg, "=")
			written(arg)
			written(value)
		}
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kubelet-node2", "kube-proxy-node2", "containerd-node2"} {
		if !names[name] {
			t.Errorf("no component %s", name)
		}
	}
	for _, n := range s.Nodes {
		for _, file := range []string{"kubelet.json", "kube-proxy.json", "cni/10-lab.conflist"} {
			b, err := os.ReadFile(s.nodeDir(n, file))
			if err != nil {
				t.Fatal(err)
			}
			if !json.Valid(b) {
				t.Errorf("%s of %s is not JSON", file, n.Name)
			}
		}
	}
	err = filepath.WalkDir(s.path("pki"), func(p string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".key") {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", p, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	if _, err := load(dir); !errors.Is(err, ErrNone) {
		t.Errorf("loading nothing: %v, want ErrNone", err)
	}
	s, err := plan("t", dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.Components = []Component{
		{Name: "me", Node: "node1", PID: os.Getpid(), Started: startTime(os.Getpid())},
		{Name: "before-me", Node: "node1", PID: os.Getpid(), Started: startTime(os.Getpid()) - 1},
		{Name: "stopped", Node: "node1"},
	}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	if s, err = load(dir); err != nil {
		t.Fatal(err)
	}
	// A number that was given to another process is not the component.
	if got, want := s.dead(), []string{"before-me"}; !slices.Equal(got, want) {
		t.Errorf("ended: %v, want %v", got, want)
	}
	if !s.component("me").alive() {
		t.Error("this process is taken for ended")
	}
}

func TestEnviron(t *testing.T) {
	c := &Cluster{state: &State{Dir: "/lab", Kubeconfig: "/lab/admin.conf", Programs: []string{"/programs"}}}
	got := c.Environ([]string{"PATH=/bin", "KUBECONFIG=/theirs", "HOME=/root", marker + "=/other"})
	want := []string{"HOME=/root", "PATH=/programs:/bin", "KUBECONFIG=/lab/admin.conf", marker + "=/lab"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
