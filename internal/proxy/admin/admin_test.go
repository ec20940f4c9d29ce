// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/listener"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

type fixture struct {
	*Proxy
	drains, stops, quits int
	state                string
}

func fixed(t *testing.T) *fixture {
	t.Helper()
	reg := telemetry.NewRegistry()
	reg.Counter("cluster_manager.cds.update_success").Inc()
	clusters := cluster.NewManager(cluster.Options{})
	t.Cleanup(clusters.Close)
	c := &clusterv3.Cluster{Name: "outbound|80||a", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, LoadAssignment: &endpointv3.ClusterLoadAssignment{
		ClusterName: "outbound|80||a", Endpoints: []*endpointv3.LocalityLbEndpoints{{
			Locality: &corev3.Locality{Region: "r", Zone: "z"}, Priority: 0,
			LbEndpoints: []*endpointv3.LbEndpoint{{HealthStatus: corev3.HealthStatus_UNHEALTHY, HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "127.0.0.9", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80}}}}}}}},
		}}}}
	if err := clusters.Update(c); err != nil {
		t.Fatal(err)
	}
	f := &fixture{state: "LIVE"}
	f.Proxy = &Proxy{
		Bootstrap: &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "n"}}, Registry: reg, Clusters: clusters,
		Listeners: listener.NewManager(listener.Options{}), Secrets: new(secret.Store), Level: new(slog.LevelVar),
		Version: "v", Started: time.Now(), State: func() string { return f.state },
		Drain: func() { f.drains++ }, StopListening: func() { f.stops++ }, Quit: func() { f.quits++ },
	}
	return f
}

func (f *fixture) do(method, target, host string) (int, string) {
	r := httptest.NewRequest(method, target, nil)
	r.Host = host
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestPages(t *testing.T) {
	f := fixed(t)
	for _, tc := range []struct {
		method, target string
		code           int
		want           string
	}{
		{"GET", "/ready", 200, "LIVE"},
		{"GET", "/stats", 200, "cluster_manager.cds.update_success: 1"},
		{"GET", "/stats?usedonly&filter=^cluster_manager", 200, "update_success: 1"},
		{"GET", "/stats?filter=(", 400, "invalid re2"},
		{"GET", "/stats?format=xml", 400, "usage"},
		{"GET", "/stats?format=prometheus", 200, "envoy_cluster_manager_cds_update_success"},
		{"GET", "/clusters", 200, "outbound|80||a::127.0.0.9:80::health_flags::/failed_eds_health"},
		{"GET", "/clusters?format=json", 200, `"eds_health_status": "UNHEALTHY"`},
		{"GET", "/listeners?format=json", 200, "listener_statuses"},
		{"GET", "/certs", 200, "certificates"},
		{"GET", "/server_info", 200, `"state": "LIVE"`},
		{"GET", "/memory", 200, "heap_size"},
		{"GET", "/help", 200, "/quitquitquit (POST)"},
		{"GET", "/config_dump?resource=static_clusters", 200, "configs"},
		{"GET", "/config_dump?resource=nothing", 404, "not found"},
		{"GET", "/config_dump?include_eds", 200, "EndpointsConfigDump"},
		{"GET", "/nothing", 404, "/help"},
		{"POST", "/logging?level=debug", 200, "lateen: debug"},
		{"POST", "/logging", 200, "lateen: debug"},
		{"POST", "/logging?level=loud", 400, "unknown logger level"},
		{"GET", "/quitquitquit", 405, "POST"},
		{"GET", "/drain_listeners", 405, "POST"},
		{"POST", "/ready", 405, "Not Allowed"},
	} {
		code, body := f.do(tc.method, tc.target, "127.0.0.1:15000")
		if code != tc.code || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s: %d %q, want %d with %q", tc.method, tc.target, code, body, tc.code, tc.want)
		}
	}
	f.state = "DRAINING"
	if code, body := f.do("GET", "/ready", "localhost"); code != 503 || body != "DRAINING\n" {
		t.Errorf("%d %q", code, body)
	}
	if f.quits+f.drains+f.stops != 0 {
		t.Error("a GET changed something")
	}
	f.do("POST", "/drain_listeners?graceful&inboundonly", "localhost")
	f.do("POST", "/drain_listeners", "localhost")
	f.do("POST", "/quitquitquit", "localhost")
	if f.drains != 2 || f.stops != 1 || f.quits != 1 {
		t.Errorf("drained %d, stopped %d, quit %d times", f.drains, f.stops, f.quits)
	}
}

func TestHostIsChecked(t *testing.T) {
	f := fixed(t)
	for host, code := range map[string]int{
		"localhost:15000": 200, "127.0.1.2:15000": 200, "[::1]:15000": 200, "127.0.0.1": 200,
		"evil.example:15000": 403, "localhost.evil.example": 403,
	} {
		if got, _ := f.do("GET", "/ready", host); got != code {
			t.Errorf("host %q: %d, want %d", host, got, code)
		}
	}
}

func TestHealthServesOnePath(t *testing.T) {
	f := fixed(t)
	for path, code := range map[string]int{"/healthz/ready": 200, "/config_dump": 404, "/quitquitquit": 404} {
		w := httptest.NewRecorder()
		f.Health().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != code {
			t.Errorf("%s: %d, want %d", path, w.Code, code)
		}
	}
}

// A kubelet that hears no asks again a second later: the first answer waits.
func TestHealthHoldsTheAnswerWhileTheProxyStarts(t *testing.T) {
	for name, c := range map[string]struct {
		starts bool
		code   int
		took   time.Duration
	}{
		"live in time": {true, 200, startHold / 4},
		"not live":     {false, 503, startHold},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				live, state := make(chan struct{}), "INITIALIZING"
				p := &Proxy{State: func() string { return state }, Live: live}
				if c.starts {
					time.AfterFunc(startHold/4, func() { state = "LIVE"; close(live) })
				}
				begin, w := time.Now(), httptest.NewRecorder()
				p.Health().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz/ready", nil))
				if w.Code != c.code || time.Since(begin) != c.took {
					t.Errorf("%d after %s, want %d after %s", w.Code, time.Since(begin), c.code, c.took)
				}
			})
		})
	}
}

func TestUnknownExtensionsPrintAsTheirType(t *testing.T) {
	m := &clusterv3.Cluster{Name: "c", TypedExtensionProtocolOptions: map[string]*anypb.Any{"x": {TypeUrl: "type.googleapis.com/stats.PluginConfig", Value: []byte{8, 1}}}}
	var got struct {
		Options map[string]map[string]any `json:"typed_extension_protocol_options"`
	}
	if err := json.Unmarshal(typed(m), &got); err != nil || got.Options["x"]["@type"] != "type.googleapis.com/stats.PluginConfig" {
		t.Errorf("%s, %v", typed(m), err)
	}
}

func TestSecretsAreRedacted(t *testing.T) {
	key := &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "hush"}}
	for _, m := range []proto.Message{
		&tlsv3.Secret{Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{PrivateKey: key, Password: key}}},
		&tlsv3.Secret{Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{Secret: key}}},
		&tlsv3.DownstreamTlsContext{SessionTicketKeysType: &tlsv3.DownstreamTlsContext_SessionTicketKeys{SessionTicketKeys: &tlsv3.TlsSessionTicketKeys{Keys: []*corev3.DataSource{key}}}},
		&corev3.GrpcService{InitialMetadata: []*corev3.HeaderValue{{Key: "authorization", Value: "hush"}}},
	} {
		wrapped, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		ts := &corev3.TransportSocket{ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: wrapped}}
		if out := string(typed(ts)); strings.Contains(out, "hush") {
			t.Errorf("%s", out)
		}
	}
}

func TestChangesFromAnotherOriginAreRefused(t *testing.T) {
	const host = "127.0.0.1:15000"
	for name, tc := range map[string]struct {
		host, origin, site string
		code               int
	}{
		"no browser":                      {host, "", "", 200},
		"same origin":                     {host, "http://" + host, "same-origin", 200},
		"same origin, old browser":        {host, "http://" + host, "", 200},
		"typed by the user":               {host, "", "none", 200},
		"foreign origin":                  {host, "http://evil.example", "", 403},
		"other port":                      {host, "http://127.0.0.1:8080", "", 403},
		"foreign origin, claimed as same": {host, "http://evil.example", "same-origin", 403},
		"opaque origin":                   {host, "null", "", 403},
		"opaque origin without a host":    {"", "null", "", 403},
		"unreadable origin":               {host, "http://[", "", 403},
		"cross-site":                      {host, "", "cross-site", 403},
		"same-site":                       {host, "http://" + host, "same-site", 403},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/quitquitquit", "/logging?level=debug", "/drain_listeners", "/healthcheck/fail"} {
				f := fixed(t)
				r := httptest.NewRequest(http.MethodPost, path, nil)
				r.Host = tc.host
				if tc.origin != "" {
					r.Header.Set("Origin", tc.origin)
				}
				if tc.site != "" {
					r.Header.Set("Sec-Fetch-Site", tc.site)
				}
				w := httptest.NewRecorder()
				f.Handler().ServeHTTP(w, r)
				if w.Code != tc.code {
					t.Errorf("%s: %d, want %d", path, w.Code, tc.code)
				}
				changed := f.quits+f.drains+f.stops > 0 || f.Level.Level() != slog.LevelInfo
				if changed != (tc.code == 200) {
					t.Errorf("%s: changed %v", path, changed)
				}
			}
		})
	}
	f := fixed(t)
	r := httptest.NewRequest(http.MethodGet, "/stats", nil)
	r.Host = host
	r.Header.Set("Origin", "http://evil.example")
	w := httptest.NewRecorder()
	if f.Handler().ServeHTTP(w, r); w.Code != 200 || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a page that only reads: %d, %v; want 200 that no other origin may read", w.Code, w.Header())
	}
}
