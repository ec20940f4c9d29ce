// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/localmesh"
)

var update = flag.Bool("update", false, "rewrite the recorded outputs")

var now = time.Date(2026, 11, 20, 15, 0, 0, 0, time.UTC)

// plane answers the local interface from memory.
type plane struct {
	objects  map[string]api.Object // by kind/namespace/name
	proxies  []api.Proxy
	waiting  []api.WaitingProxy
	findings []api.Finding
	epoch    uint64
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	key := q.Get("kind") + "/" + q.Get("namespace") + "/" + q.Get("name")
	switch r.Method + " " + r.URL.Path {
	case "GET " + api.PathVersion:
		answer(w, api.Version{Version: "1.2.3", Name: "demo"})
	case "GET " + api.PathProxies:
		answer(w, api.ProxyList{Items: p.proxies})
	case "GET " + api.PathFindings:
		answer(w, api.FindingList{Items: p.findings})
	case "POST " + api.PathWait:
		var in api.WaitRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Epoch != p.epoch {
			fail(w, "invalid", fmt.Sprintf("epoch %d, have %d", in.Epoch, p.epoch))
			return
		}
		answer(w, api.WaitResponse{Waiting: p.waiting})
	case "GET " + api.PathObjects:
		out := api.ObjectList{Items: []api.Object{}}
		for _, o := range p.objects {
			if o.Kind == q.Get("kind") && (q.Get("namespace") == "" || o.Namespace == q.Get("namespace")) {
				out.Items = append(out.Items, o)
			}
		}
		answer(w, out)
	case "PUT " + api.PathObjects:
		var in api.ApplyRequest
		_ = json.NewDecoder(r.Body).Decode(&in)
		o := config.Decode(in.Manifest, "", "").Objects[0]
		if o.Name == "refused" {
			fail(w, "invalid", "no such day")
			return
		}
		key := o.Kind.Name + "/" + o.Namespace + "/" + o.Name
		result := "created"
		if old, ok := p.objects[key]; ok {
			if result = "configured"; bytes.Equal(old.Manifest, in.Manifest) {
				result = "unchanged"
			}
		}
		p.objects[key] = api.Object{Group: o.Kind.Group, Kind: o.Kind.Name, Namespace: o.Namespace, Name: o.Name, Manifest: in.Manifest, Source: "/mesh/applied/" + o.Name + ".yaml:1"}
		p.epoch++
		answer(w, api.ApplyResponse{Result: result, Epoch: p.epoch})
	case "DELETE " + api.PathObjects:
		if _, ok := p.objects[key]; !ok {
			fail(w, "not_found", "not found")
			return
		}
		delete(p.objects, key)
		p.epoch++
		answer(w, api.ApplyResponse{Result: "deleted", Epoch: p.epoch})
	default:
		http.NotFound(w, r)
	}
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func fail(w http.ResponseWriter, code, message string) {
	w.WriteHeader(http.StatusBadRequest)
	answer(w, api.Error{Code: code, Message: message})
}

// serve makes p a running mesh of this process.
func (p *plane) serve(t *testing.T, names ...string) {
	t.Helper()
	x, err := os.MkdirTemp("", "lt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(x) })
	t.Setenv("XDG_RUNTIME_DIR", x)
	dir, err := localmesh.RuntimeDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		socket := filepath.Join(dir, name+".sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: p}
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(func() { srv.Close() })
		r := localmesh.Registration{Name: name, Socket: socket, Dir: "/mesh", PID: os.Getpid(), StartTime: ownStart(t)}
		b, _ := json.Marshal(r)
		if err := os.WriteFile(filepath.Join(dir, name+".json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// ownStart is field 22 of /proc/self/stat.
func ownStart(t *testing.T) (ticks uint64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	if _, err := fmt.Sscan(strings.Fields(s[strings.LastIndexByte(s, ')')+1:])[19], &ticks); err != nil {
		t.Fatal(err)
	}
	return ticks
}

func lateen(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = Run(t.Context(), args, Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut,
		Getenv: func(string) string { return "" }, Version: "1.2.4", Bin: t.TempDir(), Now: func() time.Time { return now },
	})
	return code, out.String(), errOut.String()
}

// golden compares what a command printed with testdata/<name>.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-recorded +now; refresh with -update):\n%s", name, diff)
	}
}

const routeYAML = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v1}
`

const ruleYAML = `apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
`

func TestApply(t *testing.T) {
	p := &plane{objects: map[string]api.Object{}}
	p.serve(t, "demo")
	code, out, errOut := lateen(t, routeYAML+"---\n"+ruleYAML, "apply", "-f", "-", "--wait")
	want := "virtualservice.networking.istio.io/reviews created\ndestinationrule.networking.istio.io/reviews created\nacknowledged by every affected proxy in 0 ms\n"
	if code != 0 || out != want || errOut != "" {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	if _, out, _ = lateen(t, routeYAML, "apply", "-f", "-"); out != "virtualservice.networking.istio.io/reviews unchanged\n" {
		t.Error(out)
	}
	changed := strings.ReplaceAll(routeYAML, "v1}", "v2}")
	if _, out, _ = lateen(t, changed, "apply", "-f", "-"); out != "virtualservice.networking.istio.io/reviews configured\n" {
		t.Error(out)
	}

	p.findings = []api.Finding{{Severity: "warning", Object: "VirtualService/default/reviews", Message: "no subset v1"}, {Severity: "warning", Object: "VirtualService/default/other", Message: "x"}}
	if _, _, errOut := lateen(t, routeYAML, "apply", "-f", "-"); errOut != "warning: VirtualService/default/reviews: no subset v1\n" {
		t.Error(errOut)
	}
	p.findings = nil

	p.waiting = []api.WaitingProxy{{Proxy: "reviews-v1.default", Reason: "no answer yet"}}
	code, _, errOut = lateen(t, routeYAML, "apply", "-f", "-", "--wait", "--timeout", "1s")
	if code != ExitFailed || errOut != "not acknowledged by reviews-v1.default: no answer yet\n" {
		t.Errorf("exit %d %s", code, errOut)
	}
}

// TestApplyBad: one bad object costs nothing but itself and the exit code.
func TestApplyBad(t *testing.T) {
	p := &plane{objects: map[string]api.Object{}}
	p.serve(t, "demo")
	dir := t.TempDir()
	bad := filepath.Join(dir, "a.yaml")
	misspelt := strings.ReplaceAll(routeYAML, "hosts:", "hots:")
	refused := strings.ReplaceAll(ruleYAML, "{name: reviews,", "{name: refused,")
	for path, text := range map[string]string{bad: misspelt + "---\n" + ruleYAML, filepath.Join(dir, "b.yml"): refused, filepath.Join(dir, "c.txt"): "no"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code, out, errOut := lateen(t, "", "apply", "-f", dir)
	if code != ExitFailed || out != "destinationrule.networking.istio.io/reviews created\n" {
		t.Errorf("exit %d, %s", code, out)
	}
	for _, w := range []string{bad + ":5: VirtualService/default/reviews", `did you mean "hosts"`, "destinationrule.networking.istio.io/refused: no such day"} {
		if !strings.Contains(errOut, w) {
			t.Errorf("standard error lacks %q:\n%s", w, errOut)
		}
	}
	if code, _, _ = lateen(t, "", "apply", "-f", filepath.Join(dir, "none.yaml")); code != ExitBadInput {
		t.Errorf("a file that is not there: exit %d, want %d", code, ExitBadInput)
	}
}

func TestGet(t *testing.T) {
	p := &plane{objects: map[string]api.Object{}}
	p.serve(t, "demo")
	route := strings.ReplaceAll(routeYAML, "{name: reviews}", `{name: reviews, creationTimestamp: "2026-11-20T14:55:00Z"}`)
	if code, _, errOut := lateen(t, route+"---\n"+ruleYAML, "apply", "-f", "-"); code != 0 {
		t.Fatal(errOut)
	}
	held := p.objects["VirtualService/default/reviews"]
	held.Held = "subset v9 does not exist"
	p.objects["VirtualService/default/reviews"] = held
	p.findings = []api.Finding{{Severity: "warning", Object: "DestinationRule/shop/reviews", Message: "no proxy uses it"}}
	var all strings.Builder
	for _, args := range []string{"get vs", "get vs -A -o wide", "get virtualservice reviews -o yaml", "get vs -o json", "get vs -o name", "get dr", "get dr -n shop", "get vs nobody"} {
		code, out, errOut := lateen(t, "", strings.Fields(args)...)
		fmt.Fprintf(&all, "$ lateen %s\n%s%s[exit %d]\n\n", args, out, prefixLines("stderr: ", errOut), code)
	}
	golden(t, "get.txt", all.String())
}

func prefixLines(p, s string) string {
	var b strings.Builder
	for l := range strings.Lines(s) {
		b.WriteString(p + l)
	}
	return b.String()
}

func TestDelete(t *testing.T) {
	p := &plane{objects: map[string]api.Object{}}
	p.serve(t, "demo")
	lateen(t, routeYAML+"---\n"+ruleYAML, "apply", "-f", "-")
	if code, out, _ := lateen(t, "", "delete", "vs", "reviews"); code != 0 || out != "virtualservice.networking.istio.io/reviews deleted\n" {
		t.Errorf("exit %d %s", code, out)
	}
	if code, out, _ := lateen(t, routeYAML+"---\n"+ruleYAML, "delete", "-f", "-", "--ignore-not-found"); code != 0 || out != "destinationrule.networking.istio.io/reviews deleted\n" {
		t.Errorf("exit %d %s", code, out)
	}
	if code, _, errOut := lateen(t, "", "delete", "vs", "reviews"); code != ExitFailed || !strings.Contains(errOut, "not found") {
		t.Errorf("exit %d %s", code, errOut)
	}
	if len(p.objects) != 0 {
		t.Errorf("left: %v", p.objects)
	}
}

func TestProxyStatus(t *testing.T) {
	synced := api.Sync{Status: "SYNCED"}
	p := &plane{proxies: []api.Proxy{
		{Name: "istio-ingressgateway.istio-system", ClusterID: "Kubernetes", Version: "1.2.3", Types: map[string]api.Sync{"CDS": synced, "LDS": synced, "EDS": synced, "RDS": synced}},
		{Name: "reviews-v1.default", ClusterID: "Kubernetes", Version: "1.2.3", Types: map[string]api.Sync{
			"CDS": synced, "LDS": {Status: "NACK", Message: "listener 0.0.0.0_80: permission denied"}, "EDS": {Status: "STALE"}, "RDS": synced, "VHDS": {Status: "STALE"},
		}},
	}}
	p.serve(t, "demo")
	var all strings.Builder
	for _, args := range []string{"proxy status", "proxy ps istio-ingressgateway", "proxy status nobody", "version", "version -o json"} {
		code, out, errOut := lateen(t, "", strings.Fields(args)...)
		fmt.Fprintf(&all, "$ lateen %s\n%s%s[exit %d]\n\n", args, out, prefixLines("stderr: ", errOut), code)
	}
	golden(t, "proxystatus.txt", all.String())
}

func TestTarget(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	if code, _, errOut := lateen(t, "", "get", "vs"); code != ExitNoMesh || !strings.Contains(errOut, "lateen demo") {
		t.Errorf("exit %d %s", code, errOut)
	}
	if code, out, _ := lateen(t, "", "version"); code != 0 || out != "client version: 1.2.4\n" {
		t.Errorf("exit %d %s", code, out)
	}
	p := &plane{}
	p.serve(t, "one", "two")
	if code, _, errOut := lateen(t, "", "proxy", "status"); code != ExitUsage || !strings.Contains(errOut, "--mesh (one, two)") {
		t.Errorf("exit %d %s", code, errOut)
	}
	if code, _, errOut := lateen(t, "", "proxy", "status", "--mesh", "two", "-v"); code != 0 || !strings.Contains(errOut, "mesh two") {
		t.Errorf("exit %d %s", code, errOut)
	}
	if code, _, _ := lateen(t, "", "proxy", "status", "--mesh", "three"); code != ExitNoMesh {
		t.Errorf("exit %d", code)
	}
}

func TestUsage(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for _, args := range []string{"nope", "get", "get --oops", "get gadgets", "get virtualservces", "apply", "delete vs", "delete", "get vs -o xml", "proxy config", "proxy config route", "demo --traffic -1", "demo extra", "up"} {
		code, out, _ := lateen(t, "", strings.Fields(args)...)
		if want := map[bool]int{true: ExitOK, false: ExitUsage}[args == "proxy config"]; code != want {
			t.Errorf("lateen %s: exit %d, want %d\n%s", args, code, want, out)
		}
	}
	if code, _, _ := lateen(t, "", "up", "-f", "/nowhere"); code != ExitBadInput {
		t.Errorf("up on a directory that is not there: exit %d", code)
	}
	if _, _, errOut := lateen(t, "", "get", "virtualservces"); !strings.Contains(errOut, `did you mean "virtualservices"`) {
		t.Error(errOut)
	}
}

// TestHelp: every verb has a purpose and an example.
func TestHelp(t *testing.T) {
	a := &app{Env: Env{Getenv: func(string) string { return "" }}}
	root := a.root()
	cmds := slices.Clone(root.Commands())
	for len(cmds) > 0 {
		c := cmds[0]
		cmds = append(cmds[1:], c.Commands()...)
		if c.Name() == "completion" || c.Name() == "help" {
			continue
		}
		if c.Short == "" || c.Example == "" {
			t.Errorf("lateen %s: no short text or no example", c.CommandPath())
		}
	}
	code, out, _ := lateen(t, "", "apply", "-h")
	if code != 0 || !strings.Contains(out, "--wait") {
		t.Errorf("exit %d %s", code, out)
	}
	if code, out, _ := lateen(t, "", "completion", "bash"); code != 0 || len(out) < 1000 {
		t.Errorf("completion: exit %d, %d bytes", code, len(out))
	}
}

func TestMeshName(t *testing.T) {
	for in, want := range map[string]string{"/a/My Shop_1": "my-shop-1", "/": "mesh", "/x/" + strings.Repeat("a", 50): strings.Repeat("a", 40)} {
		if got := meshName(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestExpand(t *testing.T) {
	dir := t.TempDir()
	if _, err := expand(dir, false); err == nil {
		t.Error("an empty directory was accepted")
	}
	if _, err := expand(filepath.Join(dir, "x"), false); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
