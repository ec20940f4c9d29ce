// SPDX-License-Identifier: Apache-2.0

package route

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// decode reads a message from YAML.
func decode[M proto.Message](t testing.TB, text string, m M) M {
	t.Helper()
	j, err := yaml.YAMLToJSON([]byte(strings.ReplaceAll(text, "\t", "  ")))
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(j, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func compile(t testing.TB, text string) *Table {
	t.Helper()
	tab, err := Compile(decode(t, text, &routev3.RouteConfiguration{}), Options{Rand: rand.New(rand.NewPCG(1, 2)).Uint64})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// request makes a request from "METHOD authority path" and header pairs.
func request(line string, headers ...string) *message.Request {
	f := strings.Fields(line)
	r := &message.Request{Method: []byte(f[0]), Authority: []byte(f[1]), Scheme: []byte("http"), Proto: message.HTTP11}
	if len(f) > 2 {
		r.Path = []byte(f[2])
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add([]byte(headers[i]), []byte(headers[i+1]))
	}
	return r
}

func TestVirtualHostLookup(t *testing.T) {
	const base = `
name: "80"
virtual_hosts:
- {name: any, domains: ["*"]}
- {name: exact, domains: ["Reviews", "reviews.default.svc:9080", "[::1]:80", "127.0.0.1"]}
- {name: suffix, domains: ["*.example.com"]}
- {name: longer-suffix, domains: ["*.a.example.com", "*-bar.foo.com"]}
- {name: prefix, domains: ["foo.*"]}
- {name: longer-prefix, domains: ["foo.bar.*"]}
`
	cases := []struct{ rule, host, want, wantIgnoringPort string }{
		{"exact", "reviews", "exact", "exact"},
		{"case is ignored", "REVIEWS", "exact", "exact"},
		{"a port counts", "reviews:80", "any", "exact"},
		{"domain with port", "reviews.default.svc:9080", "exact", "any"},
		{"IPv6 with port", "[::1]:80", "exact", "any"},
		{"address", "127.0.0.1:15", "any", "exact"},
		{"suffix", "x.example.com", "suffix", "suffix"},
		{"longest suffix", "x.a.example.com", "longer-suffix", "longer-suffix"},
		{"suffix without a dot", "x-bar.foo.com", "longer-suffix", "longer-suffix"},
		{"a wildcard is not empty", ".example.com", "any", "any"},
		{"prefix", "foo.org", "prefix", "prefix"},
		{"longest prefix", "foo.bar.org", "longer-prefix", "longer-prefix"},
		{"suffix before prefix", "foo.bar.example.com", "suffix", "suffix"},
		{"default", "other", "any", "any"},
		{"no host", "-", "any", "any"},
		{"too long for the buffer", strings.Repeat("x", 400) + ".example.com", "suffix", "suffix"},
	}
	for _, ignore := range []bool{false, true} {
		text := base
		if ignore {
			text += "ignore_port_in_host_matching: true\n"
		}
		tab := compile(t, text)
		for _, c := range cases {
			want := c.want
			if ignore {
				want = c.wantIgnoringPort
			}
			m, ok := tab.Match(request("GET " + c.host + " /"))
			if ok || m.VirtualHost == nil || m.VirtualHost.Name != want {
				t.Errorf("%s (ignore port %v): %q went to %v, want %s", c.rule, ignore, c.host, m.VirtualHost, want)
			}
		}
	}
	if m, ok := compile(t, `{name: r, virtual_hosts: [{name: a, domains: [a]}]}`).Match(request("GET b /")); ok || m.VirtualHost != nil {
		t.Error("a host that nobody claims has a virtual host")
	}
}

func TestWithoutPort(t *testing.T) {
	for in, want := range map[string]string{
		"a:80": "a", "a": "a", "a:": "a", "[::1]:80": "[::1]", "[::1]": "[::1]", "::1": "::1", "": "", "a:8x": "a:8x", ":80": "",
	} {
		if got := string(withoutPort([]byte(in))); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestRouteMatching(t *testing.T) {
	cases := []struct {
		rule, match string
		yes, no     []*message.Request
	}{
		{
			"prefix is a string prefix of the path without query", `prefix: /api`,
			[]*message.Request{request("GET h /api"), request("GET h /apis?x=1")},
			[]*message.Request{request("GET h /"), request("GET h /x?/api"), request("GET h /API")},
		},
		{
			"path is exact, without query and fragment", `path: /login`,
			[]*message.Request{request("GET h /login"), request("GET h /login?x=/y"), request("GET h /login#f")},
			[]*message.Request{request("GET h /login/"), request("GET h /loginx")},
		},
		{
			"path_separated_prefix ends at a segment", `path_separated_prefix: /api`,
			[]*message.Request{request("GET h /api"), request("GET h /api/x"), request("GET h /api?x")},
			[]*message.Request{request("GET h /apis"), request("GET h /ap")},
		},
		{
			"safe_regex matches the whole path without query", `safe_regex: {regex: "/a|/b/[0-9]+"}`,
			[]*message.Request{request("GET h /a"), request("GET h /b/12?x=y")},
			[]*message.Request{request("GET h /ab"), request("GET h /b/12x"), request("GET h /x/a")},
		},
		{
			"case_sensitive false", "prefix: /Api\ncase_sensitive: false",
			[]*message.Request{request("GET h /API/x"), request("GET h /api")},
			[]*message.Request{request("GET h /ap")},
		},
		{
			"connect_matcher", `connect_matcher: {}`,
			[]*message.Request{request("CONNECT h:443")},
			[]*message.Request{request("GET h /")},
		},
		{
			"other matchers do not take CONNECT without a path", `prefix: /`,
			[]*message.Request{request("GET h /")},
			[]*message.Request{request("CONNECT h:443")},
		},
		{
			"all headers must match", "prefix: /\nheaders: [{name: end-user, string_match: {exact: jason}}, {name: x-b, present_match: true}]",
			[]*message.Request{request("GET h /", "end-user", "jason", "x-b", "")},
			[]*message.Request{request("GET h /", "end-user", "jason"), request("GET h /", "end-user", "Jason", "x-b", "1")},
		},
		{
			"string ignore_case", "prefix: /\nheaders: [{name: End-User, string_match: {prefix: JA, ignore_case: true}}]",
			[]*message.Request{request("GET h /", "end-user", "jason"), request("GET h /", "end-user", "JASON")},
			[]*message.Request{request("GET h /", "end-user", "xjason"), request("GET h /")},
		},
		{
			"suffix, contains and regex", "prefix: /\nheaders: [{name: a, string_match: {suffix: z}}, {name: b, string_match: {contains: mid}}, {name: c, string_match: {safe_regex: {regex: \"v[0-9]\"}}}]",
			[]*message.Request{request("GET h /", "a", "xz", "b", "amidb", "c", "v1")},
			[]*message.Request{request("GET h /", "a", "xz", "b", "amidb", "c", "v12"), request("GET h /", "a", "zx", "b", "mid", "c", "v1")},
		},
		{
			"values of one name are joined with commas", "prefix: /\nheaders: [{name: x-a, string_match: {exact: \"1,2\"}}]",
			[]*message.Request{request("GET h /", "x-a", "1", "other", "x", "x-a", "2"), request("GET h /", "x-a", "1,2")},
			[]*message.Request{request("GET h /", "x-a", "1"), request("GET h /", "x-a", "2", "x-a", "1")},
		},
		{
			"inverted: an absent header does not match", "prefix: /\nheaders: [{name: x-a, string_match: {exact: v}, invert_match: true}]",
			[]*message.Request{request("GET h /", "x-a", "w")},
			[]*message.Request{request("GET h /"), request("GET h /", "x-a", "v")},
		},
		{
			"treat_missing_header_as_empty", "prefix: /\nheaders: [{name: x-a, string_match: {exact: v}, invert_match: true, treat_missing_header_as_empty: true}]",
			[]*message.Request{request("GET h /"), request("GET h /", "x-a", "w")},
			[]*message.Request{request("GET h /", "x-a", "v")},
		},
		{
			"absence", "prefix: /\nheaders: [{name: x-a, present_match: false}, {name: x-b, present_match: true, invert_match: true}]",
			[]*message.Request{request("GET h /")},
			[]*message.Request{request("GET h /", "x-a", ""), request("GET h /", "x-b", "1")},
		},
		{
			"range is half open", "prefix: /\nheaders: [{name: num, range_match: {start: -5, end: 10}}]",
			[]*message.Request{request("GET h /", "num", "-5"), request("GET h /", "num", "9")},
			[]*message.Request{request("GET h /", "num", "10"), request("GET h /", "num", "9x"), request("GET h /", "num", ""), request("GET h /", "num", "99999999999999999999")},
		},
		{
			"pseudo-headers and host", "prefix: /\nheaders: [{name: \":method\", string_match: {exact: POST}}, {name: \":authority\", string_match: {prefix: h}}, {name: host, string_match: {suffix: \":80\"}}, {name: \":path\", string_match: {contains: \"?x\"}}]",
			[]*message.Request{request("POST h:80 /?x")},
			[]*message.Request{request("GET h:80 /?x"), request("POST h /?x"), request("POST h:80 /")},
		},
		{
			"query parameters are compared undecoded, the first one counts", "prefix: /\nquery_parameters: [{name: v, string_match: {exact: a%20b}}, {name: debug}]",
			[]*message.Request{request("GET h /?v=a%20b&debug"), request("GET h /?debug=&x&v=a%20b&v=c#v=d")},
			[]*message.Request{request("GET h /?v=a%20b"), request("GET h /?v=c&v=a%20b&debug"), request("GET h /?v=a+b&debug"), request("GET h /#?v=a%20b&debug"), request("GET h /")},
		},
		{
			"grpc by content type", "prefix: /\ngrpc: {}",
			[]*message.Request{request("POST h /", "content-type", "application/grpc"), request("POST h /", "content-type", "application/grpc+proto")},
			[]*message.Request{request("POST h /", "content-type", "application/grpc-web"), request("POST h /")},
		},
		{
			"runtime_fraction of 0 never matches", "prefix: /\nruntime_fraction: {default_value: {numerator: 0}}",
			nil, []*message.Request{request("GET h /")},
		},
		{
			"runtime_fraction of all matches", "prefix: /\nruntime_fraction: {default_value: {numerator: 10000, denominator: TEN_THOUSAND}}",
			[]*message.Request{request("GET h /")}, nil,
		},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			tab := compile(t, "name: r\nvirtual_hosts:\n- name: v\n  domains: [\"*\"]\n  routes:\n  - name: hit\n    route: {cluster: c}\n    match:\n      "+strings.ReplaceAll(c.match, "\n", "\n      "))
			for _, r := range c.yes {
				if m, ok := tab.Match(r); !ok || m.Route.Name != "hit" || m.Cluster != "c" {
					t.Errorf("%s %s %s does not match", r.Method, r.Authority, r.Path)
				}
			}
			for _, r := range c.no {
				if _, ok := tab.Match(r); ok {
					t.Errorf("%s %s %s matches", r.Method, r.Authority, r.Path)
				}
			}
		})
	}
}

func TestFirstMatchInOrder(t *testing.T) {
	tab := compile(t, `
name: r
virtual_hosts:
- name: v
  domains: ["*"]
  metadata: {filter_metadata: {istio: {config: /apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews}}}
  routes:
  - {name: jason, match: {prefix: /, headers: [{name: end-user, string_match: {exact: jason}}]}, route: {cluster: v2},
     metadata: {filter_metadata: {istio: {config: /here}}}, decorator: {operation: "reviews:9080/*"}}
  - {name: rest, match: {prefix: /}, route: {cluster: v1}}
`)
	m, _ := tab.Match(request("GET h /x", "end-user", "jason"))
	if m.Cluster != "v2" || m.Route.Config != "/here" || m.Route.Operation != "reviews:9080/*" || !strings.HasSuffix(m.VirtualHost.Config, "/reviews") {
		t.Errorf("got %+v", m)
	}
	if m, _ := tab.Match(request("GET h /x")); m.Cluster != "v1" {
		t.Errorf("got %+v", m)
	}
}

func TestWeightedClusters(t *testing.T) {
	tab := compile(t, `
name: r
virtual_hosts:
- name: v
  domains: ["*"]
  routes:
  - {name: by-header, match: {prefix: /h}, route: {weighted_clusters: {header_name: x-random, clusters: [{name: a, weight: 1}, {name: b, weight: 3}]}}}
  - {match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: v1, weight: 90}, {name: zero, weight: 0}, {name: v2, weight: 10}]}}}
`)
	const n = 10000
	got := map[string]int{}
	for range n {
		m, _ := tab.Match(request("GET h /"))
		got[m.Cluster]++
	}
	sigma := math.Sqrt(n * 0.9 * 0.1)
	if d := math.Abs(float64(got["v1"]) - 0.9*n); d > 5*sigma || got["v1"]+got["v2"] != n {
		t.Errorf("got %v", got)
	}
	for v, want := range map[string]string{"0": "a", "1": "b", "3": "b", "4": "a"} {
		if m, _ := tab.Match(request("GET h /h", "x-random", v)); m.Cluster != want || m.Weighted == nil {
			t.Errorf("x-random %s gives %s, want %s", v, m.Cluster, want)
		}
	}
}

func TestClusterHeader(t *testing.T) {
	tab := compile(t, `{name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster_header: X-Cluster, cluster_not_found_response_code: NOT_FOUND}}]}]}`)
	if m, ok := tab.Match(request("GET h /", "x-cluster", "blue")); !ok || m.Cluster != "blue" || m.Route.Action.ClusterNotFoundStatus != 404 {
		t.Errorf("got %+v", m)
	}
	if m, ok := tab.Match(request("GET h /")); !ok || m.Cluster != "" {
		t.Errorf("without the header: %+v", m)
	}
}

func TestRequireTLS(t *testing.T) {
	tab := compile(t, `{name: r, virtual_hosts: [{name: v, domains: ["*"], require_tls: ALL, routes: [{match: {prefix: /}, route: {cluster: c}}]}]}`)
	req := request("GET h:80 /x?y", "x-forwarded-proto", "http")
	m, ok := tab.Match(req)
	if !ok || m.Route.Redirect == nil || m.Route.Redirect.Status != 301 {
		t.Fatalf("got %+v", m)
	}
	if got := string(m.Location(req, new(message.Arena))); got != "https://h/x?y" {
		t.Errorf("location %q", got)
	}
	if m, _ := tab.Match(request("GET h /", "x-forwarded-proto", "https")); m.Cluster != "c" {
		t.Errorf("https is redirected: %+v", m)
	}
}

func TestPerFilterConfig(t *testing.T) {
	tab := compile(t, `
name: r
virtual_hosts:
- name: v
  domains: ["*"]
  typed_per_filter_config:
    envoy.filters.http.fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {http_status: 500, percentage: {numerator: 100}}}
  routes:
  - {match: {prefix: /off}, route: {cluster: c}, typed_per_filter_config: {envoy.filters.http.fault: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}}
  - match: {prefix: /own}
    route: {cluster: c}
    typed_per_filter_config:
      envoy.filters.http.fault: {"@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: {fixed_delay: 7s, percentage: {numerator: 100}}}
      envoy.filters.http.cors: {"@type": type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy}
  - {match: {prefix: /}, route: {cluster: c}}
`)
	at := func(path string) *FilterConfig {
		m, _ := tab.Match(request("GET h " + path))
		return m.Filter("envoy.filters.http.fault")
	}
	if f := at("/off"); f == nil || !f.Disabled {
		t.Errorf("/off: %+v", f)
	}
	own, inherited := at("/own"), at("/x")
	if own == nil || inherited == nil || own.Fault == nil || inherited.Fault == nil || own.Fault == inherited.Fault {
		t.Errorf("own %+v inherited %+v", own, inherited)
	}
	m, _ := tab.Match(request("GET h /own"))
	if m.Filter("envoy.filters.http.cors") != nil {
		t.Error("CORS has a configuration though there is no such filter")
	}
}

func TestRefused(t *testing.T) {
	cases := []struct{ rule, yaml, want string }{
		{"duplicate domain", `{virtual_hosts: [{name: a, domains: [x]}, {name: b, domains: [X]}]}`, `domain "x" is claimed by the virtual hosts "a" and "b"`},
		{"two catch-alls", `{virtual_hosts: [{name: a, domains: ["*"]}, {name: b, domains: ["*"]}]}`, `domain "*"`},
		{"no domains", `{virtual_hosts: [{name: a}]}`, "virtual_hosts[0]: virtual host \"a\": domains"},
		{"inner wildcard", `{virtual_hosts: [{name: a, domains: [a.*.b]}]}`, "domains[0]"},
		{"unsupported match", `{virtual_hosts: [{name: a, domains: [a], routes: [{match: {prefix: /, tls_context: {}}, route: {cluster: c}}]}]}`, "routes[0] \"\": match.tls_context"},
		{"bad regex", `{virtual_hosts: [{name: a, domains: [a], routes: [{match: {safe_regex: {regex: "a)(b"}}, route: {cluster: c}}]}]}`, "match.safe_regex"},
		{"no path specifier", `{virtual_hosts: [{name: a, domains: [a], routes: [{match: {}, route: {cluster: c}}]}]}`, "path_specifier"},
		{"bad header matcher", `{virtual_hosts: [{name: a, domains: [a], routes: [{match: {prefix: /, headers: [{name: x, string_match: {}}]}, route: {cluster: c}}]}]}`, `headers[0]: header "x": string_match.match_pattern`},
		{"weights of zero", `{virtual_hosts: [{name: a, domains: [a], routes: [{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: c}]}}}]}]}`, "sum of the weights"},
		{"pseudo-header mutation", `{virtual_hosts: [{name: a, domains: [a], request_headers_to_add: [{header: {key: ":path", value: x}}]}]}`, "request_headers_to_add[0]: header \":path\""},
		{"Host removal", `{response_headers_to_remove: [Host]}`, "response_headers_to_remove[0]"},
		{"unknown operator in a header", `{request_headers_to_add: [{header: {key: a, value: "%NOPE%"}}]}`, "NOPE"},
		{"line break in a header", `{request_headers_to_add: [{header: {key: a, value: "x\r\ny: z"}}]}`, "line break"},
		{"large direct response", `{max_direct_response_body_size_bytes: 2, virtual_hosts: [{name: a, domains: [a], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: abc}}}]}]}`, "max_direct_response_body_size_bytes"},
		{"unknown filter type", `{typed_per_filter_config: {x: {"@type": type.googleapis.com/google.protobuf.Duration, value: 1s}}}`, `typed_per_filter_config["x"]`},
		{"bad substitution", `{virtual_hosts: [{name: a, domains: [a], routes: [{match: {prefix: /}, route: {cluster: c, regex_rewrite: {pattern: {regex: "a"}, substitution: '\1'}}}]}]}`, "substitution"},
		{"unknown retry condition", `{virtual_hosts: [{name: a, domains: [a], retry_policy: {retry_on: sometimes}}]}`, "retry_policy.retry_on"},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			_, err := Compile(decode(t, c.yaml, &routev3.RouteConfiguration{}), Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{{"reviews:9080", "/a?x=1&y"}, {"[::1]:80", "/x%2F#"}, {"*.a", "//"}, {"", ""}, {"::", "?"}} {
		f.Add(s[0], s[1])
	}
	tab := compile(f, `
name: r
ignore_port_in_host_matching: true
virtual_hosts:
- {name: s, domains: ["*.a", "b.*", "c", "[::1]"], routes: [{match: {safe_regex: {regex: "/a.*"}}, route: {cluster: c}}]}
- name: v
  domains: ["*"]
  routes:
  - {match: {path_separated_prefix: /a, query_parameters: [{name: x}]}, route: {cluster: c, prefix_rewrite: /b}}
  - {match: {prefix: /r}, redirect: {https_redirect: true, prefix_rewrite: /q, strip_query: true}}
  - {match: {prefix: "", case_sensitive: false}, route: {cluster: c, prefix_rewrite: x}}
`)
	f.Fuzz(func(t *testing.T, host, path string) {
		req := request("GET h /")
		req.Authority, req.Path = []byte(host), []byte(path)
		var a message.Arena
		m, ok := tab.Match(req)
		if !ok {
			return
		}
		if m.Route.Redirect != nil {
			m.Location(req, &a)
			return
		}
		m.RewriteRequest(req, nil, &a, true)
		if m.VirtualHost.Name == "v" && (len(req.Path) == 0 || req.Path[0] != '/') {
			t.Errorf("path %q became %q", path, req.Path)
		}
	})
}
