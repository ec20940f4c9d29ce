// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/proxy/fieldpolicy"
	"github.com/lateen-mesh/lateen/internal/proxy/listener"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

var update = flag.Bool("update", false, "rewrite the expected part of the golden files")

// archive is a golden file: sections headed "-- name --".
type archive struct {
	names []string
	text  map[string]string
}

func readArchive(t *testing.T, file string) archive {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	a := archive{text: map[string]string{}}
	name := "comment"
	a.names = append(a.names, name)
	for line := range strings.Lines(string(b)) {
		if s := strings.TrimSpace(line); strings.HasPrefix(s, "-- ") && strings.HasSuffix(s, " --") && len(s) > 6 {
			name = s[3 : len(s)-3]
			a.names = append(a.names, name)
			continue
		}
		a.text[name] += line
	}
	return a
}

func (a archive) write(t *testing.T, file string) {
	t.Helper()
	var b strings.Builder
	for _, n := range a.names {
		if n != "comment" {
			fmt.Fprintf(&b, "-- %s --\n", n)
		}
		b.WriteString(a.text[n])
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// events decodes YAML into a batch of additions. Creation times follow the
// order in the file.
func events(t testing.TB, text string) []config.Event {
	t.Helper()
	res := config.Decode([]byte(text), "config.yaml", config.DefaultNamespace)
	if err := config.Errors(res.Problems); err != nil {
		t.Fatal(err)
	}
	var out []config.Event
	for i, o := range res.Objects {
		o = o.Clone()
		if o.CreationTimestamp.IsZero() {
			o.CreationTimestamp = time.Unix(int64(i), 0).UTC()
		}
		out = append(out, config.Event{Key: o.Key, Object: o})
	}
	return out
}

func meshOptions(t testing.TB, text string) []config.Event {
	t.Helper()
	res := config.Decode([]byte(text), config.MeshConfigFile, config.DefaultNamespace)
	if err := config.Errors(res.Problems); err != nil {
		t.Fatal(err)
	}
	var out []config.Event
	for _, o := range res.Objects {
		out = append(out, config.Event{Key: o.Key, Object: o})
	}
	return out
}

// parseClass reads "<mode> <namespace> <address> [labels] [pod/<name>] [ondemand]".
func parseClass(line string) Class {
	f := strings.Fields(line)
	c := Class{Mode: compile.Mode(f[0]), Namespace: f[1], Address: f[2]}
	for _, x := range f[3:] {
		if x == "ondemand" {
			c.OnDemand = true
		} else if pod, ok := strings.CutPrefix(x, "pod/"); ok {
			c.Pod = pod
		} else {
			c.Labels = compile.EncodeLabels(compile.DecodeLabels(x), nil)
		}
	}
	return c
}

var shortTypes = map[string]string{"cds": ClusterType, "eds": EndpointType, "lds": ListenerType, "rds": RouteType, "vhds": VirtualHostType, "sds": SecretType}

func decode(t testing.TB, r *Resource) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(r.Type)
	if err != nil {
		t.Fatal(err)
	}
	m := mt.New().Interface()
	if err := proto.Unmarshal(r.Body, m); err != nil {
		t.Fatalf("%s: %v", r.Name, err)
	}
	return m
}

// render prints the resources that the lines of show ("<type> <glob>") name. A
// line "<type> names" lists the names only.
func render(t testing.TB, v *View, show string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(show) {
		kind, pattern, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "## %s %s\n", kind, pattern)
		for _, r := range v.Sets[shortTypes[kind]] {
			if pattern == "names" {
				fmt.Fprintln(&b, r.Name)
				continue
			}
			if ok, _ := path.Match(pattern, strings.ReplaceAll(r.Name, "/", "!")); !ok {
				continue
			}
			b.WriteString(yamlOf(t, decode(t, r)))
			b.WriteString("---\n")
		}
	}
	return b.String()
}

func yamlOf(t testing.TB, m proto.Message) string {
	t.Helper()
	j, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var any any
	if err := json.Unmarshal(j, &any); err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(any)
	if err != nil {
		t.Fatal(err)
	}
	return string(y)
}

// TestGolden holds the whole way from YAML to resources: each file gives
// config.yaml (and mesh.yaml), a class of proxies, what to show, and the
// expected resources. Every resource must be one lateen-proxy accepts.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a := readArchive(t, file)
			batch := events(t, a.text["config.yaml"])
			if text, ok := a.text["mesh.yaml"]; ok {
				batch = append(batch, meshOptions(t, text)...)
			}
			if text, ok := a.text["cluster.yaml"]; ok {
				batch = append(batch, clusterEvents(t, text)...)
			}
			p := NewPipeline(nil)
			p.Apply(batch)
			class := parseClass(a.text["class"])
			p.Hold(class, func(*View) {})
			v := p.View(class)
			if class.Mode != compile.ModeProxyless {
				accepted(t, v)
				listens(t, v)
			}
			got := render(t, v, a.text["show"])
			if *update {
				if _, ok := a.text["want"]; !ok {
					a.names = append(a.names, "want")
				}
				a.text["want"] = got
				a.write(t, file)
				return
			}
			if diff := cmp.Diff(a.text["want"], got); diff != "" {
				t.Errorf("-want +got; refresh with -update:\n%s", diff)
			}
		})
	}
}

// handler stands for what a proxy does with connections.
type handler struct{ listener.Handler }

func (handler) Ready() bool { return true }
func (handler) Drain()      {}
func (handler) CloseIdle()  {}
func (handler) Close()      {}

// listens holds the listeners to the proxy's own reading of them, matches that
// cannot be told apart included. Nothing is opened.
func listens(t testing.TB, v *View) {
	t.Helper()
	m := listener.NewManager(listener.Options{
		Build:   func(*listenerv3.Listener, *listenerv3.FilterChain) (listener.Handler, error) { return handler{}, nil },
		Secrets: &secret.Store{}, Registry: telemetry.NewRegistry(),
	})
	var all []*listenerv3.Listener
	for _, r := range v.Sets[ListenerType] {
		l := decode(t, r).(*listenerv3.Listener)
		l.BindToPort = wrapperspb.Bool(false)
		all = append(all, l)
	}
	for name, err := range m.Apply(all, nil) {
		t.Errorf("the proxy refuses listener %s: %v", name, err)
	}
}

// accepted holds every resource to the proxy's own field policy, and every set
// to its order.
func accepted(t testing.TB, v *View) {
	t.Helper()
	for typ, set := range v.Sets {
		for i, r := range set {
			if i > 0 && set[i-1].Name >= r.Name {
				t.Errorf("%s: %q does not sort before %q", typ, set[i-1].Name, r.Name)
			}
			if typ == NameTableType {
				continue // no message of a module
			}
			if err := fieldpolicy.Check(decode(t, r)); err != nil {
				t.Errorf("%s %s: %v", typ, r.Name, err)
			}
		}
	}
}
