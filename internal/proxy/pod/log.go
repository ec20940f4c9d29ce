// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// LogHandler writes lines as Istio's components do: time, level and message
// parted by tabs, then key=value. People and their log pipelines know the form.
type LogHandler struct {
	level  slog.Leveler
	out    *lockedWriter
	prefix string // of keys, from groups
	fixed  string // of WithAttrs
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// NewLogHandler makes a handler that writes records of at least level to w.
func NewLogHandler(w io.Writer, level slog.Leveler) *LogHandler {
	return &LogHandler{level: level, out: &lockedWriter{w: w}}
}

// Enabled implements slog.Handler.
func (h *LogHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle implements slog.Handler.
func (h *LogHandler) Handle(_ context.Context, r slog.Record) error {
	b := make([]byte, 0, 256)
	b = r.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, '\t')
	b = append(b, levelWord(r.Level)...)
	b = append(b, '\t')
	b = appendText(b, r.Message)
	fields := h.fixed
	r.Attrs(func(a slog.Attr) bool {
		fields = appendAttr(fields, h.prefix, a)
		return true
	})
	if fields != "" {
		b = append(b, '\t')
		b = append(b, fields...)
	}
	b = append(b, '\n')
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(b)
	return err
}

// WithAttrs implements slog.Handler.
func (h *LogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		c.fixed = appendAttr(c.fixed, h.prefix, a)
	}
	return &c
}

// WithGroup implements slog.Handler.
func (h *LogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.prefix += name + "."
	return &c
}

func levelWord(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	}
	return "error"
}

// appendText keeps a message on its line.
func appendText(b []byte, s string) []byte {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return append(b, s...)
	}
	q := strconv.Quote(s)
	return append(b, q[1:len(q)-1]...)
}

func appendAttr(to, prefix string, a slog.Attr) string {
	v := a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return to
	}
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, m := range v.Group() {
			to = appendAttr(to, prefix, m)
		}
		return to
	}
	if to != "" {
		to += " "
	}
	return to + prefix + a.Key + "=" + valueText(v)
}

func valueText(v slog.Value) string {
	var s string
	switch t := v.Any().(type) {
	case time.Time:
		s = t.UTC().Format(time.RFC3339)
	case []netip.Addr:
		s = fmt.Sprint(t) // [10.0.0.1 fd00::1], which needs no quotes to be read
		if len(t) == 1 {
			return s
		}
	default:
		s = v.String()
	}
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || r == 0x7f }) {
		return strconv.Quote(s)
	}
	return s
}
