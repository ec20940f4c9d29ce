// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bytes"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

type pathVerdict uint8

const (
	pathGood     pathVerdict = iota
	pathRedirect             // to the canonical form (UNESCAPE_AND_REDIRECT)
	pathBad
)

// canonicalPath applies the three path options in Envoy's order: escaped
// slashes, RFC 3986 dot segments, repeated slashes (PathUtil, ISTIO-SECURITY-
// 2021-005). The query is left alone. A path that needs nothing is returned as
// it is.
func canonicalPath(path []byte, cfg *config, a *message.Arena) ([]byte, pathVerdict) {
	end := bytes.IndexByte(path, '?')
	if end < 0 {
		end = len(path)
	}
	bare, query := path[:end], path[end:]
	verdict := pathGood
	if cfg.escapedSlashes > hcmv3.HttpConnectionManager_KEEP_UNCHANGED && hasEscapedSlash(bare) {
		switch cfg.escapedSlashes {
		case hcmv3.HttpConnectionManager_REJECT_REQUEST:
			return nil, pathBad
		case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
			verdict = pathRedirect
		}
		bare = a.Commit(appendUnescaped(a.Tail(), bare))
	}
	if cfg.normalize {
		if bytes.Contains(bare, []byte("%00")) {
			return nil, pathBad
		}
		if needsDots(bare) {
			out, ok := appendDotless(a.Tail(), bare)
			if !ok {
				return nil, pathBad
			}
			bare = a.Commit(out)
		}
	}
	if cfg.mergeSlashes && bytes.Contains(bare, []byte("//")) {
		bare = a.Commit(appendMerged(a.Tail(), bare))
	}
	if len(bare) == end && (end == 0 || &bare[0] == &path[0]) {
		return path, verdict
	}
	out := append(a.Tail(), bare...)
	return a.Commit(append(out, query...)), verdict
}

// escapedSlashAt says whether %2F or %5C stands at i.
func escapedSlashAt(p []byte, i int) bool {
	if i+2 >= len(p) || p[i] != '%' {
		return false
	}
	lo := p[i+2] | 0x20
	return p[i+1] == '2' && lo == 'f' || p[i+1] == '5' && lo == 'c'
}

func hasEscapedSlash(p []byte) bool {
	for i := range p {
		if escapedSlashAt(p, i) {
			return true
		}
	}
	return false
}

func appendUnescaped(dst, p []byte) []byte {
	for i := 0; i < len(p); i++ {
		if !escapedSlashAt(p, i) {
			dst = append(dst, p[i])
			continue
		}
		if p[i+1] == '2' {
			dst = append(dst, '/')
		} else {
			dst = append(dst, '\\')
		}
		i += 2
	}
	return dst
}

// needsDots says whether the path has anything for appendDotless to do: a
// backslash, a dot that begins a segment, or an escape of an unreserved
// character, which could be such a dot.
func needsDots(p []byte) bool {
	for i, c := range p {
		switch c {
		case '\\', '%':
			return true
		case '.':
			if i == 0 || p[i-1] == '/' {
				return true
			}
		}
	}
	return false
}

// appendDotless is RFC 3986 sections 6.2.2.2 and 6.2.2.3: escapes of unreserved
// characters are decoded, backslashes are slashes, and dot segments go. The hex
// digits of other escapes stay as they are. A broken escape is refused.
func appendDotless(dst, p []byte) ([]byte, bool) {
	base := len(dst)
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch {
		case c == '\\':
			c = '/'
		case c == '%':
			if i+2 >= len(p) {
				return dst, false
			}
			hi, lo := unhex(p[i+1]), unhex(p[i+2])
			if hi < 0 || lo < 0 {
				return dst, false
			}
			if v := byte(hi<<4 | lo); unreserved(v) {
				c = v
			} else {
				dst = append(dst, p[i:i+3]...)
				i += 2
				continue
			}
			i += 2
		}
		dst = append(dst, c)
	}
	return dst[:base+removeDots(dst[base:])], true
}

// removeDots is RFC 3986 section 5.2.4 in place; it returns the new length. The
// path begins with a slash.
func removeDots(p []byte) int {
	w := 0 // p[:w] is done and begins each segment with its slash
	for r := 0; r < len(p); {
		next := r + 1
		for next < len(p) && p[next] != '/' {
			next++
		}
		last := next == len(p)
		switch seg := p[r+1 : next]; {
		case len(seg) == 1 && seg[0] == '.':
			if last {
				p[w] = '/'
				w++
			}
		case len(seg) == 2 && seg[0] == '.' && seg[1] == '.':
			for w > 0 {
				w--
				if p[w] == '/' {
					break
				}
			}
			if last {
				p[w] = '/'
				w++
			}
		default:
			w += copy(p[w:], p[r:next])
		}
		r = next
	}
	return w
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func appendMerged(dst, p []byte) []byte {
	for i, c := range p {
		if c == '/' && i > 0 && p[i-1] == '/' {
			continue
		}
		dst = append(dst, c)
	}
	return dst
}
