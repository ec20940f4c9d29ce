// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 deprecated fields are honoured: control planes still send them

package match

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// field says where a header matcher finds its value.
type field uint8

const (
	plain field = iota // a field of Header
	authority
	method
	path
	scheme
)

// Header is one compiled envoy.config.route.v3.HeaderMatcher.
type Header struct {
	name         string // lower case
	id           message.ID
	where        field
	presence     bool // the value is not looked at
	present      bool
	ranged       bool
	invert       bool
	missingEmpty bool
	start, end   int64
	value        String
}

// CompileHeader builds a matcher; its error names the field that is refused.
func CompileHeader(m *routev3.HeaderMatcher) (Header, error) {
	h := Header{
		name:         strings.ToLower(m.GetName()),
		invert:       m.GetInvertMatch(),
		missingEmpty: m.GetTreatMissingHeaderAsEmpty(),
	}
	if h.name == "" {
		return Header{}, errors.New("name is empty")
	}
	switch h.name {
	case ":authority", "host":
		h.where = authority
	case ":method":
		h.where = method
	case ":path":
		h.where = path
	case ":scheme":
		h.where = scheme
	default:
		h.id = message.Lookup([]byte(h.name))
	}
	if err := h.compileSpecifier(m); err != nil {
		return Header{}, fmt.Errorf("header %q: %w", h.name, err)
	}
	return h, nil
}

func (h *Header) compileSpecifier(m *routev3.HeaderMatcher) error {
	var err error
	switch s := m.GetHeaderMatchSpecifier().(type) {
	case nil: // present, whatever its value
		h.presence, h.present = true, true
	case *routev3.HeaderMatcher_PresentMatch:
		h.presence, h.present = true, s.PresentMatch
	case *routev3.HeaderMatcher_RangeMatch:
		h.ranged, h.start, h.end = true, s.RangeMatch.GetStart(), s.RangeMatch.GetEnd()
	case *routev3.HeaderMatcher_StringMatch:
		if h.value, err = CompileString(s.StringMatch); err != nil {
			return fmt.Errorf("string_match.%w", err)
		}
	case *routev3.HeaderMatcher_ExactMatch:
		h.value = Exact(s.ExactMatch)
	case *routev3.HeaderMatcher_PrefixMatch:
		h.value = String{kind: prefix, value: s.PrefixMatch}
	case *routev3.HeaderMatcher_SuffixMatch:
		h.value = String{kind: suffix, value: s.SuffixMatch}
	case *routev3.HeaderMatcher_ContainsMatch:
		h.value = String{kind: contains, value: s.ContainsMatch}
	case *routev3.HeaderMatcher_SafeRegexMatch:
		h.value, err = CompileString(&matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: s.SafeRegexMatch},
		})
		if err != nil {
			return fmt.Errorf("safe_regex_match: %w", err)
		}
	default:
		return fmt.Errorf("header_match_specifier %T is not supported", s)
	}
	return nil
}

// CompileHeaders compiles a list; its error names the index.
func CompileHeaders(ms []*routev3.HeaderMatcher) ([]Header, error) {
	if len(ms) == 0 {
		return nil, nil
	}
	hs := make([]Header, len(ms))
	for i, m := range ms {
		h, err := CompileHeader(m)
		if err != nil {
			return nil, fmt.Errorf("headers[%d]: %w", i, err)
		}
		hs[i] = h
	}
	return hs, nil
}

// All reports whether every matcher accepts the request; an empty list does.
func All(hs []Header, req *message.Request) bool {
	for i := range hs {
		if !hs[i].Match(req) {
			return false
		}
	}
	return true
}

// Any reports whether one matcher accepts the request; an empty list does not.
func Any(hs []Header, req *message.Request) bool {
	for i := range hs {
		if hs[i].Match(req) {
			return true
		}
	}
	return false
}

// joins holds buffers for the values of repeated headers.
var joins = sync.Pool{New: func() any { return new([]byte) }}

// Match reports whether the request matches. Values of a repeated header are
// joined with a comma (Envoy: HeaderUtility::getAllOfHeaderAsString). An absent
// header never matches, not even inverted, unless it is a presence matcher or
// treat_missing_header_as_empty is set. It does not allocate.
func (h *Header) Match(req *message.Request) bool {
	switch h.where {
	case authority:
		return h.decide(req.Authority, len(req.Authority) > 0)
	case method:
		return h.decide(req.Method, len(req.Method) > 0)
	case path:
		return h.decide(req.Path, len(req.Path) > 0)
	case scheme:
		return h.decide(req.Scheme, len(req.Scheme) > 0)
	}
	return h.MatchFields(&req.Header)
}

// MatchFields is Match on a header list by itself, as for response headers:
// pseudo-headers are absent.
func (h *Header) MatchFields(fields *message.Header) bool {
	first, more := h.find(fields)
	if first < 0 {
		return h.decide(nil, false)
	}
	if !more || h.presence {
		return h.decide(fields.Fields[first].Value, true)
	}
	buf := joins.Get().(*[]byte)
	b := (*buf)[:0]
	for i := first; i < len(fields.Fields); i++ {
		if h.named(&fields.Fields[i]) {
			if i > first {
				b = append(b, ',')
			}
			b = append(b, fields.Fields[i].Value...)
		}
	}
	ok := h.decide(b, true)
	*buf = b
	joins.Put(buf)
	return ok
}

// find returns the index of the first field of that name, or -1, and whether
// there are more.
func (h *Header) find(fields *message.Header) (first int, more bool) {
	first = -1
	for i := range fields.Fields {
		if h.named(&fields.Fields[i]) {
			if first >= 0 {
				return first, true
			}
			first = i
		}
	}
	return first, false
}

func (h *Header) named(f *message.Field) bool {
	if h.where != plain {
		return false
	}
	if h.id != message.Unknown {
		return f.ID == h.id
	}
	return f.ID == message.Unknown && string(f.Name) == h.name
}

func (h *Header) decide(v []byte, present bool) bool {
	if h.presence {
		return ((present || h.missingEmpty) == h.present) != h.invert
	}
	if !present && !h.missingEmpty {
		return false
	}
	var ok bool
	if h.ranged {
		n, valid := parseInt(v)
		ok = valid && h.start <= n && n < h.end
	} else {
		ok = h.value.Match(v)
	}
	return ok != h.invert
}

// parseInt parses a whole decimal int64 without allocating an error.
func parseInt(v []byte) (int64, bool) {
	d := v
	if len(d) > 0 && (d[0] == '-' || d[0] == '+') {
		d = d[1:]
	}
	if len(d) == 0 || len(d) > 19 {
		return 0, false
	}
	for _, c := range d {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil
}
