// SPDX-License-Identifier: Apache-2.0

package fieldpolicy

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var update = flag.Bool("update", false, "rewrite docs/xds-fields.md")

const docPath = "../../../docs/xds-fields.md"

// TestEveryFieldIsClassified walks the descriptors: each field of each message
// that an honoured field can hold has exactly one line, and each line a field.
func TestEveryFieldIsClassified(t *testing.T) {
	used := map[protoreflect.FullName]bool{}
	var walk func(d protoreflect.MessageDescriptor)
	walk = func(d protoreflect.MessageDescriptor) {
		if used[d.FullName()] || strings.HasPrefix(string(d.FullName()), "google.protobuf.") {
			return
		}
		used[d.FullName()] = true
		text, ok := policies().text[d.FullName()]
		if !ok {
			t.Errorf("message %s is honoured somewhere and has no entry", d.FullName())
			return
		}
		classes := map[string]class{}
		for _, e := range parseEntry(text) {
			if _, dup := classes[e.field]; dup {
				t.Errorf("%s.%s is classified twice", d.FullName(), e.field)
			}
			classes[e.field] = e.class
			if e.class == accepted && e.reason == "" {
				t.Errorf("%s.%s is accepted without a reason", d.FullName(), e.field)
			}
		}
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			c, ok := classes[string(f.Name())]
			if !ok {
				t.Errorf("%s.%s is classified nowhere", d.FullName(), f.Name())
			}
			delete(classes, string(f.Name()))
			if c != honoured {
				continue
			}
			m := f.Message()
			if f.IsMap() {
				m = f.MapValue().Message()
			}
			if m != nil {
				walk(m)
			}
		}
		for f := range classes {
			t.Errorf("%s has no field %s", d.FullName(), f)
		}
	}
	for _, d := range rootDescriptors() {
		walk(d)
	}
	for name := range policies().text {
		if !used[name] {
			t.Errorf("entry for %s, which no honoured field can hold", name)
		}
	}
}

// notRead are honoured fields no code has to read: all their message holds is
// accepted or refused.
var notRead = map[string]bool{"envoy.config.bootstrap.v3.Bootstrap.cluster_manager": true}

// TestHonouredFieldsAreRead looks for each honoured field's getter, or for the
// type of its oneof, in the proxy's code: a field nobody reads is not honoured.
func TestHonouredFieldsAreRead(t *testing.T) {
	read := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, id := range identifier.FindAllString(string(b), -1) {
			read[plain(id)] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range sortedNames() {
		_, message, _ := strings.Cut(name, ".v3.") // with the messages around it
		for _, e := range entriesOf(name) {
			if e.class == honoured && !read["get"+plain(e.field)] && !read[plain(message+e.field)] && !notRead[name+"."+e.field] {
				t.Errorf("%s.%s is said to be honoured, and nothing reads it", name, e.field)
			}
		}
	}
}

var identifier = regexp.MustCompile(`[A-Za-z][A-Za-z0-9_]*`)

// plain is a name without what differs between the ways of writing it.
func plain(s string) string { return strings.ToLower(strings.NewReplacer("_", "", ".", "").Replace(s)) }

// TestFieldsWithoutEffect are fields the code reads without doing anything with
// them, or would take for honoured ones.
func TestFieldsWithoutEffect(t *testing.T) {
	const hcm = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	for _, tc := range []struct {
		message, fields string
		want            class
	}{
		{hcm, "add_user_agent", accepted},
		{hcm + ".InternalAddressConfig", "unix_sockets", accepted},
		{"envoy.config.core.v3.Http2ProtocolOptions", "hpack_table_size max_outbound_frames max_outbound_control_frames connection_keepalive", accepted},
		{"envoy.config.core.v3.HttpProtocolOptions", "max_stream_duration", honoured},
		{"envoy.config.core.v3.UpstreamHttpProtocolOptions", "override_auto_sni_header", refused},
		{"envoy.config.core.v3.ConfigSource", "path path_config_source", refused},
		{"envoy.config.route.v3.RetryPolicy", "per_try_idle_timeout", accepted},
		{"envoy.config.route.v3.RouteConfiguration", "request_mirror_policies", accepted},
		{"envoy.config.route.v3.VirtualHost", "request_mirror_policies cors hedge_policy", accepted},
		{"envoy.config.route.v3.RouteAction", "request_mirror_policies cors hedge_policy", accepted},
		{"envoy.config.route.v3.RouteAction", "max_stream_duration", honoured},
		{"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "max_connect_attempts backoff_options", honoured},
	} {
		got := map[string]class{}
		for _, e := range entriesOf(tc.message) {
			got[e.field] = e.class
		}
		for f := range strings.FieldsSeq(tc.fields) {
			if c, ok := got[f]; !ok || c != tc.want {
				t.Errorf("%s.%s: class %d, %v; want %d", tc.message, f, c, ok, tc.want)
			}
		}
	}
}

// TestDocument keeps docs/xds-fields.md what the table says.
func TestDocument(t *testing.T) {
	want := Document()
	if *update {
		if err := os.WriteFile(docPath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/xds-fields.md is stale; run go test ./internal/proxy/fieldpolicy -update")
	}
}

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func withFilter(t testing.TB, f *hcmv3.HttpFilter) *listenerv3.Listener {
	return withManager(t, &hcmv3.HttpConnectionManager{StatPrefix: "x", HttpFilters: []*hcmv3.HttpFilter{f}})
}

func withManager(t testing.TB, m *hcmv3.HttpConnectionManager) *listenerv3.Listener {
	return &listenerv3.Listener{Name: "l", FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{
			TypedConfig: pack(t, m),
		}}},
	}}}
}

func TestCheck(t *testing.T) {
	unknown := &hcmv3.HttpFilter{Name: "lua", ConfigType: &hcmv3.HttpFilter_TypedConfig{
		TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}}}
	optional := proto.Clone(unknown).(*hcmv3.HttpFilter)
	optional.IsOptional = true
	wrapped := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "type.googleapis.com/stats.PluginConfig")
	unknownField := &clusterv3.Cluster{Name: "c"}
	unknownField.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9999, protowire.VarintType), 1))

	fromFile := &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{Path: "/x"}}}

	for name, tc := range map[string]struct {
		msg  proto.Message
		want string // "" accepts
	}{
		"honoured and accepted fields": {&clusterv3.Cluster{Name: "c", WaitForWarmOnInit: wrapperspb.Bool(true)}, ""},
		"refused field":                {&clusterv3.Cluster{Name: "c", LrsServer: &corev3.ConfigSource{}}, "lrs_server: field is not supported"},
		"routes from a file": {
			withManager(t, &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "r", ConfigSource: fromFile}}}),
			"filters[0].typed_config.rds.config_source.path_config_source: field is not supported"},
		"virtual hosts from a file": {
			&routev3.RouteConfiguration{Name: "r", Vhds: &routev3.Vhds{ConfigSource: fromFile}},
			"vhds.config_source.path_config_source: field is not supported"},
		"endpoints from a file": {
			&clusterv3.Cluster{Name: "c", EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: fromFile}},
			"eds_cluster_config.eds_config.path_config_source: field is not supported"},
		"secrets from a file": {
			&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: "s", SdsConfig: fromFile}}}},
			"common_tls_context.tls_certificate_sds_secret_configs[0].sds_config.path_config_source: field is not supported"},
		"refused field inside a list": {
			&listenerv3.Listener{FilterChains: []*listenerv3.FilterChain{{}, {FilterChainMatch: &listenerv3.FilterChainMatch{AddressSuffix: "1"}}}},
			"filter_chains[1].filter_chain_match.address_suffix: field is not supported"},
		"unknown field number":         {unknownField, "unknown field with number 9999"},
		"unknown filter":               {withFilter(t, unknown), `filter_chains[0].filters[0].typed_config.http_filters[0].typed_config: extension type "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua" is not supported`},
		"unknown filter, optional":     {withFilter(t, optional), ""},
		"accepted filter in a wrapper": {withFilter(t, &hcmv3.HttpFilter{Name: "istio.stats", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/udpa.type.v1.TypedStruct", Value: wrapped}}}), ""},
		"refused field inside an Any":  {withFilter(t, &hcmv3.HttpFilter{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(t, &routerv3.Router{RespectExpectedRqTimeout: true})}}), "http_filters[0].typed_config.respect_expected_rq_timeout"},
		"broken Any":                   {withFilter(t, &hcmv3.HttpFilter{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: &anypb.Any{TypeUrl: typePrefix + "envoy.extensions.filters.http.router.v3.Router", Value: []byte{0xff}}}}), "decode envoy.extensions.filters.http.router.v3.Router"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(tc.msg)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	l := &listenerv3.Listener{}
	for range 100 {
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{FilterChainMatch: &listenerv3.FilterChainMatch{AddressSuffix: "1"}})
	}
	if n := strings.Count(fmt.Sprint(Check(l)), "\n") + 1; n != maxErrors {
		t.Errorf("%d errors, want %d", n, maxErrors)
	}
}

func FuzzCheckListener(f *testing.F) {
	for _, m := range []proto.Message{
		withFilter(f, &hcmv3.HttpFilter{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(f, &routerv3.Router{})}}),
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var l listenerv3.Listener
		if proto.Unmarshal(b, &l) == nil {
			_ = Check(&l)
		}
	})
}

func BenchmarkCheckCluster(b *testing.B) {
	c := &clusterv3.Cluster{Name: "c", LbPolicy: clusterv3.Cluster_LEAST_REQUEST, CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{}}}}
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(c); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRootsAreDistinct(t *testing.T) {
	if len(rootNames()) != len(roots) {
		t.Error("a root is listed twice")
	}
}
