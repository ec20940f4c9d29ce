// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/accesslog"
	"github.com/lateen-mesh/lateen/internal/proxy/upstream"
)

// proxy is a connection manager behind a listening socket.
type proxy struct {
	*Manager
	addr     string
	registry *telemetry.Registry
	clusters *cluster.Manager
	logs     string
	sinks    *accesslog.Sinks
}

const routerFilter = `{"name":"router","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}`

// start runs a proxy. fields are more fields of the connection manager, each
// ending in a comma; routes are those of its one virtual host.
func start(t testing.TB, fields, filters, routes string, clusters ...string) *proxy {
	t.Helper()
	if filters != "" {
		filters += ","
	}
	p := &proxy{registry: telemetry.NewRegistry(), logs: filepath.Join(t.TempDir(), "log")}
	text := fmt.Sprintf(`{"stat_prefix":"t",%s
		"access_log":[{"name":"f","typed_config":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog","path":%q,
			"log_format":{"text_format_source":{"inline_string":"%%RESPONSE_CODE%% %%RESPONSE_FLAGS%% %%RESPONSE_CODE_DETAILS%%\n"}}}}],
		"http_filters":[%s%s],
		"route_config":{"name":"r","virtual_hosts":[{"name":"v","domains":["*"],"routes":[%s]}]}}`, fields, p.logs, filters, routerFilter, routes)
	var msg hcmv3.HttpConnectionManager
	if err := protojson.Unmarshal([]byte(text), &msg); err != nil {
		t.Fatal(err)
	}
	p.clusters = cluster.NewManager(cluster.Options{})
	var cs []*clusterv3.Cluster
	for _, c := range clusters {
		var m clusterv3.Cluster
		if err := protojson.Unmarshal([]byte(c), &m); err != nil {
			t.Fatal(err)
		}
		cs = append(cs, &m)
	}
	if err := p.clusters.ApplyStatic(cs); err != nil {
		t.Fatal(err)
	}
	p.sinks = accesslog.NewSinks(io.Discard, io.Discard, nil)
	var err error
	p.Manager, err = New(&msg, Deps{Clusters: p.clusters, Pools: upstream.New(p.registry), Registry: p.registry, Sinks: p.sinks})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			local := netip.MustParseAddrPort(c.LocalAddr().String())
			remote := netip.MustParseAddrPort(c.RemoteAddr().String())
			wg.Go(func() { p.ServeConn(ctx, c, &ConnInfo{Local: local, Remote: remote}) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cancel()
		wg.Wait()
		p.clusters.Close()
		p.sinks.Close(10 * time.Second)
	})
	return p
}

// static is a cluster of addresses.
func static(name, more string, addrs ...string) string {
	var eps []string
	for _, a := range addrs {
		host, port, _ := net.SplitHostPort(a)
		eps = append(eps, fmt.Sprintf(`{"endpoint":{"address":{"socket_address":{"address":%q,"port_value":%s}}}}`, host, port))
	}
	return fmt.Sprintf(`{"name":%q,"type":"STATIC",%s"connect_timeout":"5s","load_assignment":{"cluster_name":%q,"endpoints":[{"lb_endpoints":[%s]}]}}`,
		name, more, name, strings.Join(eps, ","))
}

func origin(t testing.TB, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// client is one connection to the proxy.
type client struct {
	net.Conn
	r *bufio.Reader
}

func (p *proxy) dial(t testing.TB) *client {
	t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &client{c, bufio.NewReader(c)}
}

// do sends raw bytes and reads one response.
func (c *client) do(t testing.TB, raw string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	return c.read(t, raw)
}

func (c *client) read(t testing.TB, raw string) (*http.Response, string) {
	t.Helper()
	method, _, _ := strings.Cut(raw, " ")
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// lastLog is the access log once it has n lines.
func (p *proxy) log(t testing.TB, n int) []string {
	t.Helper()
	for range 5000 {
		b, _ := os.ReadFile(p.logs)
		if lines := strings.Split(strings.TrimSpace(string(b)), "\n"); len(lines) >= n && lines[0] != "" {
			return lines
		}
		time.Sleep(2 * time.Millisecond)
	}
	b, _ := os.ReadFile(p.logs)
	t.Fatalf("the access log has not %d lines: %q", n, b)
	return nil
}

const toA = `{"match":{"prefix":"/"},"route":{"cluster":"a"}}`

func TestForward(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.URL, " ", r.Host, " ", r.Header.Get("X-Forwarded-Proto"), " ", r.Header.Get("Connection"), " ", len(r.Header.Get("X-Request-Id")), " ", r.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms")))
		fmt.Fprintf(w, "got %d", len(b))
	})
	p := start(t, `"server_name":"istio-envoy","normalize_path":true,`, "", toA, static("a", "", up))
	c := p.dial(t)
	for i := range 3 {
		resp, body := c.do(t, "GET /x/../y?q=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
		if resp.StatusCode != 200 || body != "got 0" {
			t.Fatalf("request %d: %d %q", i, resp.StatusCode, body)
		}
		if got := resp.Header.Get("X-Seen"); got != "GET /y?q=1 h http  36 15000" {
			t.Errorf("upstream saw %q", got)
		}
		if got := resp.Header.Get("Server"); got != "istio-envoy" {
			t.Errorf("server %q", got)
		}
		if resp.Header.Get("X-Envoy-Upstream-Service-Time") == "" || resp.Header.Get("Date") == "" {
			t.Errorf("header %v", resp.Header)
		}
	}
	big := strings.Repeat("x", 1<<20)
	_, body := c.do(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(big), big))
	if body != "got 1048576" {
		t.Errorf("body %q", body)
	}
	_, body = c.do(t, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	if body != "got 5" {
		t.Errorf("body %q", body)
	}
	if _, body = c.do(t, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"); body != "" {
		t.Errorf("body of 100: %q", body)
	}
	if _, body = c.do(t, "abc"); body != "got 3" {
		t.Errorf("body after 100: %q", body)
	}
	for _, l := range p.log(t, 6) {
		if l != "200 - via_upstream" {
			t.Errorf("log %q", l)
		}
	}
}

func TestLocalReplies(t *testing.T) {
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	closed := ln.Addr().String()
	ln.Close()
	hangUp := origin(t, func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := w.(http.Hijacker).Hijack()
		c.Close()
	})
	slow := origin(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	garbage, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { garbage.Close() })
	go func() {
		for {
			c, err := garbage.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1000))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nA : b\r\n\r\n")
			c.Close()
		}
	}()
	routes := `{"match":{"path":"/nocluster"},"route":{"cluster":"none"}},
		{"match":{"path":"/empty"},"route":{"cluster":"empty"}},
		{"match":{"path":"/closed"},"route":{"cluster":"closed"}},
		{"match":{"path":"/hangup"},"route":{"cluster":"hangup"}},
		{"match":{"path":"/slow"},"route":{"cluster":"slow","timeout":"0.1s"}},
		{"match":{"path":"/pertry"},"route":{"cluster":"slow","timeout":"5s","retry_policy":{"retry_on":"connect-failure","per_try_timeout":"0.1s"}}},
		{"match":{"path":"/garbage"},"route":{"cluster":"garbage"}},
		{"match":{"path":"/full"},"route":{"cluster":"full"}},
		{"match":{"path":"/direct"},"direct_response":{"status":418,"body":{"inline_string":"tea"}}},
		{"match":{"path":"/redirect"},"redirect":{"path_redirect":"/other"}}`
	p := start(t, "", "", routes, static("empty", ""), static("closed", "", closed), static("hangup", "", hangUp), static("slow", "", slow),
		static("garbage", "", garbage.Addr().String()), static("full", `"circuit_breakers":{"thresholds":[{"max_pending_requests":0}]},`, slow))
	const reset = "upstream connect error or disconnect/reset before headers. reset reason: "
	n := 0
	for _, tc := range []struct {
		path   string
		status int
		body   string
		log    string
	}{
		{"/missing", 404, "", "404 NR route_not_found"},
		{"/nocluster", 503, "", "503 NC cluster_not_found"},
		{"/empty", 503, "no healthy upstream", "503 UH no_healthy_upstream"},
		{"/closed", 503, reset + "remote connection failure", "503 UF upstream_reset_before_response_started{remote_connection_failure"},
		{"/hangup", 503, reset + "connection termination", "503 UC upstream_reset_before_response_started{connection_termination}"},
		{"/slow", 504, "upstream request timeout", "504 UT response_timeout"},
		{"/pertry", 504, "upstream request timeout", "504 UT upstream_per_try_timeout"},
		{"/garbage", 502, reset + "protocol error", "502 UPE upstream_reset_before_response_started{protocol_error|http1.codec_error}"},
		{"/full", 503, reset + "overflow", "503 UO upstream_reset_before_response_started{overflow}"},
		{"/direct", 418, "tea", "418 - direct_response"},
		{"/redirect", 301, "", "301 - direct_response"},
	} {
		c := p.dial(t)
		resp, body := c.do(t, "GET "+tc.path+" HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp.StatusCode != tc.status || body != tc.body {
			t.Errorf("%s: got %d %q, want %d %q", tc.path, resp.StatusCode, body, tc.status, tc.body)
		}
		n++
		if got := p.log(t, n)[n-1]; !strings.HasPrefix(got, tc.log) {
			t.Errorf("%s: log %q, want %q", tc.path, got, tc.log)
		}
		if tc.path == "/redirect" && resp.Header.Get("Location") != "http://h/other" {
			t.Errorf("location %q", resp.Header.Get("Location"))
		}
		if tc.path == "/full" && resp.Header.Get("X-Envoy-Overloaded") != "true" {
			t.Error("no x-envoy-overloaded")
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	p := start(t, "", "", toA)
	n := 0
	for raw, want := range map[string]string{
		"GET / HTTP/1.0\r\nHost: h\r\n\r\n":                              "426 - low_version",
		"GET / HTTP/1.1\r\n\r\n":                                         "400 DPE missing_host_header",
		"GET / HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n":                     "400 DPE http1.codec_error",
		"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n":                      "403 - upgrade_failed",
		"GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 70<<10): "431 DPE http1.headers_too_large",
	} {
		c := p.dial(t)
		resp, _ := c.do(t, raw)
		n++
		if got := p.log(t, n)[n-1]; got != want || !strings.HasPrefix(want, fmt.Sprint(resp.StatusCode)) {
			t.Errorf("%.40q: status %d, log %q, want %q", raw, resp.StatusCode, got, want)
		}
	}
}

func TestRetry(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	handler := func(name string, fail int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			seen[r.URL.Path]++
			n := seen[r.URL.Path]
			mu.Unlock()
			if n <= fail {
				w.WriteHeader(503)
				return
			}
			fmt.Fprintf(w, "%s %d", r.Header.Get("X-Envoy-Attempt-Count"), len(b))
		}
	}
	up := origin(t, handler("a", 2))
	route := func(path string, n int) string {
		return fmt.Sprintf(`{"match":{"path":%q},"route":{"cluster":"a","retry_policy":{"retry_on":"5xx","num_retries":%d,"retry_back_off":{"base_interval":"0.001s"}}}}`, path, n)
	}
	p := start(t, "", "", route("/get", 2)+","+route("/post", 2)+","+route("/slowpost", 2)+","+route("/few", 1), static("a", "", up))
	c := p.dial(t)
	if resp, body := c.do(t, "GET /get HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 200 || body != " 0" {
		t.Errorf("get: %d %q", resp.StatusCode, body)
	}
	if resp, body := c.do(t, "POST /post HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"); resp.StatusCode != 200 || body != " 5" {
		t.Errorf("post: %d %q", resp.StatusCode, body)
	}
	if resp, _ := c.do(t, "GET /few HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 503 {
		t.Errorf("few: %d", resp.StatusCode)
	}
	if got := p.log(t, 3)[2]; got != "503 URX via_upstream" {
		t.Errorf("log %q", got)
	}
	// A body that arrives in pieces is sent by the second goroutine and kept.
	io.WriteString(c, "POST /slowpost HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello")
	time.Sleep(20 * time.Millisecond)
	if resp, body := c.do(t, "world"); resp.StatusCode != 200 || body != " 10" {
		t.Errorf("slow post: %d %q", resp.StatusCode, body)
	}
}

// TestStaleConnection: a pooled connection closed by the server costs no failed
// request, without any retry policy.
func TestStaleConnection(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		c, rw, _ := w.(http.Hijacker).Hijack()
		rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		rw.Flush()
		c.Close() // without having said so
	})
	p := start(t, "", "", toA, static("a", "", up))
	c := p.dial(t)
	for i := range 20 {
		resp, body := c.do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("request %d: %d %q", i, resp.StatusCode, body)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestFault(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	filter := `{"name":"f","typed_config":{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}}`
	fault := func(s string) string {
		return `"typed_per_filter_config":{"f":{"@type":"type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",` + s + `}}`
	}
	p := start(t, "", filter, `{"match":{"path":"/abort"},"route":{"cluster":"a"},`+fault(`"abort":{"http_status":555,"percentage":{"numerator":100}}`)+`},
		{"match":{"path":"/delay"},"route":{"cluster":"a"},`+fault(`"delay":{"fixed_delay":"0.05s","percentage":{"numerator":100}}`)+`}`, static("a", "", up))
	c := p.dial(t)
	if resp, body := c.do(t, "GET /abort HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 555 || body != "fault filter abort" {
		t.Errorf("abort: %d %q", resp.StatusCode, body)
	}
	if resp, body := c.do(t, "GET /delay HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 200 || body != "ok" {
		t.Errorf("delay: %d %q", resp.StatusCode, body)
	}
	log := p.log(t, 2)
	if log[0] != "555 FI fault_filter_abort" || log[1] != "200 DI via_upstream" {
		t.Errorf("log %q", log)
	}
	if resp, _ := c.do(t, "POST /abort HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"); resp.StatusCode != 200 ||
		resp.Header.Get("Grpc-Status") != "2" || resp.Header.Get("Grpc-Message") != "fault filter abort" {
		t.Errorf("gRPC: %d %v", resp.StatusCode, resp.Header)
	}
}

// TestClientLeaves: a client that leaves while its request waits cancels it
// upstream (flag DC).
func TestClientLeaves(t *testing.T) {
	canceled := make(chan struct{})
	up := origin(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(canceled) })
	p := start(t, "", "", toA, static("a", "", up))
	c := p.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	time.Sleep(10 * time.Millisecond)
	c.Close()
	<-canceled
	if got := p.log(t, 1)[0]; got != "0 DC downstream_remote_disconnect" {
		t.Errorf("log %q", got)
	}
}

func TestUpgrade(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "upgrade" {
			w.WriteHeader(400)
			return
		}
		c, rw, _ := w.(http.Hijacker).Hijack()
		defer c.Close()
		rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		rw.Flush()
		io.Copy(c, rw)
	})
	p := start(t, `"upgrade_configs":[{"upgrade_type":"websocket"}],`, "", toA, static("a", "", up))
	c := p.dial(t)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("%v %v", resp, err)
	}
	for range 3 {
		io.WriteString(c, "ping!")
		b := make([]byte, 5)
		if _, err := io.ReadFull(c.r, b); err != nil || string(b) != "ping!" {
			t.Fatalf("%q %v", b, err)
		}
	}
	c.Close()
	if got := p.log(t, 1)[0]; !strings.HasPrefix(got, "101 ") {
		t.Errorf("log %q", got)
	}
	q := start(t, "", "", toA, static("a", "", up))
	if resp, _ := q.dial(t).do(t, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); resp.StatusCode != 403 {
		t.Errorf("upgrade without config: %d", resp.StatusCode)
	}
}

func TestConnectTerminates(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	p := start(t, `"upgrade_configs":[{"upgrade_type":"CONNECT"}],`, "", `{"match":{"connect_matcher":{}},"route":{"cluster":"a","upgrade_configs":[{"upgrade_type":"CONNECT","connect_config":{}}]}}`,
		static("a", "", ln.Addr().String()))
	c := p.dial(t)
	io.WriteString(c, "CONNECT x:9080 HTTP/1.1\r\nHost: x:9080\r\n\r\n")
	resp, err := http.ReadResponse(c.r, &http.Request{Method: "CONNECT"})
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	io.WriteString(c, "hello")
	c.Conn.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c.r)
	if err != nil || string(b) != "hello" {
		t.Fatalf("%q %v", b, err)
	}
}

func TestDrain(t *testing.T) {
	up := origin(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	p := start(t, "", "", toA, static("a", "", up))
	c, idle := p.dial(t), p.dial(t)
	idle.do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if resp, _ := c.do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); resp.Close {
		t.Error("closed before the drain")
	}
	p.Drain()
	if resp, _ := c.do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); !resp.Close {
		t.Error("not closed by the drain")
	}
	for range 1000 { // until it waits for the next request
		p.CloseIdle()
		time.Sleep(time.Millisecond)
		if p.Active() == 0 {
			break
		}
	}
	if _, err := idle.r.ReadByte(); err != io.EOF {
		t.Errorf("the idle connection is still open: %v", err)
	}
}
