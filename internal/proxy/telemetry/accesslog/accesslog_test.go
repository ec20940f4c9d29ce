// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

const wait = 10 * time.Second

func compileLog(s *Sinks, text string) (Logs, error) {
	m := &accesslogv3.AccessLog{}
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		return nil, err
	}
	return s.Compile([]*accesslogv3.AccessLog{m})
}

func mustCompile(t testing.TB, s *Sinks, text string) Logs {
	t.Helper()
	ls, err := compileLog(s, text)
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

func file(path, rest string) string {
	return `{"name":"envoy.access_loggers.file","typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":"` + path + `"` + rest + `}}`
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func entry() *format.Entry {
	req := &message.Request{Method: []byte("GET"), Path: []byte("/productpage"), Authority: []byte("bookinfo"), Proto: message.HTTP11}
	req.Header.Add([]byte("user-agent"), []byte("curl/8"))
	req.Header.Add([]byte("x-request-id"), []byte("id-1"))
	resp := &message.Response{Status: 503}
	return &format.Entry{
		Request: req, Response: resp, Status: 503, Flags: format.NoHealthyUpstream, Details: format.NoHealthyUpstreamDetails,
		Start: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Duration: 2 * time.Millisecond, BytesSent: 19,
		UpstreamCluster: "outbound|9080||productpage", DownstreamLocal: netip.MustParseAddrPort("127.0.1.1:9080"),
		DownstreamRemote: netip.MustParseAddrPort("127.0.0.1:4000"), RouteName: "default",
	}
}

func TestIstioDefaultLine(t *testing.T) {
	var out bytes.Buffer
	s := NewSinks(&out, io.Discard, nil)
	mustCompile(t, s, file("/dev/stdout", `,"logFormat":{"textFormatSource":{"inlineString":`+quoted(IstioFormat)+`}}`)).Write(entry())
	s.Close(wait)
	want := `[2026-01-02T03:04:05.000Z] "GET /productpage HTTP/1.1" 503 UH no_healthy_upstream - "-" 0 19 2 - "-" "curl/8" "id-1" "bookinfo" "-" outbound|9080||productpage - 127.0.1.1:9080 127.0.0.1:4000 - default` + "\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
}

func TestFormatsOfTheFileLogger(t *testing.T) {
	for _, c := range []struct{ rule, rest, want string }{
		{"none is Envoy's default", ``, `[2026-01-02T03:04:05.000Z] "GET /productpage HTTP/1.1" 503 UH 0 19 2 - "-" "curl/8" "id-1" "bookinfo" "-"` + "\n"},
		{"format", `,"format":"%RESPONSE_CODE%\n"`, "503\n"},
		{"json_format", `,"jsonFormat":{"b":"%RESPONSE_CODE%","a":"%RESPONSE_FLAGS%"}`, `{"a":"UH","b":503}` + "\n"},
		{"typed_json_format", `,"typedJsonFormat":{"b":"%DURATION%"}`, `{"b":2}` + "\n"},
		{"log_format text", `,"logFormat":{"textFormat":"x%REQ(none)%y\n","omitEmptyValues":true}`, "xy\n"},
		{"log_format json", `,"logFormat":{"jsonFormat":{"x":"%REQ(none)%"}}`, `{"x":null}` + "\n"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			s := NewSinks(nil, nil, nil)
			mustCompile(t, s, file(path, c.rest)).Write(entry())
			s.Close(wait)
			got, err := os.ReadFile(path)
			if err != nil || string(got) != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestStreams(t *testing.T) {
	var out, errOut bytes.Buffer
	s := NewSinks(&out, &errOut, nil)
	for _, k := range []string{"Stdout", "Stderr"} {
		mustCompile(t, s, `{"typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.stream.v3.`+k+`AccessLog","logFormat":{"textFormat":"`+k+`\n"}}}`).Write(entry())
	}
	s.Close(wait)
	if out.String() != "Stdout\n" || errOut.String() != "Stderr\n" {
		t.Errorf("got %q and %q", out.String(), errOut.String())
	}
}

func TestFilters(t *testing.T) {
	for _, c := range []struct {
		rule, filter string
		want         bool
	}{
		{"flag", `{"responseFlagFilter":{"flags":["NR","UH"]}}`, true},
		{"other flag", `{"responseFlagFilter":{"flags":["NR"]}}`, false},
		{"any flag", `{"responseFlagFilter":{}}`, true},
		{"status", `{"statusCodeFilter":{"comparison":{"op":"GE","value":{"defaultValue":500,"runtimeKey":"x"}}}}`, true},
		{"status below", `{"statusCodeFilter":{"comparison":{"op":"LE","value":{"defaultValue":500,"runtimeKey":"x"}}}}`, false},
		{"duration", `{"durationFilter":{"comparison":{"op":"EQ","value":{"defaultValue":2,"runtimeKey":"x"}}}}`, true},
		{"header", `{"headerFilter":{"header":{"name":"user-agent","stringMatch":{"prefix":"curl"}}}}`, true},
		{"and", `{"andFilter":{"filters":[{"responseFlagFilter":{}},{"responseFlagFilter":{"flags":["NR"]}}]}}`, false},
		{"or", `{"orFilter":{"filters":[{"responseFlagFilter":{}},{"responseFlagFilter":{"flags":["NR"]}}]}}`, true},
	} {
		var out bytes.Buffer
		s := NewSinks(&out, nil, nil)
		mustCompile(t, s, `{"filter":`+c.filter+`,"typedConfig":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"}}`).Write(entry())
		s.Close(wait)
		if (out.Len() > 0) != c.want {
			t.Errorf("%s: logged %v", c.rule, out.Len() > 0)
		}
	}
}

func TestRefused(t *testing.T) {
	s := NewSinks(io.Discard, io.Discard, nil)
	defer s.Close(wait)
	for _, c := range []struct{ text, want string }{
		{file("", ``), "path"},
		{file("/nonexistent/dir/log", ``), "path"},
		{file("/dev/stdout", `,"format":"%NOPE%"`), "NOPE"},
		{`{"typedConfig":{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}}`, "typed_config"},
		{`{"filter":{"responseFlagFilter":{"flags":["XX"]}}}`, "filter.response_flag_filter"},
		{`{"filter":{"traceableFilter":{}}}`, "filter.filter_specifier"},
	} {
		if _, err := compileLog(s, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v", c.text, err)
		}
	}
}

// stuck is an output that nobody reads.
type stuck struct{ release chan struct{} }

func (w stuck) Write(p []byte) (int, error) {
	<-w.release
	return len(p), nil
}

func TestSlowOutputDropsAndCounts(t *testing.T) {
	var dropped atomic.Int64
	w := stuck{make(chan struct{})}
	s := NewSinks(w, nil, func() { dropped.Add(1) })
	ls := mustCompile(t, s, file("/dev/stdout", `,"format":"`+strings.Repeat("x", 1023)+`\n"`))
	e := entry()
	for range 3 * maxPending / 1024 {
		ls.Write(e)
	}
	// At most one buffer is being written and one is pending.
	if n := dropped.Load(); n < maxPending/1024-1 {
		t.Errorf("%d lines dropped", n)
	}
	close(w.release)
	s.Close(wait)
	before := dropped.Load()
	ls.Write(e)
	if dropped.Load() != before+1 {
		t.Error("a line after Close is not counted")
	}
}

func TestOnePathIsOneSink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := NewSinks(nil, nil, nil)
	a, b := mustCompile(t, s, file(path, `,"format":"a\n"`)), mustCompile(t, s, file(path, `,"format":"b\n"`))
	if a[0].sink != b[0].sink {
		t.Error("two sinks for one path")
	}
	a.Write(entry())
	b.Write(entry())
	s.Close(wait)
	if got, _ := os.ReadFile(path); string(got) != "a\nb\n" {
		t.Errorf("got %q", got)
	}
}

func TestWriteDoesNotAllocate(t *testing.T) {
	s := NewSinks(io.Discard, nil, nil)
	ls := mustCompile(t, s, file("/dev/stdout", `,"format":`+quoted(IstioFormat)))
	e := entry()
	for range 5000 { // let the buffers grow to their size
		ls.Write(e)
	}
	if n := testing.AllocsPerRun(100, func() { ls.Write(e) }); n > 0.5 {
		t.Errorf("%v allocations", n)
	}
	s.Close(wait)
}
