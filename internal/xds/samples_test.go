// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
)

// TestIstioSamples applies each of Istio's networking samples of Bookinfo to
// the demo mesh: all resources that come of it are ones lateen-proxy takes.
func TestIstioSamples(t *testing.T) {
	root := os.Getenv("LATEEN_ISTIO_SAMPLES")
	if root == "" {
		t.Skip("LATEEN_ISTIO_SAMPLES is not set to a directory with Istio's samples")
	}
	files, err := filepath.Glob(filepath.Join(root, "bookinfo", "networking", "*.yaml"))
	if err == nil && len(files) == 0 {
		files, err = filepath.Glob(filepath.Join(root, "samples", "bookinfo", "networking", "*.yaml"))
	}
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples below %s: %v", root, err)
	}
	var base []config.Event
	for _, name := range []string{"services.yaml", "entries.yaml", "gateway.yaml"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "samples", "bookinfo", "mesh", name))
		if err != nil {
			t.Fatal(err)
		}
		base = append(base, events(t, string(b))...)
	}
	base = append(base, meshOptions(t, "proxyHttpPort: 15007\n")...)
	rules, err := os.ReadFile(filepath.Join(filepath.Dir(files[0]), "destination-rule-all.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	sidecar := Class{Mode: compile.ModeNone, Namespace: "default", Address: "127.0.1.2", Labels: "app=productpage,version=v1", OnDemand: true}
	gateway := Class{Mode: compile.ModeGateway, Namespace: "istio-system", Address: "127.0.1.1", Labels: "istio=ingressgateway", OnDemand: true}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := NewPipeline(nil)
			p.Apply(base)
			p.Apply(events(t, string(rules)))
			batch := events(t, string(b))
			for i := range batch {
				o := batch[i].Object.Clone()
				o.CreationTimestamp = time.Unix(int64(1000+i), 0)
				batch[i].Object = o
			}
			p.Apply(batch)
			for _, c := range []Class{sidecar, gateway} {
				p.Hold(c, func(*View) {})
				v := p.View(c)
				accepted(t, v)
				refersToExisting(t, v)
			}
		})
	}
}

// refersToExisting holds routes to clusters that exist. Samples that want
// services the demo mesh does not have are let pass.
func refersToExisting(t *testing.T, v *View) {
	t.Helper()
	for _, r := range append(append(Set{}, v.Sets[VirtualHostType]...), v.Sets[RouteType]...) {
		text := yamlOf(t, decode(t, r))
		for line := range strings.Lines(text) {
			_, name, ok := strings.Cut(line, "outbound|")
			if !ok {
				continue
			}
			name = "outbound|" + strings.TrimSpace(name)
			host := name[strings.LastIndexByte(name, '|'):]
			known := slices.ContainsFunc(v.Sets[ClusterType], func(c *Resource) bool { return strings.HasSuffix(c.Name, host) })
			if known && v.Sets[ClusterType].Get(name) == nil {
				t.Errorf("%s: there is no cluster %s", r.Name, name)
			}
		}
	}
}
