// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e runs the demo mesh as a user does, with the built binaries, and
// asks of it what Istio's documents promise.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds what must happen soon.
const patience = 30 * time.Second

// Where the demo's workloads are; see samples/bookinfo/mesh.
const (
	productpageAddr = "127.0.1.2"
	ratingsAddr     = "127.0.1.4"
	reviewsV1Addr   = "127.0.1.5"
)

// mesh is one running `lateen demo`.
type mesh struct {
	bin     string
	env     []string
	gateway string // http://127.0.0.1:PORT
	dir     string // where its state and logs are
	cmd     *exec.Cmd
	exited  chan struct{}
	out     lockedBuffer
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// build makes the binaries as a user gets them, without the race detector.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"lateen", "lateend", "lateen-proxy", "bookinfo"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, name), "./cmd/"+name)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

// oneMesh holds back other runs of this test: the demo's addresses are fixed.
func oneMesh(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("lateen-e2e-%d.lock", os.Getuid())), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(f.Name())
		f.Close()
	})
}

// startDemo runs `lateen demo` until the page answers.
func startDemo(t *testing.T) *mesh {
	t.Helper()
	bin := build(t)
	oneMesh(t)
	runtimeDir, err := os.MkdirTemp("", "lt") // short: a socket path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runtimeDir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	m := &mesh{
		bin: bin, gateway: fmt.Sprintf("http://127.0.0.1:%d", port), exited: make(chan struct{}),
		env: append(os.Environ(), "XDG_RUNTIME_DIR="+runtimeDir, "NO_COLOR=1"),
	}
	m.cmd = exec.Command(filepath.Join(bin, "lateen"), "demo", "--gateway-port", fmt.Sprint(port))
	m.cmd.Env = m.env
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.out
	// A group of its own, so that a Ctrl-C in the terminal reaches only the test.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = m.cmd.Wait()
		close(m.exited)
	}()
	t.Cleanup(func() { m.stop(t) })
	m.eventually(t, "the page", func() error {
		_, err := m.page("")
		return err
	})
	m.dir = m.registered(t, runtimeDir)
	return m
}

// registered finds where the mesh keeps its files.
func (m *mesh) registered(t *testing.T, runtimeDir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(runtimeDir, "lateen", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("registrations: %v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Dir string `json:"dir"`
	}
	if err := json.Unmarshal(b, &r); err != nil || r.Dir == "" {
		t.Fatalf("registration %s: %v", b, err)
	}
	return r.Dir
}

// stop is Ctrl-C.
func (m *mesh) stop(t *testing.T) {
	t.Helper()
	select {
	case <-m.exited:
	default:
		_ = m.cmd.Process.Signal(os.Interrupt)
		select {
		case <-m.exited:
		case <-time.After(patience):
			t.Error("the demo does not end")
			_ = m.cmd.Process.Kill()
			<-m.exited
		}
	}
	if t.Failed() {
		t.Logf("lateen demo:\n%s", m.out.String())
	}
}

// lateen runs the command line and returns what it printed.
func (m *mesh) lateen(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(m.bin, "lateen"), args...)
	cmd.Env = m.env
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("lateen %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// apply stores files and waits until every proxy has them.
func (m *mesh) apply(t *testing.T, files ...string) {
	t.Helper()
	args := []string{"apply", "--wait"}
	for _, f := range files {
		args = append(args, "-f", f)
	}
	if _, err := m.lateen("", args...); err != nil {
		t.Fatal(err)
	}
}

// applyText is apply of a manifest.
func (m *mesh) applyText(t *testing.T, manifest string) {
	t.Helper()
	if _, err := m.lateen(manifest, "apply", "--wait", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

func (m *mesh) delete(t *testing.T, args ...string) {
	t.Helper()
	if _, err := m.lateen("", append([]string{"delete"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// client keeps no cookies and follows no redirects.
var client = &http.Client{
	Timeout:       patience,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
}

func fetch(c *http.Client, target string, header http.Header) (string, *http.Response, error) {
	req, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		return "", nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", nil, err
	}
	return string(b), resp, nil
}

// page gets the product page, logged in as user when there is one.
func (m *mesh) page(user string) (string, error) {
	header := http.Header{}
	if user != "" {
		cookie, err := m.login(user)
		if err != nil {
			return "", err
		}
		header.Set("Cookie", cookie)
	}
	body, resp, err := fetch(client, m.gateway+"/productpage", header)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return body, fmt.Errorf("product page: %s: %s", resp.Status, body)
	}
	return body, nil
}

func (m *mesh) login(user string) (string, error) {
	resp, err := client.PostForm(m.gateway+"/login", url.Values{"username": {user}, "passwd": {user}})
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	var cookies []string
	for _, c := range resp.Cookies() {
		cookies = append(cookies, c.Name+"="+c.Value)
	}
	if len(cookies) == 0 {
		return "", fmt.Errorf("login answered %s without a cookie", resp.Status)
	}
	return strings.Join(cookies, "; "), nil
}

// reviewsVersion is which reviews served the page.
func reviewsVersion(page string) string {
	for _, v := range []string{"v1", "v2", "v3"} {
		if strings.Contains(page, "reviews-"+v+"-") {
			return v
		}
	}
	return ""
}

// fromProductpage makes a client that goes out through the productpage's
// sidecar, as its application does.
func fromProductpage() *http.Client {
	via := &url.URL{Scheme: "http", Host: net.JoinHostPort(productpageAddr, "15007")}
	return &http.Client{Timeout: patience, Transport: &http.Transport{Proxy: http.ProxyURL(via), DisableKeepAlives: true}}
}

func (m *mesh) eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-m.exited:
			t.Fatalf("%s: the demo has ended:\n%s", what, m.out.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// logged waits until some line of the workload's proxy log contains all words.
func (m *mesh) logged(t *testing.T, workload string, words ...string) {
	t.Helper()
	m.eventually(t, fmt.Sprintf("%q in the access log of %s", words, workload), func() error {
		b, err := os.ReadFile(filepath.Join(m.dir, ".lateen", "logs", workload+".proxy.log"))
		if err != nil {
			return err
		}
	line:
		for line := range strings.Lines(string(b)) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue line
				}
			}
			return nil
		}
		return errors.New("no such line")
	})
}
