// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/xds"
)

// events decodes what the benchmark generates, without files being watched.
func events(b testing.TB, p *plan, version int) (all []config.Event, service, route config.Event) {
	b.Helper()
	dir := b.TempDir()
	if err := generate(p, dir); err != nil {
		b.Fatal(err)
	}
	if err := writeService(dir, p, 0, version); err != nil {
		b.Fatal(err)
	}
	if err := writeRoute(dir, version); err != nil {
		b.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		r := config.Decode(text, f, "default")
		for _, p := range r.Problems {
			b.Fatal(p)
		}
		for _, o := range r.Objects {
			o.ResourceVersion = fmt.Sprint(version)
			e := config.Event{Key: o.Key, Object: o}
			switch filepath.Base(f) {
			case "svc-0.yaml":
				service = e
			case "route.yaml":
				route = e
			}
			all = append(all, e)
		}
	}
	return all, service, route
}

// BenchmarkPipeline is the control plane without network and files: the first
// build for 500 sidecars in 50 namespaces, and the two changes.
func BenchmarkPipeline(b *testing.B) {
	p := &plan{services: 1000, endpoints: 10, namespaces: 50, clients: 500}
	all, service0, route0 := events(b, p, 0)
	_, service1, route1 := events(b, p, 1)
	build := func() *xds.Pipeline {
		pipe := xds.NewPipeline(func(xds.Class, *xds.View) {})
		pipe.Apply(all)
		for i := range p.clients {
			c, err := xds.ClassOf(sidecar(i, p.namespaces), true)
			if err != nil {
				b.Fatal(err)
			}
			pipe.Hold(c, func(*xds.View) {})
		}
		return pipe
	}
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			build()
		}
	})
	pipe := build()
	for _, c := range []struct {
		name string
		flip [2]config.Event
	}{{"endpoint", [2]config.Event{service1, service0}}, {"route", [2]config.Event{route1, route0}}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				pipe.Apply([]config.Event{c.flip[i%2]})
			}
		})
	}
}
