// SPDX-License-Identifier: Apache-2.0

package route

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// oneRoute is a table of one route: the YAML of its match and of its action.
func oneRoute(t testing.TB, match, action string) *Table {
	return compile(t, "{name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{name: one, match: {"+match+"}, "+action+"}]}]}")
}

func fields(h *message.Header) string {
	var b strings.Builder
	for _, f := range h.Fields {
		b.WriteString(string(f.Name) + "=" + string(f.Value) + ";")
	}
	return b.String()
}

func TestPathAndHostRewrite(t *testing.T) {
	cases := []struct {
		rule, match, action, path string
		wantPath, wantHost        string
		wantHeaders               string
	}{
		{"prefix_rewrite replaces the matched prefix only", "prefix: /api/", "prefix_rewrite: /", "/api/v1?x=/api/", "/v1?x=/api/", "h:80", "x-envoy-original-path=/api/v1?x=/api/;"},
		{"prefix_rewrite of an exact path keeps the query", "path: /a", "prefix_rewrite: /b", "/a?q", "/b?q", "h:80", "x-envoy-original-path=/a?q;"},
		{"prefix_rewrite of a regex replaces the whole path", "safe_regex: {regex: '/a.*'}", "prefix_rewrite: /b", "/axy?q", "/b?q", "h:80", "x-envoy-original-path=/axy?q;"},
		{"prefix_rewrite with case_sensitive false", "prefix: /API, case_sensitive: false", "prefix_rewrite: /x", "/api/1", "/x/1", "h:80", "x-envoy-original-path=/api/1;"},
		{"a path always begins with a slash", "prefix: /a", "prefix_rewrite: b", "/a", "/b", "h:80", "x-envoy-original-path=/a;"},
		{"regex_rewrite substitutes in the path without query", "prefix: /", `regex_rewrite: {pattern: {regex: '^/service/([^/]+)(/.*)$'}, substitution: '\2/instance/\1$'}`, "/service/foo/v1/api?a=/service/b/c", "/v1/api/instance/foo$?a=/service/b/c", "h:80", "x-envoy-original-path=/service/foo/v1/api?a=/service/b/c;"},
		{"host_rewrite_literal", "prefix: /", "host_rewrite_literal: new", "/", "/", "new", "x-envoy-original-host=h:80;"},
		{"append_x_forwarded_host", "prefix: /", "host_rewrite_literal: new, append_x_forwarded_host: true", "/", "/", "new", "x-forwarded-host=h:80;x-envoy-original-host=h:80;"},
		{"host_rewrite_header", "prefix: /", "host_rewrite_header: X-Host", "/", "/", "other", "x-host=other;x-envoy-original-host=h:80;"},
		{"host_rewrite_path_regex", "prefix: /", `host_rewrite_path_regex: {pattern: {regex: '^/([a-z]+)/.*$'}, substitution: '\1.svc'}`, "/abc/d?e", "/abc/d?e", "abc.svc", "x-envoy-original-host=h:80;"},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			tab := oneRoute(t, c.match, "route: {cluster: c, "+c.action+"}")
			req := request("GET h:80 " + c.path)
			if strings.Contains(c.rule, "rewrite_header") {
				req.Header.Add([]byte("x-host"), []byte("other"))
			}
			m, ok := tab.Match(req)
			if !ok {
				t.Fatal("no match")
			}
			m.RewriteRequest(req, &format.Entry{Request: req}, new(message.Arena), true)
			if string(req.Path) != c.wantPath || string(req.Authority) != c.wantHost {
				t.Errorf("got %s %s, want %s %s", req.Authority, req.Path, c.wantHost, c.wantPath)
			}
			if got := fields(&req.Header); got != c.wantHeaders {
				t.Errorf("headers %s, want %s", got, c.wantHeaders)
			}
		})
	}
	t.Run("suppressed x-envoy headers", func(t *testing.T) {
		req := request("GET h /a")
		m, _ := oneRoute(t, "prefix: /a", "route: {cluster: c, prefix_rewrite: /b, host_rewrite_literal: x}").Match(req)
		m.RewriteRequest(req, &format.Entry{Request: req}, new(message.Arena), false)
		if fields(&req.Header) != "" {
			t.Errorf("got %s", fields(&req.Header))
		}
	})
}

func TestHeaderMutations(t *testing.T) {
	const text = `
name: r
request_headers_to_add: [{header: {key: x-order, value: table}}]
virtual_hosts:
- name: v
  domains: ["*"]
  request_headers_to_add: [{header: {key: x-order, value: vhost}}]
  response_headers_to_remove: [Server]
  routes:
  - match: {prefix: /}
    request_headers_to_add:
    - {header: {key: x-order, value: route}}
    - {header: {key: x-absent, value: a}, append_action: ADD_IF_ABSENT}
    - {header: {key: x-there, value: a}, append_action: ADD_IF_ABSENT}
    - {header: {key: x-there2, value: b}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: x-new, value: b}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: x-never, value: b}, append_action: OVERWRITE_IF_EXISTS}
    - {header: {key: X-Format, value: "<%REQ(x-there)%|%REQ(:path)%>100%%"}}
    - {header: {key: x-empty, value: "%REQ(nothing)%"}}
    - {header: {key: x-kept, value: "%REQ(nothing)%"}, keep_empty_value: true}
    - {header: {key: x-deprecated, value: c}, append: false}
    request_headers_to_remove: [X-Gone]
    response_headers_to_add: [{header: {key: x-cluster, value: "%UPSTREAM_CLUSTER%"}}]
    route:
      weighted_clusters:
        clusters: [{name: c, weight: 1, request_headers_to_add: [{header: {key: x-order, value: cluster}}]}]
`
	for _, c := range []struct{ text, order string }{
		{text, "cluster;route;vhost;table;"},
		{text + "most_specific_header_mutations_wins: true\n", "table;vhost;route;cluster;"},
	} {
		req := request("GET h /p", "x-there", "1", "x-there2", "1", "x-gone", "1", "x-there2", "2", "x-deprecated", "old")
		e := &format.Entry{Request: req, UpstreamCluster: "c"}
		m, _ := compile(t, c.text).Match(req)
		m.RewriteRequest(req, e, new(message.Arena), true)
		order, rest := "", &message.Header{}
		for _, f := range req.Header.Fields {
			if string(f.Name) == "x-order" {
				order += string(f.Value) + ";"
			} else {
				rest.Fields = append(rest.Fields, f)
			}
		}
		if order != c.order {
			t.Errorf("order %s, want %s", order, c.order)
		}
		want := "x-there=1;x-there2=b;x-deprecated=c;x-absent=a;x-new=b;x-format=<1|/p>100%;x-kept=;"
		if d := cmp.Diff(want, fields(rest)); d != "" {
			t.Error(d)
		}
		var resp message.Header
		resp.Add([]byte("server"), []byte("x"))
		m.RewriteResponse(&resp, e, new(message.Arena))
		if fields(&resp) != "x-cluster=c;" {
			t.Errorf("response: %s", fields(&resp))
		}
	}
}

func TestRedirects(t *testing.T) {
	cases := []struct {
		rule, match, action, host, path string
		headers                         []string
		want                            string
	}{
		{"https drops :80 when the scheme is swapped", "prefix: /", "https_redirect: true", "h:80", "/x?y", nil, "https://h/x?y"},
		{"https keeps another port", "prefix: /", "https_redirect: true", "h:8080", "/", nil, "https://h:8080/"},
		{"no swap, no drop", "prefix: /", "scheme_redirect: http", "h:80", "/", nil, "http://h:80/"},
		{"x-forwarded-proto is the old scheme", "prefix: /", "scheme_redirect: http", "h:443", "/", []string{"x-forwarded-proto", "https"}, "http://h/"},
		{"IPv6 host", "prefix: /", "https_redirect: true", "[::1]:80", "/", nil, "https://[::1]/"},
		{"host_redirect", "prefix: /", "host_redirect: new", "h:80", "/a", nil, "http://new/a"},
		{"port_redirect replaces the port", "prefix: /", "port_redirect: 8443, https_redirect: true", "h:80", "/a", nil, "https://h:8443/a"},
		{"path_redirect keeps the request's query", "prefix: /", "path_redirect: /new", "h", "/a?q=1", nil, "http://h/new?q=1"},
		{"path_redirect with a query of its own", "prefix: /", "path_redirect: '/new?own'", "h", "/a?q=1", nil, "http://h/new?own"},
		{"its query survives strip_query", "prefix: /", "path_redirect: '/new?own', strip_query: true", "h", "/a?q=1", nil, "http://h/new?own"},
		{"strip_query", "prefix: /", "host_redirect: new, strip_query: true", "h", "/a?q=1", nil, "http://new/a"},
		{"strip_query with path_redirect", "prefix: /", "path_redirect: /n, strip_query: true", "h", "/a?q=1", nil, "http://h/n"},
		{"prefix_rewrite", "prefix: /old/", "prefix_rewrite: /new/", "h", "/old/x?q", nil, "http://h/new/x?q"},
		{"regex_rewrite", "prefix: /", `regex_rewrite: {pattern: {regex: '/([0-9]+)'}, substitution: '/n/\1'}`, "h", "/12?q", nil, "http://h/n/12?q"},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			req := request("GET "+c.host+" "+c.path, c.headers...)
			m, ok := oneRoute(t, c.match, "redirect: {"+c.action+"}").Match(req)
			if !ok {
				t.Fatal("no match")
			}
			if got := string(m.Location(req, new(message.Arena))); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	for code, want := range map[string]int{"MOVED_PERMANENTLY": 301, "FOUND": 302, "SEE_OTHER": 303, "TEMPORARY_REDIRECT": 307, "PERMANENT_REDIRECT": 308} {
		m, _ := oneRoute(t, "prefix: /", "redirect: {response_code: "+code+"}").Match(request("GET h /"))
		if m.Route.Redirect.Status != want {
			t.Errorf("%s gives %d", code, m.Route.Redirect.Status)
		}
	}
}

func TestTimeouts(t *testing.T) {
	grpc := []string{"content-type", "application/grpc"}
	cases := []struct {
		rule, action string
		headers      []string
		want         Timeouts
	}{
		{"15 s by default", "", nil, Timeouts{Global: 15 * time.Second}},
		{"0 is off", "timeout: 0s", nil, Timeouts{}},
		{"per-try timeout", "timeout: 3s, retry_policy: {per_try_timeout: 1s, per_try_idle_timeout: 2s}", nil, Timeouts{Global: 3 * time.Second, PerTry: time.Second, PerTryIdle: 2 * time.Second}},
		{"per-try timeout is ignored when not below the route's", "timeout: 1s, retry_policy: {per_try_timeout: 1s}", nil, Timeouts{Global: time.Second}},
		{"per-try timeout without a route timeout", "timeout: 0s, retry_policy: {per_try_timeout: 1s}", nil, Timeouts{PerTry: time.Second}},
		{"request headers", "timeout: 1s", []string{"x-envoy-upstream-rq-timeout-ms", "500", "x-envoy-upstream-rq-per-try-timeout-ms", "20"}, Timeouts{Global: 500 * time.Millisecond, PerTry: 20 * time.Millisecond}},
		{"a bad header is ignored", "timeout: 1s", []string{"x-envoy-upstream-rq-timeout-ms", "-1"}, Timeouts{Global: time.Second}},
		{"grpc-timeout is not honoured by itself", "timeout: 1s", append([]string{"grpc-timeout", "5S"}, grpc...), Timeouts{Global: time.Second}},
		{"Istio's gRPC setting: no cap", "timeout: 0s, max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}", append([]string{"grpc-timeout", "5S"}, grpc...), Timeouts{MaxStream: 5 * time.Second, HasMaxStream: true}},
		{"gRPC cap and offset", "timeout: 0s, max_stream_duration: {grpc_timeout_header_max: 2s, grpc_timeout_header_offset: 1s}", append([]string{"grpc-timeout", "2500m"}, grpc...), Timeouts{MaxStream: 1500 * time.Millisecond, HasMaxStream: true}},
		{"grpc-timeout of 9 digits is ignored (CVE-2021-28682)", "timeout: 0s, max_stream_duration: {grpc_timeout_header_max: 0s}", append([]string{"grpc-timeout", "999999999S"}, grpc...), Timeouts{}},
		{"max_grpc_timeout caps", "timeout: 1s, max_grpc_timeout: 3s", append([]string{"grpc-timeout", "1H"}, grpc...), Timeouts{Global: 3 * time.Second}},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			req := request("POST h /", c.headers...)
			m, _ := oneRoute(t, "prefix: /", "route: {cluster: c, "+c.action+"}").Match(req)
			if d := cmp.Diff(c.want, m.Route.Action.Timeouts(req)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRetryPolicyInheritance(t *testing.T) {
	tab := compile(t, `
name: r
virtual_hosts:
- name: v
  domains: ["*"]
  retry_policy: {retry_on: 5xx, num_retries: 7}
  routes:
  - {match: {prefix: /own}, route: {cluster: c, retry_policy: {retry_on: reset}}}
  - {match: {prefix: /}, route: {cluster: c}}
`)
	m, _ := tab.Match(request("GET h /own"))
	if m.Route.Action.Retry.NumRetries != 1 {
		t.Errorf("a route's policy replaces the virtual host's, got %+v", m.Route.Action.Retry)
	}
	m, _ = tab.Match(request("GET h /"))
	if m.Route.Action.Retry.NumRetries != 7 {
		t.Errorf("got %+v", m.Route.Action.Retry)
	}
}

func TestHashPolicies(t *testing.T) {
	tab := oneRoute(t, "prefix: /", `route: {cluster: c, hash_policy: [{header: {header_name: X-User}, terminal: true}, {cookie: {name: s, ttl: 60s, path: /p}}, {query_parameter: {name: q}}, {connection_properties: {source_ip: true}}]}`)
	ip := netip.MustParseAddr("10.0.0.1")
	hash := func(remote netip.Addr, line string, headers ...string) (uint64, bool, *HashCookie) {
		req := request(line, headers...)
		m, _ := tab.Match(req)
		return m.Route.Action.Hash(req, remote)
	}
	user, ok, c := hash(ip, "GET h /?q=1", "x-user", "a")
	if again, _, _ := hash(netip.Addr{}, "GET h /", "x-user", "a"); !ok || again != user || c != nil {
		t.Error("a terminal policy does not stop")
	}
	if other, _, _ := hash(ip, "GET h /", "x-user", "b"); other == user {
		t.Error("values do not matter")
	}
	if _, ok, c := hash(netip.Addr{}, "GET h /"); ok || c == nil || c.Name != "s" || c.TTL != time.Minute || c.Path != "/p" {
		t.Errorf("nothing to hash: %v %+v", ok, c)
	}
	one, ok, c := hash(netip.Addr{}, "GET h /", "cookie", `x=y; s="v"`)
	plain, _, _ := hash(netip.Addr{}, "GET h /", "cookie", `s=v`)
	if !ok || c != nil || one != plain {
		t.Error("cookie is not found or its quotes count")
	}
	generated := CombineHash(0, false, []byte("v"))
	if generated != plain {
		t.Error("a generated cookie hashes unlike the one that comes back")
	}
	a, _, _ := hash(ip, "GET h /?q=1", "cookie", "s=v")
	if a == plain {
		t.Error("later policies do not count")
	}
}

func TestUpgradesAndMirrors(t *testing.T) {
	tab := oneRoute(t, "connect_matcher: {}", `route: {cluster: c, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}, {upgrade_type: websocket, enabled: false}], request_mirror_policies: [{cluster: shadow, runtime_fraction: {default_value: {numerator: 50}}}]}`)
	m, _ := tab.Match(request("CONNECT h:443"))
	a := m.Route.Action
	if u := a.Upgrade("connect"); u == nil || !u.Enabled || !u.Terminate {
		t.Errorf("connect: %+v", u)
	}
	if u := a.Upgrade("websocket"); u == nil || u.Enabled {
		t.Errorf("websocket: %+v", u)
	}
	if a.Upgrade("h2c") != nil {
		t.Error("h2c is said something of")
	}
	if ms := m.Mirrors(); len(ms) != 1 || !ms[0].Due(49) || ms[0].Due(150) {
		t.Errorf("mirrors: %+v", ms)
	}
}

// TestRequestPathDoesNotAllocate holds that what a route says costs nothing.
func TestRequestPathDoesNotAllocate(t *testing.T) {
	tab := compile(t, `
name: r
ignore_port_in_host_matching: true
request_headers_to_add: [{header: {key: x-table, value: "t"}}]
virtual_hosts:
- name: v
  domains: ["*.example.com"]
  retry_policy: {retry_on: 5xx}
  response_headers_to_add: [{header: {key: x-who, value: "%UPSTREAM_HOST%"}}]
  routes:
  - {match: {safe_regex: {regex: "/no[0-9]+"}}, route: {cluster: c}}
  - match: {prefix: /api, headers: [{name: x-multi, string_match: {contains: "b,c"}}, {name: end-user, string_match: {safe_regex: {regex: "j.*n"}}}], query_parameters: [{name: q, string_match: {prefix: "1"}}]}
    request_headers_to_add: [{header: {key: x-client, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%/%REQ(:path)%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
    request_headers_to_remove: [x-multi]
    route: {prefix_rewrite: /v2, host_rewrite_literal: up, append_x_forwarded_host: true, hash_policy: [{header: {header_name: end-user}}, {connection_properties: {source_ip: true}}], weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 1}]}}
  - {match: {prefix: /old}, redirect: {https_redirect: true, prefix_rewrite: /new}}
`)
	var a message.Arena
	base := request("GET www.EXAMPLE.com:80 /api/x?q=12", "x-multi", "a", "end-user", "jason", "x-multi", "b", "x-multi", "c", "x-forwarded-host", "first")
	old := request("GET www.example.com /old/x")
	req := *base
	req.Header.Fields = make([]message.Field, 0, 16)
	var resp message.Header
	ip := netip.MustParseAddr("2001:db8::1")
	var e format.Entry // as in the exchange, which is pooled
	run := func() {
		a.Reset()
		hdr := append(req.Header.Fields[:0], base.Header.Fields...)
		req = *base
		req.Header.Fields = hdr
		e = format.Entry{Request: &req, DownstreamRemote: netip.AddrPortFrom(ip, 1), UpstreamHost: "10.0.0.1:80"}
		m, ok := tab.Match(&req)
		if !ok || m.Weighted == nil {
			t.Fatal("no match")
		}
		m.Route.Action.Timeouts(&req)
		m.Route.Action.Hash(&req, ip)
		m.RewriteRequest(&req, &e, &a, true)
		resp.Reset()
		m.RewriteResponse(&resp, &e, &a)
		if string(req.Path) != "/v2/x?q=12" {
			t.Fatalf("path %s", req.Path)
		}
		r, _ := tab.Match(old)
		if len(r.Location(old, &a)) == 0 {
			t.Fatal("no location")
		}
	}
	for range 10 {
		run()
	}
	if n := testing.AllocsPerRun(200, run); n > poolMisses {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatchAndRewrite(b *testing.B) {
	tab := compile(b, `
name: "9080"
ignore_port_in_host_matching: true
virtual_hosts:
- name: reviews.default.svc.cluster.local:9080
  domains: [reviews.default.svc.cluster.local, reviews, reviews.default]
  routes:
  - {match: {prefix: /, headers: [{name: end-user, string_match: {exact: jason}}]}, route: {cluster: v2, timeout: 0s}}
  - {match: {prefix: /}, route: {timeout: 0s, weighted_clusters: {clusters: [{name: v1, weight: 90}, {name: v3, weight: 10}]}}}
- {name: allow_any, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: PassthroughCluster}}]}
`)
	req := request("GET reviews:9080 /reviews/0", "user-agent", "x", "accept", "*/*", "x-request-id", "1", "x-forwarded-proto", "http")
	var a message.Arena
	e := &format.Entry{Request: req}
	b.ReportAllocs()
	for b.Loop() {
		a.Reset()
		m, _ := tab.Match(req)
		m.RewriteRequest(req, e, &a, true)
	}
}
