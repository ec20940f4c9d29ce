// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"cmp"
	"io"
	"slices"
	"strconv"
	"strings"
)

// scopeLabel is the label that Envoy's default tag extraction makes of a scope's name.
var scopeLabel = map[string]string{
	"cluster":  "envoy_cluster_name",
	"http":     "envoy_http_conn_manager_prefix",
	"listener": "envoy_listener_address",
	"tcp":      "envoy_tcp_prefix",
}

// series is a sample under its Prometheus name.
type series struct {
	*sample
	metric string
	labels string // without braces
}

// prometheus names a sample as Envoy does: response codes and classes become
// labels of one metric (Stats::TagNames RESPONSE_CODE, RESPONSE_CODE_CLASS).
func prometheus(s *sample) series {
	name, labels := s.name, ""
	if s.scope != "" {
		labels = scopeLabel[s.scope] + `="` + escapeLabel(s.label) + `"`
		if i := strings.LastIndex(name, "_rq_"); i >= 0 {
			code := name[i+len("_rq_"):]
			switch {
			case len(code) == 3 && code[1:] == "xx":
				name = name[:i] + "_rq_xx"
				labels = `envoy_response_code_class="` + code[:1] + `",` + labels
			case len(code) == 3 && strings.Trim(code, "0123456789") == "":
				name = name[:i] + "_rq"
				labels = `envoy_response_code="` + code + `",` + labels
			}
		}
		name = s.scope + "_" + name
	}
	return series{sample: s, metric: "envoy_" + metricName(name), labels: labels}
}

func metricName(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' {
			return c
		}
		return '_'
	}, s)
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func escapeLabel(s string) string { return labelEscapes.Replace(s) }

// WritePrometheus writes the Prometheus text format 0.0.4. Histograms are in
// milliseconds, as Envoy's are.
func (r *Registry) WritePrometheus(w io.Writer, f Filter) error {
	samples := r.collect(f)
	all := make([]series, len(samples))
	for i := range samples {
		all[i] = prometheus(&samples[i])
	}
	slices.SortStableFunc(all, func(a, b series) int {
		return cmp.Or(strings.Compare(a.metric, b.metric), strings.Compare(a.labels, b.labels))
	})
	var b []byte
	last := ""
	for i := range all {
		s := &all[i]
		if s.metric != last {
			last = s.metric
			b = append(append(b, "# TYPE "...), last...)
			b = append(b, [...]string{" counter\n", " gauge\n", " histogram\n"}[s.kind]...)
		}
		if s.kind == histogramKind {
			b = s.appendHistogram(b)
		} else {
			b = s.appendLine(b, "", "")
			b = append(strconv.AppendInt(b, s.value, 10), '\n')
		}
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

// appendLine appends the name and labels of a line and the space after them.
func (s *series) appendLine(b []byte, suffix, le string) []byte {
	b = append(append(b, s.metric...), suffix...)
	b = append(append(b, '{'), s.labels...)
	if le != "" {
		if s.labels != "" {
			b = append(b, ',')
		}
		b = append(append(append(b, `le="`...), le...), '"')
	}
	return append(b, "} "...)
}

func (s *series) appendHistogram(b []byte) []byte {
	var seen uint64
	for i, n := range s.hist.counts {
		seen += n
		le := "+Inf"
		if i < len(boundText) {
			le = boundText[i]
		}
		b = s.appendLine(b, "_bucket", le)
		b = append(strconv.AppendUint(b, seen, 10), '\n')
	}
	b = s.appendLine(b, "_sum", "")
	b = append(strconv.AppendFloat(b, float64(s.hist.sumUs)/1000, 'f', -1, 64), '\n')
	b = s.appendLine(b, "_count", "")
	return append(strconv.AppendUint(b, seen, 10), '\n')
}
