// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"
	"fmt"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/match"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// filter decides which entries are logged.
type filter interface {
	passes(e *format.Entry) bool
}

func compileFilter(m *accesslogv3.AccessLogFilter) (filter, error) {
	switch s := m.GetFilterSpecifier().(type) {
	case nil:
		if m != nil {
			return nil, errors.New("filter_specifier: is missing")
		}
		return nil, nil
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		return compileComparison(s.StatusCodeFilter.GetComparison(), false)
	case *accesslogv3.AccessLogFilter_DurationFilter:
		return compileComparison(s.DurationFilter.GetComparison(), true)
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		var want format.Flags
		for _, name := range s.ResponseFlagFilter.GetFlags() {
			f, ok := format.ParseFlag(name)
			if !ok {
				return nil, fmt.Errorf("response_flag_filter.flags: %q is no response flag", name)
			}
			want |= f
		}
		return flagFilter(want), nil
	case *accesslogv3.AccessLogFilter_HeaderFilter:
		h, err := match.CompileHeader(s.HeaderFilter.GetHeader())
		if err != nil {
			return nil, fmt.Errorf("header_filter: %w", err)
		}
		return &headerFilter{h}, nil
	case *accesslogv3.AccessLogFilter_AndFilter:
		fs, err := compileFilters(s.AndFilter.GetFilters())
		return allOf(fs), err
	case *accesslogv3.AccessLogFilter_OrFilter:
		fs, err := compileFilters(s.OrFilter.GetFilters())
		return anyOf(fs), err
	default:
		return nil, fmt.Errorf("filter_specifier: %T is not supported", s)
	}
}

func compileFilters(ms []*accesslogv3.AccessLogFilter) ([]filter, error) {
	var fs []filter
	for i, m := range ms {
		f, err := compileFilter(m)
		if err == nil && f == nil {
			err = errors.New("filter_specifier: is missing")
		}
		if err != nil {
			return nil, fmt.Errorf("filters[%d].%w", i, err)
		}
		fs = append(fs, f)
	}
	return fs, nil
}

type allOf []filter

func (fs allOf) passes(e *format.Entry) bool {
	for _, f := range fs {
		if !f.passes(e) {
			return false
		}
	}
	return true
}

type anyOf []filter

func (fs anyOf) passes(e *format.Entry) bool {
	for _, f := range fs {
		if f.passes(e) {
			return true
		}
	}
	return false
}

type flagFilter format.Flags

// passes takes any of the flags, or any flag at all when none is named.
func (f flagFilter) passes(e *format.Entry) bool {
	if f == 0 {
		return e.Flags != 0
	}
	return e.Flags&format.Flags(f) != 0
}

type headerFilter struct{ header match.Header }

func (f *headerFilter) passes(e *format.Entry) bool {
	return e.Request != nil && f.header.Match(e.Request)
}

type comparison struct {
	op       accesslogv3.ComparisonFilter_Op
	value    int64
	duration bool // milliseconds, not the status
}

func compileComparison(m *accesslogv3.ComparisonFilter, duration bool) (filter, error) {
	if m == nil {
		return nil, errors.New("comparison: is missing")
	}
	switch m.GetOp() {
	case accesslogv3.ComparisonFilter_EQ, accesslogv3.ComparisonFilter_GE, accesslogv3.ComparisonFilter_LE, accesslogv3.ComparisonFilter_NE:
	default:
		return nil, fmt.Errorf("comparison.op: %d is not known", m.GetOp())
	}
	return &comparison{m.GetOp(), int64(m.GetValue().GetDefaultValue()), duration}, nil
}

func (c *comparison) passes(e *format.Entry) bool {
	v := int64(e.Status)
	if c.duration {
		v = e.Duration.Milliseconds()
	}
	switch c.op {
	case accesslogv3.ComparisonFilter_EQ:
		return v == c.value
	case accesslogv3.ComparisonFilter_GE:
		return v >= c.value
	case accesslogv3.ComparisonFilter_LE:
		return v <= c.value
	}
	return v != c.value
}
