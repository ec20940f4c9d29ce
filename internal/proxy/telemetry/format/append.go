// SPDX-License-Identifier: Apache-2.0

package format

import "slices"

// Append appends the formatted entry to dst. It does not allocate beyond the
// growth of dst. Bytes from a peer that could break a line or a header (control
// characters, CVE-2024-45808) print as '_'.
func (f *Format) Append(dst []byte, e *Entry) []byte {
	for i := range f.ops {
		o := &f.ops[i]
		if o.eval == nil {
			dst = append(dst, o.literal...)
			continue
		}
		n := len(dst)
		var ok bool
		dst, ok = o.value(dst, e)
		if f.escape && o.outside {
			dst = escape(dst, n)
		}
		if !ok && !f.omitEmpty {
			dst = append(dst, '-')
		}
	}
	return dst
}

// value appends the sanitized and truncated value of an operator.
func (o *op) value(dst []byte, e *Entry) ([]byte, bool) {
	n := len(dst)
	dst, ok := o.eval(o, dst, e)
	if !ok {
		return dst[:n], false
	}
	if o.max > 0 && len(dst)-n > o.max {
		dst = dst[:n+o.max]
	}
	if o.outside {
		sanitize(dst[n:])
	}
	return dst, true
}

func sanitize(b []byte) {
	for i, c := range b {
		if c < 0x20 || c == 0x7f {
			b[i] = '_'
		}
	}
}

// escape writes '"' and '\' of dst[n:] behind a '\' and bytes beyond ASCII as
// \xHH, in place.
func escape(dst []byte, n int) []byte {
	extra := 0
	for _, c := range dst[n:] {
		switch {
		case c == '"' || c == '\\':
			extra++
		case c >= 0x80:
			extra += len(`\xHH`) - 1
		}
	}
	if extra == 0 {
		return dst
	}
	from := len(dst)
	dst = slices.Grow(dst, extra)[:from+extra]
	to := len(dst)
	for from < to { // from behind, until there is nothing more to make room for
		from--
		switch c := dst[from]; {
		case c == '"' || c == '\\':
			to -= 2
			dst[to], dst[to+1] = '\\', c
		case c >= 0x80:
			to -= 4
			dst[to], dst[to+1], dst[to+2], dst[to+3] = '\\', 'x', hex[c>>4], hex[c&15]
		default:
			to--
			dst[to] = c
		}
	}
	return dst
}
