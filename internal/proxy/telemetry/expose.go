// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Filter selects what is exposed.
type Filter struct {
	// UsedOnly leaves out what was never written.
	UsedOnly bool
	// Match, when not nil, must find something in the full Envoy name.
	Match *regexp.Regexp
}

// kind is what a sample is.
type kind uint8

const (
	counterKind kind = iota
	gaugeKind
	histogramKind
)

// sample is one value under its Envoy name, with the scope taken apart for
// Prometheus.
type sample struct {
	scope string // "cluster", "http", "listener", "tcp" or "" for a plain name
	label string // the scope's name
	name  string // the rest
	kind  kind
	value int64
	used  bool
	hist  *snapshot
	full  string // the Envoy name, filled by add
}

// collect reads every selected value, sorted by full name within its kind.
func (r *Registry) collect(f Filter) []sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := collector{filter: f}
	for n, h := range r.http {
		c.block("http", n, httpNames[:], &h.counts)
		c.times("http", n, httpTimeNames[:], &h.times)
	}
	for n, s := range r.clusters {
		c.block("cluster", n, clusterNames[:], &s.counts)
		c.times("cluster", n, clusterTimeNames[:], &s.times)
		c.membership(n, s)
		c.responseCodes(n, s)
	}
	for n, l := range r.listeners {
		c.block("listener", n, listenerNames[:], &l.counts)
		c.times("listener", n, listenerTimeNames[:], &l.times)
	}
	for n, t := range r.tcp {
		c.block("tcp", n, tcpNames[:], &t.counts)
	}
	for n, v := range r.counters {
		c.add(sample{name: n, value: int64(v.Value()), used: v.Value() > 0})
	}
	for n, v := range r.gauges {
		c.add(sample{name: n, kind: gaugeKind, value: v.Value(), used: v.set.Load()})
	}
	for n, get := range r.funcs {
		c.add(sample{name: n, kind: gaugeKind, value: get(), used: true})
	}
	c.server(&r.Server)
	slices.SortFunc(c.samples, func(a, b sample) int {
		if a.kind == histogramKind != (b.kind == histogramKind) {
			return int(a.kind) - int(b.kind)
		}
		return strings.Compare(a.full, b.full)
	})
	return c.samples
}

type collector struct {
	filter  Filter
	samples []sample
}

func (c *collector) add(s sample) {
	if c.filter.UsedOnly && !s.used {
		return
	}
	s.full = s.name
	if s.scope != "" {
		s.full = s.scope + "." + s.label + "." + s.name
	}
	if c.filter.Match != nil && !c.filter.Match.MatchString(s.full) {
		return
	}
	c.samples = append(c.samples, s)
}

// block adds the values of a block. A block that was never written is not
// listed at all: a thousand idle clusters would only be noise.
func (c *collector) block(scope, label string, names []string, b *cells) {
	if !b.used() {
		return
	}
	for i, n := range names {
		v := int64(b.sum(i, len(names)))
		if n[0] == gaugeMark {
			// A gauge of a block in use counts as used even at 0: pilot-agent waits
			// for downstream_cx_active to come down to it.
			c.add(sample{scope: scope, label: label, name: n[1:], kind: gaugeKind, value: v, used: true})
			continue
		}
		c.add(sample{scope: scope, label: label, name: n, value: v, used: v != 0})
	}
}

func (c *collector) times(scope, label string, names []string, b *cells) {
	if !b.used() {
		return
	}
	for i, n := range names {
		h := b.snapshot(i, len(names))
		c.add(sample{scope: scope, label: label, name: n, kind: histogramKind, used: h.count > 0, hist: &h})
	}
}

func (c *collector) membership(name string, s *ClusterStats) {
	changes := s.changes.Load()
	used := changes > 0
	c.add(sample{scope: "cluster", label: name, name: "membership_total", kind: gaugeKind, value: int64(s.total.Load()), used: used})
	c.add(sample{scope: "cluster", label: name, name: "membership_healthy", kind: gaugeKind, value: int64(s.healthy.Load()), used: used})
	c.add(sample{scope: "cluster", label: name, name: "membership_change", value: int64(changes), used: used})
}

func (c *collector) responseCodes(name string, s *ClusterStats) {
	l := s.codes.list.Load()
	if l == nil {
		return
	}
	for _, code := range *l {
		c.add(sample{
			scope: "cluster", label: name, name: "upstream_rq_" + strconv.Itoa(code.status),
			value: int64(code.n.sum(0, 1)), used: true,
		})
	}
}

func (c *collector) server(s *ServerStats) {
	for _, g := range []struct {
		name string
		g    *Gauge
	}{
		{"server.state", &s.State}, {"server.live", &s.Live}, {"server.concurrency", &s.Concurrency},
		{"server.initialization_time_ms", &s.InitializationMs},
		{"server.days_until_first_cert_expiring", &s.DaysUntilCertExp},
		{"server.total_connections", &s.TotalConnections},
	} {
		c.add(sample{name: g.name, kind: gaugeKind, value: g.g.Value(), used: g.g.set.Load()})
	}
	if s.StartTimeUnix.set.Load() {
		up := time.Now().Unix() - s.StartTimeUnix.Value()
		c.add(sample{name: "server.uptime", kind: gaugeKind, value: max(up, 0), used: true})
	}
	c.add(sample{name: "server.panics_recovered", value: int64(s.PanicsRecovered.Value()), used: s.PanicsRecovered.Value() > 0})
	c.add(sample{name: "server.access_log_dropped", value: int64(s.AccessLogsDropped.Value()), used: s.AccessLogsDropped.Value() > 0})
}

// quantiles are the ones that Envoy's text lists.
var quantiles = []struct {
	name string
	q    float64
}{
	{"P0", 0}, {"P25", 0.25}, {"P50", 0.5}, {"P75", 0.75}, {"P90", 0.9}, {"P95", 0.95},
	{"P99", 0.99}, {"P99.5", 0.995}, {"P99.9", 0.999}, {"P100", 1},
}

// WriteText writes Envoy's /stats text: "name: value" lines, histograms last as
// quantiles of all time (the interval's are nan: there are no intervals).
func (r *Registry) WriteText(w io.Writer, f Filter) error {
	var b []byte
	for _, s := range r.collect(f) {
		b = append(append(b, s.full...), ": "...)
		switch {
		case s.kind != histogramKind:
			b = strconv.AppendInt(b, s.value, 10)
		case s.hist.count == 0:
			b = append(b, "No recorded values"...)
		default:
			for i, q := range quantiles {
				if i > 0 {
					b = append(b, ' ')
				}
				b = append(append(b, q.name...), "(nan,"...)
				b = strconv.AppendFloat(b, s.hist.quantile(q.q), 'g', 6, 64)
				b = append(b, ')')
			}
		}
		b = append(b, '\n')
		if len(b) > 32<<10 {
			if _, err := w.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	_, err := w.Write(b)
	return err
}
