// SPDX-License-Identifier: Apache-2.0

package match

import (
	"bytes"
	"errors"
	"fmt"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Query is one compiled envoy.config.route.v3.QueryParameterMatcher.
type Query struct {
	name     string
	presence bool
	present  bool
	value    String
}

// CompileQuery builds a matcher; its error names the field that is refused.
func CompileQuery(m *routev3.QueryParameterMatcher) (Query, error) {
	q := Query{name: m.GetName()}
	if q.name == "" {
		return Query{}, errors.New("name is empty")
	}
	switch s := m.GetQueryParameterMatchSpecifier().(type) {
	case nil:
		q.presence, q.present = true, true
	case *routev3.QueryParameterMatcher_PresentMatch:
		q.presence, q.present = true, s.PresentMatch
	case *routev3.QueryParameterMatcher_StringMatch:
		var err error
		if q.value, err = CompileString(s.StringMatch); err != nil {
			return Query{}, fmt.Errorf("string_match.%w", err)
		}
	default:
		return Query{}, fmt.Errorf("query_parameter_match_specifier %T is not supported", s)
	}
	return q, nil
}

// Match reports whether a path's query matches. The first value of a repeated
// parameter counts and nothing is decoded (Envoy: parseQueryString).
func (q *Query) Match(path []byte) bool {
	v, ok := QueryValue(path, q.name)
	if q.presence {
		return ok == q.present
	}
	return ok && q.value.Match(v)
}

// QueryValue returns the first raw value of a parameter in path's query.
func QueryValue(path []byte, name string) ([]byte, bool) {
	if i := bytes.IndexByte(path, '#'); i >= 0 {
		path = path[:i]
	}
	i := bytes.IndexByte(path, '?')
	if i < 0 {
		return nil, false
	}
	rest := path[i+1:]
	for len(rest) > 0 {
		pair := rest
		if i := bytes.IndexByte(rest, '&'); i >= 0 {
			pair, rest = rest[:i], rest[i+1:]
		} else {
			rest = nil
		}
		key, value := pair, []byte(nil)
		if i := bytes.IndexByte(pair, '='); i >= 0 {
			key, value = pair[:i], pair[i+1:]
		}
		if string(key) == name {
			return value, true
		}
	}
	return nil, false
}
