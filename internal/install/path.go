// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"strconv"
	"strings"
)

// segment is one step of a path: a key, or a place in a list.
type segment struct {
	key   string // of a map; empty: index counts
	index int
	// match selects the list's element whose field key has this value, as
	// istioctl's [name:istio-ingressgateway] does. It has a key and isMatch set.
	match   string
	isMatch bool
}

func (s segment) isIndex() bool { return s.key == "" && !s.isMatch }

// path is where a setting goes, such as components.ingressGateways[0].enabled.
type path []segment

func (p path) String() string {
	var b strings.Builder
	for i, s := range p {
		switch {
		case s.isMatch:
			fmt.Fprintf(&b, "[%s:%s]", s.key, s.match)
		case s.isIndex():
			fmt.Fprintf(&b, "[%d]", s.index)
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(strings.ReplaceAll(s.key, ".", `\.`))
		}
	}
	return b.String()
}

// keys makes a path of map keys.
func keys(names ...string) path {
	out := make(path, len(names))
	for i, n := range names {
		out[i] = segment{key: n}
	}
	return out
}

// maxIndex bounds the lists that a setting may make.
const maxIndex = 1000

// parsePath reads istioctl's and helm's notation: keys separated by dots (\. is
// a dot within a key), [3] for an element and [name:x] for the element of that name.
func parsePath(text string) (path, error) {
	var out path
	var key strings.Builder
	flush := func() error {
		if key.Len() == 0 {
			return fmt.Errorf("%q: a key is empty", text)
		}
		out = append(out, segment{key: key.String()})
		key.Reset()
		return nil
	}
	bracketed := false // the last step was one in brackets
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '\\':
			if i++; i == len(text) {
				return nil, fmt.Errorf("%q ends in a backslash", text)
			}
			key.WriteByte(text[i])
			bracketed = false
		case '.':
			if !bracketed {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			bracketed = false
		case '[':
			if !bracketed {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			n := strings.IndexByte(text[i:], ']')
			if n < 0 {
				return nil, fmt.Errorf("%q: a [ without ]", text)
			}
			s, err := parseBracket(text[i+1 : i+n])
			if err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
			out = append(out, s)
			i += n
			bracketed = true
		default:
			if bracketed {
				return nil, fmt.Errorf("%q: a dot is missing behind ]", text)
			}
			key.WriteByte(c)
		}
	}
	if !bracketed {
		if err := flush(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func parseBracket(text string) (segment, error) {
	if name, value, ok := strings.Cut(text, ":"); ok && name != "" {
		return segment{key: name, match: value, isMatch: true}, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxIndex {
		return segment{}, fmt.Errorf("[%s] is no place in a list: use a number from 0 to %d, or [name:NAME]", text, maxIndex)
	}
	return segment{index: n}, nil
}

// get returns what is at p, and whether it is there.
func get(v any, p path) (any, bool) {
	for _, s := range p {
		if !s.isIndex() {
			m, ok := v.(map[string]any)
			if !ok {
				return nil, false
			}
			if v, ok = m[s.key]; !ok {
				return nil, false
			}
			continue
		}
		l, ok := v.([]any)
		if !ok || s.index >= len(l) {
			return nil, false
		}
		v = l[s.index]
	}
	return v, true
}

// put returns v with value at p; maps and lists on the way are made.
func put(v any, p path, value any) (any, error) {
	if len(p) == 0 {
		return value, nil
	}
	s := p[0]
	if s.isMatch {
		return nil, fmt.Errorf("[%s:%s] cannot be used here: use a number", s.key, s.match)
	}
	if !s.isIndex() {
		m, ok := v.(map[string]any)
		if !ok && v != nil {
			return nil, fmt.Errorf("%s is in something that has no fields", s.key)
		}
		if m == nil {
			m = map[string]any{}
		}
		x, err := put(m[s.key], p[1:], value)
		if err != nil {
			return nil, err
		}
		m[s.key] = x
		return m, nil
	}
	l, ok := v.([]any)
	if !ok && v != nil {
		return nil, fmt.Errorf("[%d] is in something that is no list", s.index)
	}
	if s.index > len(l) {
		return nil, fmt.Errorf("[%d]: the list has only %d elements", s.index, len(l))
	}
	if s.index == len(l) {
		l = append(l, nil)
	}
	x, err := put(l[s.index], p[1:], value)
	if err != nil {
		return nil, err
	}
	l[s.index] = x
	return l, nil
}
