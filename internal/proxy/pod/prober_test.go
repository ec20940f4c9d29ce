// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// statusPort serves the probers of ISTIO_KUBE_APP_PROBERS text as the status
// port does, and returns its address.
func statusPortOf(t *testing.T, text string) string {
	t.Helper()
	byPath, err := ParseProbers(text)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(nil)
	c := &Config{AppProbers: byPath, Status: s.Listener.Addr().String()}
	s.Config.Handler = newProbers(c, slog.New(slog.DiscardHandler))
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func probe(t *testing.T, addr, path string, change func(*http.Request)) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	resp, err := once.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestHTTPProbe(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/elsewhere":
			http.Redirect(w, r, "http://other.example/", http.StatusFound)
		case "/local":
			http.Redirect(w, r, "/ill", http.StatusFound)
		case "/ill":
			http.Error(w, "ill", http.StatusInternalServerError)
		case "/hang":
			<-r.Context().Done()
		default:
			fmt.Fprintf(w, "%s host=%s x=%s query=%s", r.URL.Path, r.Host, r.Header.Get("X-Probe"), r.URL.RawQuery)
		}
	}))
	t.Cleanup(app.Close)
	port := portOf(app.Listener.Addr().String())
	probers := map[string]any{}
	for name, path := range map[string]string{"ok": "ready?full=1", "elsewhere": "/elsewhere", "local": "/local", "ill": "/ill", "hang": "/hang"} {
		probers["/app-health/"+name+"/readyz"] = map[string]any{"httpGet": map[string]any{"path": path, "port": json.RawMessage(port), "httpHeaders": []Header{{"X-Probe", "yes"}}}, "timeoutSeconds": 1}
	}
	probers["/app-health/down/livez"] = map[string]any{"httpGet": map[string]any{"port": json.RawMessage(portOf(free(t)))}}
	probers["/app-health/host/livez"] = map[string]any{"httpGet": map[string]any{"port": port, "httpHeaders": []Header{{"Host", "a.example"}}}}
	text, err := json.Marshal(probers)
	if err != nil {
		t.Fatal(err)
	}
	addr := statusPortOf(t, string(text))
	for _, tc := range []struct {
		path string
		code int
		body string
	}{
		{"/app-health/ok/readyz", 200, "/ready host=127.0.0.1:" + port + " x=yes query=full=1"},
		{"/app-health/elsewhere/readyz", 200, ""}, // not followed out of the application
		{"/app-health/local/readyz", 500, "ill"},
		{"/app-health/ill/readyz", 500, "ill"},
		{"/app-health/hang/readyz", 500, "deadline exceeded"},
		{"/app-health/down/livez", 500, "refused"},
		{"/app-health/host/livez", 200, "host=a.example"},
		{"/app-health/ok/livez", 400, "no application probe is registered"},
		{"/app-health/../ok/readyz", 400, ""},
	} {
		code, body := probe(t, addr, tc.path, nil)
		if code != tc.code || !strings.Contains(body, tc.body) {
			t.Errorf("%s: %d %q, want %d with %q", tc.path, code, body, tc.code, tc.body)
		}
	}
	// What the kubelet says of the probe itself is handed on.
	_, body := probe(t, addr, "/app-health/ok/readyz", func(r *http.Request) {
		r.Host = "b.example"
		r.Header.Set("X-Probe", "kubelet")
	})
	if !strings.Contains(body, "host=b.example x=kubelet") {
		t.Errorf("got %q", body)
	}
}

func TestHTTPSProbeNeedsNoCertificate(t *testing.T) {
	app := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "secure") }))
	t.Cleanup(app.Close)
	addr := statusPortOf(t, `{"/app-health/c/startupz":{"httpGet":{"path":"/","scheme":"HTTPS","port":`+portOf(app.Listener.Addr().String())+`}}}`)
	if code, body := probe(t, addr, "/app-health/c/startupz", nil); code != 200 || body != "secure" {
		t.Errorf("got %d %q", code, body)
	}
}

func TestTCPProbe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := statusPortOf(t, `{"/app-health/c/livez":{"tcpSocket":{"port":`+portOf(ln.Addr().String())+`}},"/app-lifecycle/c/prestopz":{"tcpSocket":{"port":"`+portOf(free(t))+`"}}}`)
	if code, _ := probe(t, addr, "/app-health/c/livez", nil); code != 200 {
		t.Errorf("open port: %d", code)
	}
	if code, body := probe(t, addr, "/app-lifecycle/c/prestopz", nil); code != 500 || !strings.Contains(body, "refused") {
		t.Errorf("closed port: %d %q", code, body)
	}
}

func TestGRPCProbe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs, h := grpc.NewServer(), health.NewServer()
	h.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(gs, h)
	go func() { _ = gs.Serve(ln) }()
	t.Cleanup(gs.Stop)
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	none := grpc.NewServer()
	go func() { _ = none.Serve(bare) }()
	t.Cleanup(none.Stop)
	port := portOf(ln.Addr().String())
	addr := statusPortOf(t, `{"/app-health/a/livez":{"grpc":{"port":`+port+`}},
		"/app-health/b/livez":{"grpc":{"port":`+port+`,"service":"down"}},
		"/app-health/c/livez":{"grpc":{"port":`+portOf(bare.Addr().String())+`}}}`)
	for path, want := range map[string]string{"a": "200 ", "b": "500 service is NOT_SERVING", "c": "500 the server does not implement grpc.health.v1.Health"} {
		code, body := probe(t, addr, "/app-health/"+path+"/livez", nil)
		if got := fmt.Sprintf("%d %s", code, strings.TrimSpace(body)); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

func FuzzParseProbers(f *testing.F) {
	f.Add(`{"/app-health/c/livez":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"timeoutSeconds":1}}`)
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseProbers(s)
		for path := range m {
			if err == nil && !strings.HasPrefix(path, "/app-") {
				t.Errorf("path %q is taken", path)
			}
		}
	})
}
