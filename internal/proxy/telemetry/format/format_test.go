// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

func entry() *Entry {
	req := &message.Request{
		Method: []byte("GET"), Scheme: []byte("http"), Authority: []byte("reviews:9080"),
		Path: []byte("/reviews/0?full=yes"), Proto: message.HTTP11,
	}
	add := func(h *message.Header, k, v string) { h.Add([]byte(k), []byte(v)) }
	add(&req.Header, "user-agent", "curl/8\r\n[fake]")
	add(&req.Header, "x-envoy-original-path", "/original")
	add(&req.Header, "x-custom", `say "hi"`)
	resp := &message.Response{Status: 200}
	add(&resp.Header, "x-envoy-upstream-service-time", "7")
	add(&resp.Trailer, "x-sum", "abc")
	return &Entry{
		Request: req, Response: resp,
		Start:    time.Date(2026, 3, 4, 5, 6, 7, 89_123_456, time.UTC),
		Duration: 12 * time.Millisecond, RequestRead: time.Millisecond,
		UpstreamFirstRx: 9 * time.Millisecond, ResponseLastTx: 12 * time.Millisecond,
		BytesReceived: 3, BytesSent: 1024, Status: 200, Details: ViaUpstream,
		UpstreamHost: "10.0.0.1:9080", UpstreamCluster: "outbound|9080||reviews", Attempts: 1,
		UpstreamLocal:    netip.MustParseAddrPort("10.0.0.9:4000"),
		DownstreamLocal:  netip.MustParseAddrPort("[::ffff:10.0.0.2]:9080"),
		DownstreamRemote: netip.MustParseAddrPort("[2001:db8::1]:555"),
		RouteName:        "default", VirtualHostName: "reviews", SNI: "a\nb",
		TLS: &TLS{PeerURISANs: "spiffe://cluster.local/ns/default/sa/x", Version: "TLSv1.3"},
	}
}

func TestOperators(t *testing.T) {
	grpc := entry()
	grpc.Request.Header.Add([]byte("content-type"), []byte("application/grpc+proto"))
	grpc.Response.Trailer.Add([]byte("grpc-status"), []byte("14"))
	cases := []struct{ name, format, want string }{
		{"plain text", "a%%b", "a%b"},
		{"pseudo-headers", "%REQ(:METHOD)% %REQ(:path)% %REQ(:AUTHORITY)% %REQ(Host)% %REQ(:SCHEME)%", "GET /reviews/0?full=yes reviews:9080 reviews:9080 http"},
		{"first name wins", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/original"},
		{"fallback", "%REQ(X-MISSING?:PATH)%", "/reviews/0?full=yes"},
		{"missing prints a dash", "%REQ(X-MISSING)% %RESP(X)% %TRAILER(Y)% %UPSTREAM_TRANSPORT_FAILURE_REASON%", "- - - -"},
		{"maximum length", "%REQ(:PATH):8%|%UPSTREAM_CLUSTER:8%", "/reviews|outbound"},
		{"without query", "%REQ_WITHOUT_QUERY(:PATH)%", "/reviews/0"},
		{"query parameter", "%QUERY_PARAM(full)%", "yes"},
		{"control bytes are replaced (CVE-2024-45808)", "%REQ(USER-AGENT)% %REQUESTED_SERVER_NAME%", "curl/8__[fake] a_b"},
		{"response", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% %RESP(:STATUS)% %TRAILER(X-SUM)%", "7 200 abc"},
		{"numbers", "%RESPONSE_CODE% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "200 3 1024 1"},
		{"durations in milliseconds", "%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_TX_DURATION%", "12 1 9 3 -"},
		{"no flags", "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%", "- -"},
		{"details", "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%", "via_upstream -"},
		{"addresses", "%UPSTREAM_HOST% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS%", "10.0.0.1:9080 10.0.0.9:4000 10.0.0.2:9080 [2001:db8::1]:555"},
		{"parts of addresses", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "2001:db8::1 9080 10.0.0.1 9080 -"},
		{"names", "%ROUTE_NAME% %VIRTUAL_HOST_NAME% %UPSTREAM_CLUSTER_RAW% %PROTOCOL%", "default reviews outbound|9080||reviews HTTP/1.1"},
		{"peer", "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%", "spiffe://cluster.local/ns/default/sa/x TLSv1.3 -"},
		{"start time", "%START_TIME%", "2026-03-04T05:06:07.089Z"},
		{"start time with format", "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s.%3f %E6S)%", "2026/03/04T05:06:07+0000 1772600767.089 07.089123"},
		{"gRPC status of plain HTTP", "%GRPC_STATUS%", "-"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, err := Compile(c.format, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(f.Append(nil, entry())); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
	f, err := Compile("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(f.Append(nil, grpc)); got != "Unavailable UNAVAILABLE 14 14" {
		t.Errorf("gRPC status: %q", got)
	}
}

func TestEmptyEntry(t *testing.T) {
	for name := range simple {
		f, err := Compile("%"+name+"%", false)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Append(nil, &Entry{}); len(got) == 0 {
			t.Errorf("%s prints nothing for an empty entry", name)
		}
	}
	f, _ := Compile("[%REQ(X)%%DURATION%]", true)
	if got := string(f.Append(nil, &Entry{})); got != "[]" {
		t.Errorf("omit_empty_values: %q", got)
	}
}

func TestRefusedFormats(t *testing.T) {
	for _, c := range []struct{ format, want string }{
		{"%NO_SUCH%", "NO_SUCH"},
		{"100%", "percent"},
		{"%REQ%", "NAME"},
		{"%REQ()%", "NAME"},
		{"%REQ(a?b?c)%", "NAME"},
		{"%REQ(a", "closing"},
		{"%DURATION(x)%", "no argument"},
		{"%DURATION:0%", "closing"},
		{"%DURATION", "closing"},
		{"%START_TIME(%Q)%", "%Q"},
		{"%GRPC_STATUS(LOUD)%", "LOUD"},
		{"%DYNAMIC_METADATA(a:b)%", "DYNAMIC_METADATA"},
	} {
		_, err := Compile(c.format, false)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got error %v, want one with %q", c.format, err, c.want)
		}
	}
}

func TestFlagsPrintInEnvoysOrder(t *testing.T) {
	if got := (UpstreamRetryLimitExceeded | UpstreamRequestTimeout | DelayInjected).String(); got != "UT,DI,URX" {
		t.Errorf("got %q", got)
	}
	if got := string((NoClusterFound).AppendLong(nil)); got != "NoClusterFound" {
		t.Errorf("got %q", got)
	}
	seen := ""
	for i := range flagNames {
		f, ok := ParseFlag(flagNames[i].short)
		if !ok || f != 1<<i {
			t.Errorf("%s does not parse back", flagNames[i].short)
		}
		seen += " " + f.String()
	}
	if want := " LH UH UT LR UR UF UC UO NR DI FI RL UAEX RLSE DC URX SI IH DPE UMSDR RFCF NFCF DT UPE NC OM DF DO DR UDO"; seen != want {
		t.Errorf("got  %s\nwant %s", seen, want)
	}
	if 1<<(len(flagNames)-1) != UnconditionalDropOverload {
		t.Error("flags and names are out of step")
	}
}

func TestJSONKeepsTypes(t *testing.T) {
	s, err := structpb.NewStruct(map[string]any{
		"code": "%RESPONSE_CODE%", "took": "%DURATION%", "path": "%REQ(:PATH)%", "none": "%REQ(X-NO)%",
		"mixed": "%REQ(X-NO)% %RESPONSE_CODE%", "text": `a"b`, "n": 3.5, "on": true, "nil": nil,
		"custom": "%REQ(x-custom)%", "start": "%START_TIME%",
		"nested": map[string]any{"list": []any{"%BYTES_SENT%", "x"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	j, err := CompileJSON(s, false)
	if err != nil {
		t.Fatal(err)
	}
	line := j.Append(nil, entry())
	want := `{"code":200,"custom":"say \"hi\"","mixed":"- 200","n":3.5,"nested":{"list":[1024,"x"]},"nil":null,"none":null,"on":true,"path":"/reviews/0?full=yes","start":"2026-03-04T05:06:07.089Z","text":"a\"b","took":12}` + "\n"
	if d := cmp.Diff(want, string(line)); d != "" {
		t.Error(d)
	}
	j, err = CompileJSON(s, true)
	if err != nil {
		t.Fatal(err)
	}
	line = j.Append(nil, &Entry{})
	if strings.Contains(string(line), "took") || !json.Valid(line) || !strings.Contains(string(line), `"nil":null`) {
		t.Errorf("omit_empty_values: %s", line)
	}
}

func TestJSONEscapesAnything(t *testing.T) {
	s, _ := structpb.NewStruct(map[string]any{"v": "%REQ(x)%", "w": "<%REQ(x)%>"})
	j, err := CompileJSON(s, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{`"`, `\`, "\xff\xfe", "\u2028é", "a\tb", "\x00", strings.Repeat("é\"", 500)} {
		e := &Entry{Request: &message.Request{}}
		e.Request.Header.Add([]byte("x"), []byte(v))
		if line := j.Append(nil, e); !json.Valid(line) {
			t.Errorf("%q gives %s", v, line)
		}
	}
}

// TestTextCannotBeForged: whatever a header holds, its quoted field is one Go
// string literal that reads back as the value, so that it ends where it ends.
func TestTextCannotBeForged(t *testing.T) {
	f, err := CompileText(`"%REQ(x)%" "%REQ(x):3%" 200 "%REQUESTED_SERVER_NAME%"`, false)
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"Mozilla/5.0 (X11; Linux) it's 100%": `"Mozilla/5.0 (X11; Linux) it's 100%" "Moz" 200 "sni"`,
		`x" 500 "y`:                          `"x\" 500 \"y" "x\" " 200 "sni"`,
		`\" 500 "`:                           `"\\\" 500 \"" "\\\" " 200 "sni"`,
		`end\`:                               `"end\\" "end" 200 "sni"`,
		"é\xff":                              `"\xc3\xa9\xff" "\xc3\xa9\xff" 200 "sni"`,
		"a\r\nb\x7f\u2028":                   `"a__b_\xe2\x80\xa8" "a__" 200 "sni"`,
	} {
		e := &Entry{Request: &message.Request{}, SNI: "sni"}
		e.Request.Header.Add([]byte("x"), []byte(value))
		line := string(f.Append(nil, e))
		if line != want {
			t.Errorf("%q: got  %s\nwant %s", value, line, want)
		}
		literal, err := strconv.QuotedPrefix(line)
		if err != nil {
			t.Fatal(err)
		}
		back, err := strconv.Unquote(literal)
		plain := []byte(value)
		if sanitize(plain); err != nil || back != string(plain) {
			t.Errorf("%s reads back as %q, %v; want %q", literal, back, err, plain)
		}
	}
	// Values of headers are not logs: the quotation marks in them stay.
	h, err := Compile("%REQ(X-CUSTOM)%", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(h.Append(nil, entry())); got != `say "hi"` {
		t.Errorf("a header's value: %q", got)
	}
}

func FuzzText(f *testing.F) {
	c, err := CompileText(`"%REQ(x)%"`, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`a"b\`))
	f.Add([]byte("é\x00"))
	f.Fuzz(func(t *testing.T, v []byte) {
		if len(v) == 0 {
			return
		}
		e := &Entry{Request: &message.Request{}}
		e.Request.Header.Add([]byte("x"), v)
		line := c.Append(nil, e)
		plain := bytes.Clone(v)
		sanitize(plain)
		if got, err := strconv.Unquote(string(line)); err != nil || got != string(plain) {
			t.Errorf("%q gives %s, which reads back as %q, %v", v, line, got, err)
		}
	})
}

func TestAppendDoesNotAllocate(t *testing.T) {
	f, err := CompileText("%START_TIME% %START_TIME(%s.%3f)% %REQ(:METHOD)% %REQ(X-CUSTOM)% %DURATION% %UPSTREAM_HOST% %DOWNSTREAM_REMOTE_ADDRESS% %RESPONSE_FLAGS% %GRPC_STATUS%", false)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := structpb.NewStruct(map[string]any{"a": "%REQ(X-CUSTOM)%", "b": "%RESPONSE_CODE%"})
	j, err := CompileJSON(s, false)
	if err != nil {
		t.Fatal(err)
	}
	e := entry()
	e.Flags = NoRouteFound | DelayInjected
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = j.Append(f.Append(buf[:0], e), e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		"%REQ(:METHOD)% %%", "%START_TIME(%Y-%m-%dT%H:%M:%E3SZ)%", "%REQ(a?b):10%", "%GRPC_STATUS(NUMBER)%",
		"%REQ())%", "%:1%", "%REQ(a):99999999999999999999%", "%DOWNSTREAM_PEER_URI_SAN:3%",
	} {
		f.Add(s)
	}
	e := entry()
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Compile(s, false)
		if err != nil {
			return
		}
		c.Append(nil, e)
		if line := c.appendJSON(nil, e); !json.Valid(line) {
			t.Errorf("%q gives invalid JSON %s", s, line)
		}
	})
}

func BenchmarkIstioDefault(b *testing.B) {
	f, err := Compile(`[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%`+"\n", false)
	if err != nil {
		b.Fatal(err)
	}
	e := entry()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = f.Append(buf[:0], e)
	}
}
