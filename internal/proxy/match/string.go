// SPDX-License-Identifier: Apache-2.0

// Package match compiles Envoy's string, header and query matchers into
// immutable values that answer without allocating. It is the one matcher that
// routing, faults, retries, log filters and access policies share.
package match

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// maxRegex bounds the source of a regular expression in bytes. Go's matcher is
// linear in the input, but its program grows with the source.
const maxRegex = 16 << 10

type kind uint8

const (
	exact kind = iota
	prefix
	suffix
	contains
	regex
)

// String is one compiled envoy.type.matcher.v3.StringMatcher.
type String struct {
	kind       kind
	ignoreCase bool
	value      string // lower case when ignoreCase
	re         *regexp.Regexp
}

// CompileString builds a matcher; its error names the field that is refused.
func CompileString(m *matcherv3.StringMatcher) (String, error) {
	s := String{ignoreCase: m.GetIgnoreCase()}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		s.kind, s.value = exact, p.Exact
	case *matcherv3.StringMatcher_Prefix:
		s.kind, s.value = prefix, p.Prefix
	case *matcherv3.StringMatcher_Suffix:
		s.kind, s.value = suffix, p.Suffix
	case *matcherv3.StringMatcher_Contains:
		s.kind, s.value = contains, p.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		re, err := CompileRegex(p.SafeRegex)
		if err != nil {
			return String{}, fmt.Errorf("safe_regex: %w", err)
		}
		// envoy.type.matcher.v3: ignore_case has no effect for safe_regex.
		return String{kind: regex, re: re}, nil
	case *matcherv3.StringMatcher_Custom:
		return String{}, errors.New("custom: extension matchers are not supported")
	default:
		return String{}, errors.New("match_pattern is missing")
	}
	if s.ignoreCase {
		s.value = string(appendLower(nil, []byte(s.value)))
	}
	return s, nil
}

// Exact returns a matcher for one case-sensitive value.
func Exact(value string) String { return String{value: value} }

// CompileRegex compiles an RE2 expression that must match a whole value.
func CompileRegex(m *matcherv3.RegexMatcher) (*regexp.Regexp, error) {
	if m.GetRegex() == "" {
		return nil, errors.New("regex is empty")
	}
	if len(m.GetRegex()) > maxRegex {
		return nil, fmt.Errorf("regex is longer than %d bytes", maxRegex)
	}
	// Checked by itself first: "a)(b" must not become valid inside the group.
	if _, err := regexp.Compile(m.GetRegex()); err != nil {
		return nil, fmt.Errorf("regex does not compile: %w", err)
	}
	re, err := regexp.Compile(`\A(?:` + m.GetRegex() + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("regex does not compile: %w", err)
	}
	return re, nil
}

// Match reports whether v matches. It does not allocate.
func (s *String) Match(v []byte) bool {
	if s.kind == regex {
		return s.re.Match(v)
	}
	n := len(s.value)
	if len(v) < n {
		return false
	}
	switch s.kind {
	case exact:
		return len(v) == n && s.equal(v)
	case prefix:
		return s.equal(v[:n])
	case suffix:
		return s.equal(v[len(v)-n:])
	default:
		return s.contains(v)
	}
}

func (s *String) equal(v []byte) bool {
	if s.ignoreCase {
		return EqualFold(v, s.value)
	}
	return string(v) == s.value
}

func (s *String) contains(v []byte) bool {
	n := len(s.value)
	if n == 0 {
		return true
	}
	if s.ignoreCase {
		for i := 0; i+n <= len(v); i++ {
			if EqualFold(v[i:i+n], s.value) {
				return true
			}
		}
		return false
	}
	for i := 0; i+n <= len(v); i++ {
		j := bytes.IndexByte(v[i:len(v)-n+1], s.value[0])
		if j < 0 {
			return false
		}
		i += j
		if string(v[i:i+n]) == s.value {
			return true
		}
	}
	return false
}

// EqualFold compares v with an ASCII lower-case string, ignoring ASCII case:
// hosts and header values have no other case (RFC 9110 section 4.2.3).
func EqualFold(v []byte, lower string) bool {
	if len(v) != len(lower) {
		return false
	}
	for i, c := range v {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func appendLower(dst, v []byte) []byte {
	for _, c := range v {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// AppendLower appends v in ASCII lower case to dst.
func AppendLower(dst, v []byte) []byte { return appendLower(dst, v) }
