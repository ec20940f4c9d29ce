// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	networking "istio.io/api/networking/v1alpha3"

	lateen "github.com/lateen-mesh/lateen/api/mesh/v1alpha1"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
)

// TestMain makes this binary play the programs of a mesh when it is started
// under their names.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	switch filepath.Base(os.Args[0]) {
	case "lateend":
		err = fakePlane(ctx)
	case "lateen-proxy":
		err = fakeProxy(ctx)
	case "app":
		err = serveUntil(ctx, os.Getenv("LISTEN_ADDRESS"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/crash" {
				fmt.Println("crash asked for")
				os.Exit(7)
			}
			fmt.Fprint(w, os.Getenv("HTTP_PROXY"))
		}))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func serveUntil(ctx context.Context, addr string, h http.Handler) error {
	network := "tcp"
	if strings.Contains(addr, "/") {
		network = "unix"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h}
	context.AfterFunc(ctx, func() { srv.Close() })
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func argument(name string) string {
	if i := slices.Index(os.Args, name); i > 0 {
		return os.Args[i+1]
	}
	return ""
}

func fakePlane(ctx context.Context) error {
	answer := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	return serveUntil(ctx, argument("--socket"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case api.PathVersion:
			answer(w, api.Version{Version: "fake", RootFile: "/fake/root.pem"})
		case api.PathToken:
			var in api.TokenRequest
			_ = json.NewDecoder(r.Body).Decode(&in)
			answer(w, api.TokenResponse{Token: in.Namespace + "/" + in.ServiceAccount})
		case api.PathWait:
			answer(w, api.WaitResponse{})
		}
	}))
}

// fakeProxy opens what its bootstrap tells it to, if its token is the right one.
func fakeProxy(ctx context.Context) error {
	b, err := os.ReadFile(argument("-c"))
	if err != nil {
		return err
	}
	var boot struct {
		Node struct {
			ID       string
			Metadata map[string]any
		}
	}
	if err := json.Unmarshal(b, &boot); err != nil {
		return err
	}
	token, err := os.ReadFile(tokenPath)
	if err != nil {
		return err
	}
	meta := boot.Node.Metadata
	if want := fmt.Sprintf("%s/%s", meta["NAMESPACE"], meta["SERVICE_ACCOUNT"]); string(token) != want {
		return fmt.Errorf("token %q, want %q", token, want)
	}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(strings.ToUpper(kv), "HTTP_PROXY=") {
			return fmt.Errorf("a proxy has %s", kv)
		}
	}
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "LIVE") })
	if ports, gateway := meta["LATEEN_PUBLISHED_PORTS"].(string); gateway {
		_, port, _ := strings.Cut(ports, "=")
		go func() { _ = serveUntil(ctx, fmt.Sprintf("%s:%s", meta["LATEEN_PUBLISH_ON"], port), ok) }()
	}
	return serveUntil(ctx, fmt.Sprintf("%s:%d", meta["INSTANCE_IPS"], adminPort), ok)
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// testMesh runs a mesh of fakes. Its workloads live in 127.99.0.0/16, out of
// the way of a real one.
type testMesh struct {
	opts        Options
	out, log    safeBuffer
	changes     chan config.Batch
	app         netip.AddrPort
	cancel      context.CancelFunc
	err         chan error
	runtimeDir  string
	objects     []*config.Object
	gatewayPort netip.AddrPort
}

func startTestMesh(t *testing.T) *testMesh {
	t.Helper()
	x, err := os.MkdirTemp("", "lt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(x) })
	t.Setenv("XDG_RUNTIME_DIR", x)
	t.Setenv("HTTP_PROXY", "http://192.0.2.1:1") // the user's own
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lateend", "lateen-proxy", "app"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	m := &testMesh{changes: make(chan config.Batch, 1), app: freePort(t), err: make(chan error, 1), gatewayPort: freePort(t), runtimeDir: filepath.Join(x, "lateen")}
	m.opts = Options{
		Dir: t.TempDir(), Name: "test", Bin: bin, GatewayPort: m.gatewayPort.Port(), Page: "/page", Welcome: "welcome", Out: &m.out, Progress: &m.log,
		Objects: func(ctx context.Context) <-chan config.Batch {
			out := make(chan config.Batch)
			go func() {
				defer close(out)
				for {
					select {
					case <-ctx.Done():
						return
					case b := <-m.changes:
						out <- b
					}
				}
			}()
			return out
		},
	}
	gw := obj(config.LocalWorkload, "gw", &lateen.LocalWorkload{Entry: "gw"})
	shop := obj(config.LocalWorkload, "shop", &lateen.LocalWorkload{Entry: "shop", Command: []string{"app"}, Ready: &lateen.Probe{Path: "/health"}})
	shop.Source.File = filepath.Join(m.opts.Dir, "w.yaml")
	m.objects = []*config.Object{
		gw, obj(config.WorkloadEntry, "gw", &networking.WorkloadEntry{Address: "127.99.0.1"}),
		shop, obj(config.WorkloadEntry, "shop", &networking.WorkloadEntry{Address: "127.99.0.2", Labels: map[string]string{"app": "shop"}, ServiceAccount: "clerk"}),
		sidecar("shop", "shop", m.app.String()),
	}
	first := config.Batch{Initial: true}
	for _, o := range m.objects {
		first.Events = append(first.Events, config.Event{Key: o.Key, Object: o})
	}
	m.changes <- first
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(t.Context())
	plane := planeAddrs{freePort(t), freePort(t), freePort(t)}
	go func() { m.err <- run(ctx, m.opts, plane) }()
	t.Cleanup(func() {
		m.cancel()
		if t.Failed() {
			t.Logf("progress:\n%s", m.log.String())
		}
	})
	return m
}

func (m *testMesh) says(t *testing.T, words string) {
	t.Helper()
	eventually(t, words, func() bool { return strings.Contains(m.log.String(), words) })
}

func TestRun(t *testing.T) {
	m := startTestMesh(t)
	m.says(t, "welcome")
	if got, want := m.out.String(), fmt.Sprintf("  http://%s/page\n", m.gatewayPort); got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	if got, err := running(m.runtimeDir); err != nil || len(got) != 1 || got[0].Dir != m.opts.Dir {
		t.Errorf("registered: %+v %v", got, err)
	}
	res, err := direct.Get("http://" + m.app.String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, _ := res.Body.Read(b)
	res.Body.Close()
	if got := string(b[:n]); got != "http://127.99.0.2:15007" {
		t.Errorf("the application's HTTP_PROXY is %q", got)
	}

	_, _ = direct.Get("http://" + m.app.String() + "/crash")
	m.says(t, "exited with status 7, starting again")
	m.says(t, "| crash asked for")
	m.says(t, "again")

	gone := m.objects[2].Key
	m.changes <- config.Batch{Events: []config.Event{{Key: gone}}}
	m.says(t, "removed")
	eventually(t, "the application's port closes", func() bool { return checkFree(m.app) == nil })

	m.changes <- config.Batch{Events: []config.Event{{Key: gone, Object: m.objects[2]}}}
	eventually(t, "the application is back", func() bool { return connects(m.app.String())(t.Context()) == nil })

	m.changes <- config.Batch{Events: []config.Event{{Key: m.objects[3].Key}}}
	m.says(t, `there is no WorkloadEntry "shop" in namespace default`)

	m.cancel()
	if err := <-m.err; err != nil {
		t.Error(err)
	}
	for _, a := range []netip.AddrPort{m.app, m.gatewayPort, netip.MustParseAddrPort("127.99.0.1:15000")} {
		if err := checkFree(a); err != nil {
			t.Errorf("after the end: %v", err)
		}
	}
	if _, err := os.Stat(m.runtimeDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", m.runtimeDir, err)
	}
	if left, _ := filepath.Glob(filepath.Join(m.opts.Dir, ".lateen", "*.json")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRunRefusesBusyGateway(t *testing.T) {
	m := startTestMesh(t)
	m.says(t, "welcome")
	second := m.opts
	second.Name = "second"
	second.Objects = func(context.Context) <-chan config.Batch {
		c := make(chan config.Batch, 1)
		c <- config.Batch{Initial: true, Events: []config.Event{{Key: m.objects[0].Key, Object: m.objects[0]}, {Key: m.objects[1].Key, Object: m.objects[1]}}}
		return c
	}
	err := run(t.Context(), second, planeAddrs{freePort(t), freePort(t), freePort(t)})
	if !errors.Is(err, errBusy) || !strings.Contains(err.Error(), "lateen-proxy (pid") {
		t.Errorf("got %v, want the holder of the port named", err)
	}
	m.cancel()
	<-m.err
}

func TestTraffic(t *testing.T) {
	srv := &http.Server{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan bool, 1000)
	var n atomic.Int32
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 2 {
			w.WriteHeader(503)
		}
		seen <- true
	})
	srv.SetKeepAlivesEnabled(true)
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	tr := &traffic{url: "http://" + l.Addr().String(), perSec: 20}
	done := make(chan struct{})
	go func() { defer close(done); tr.run(ctx) }()
	for range 4 {
		<-seen
	}
	eventually(t, "the answers are counted", func() bool { return tr.sent.Load() >= 3 })
	cancel()
	<-done
	if tr.failed.Load() != 1 {
		t.Errorf("%s, want one failed", tr)
	}
}

func TestCollect(t *testing.T) {
	c := collect{}
	a, b := entry("a", "127.0.1.1"), entry("b", "127.0.1.2")
	c.add(config.Batch{Initial: true, Events: []config.Event{{Key: a.Key, Object: a}, {Key: b.Key, Object: b}}})
	c.add(config.Batch{Events: []config.Event{{Key: a.Key}}})
	if got := c.list(); len(got) != 1 || got[0] != b {
		t.Errorf("%v", got)
	}
	c.add(config.Batch{Initial: true})
	if len(c) != 0 {
		t.Errorf("%v", c)
	}
}
