// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/test/lab/build"
	"github.com/lateen-mesh/lateen/test/lab/cluster"
	"github.com/lateen-mesh/lateen/test/lab/netns"
)

const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
      - {name: web, image: ` + build.PauseImage + `, args: [":8080"], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// TestLab starts two nodes, uses what a lab promises, and looks for what is
// left of it. It is the only test that needs root.
func TestLab(t *testing.T) {
	if testing.Short() {
		t.Skip("starting a cluster is not short")
	}
	for _, f := range cluster.Check() {
		if f.Err != nil {
			t.Skipf("this machine cannot run the lab: %s: %v", f.Name, f.Err)
		}
	}
	ctx := t.Context()
	if missing, err := build.Missing(ctx, build.Options{}); err != nil {
		t.Fatal(err)
	} else if len(missing) > 0 {
		t.Skipf("not built yet: %s; make lab-up builds them, which is not for a test to wait for", strings.Join(missing, ", "))
	}
	lab := filepath.Join(t.TempDir(), "lab")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", lab, "../cmd/lab").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	o := cluster.Options{Name: "t" + strconv.Itoa(os.Getpid()), Nodes: 2, Self: lab, Log: t.Output()}
	dir, err := os.MkdirTemp("", "lab-")
	if err != nil {
		t.Fatal(err)
	}
	o.Dir = filepath.Join(dir, "s")
	t.Cleanup(func() {
		if err := errors.Join(cluster.Down(context.WithoutCancel(ctx), o), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	k, err := cluster.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	u := user{t, k, lab}
	t.Run("service", u.service)
	t.Run("restart of the API server", u.restart)
	t.Run("metrics", u.metrics)
	// Down must cope with what died without it.
	kill(t, k, "kubelet-node1")
	kill(t, k, "anchor-node2")
	if err := k.Down(ctx); err != nil {
		t.Fatal(err)
	}
	if err := k.Down(ctx); err != nil {
		t.Errorf("the second time: %v", err)
	}
	nothingLeft(t, o)
}

// user does what users of a lab do.
type user struct {
	t   *testing.T
	k   *cluster.Cluster
	lab string
}

func (u user) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := u.k.Kubectl(t.Context(), strings.NewReader(stdin), args...)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func (u user) run(t *testing.T, args ...string) string {
	t.Helper()
	s := u.k.State()
	cmd := exec.CommandContext(t.Context(), u.lab, append([]string{"--name", s.Name, "--dir", s.Dir, "run"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("lab run %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (u user) service(t *testing.T) {
	u.kubectl(t, web, "apply", "-f", "-")
	u.kubectl(t, "", "rollout", "status", "deployment/web", "--timeout=120s")
	nodes := strings.Fields(u.kubectl(t, "", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"))
	if len(nodes) != 2 || nodes[0] == nodes[1] {
		t.Errorf("the pods are on %q, want one on each node", nodes)
	}
	u.kubectl(t, "", "wait", "service/web", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "--timeout=30s")
	address := u.kubectl(t, "", "get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	if !strings.HasPrefix(address, "172.30.1.") {
		t.Errorf("the Service's address is %q", address)
	}
	for _, host := range []string{address, "web." + address + ".nip.io", "web.default.svc." + cluster.Domain} {
		if got := u.run(t, "curl", "-sS", "--retry", "5", "--retry-connrefused", "--max-time", "10", "http://"+host); !strings.HasPrefix(got, "web-") {
			t.Errorf("http://%s answers %q", host, got)
		}
	}
	// One of the pods is on the other node.
	seen := map[string]bool{}
	for range 40 {
		seen[u.run(t, "curl", "-sS", "--max-time", "10", "http://"+address)] = true
	}
	if len(seen) != 2 {
		t.Errorf("answers come from %v, want both pods", seen)
	}
	u.kubectl(t, "", "delete", "service", "web")
}

func (u user) restart(t *testing.T) {
	const name = "kube-apiserver"
	if err := errors.Join(u.k.Stop(t.Context(), name), u.k.Stop(t.Context(), name)); err != nil {
		t.Fatal(err)
	}
	if u.k.Running(name) {
		t.Error("it runs after Stop")
	}
	if err := u.k.Start(name); err != nil {
		t.Fatal(err)
	}
	u.until(t, "the API server to answer", func() bool {
		_, err := u.k.Kubectl(t.Context(), nil, "get", "--raw", "/readyz")
		return err == nil
	})
}

func (u user) metrics(t *testing.T) {
	u.until(t, "kubectl top", func() bool {
		out, err := u.k.Kubectl(t.Context(), nil, "top", "pods", "--containers", "--no-headers")
		return err == nil && bytes.Count(out, []byte("web-")) == 2
	})
}

// until tries done until it holds or the test's own time is over.
func (u user) until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited too long for %s", what)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// kill ends a component the hard way.
func kill(t *testing.T, k *cluster.Cluster, name string) {
	t.Helper()
	for _, c := range k.State().Components {
		if c.Name == name {
			p, err := os.FindProcess(c.PID)
			if err == nil {
				err = p.Kill()
			}
			if err != nil {
				t.Errorf("kill %s: %v", name, err)
			}
			return
		}
	}
	t.Errorf("no component %s", name)
}

// nothingLeft looks for processes, mounts, namespaces, control groups and files.
func nothingLeft(t *testing.T, o cluster.Options) {
	t.Helper()
	if _, err := os.Stat(o.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory: %v", err)
	}
	for _, name := range []string{o.Name, o.Name + "-node2"} {
		if _, err := os.Stat(netns.Path(name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("network namespace %s: %v", name, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, o.Dir) || strings.Contains(line, netns.Path(o.Name)) {
			t.Errorf("mounted: %s", line)
		}
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/lateen-lab/" + o.Name); len(left) > 0 {
		t.Errorf("control groups: %v", left)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		if filepath.Base(p) == fmt.Sprint(os.Getpid()) {
			continue
		}
		for _, file := range []string{"cmdline", "environ"} {
			// Most end while they are looked at, and are not ours.
			if b, err := os.ReadFile(filepath.Join(p, file)); err == nil && bytes.Contains(b, []byte(o.Dir)) {
				t.Errorf("process %s: %q", p, b)
			}
		}
	}
}
