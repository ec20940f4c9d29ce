// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 deprecated fields are honoured: control planes still send them

// Package accesslog writes one line for each exchange or TCP connection: Envoy's
// access-log messages compiled to a filter, a format and a sink.
//
// In text, Envoy replaces control characters and writes everything else as it
// came, so that a '"' in a user-agent ends its field and the next ones can be
// faked. Here what a peer sent is escaped: '"' as \", '\' as \\ and bytes beyond
// ASCII as \xHH, which ordinary values do not hold; control characters print as
// '_', as Envoy prints them. Fields that a format does not put in quotes may hold
// spaces all the same. JSON is JSON, and escaped as in Envoy.
package accesslog

import (
	"errors"
	"fmt"
	"os"
	"sync"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// DefaultFormat is Envoy's format where a message gives none.
const DefaultFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
	`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"` + "\n"

// IstioFormat is Istio's default text format (meshConfig.accessLogFormat).
const IstioFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ` +
	`"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
	`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% ` +
	`%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ` +
	`%REQUESTED_SERVER_NAME% %ROUTE_NAME%` + "\n"

// formatter is a text or a JSON format.
type formatter interface {
	Append(dst []byte, e *format.Entry) []byte
}

// Log is one compiled access log.
type Log struct {
	filter filter // nil: everything
	format formatter
	sink   *sink
}

// Logs are the access logs of one listener or filter, in order. It is immutable.
type Logs []*Log

// lines holds buffers for single lines.
var lines = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// maxLine is the largest line buffer that is kept for reuse, in bytes.
const maxLine = 64 << 10

// Write logs an entry where the filters let it. It neither blocks on a sink nor
// allocates in the steady state: what a sink cannot take is dropped and counted.
func (ls Logs) Write(e *format.Entry) {
	for _, l := range ls {
		if l.filter != nil && !l.filter.passes(e) {
			continue
		}
		b := lines.Get().(*[]byte)
		*b = l.format.Append((*b)[:0], e)
		l.sink.write(*b)
		if cap(*b) <= maxLine {
			lines.Put(b)
		}
	}
}

// Compile builds the logs of a list of messages. The error names the refused
// field. The sinks are opened here and live until Sinks is closed.
func (s *Sinks) Compile(ms []*accesslogv3.AccessLog) (Logs, error) {
	var ls Logs
	for i, m := range ms {
		l, err := s.compile(m)
		if err != nil {
			return nil, fmt.Errorf("access_log[%d] %q: %w", i, m.GetName(), err)
		}
		ls = append(ls, l)
	}
	return ls, nil
}

func (s *Sinks) compile(m *accesslogv3.AccessLog) (*Log, error) {
	l := &Log{}
	var err error
	if l.filter, err = compileFilter(m.GetFilter()); err != nil {
		return nil, fmt.Errorf("filter.%w", err)
	}
	var path string
	switch url := m.GetTypedConfig().GetTypeUrl(); url {
	case "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog":
		f := &filev3.FileAccessLog{}
		if err := m.GetTypedConfig().UnmarshalTo(f); err != nil {
			return nil, err
		}
		if path = f.GetPath(); path == "" {
			return nil, errors.New("path: is empty")
		}
		l.format, err = compileFile(f)
	case "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog":
		f := &streamv3.StdoutAccessLog{}
		if err := m.GetTypedConfig().UnmarshalTo(f); err != nil {
			return nil, err
		}
		path = stdout
		l.format, err = compileFormat(f.GetLogFormat())
	case "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog":
		f := &streamv3.StderrAccessLog{}
		if err := m.GetTypedConfig().UnmarshalTo(f); err != nil {
			return nil, err
		}
		path = stderr
		l.format, err = compileFormat(f.GetLogFormat())
	default:
		return nil, fmt.Errorf("typed_config: type %q is not supported", url)
	}
	if err != nil {
		return nil, err
	}
	if l.sink, err = s.open(path); err != nil {
		return nil, err
	}
	return l, nil
}

func compileFile(f *filev3.FileAccessLog) (formatter, error) {
	switch a := f.GetAccessLogFormat().(type) {
	case *filev3.FileAccessLog_Format:
		if a.Format == "" {
			return format.CompileText(DefaultFormat, false)
		}
		return format.CompileText(a.Format, false)
	case *filev3.FileAccessLog_JsonFormat:
		return format.CompileJSON(a.JsonFormat, false)
	case *filev3.FileAccessLog_TypedJsonFormat:
		return format.CompileJSON(a.TypedJsonFormat, false)
	case *filev3.FileAccessLog_LogFormat:
		return compileFormat(a.LogFormat)
	}
	return format.CompileText(DefaultFormat, false)
}

func compileFormat(f *corev3.SubstitutionFormatString) (formatter, error) {
	omit := f.GetOmitEmptyValues()
	switch s := f.GetFormat().(type) {
	case nil:
		return format.CompileText(DefaultFormat, omit)
	case *corev3.SubstitutionFormatString_TextFormat:
		return format.CompileText(s.TextFormat, omit)
	case *corev3.SubstitutionFormatString_JsonFormat:
		return format.CompileJSON(s.JsonFormat, omit)
	case *corev3.SubstitutionFormatString_TextFormatSource:
		text, err := dataSource(s.TextFormatSource)
		if err != nil {
			return nil, fmt.Errorf("text_format_source: %w", err)
		}
		return format.CompileText(text, omit)
	default:
		return nil, fmt.Errorf("log_format: %T is not supported", s)
	}
}

func dataSource(d *corev3.DataSource) (string, error) {
	switch s := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineString:
		return s.InlineString, nil
	case *corev3.DataSource_InlineBytes:
		return string(s.InlineBytes), nil
	case *corev3.DataSource_Filename:
		b, err := os.ReadFile(s.Filename)
		return string(b), err
	case *corev3.DataSource_EnvironmentVariable:
		return os.Getenv(s.EnvironmentVariable), nil
	}
	return "", errors.New("no source is given")
}
