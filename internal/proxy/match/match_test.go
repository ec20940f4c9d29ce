// SPDX-License-Identifier: Apache-2.0

package match

import (
	"strings"
	"testing"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

func TestStrings(t *testing.T) {
	exact := func(v string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: v}}
	}
	containing := func(v string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: v}}
	}
	fold := func(m *matcherv3.StringMatcher) *matcherv3.StringMatcher { m.IgnoreCase = true; return m }
	re := func(v string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: v}}}
	}
	for _, c := range []struct {
		m    *matcherv3.StringMatcher
		v    string
		want bool
	}{
		{exact("a"), "a", true}, {exact("a"), "A", false}, {exact(""), "", true}, {exact("a"), "", false},
		{fold(exact("aB")), "Ab", true}, {fold(exact("é")), "É", false},
		{containing("aab"), "aaab", true}, {containing("aab"), "aaaa", false}, {containing("x"), "", false},
		{containing("z"), "aaz", true}, {fold(containing("AB")), "xxaBx", true}, {fold(containing("AB")), "a", false},
		{re("a|ab"), "ab", true}, {re("(?i)a"), "A", true}, {re("a$"), "a\n", false}, {re("a"), "ba", false},
		{fold(re("a")), "A", false}, // ignore_case has no effect on regular expressions
	} {
		s, err := CompileString(c.m)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Match([]byte(c.v)); got != c.want {
			t.Errorf("%v on %q: got %v", c.m, c.v, got)
		}
	}
	for _, m := range []*matcherv3.StringMatcher{{}, re(""), re("("), re("a)(b"), re(strings.Repeat("a", maxRegex+1)), nil} {
		if _, err := CompileString(m); err == nil {
			t.Errorf("%.40v compiles", m)
		}
	}
}

// FuzzContains compares the searches with the standard library's.
func FuzzContains(f *testing.F) {
	f.Add("aaab", "aab")
	f.Fuzz(func(t *testing.T, v, sub string) {
		s := String{kind: contains, value: sub}
		if got, want := s.Match([]byte(v)), strings.Contains(v, sub); got != want {
			t.Errorf("%q in %q: got %v", sub, v, got)
		}
	})
}

func FuzzQueryValue(f *testing.F) {
	f.Add("/a?x=1&y#z")
	f.Fuzz(func(t *testing.T, path string) {
		v, ok := QueryValue([]byte(path), "x")
		if ok && !strings.Contains(path, "x") || len(v) > len(path) {
			t.Errorf("%q gives %q", path, v)
		}
	})
}

func TestResponseHeadersHaveNoPseudoHeaders(t *testing.T) {
	h := Header{name: ":path", where: path, presence: true, present: true}
	var fields message.Header
	fields.Add([]byte("x"), []byte("y"))
	if h.MatchFields(&fields) {
		t.Error("a response has a path")
	}
}
