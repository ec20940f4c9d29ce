// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// environment is a pod's: variables as key=value, files by path.
func environment(files map[string]string, vars ...string) Environment {
	return Environment{
		Environ: func() []string { return vars },
		ReadFile: func(name string) ([]byte, error) {
			if text, ok := files[name]; ok {
				return []byte(text), nil
			}
			return nil, &fs.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		},
		Addresses: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.9.9.9")}, nil },
	}
}

func TestLoadWhatTheInjectorWrites(t *testing.T) {
	files := map[string]string{
		defaultLabels:      "app=\"todoui\"\ntopology.kubernetes.io/region=\"west\"\ntopology.kubernetes.io/zone=\"west-1\"\n",
		defaultAnnotations: "proxy.istio.io/config=\"concurrency: 3\\nproxyMetadata:\\n  ISTIO_META_DNS_CAPTURE: \\\"true\\\"\\n\"\n",
	}
	c, err := Load(Flags{Role: Sidecar, Domain: "default.svc.cluster.local"}, environment(files,
		"POD_NAME=todoui-1", "POD_NAMESPACE=default", "SERVICE_ACCOUNT=default", "INSTANCE_IP=10.244.0.13,fd00::d", "HOST_IP=10.0.0.2",
		"CA_ADDR=istiod-canary.istio-system.svc:15012",
		`PROXY_CONFIG={"discoveryAddress":"istiod-canary.istio-system.svc:15012","terminationDrainDuration":"20s","holdApplicationUntilProxyStarts":true,"concurrency":2,"tracing":{},"proxyMetadata":{"EXIT_ON_ZERO_ACTIVE_CONNECTIONS":"true"},"zipkin":"x"}`,
		"ISTIO_META_CLUSTER_ID=Kubernetes", `ISTIO_META_POD_PORTS=[{"containerPort":8090}]`, `ISTIO_METAJSON_EXTRA={"NETWORK":"n1"}`, "ISTIO_META_MESH_ID=cluster.local",
	))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.NodeID(), "sidecar~10.244.0.13~todoui-1.default~default.svc.cluster.local"; got != want {
		t.Errorf("node id %q, want %q", got, want)
	}
	want := map[string]any{
		"CLUSTER_ID": "Kubernetes", "POD_PORTS": `[{"containerPort":8090}]`, "NETWORK": "n1", "MESH_ID": "cluster.local",
		"NAME": "todoui-1", "NAMESPACE": "default", "SERVICE_ACCOUNT": "default", "INSTANCE_IPS": "10.244.0.13,fd00::d",
		"PILOT_SAN": []string{"istiod-canary.istio-system.svc"}, "LATEEN_VHDS": "true",
		"LABELS":      map[string]string{"app": "todoui", "topology.kubernetes.io/region": "west", "topology.kubernetes.io/zone": "west-1"},
		"ANNOTATIONS": map[string]string{"proxy.istio.io/config": "concurrency: 3\nproxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n"},
		"PROXY_CONFIG": map[string]any{
			"discoveryAddress": "istiod-canary.istio-system.svc:15012", "terminationDrainDuration": "20s", "holdApplicationUntilProxyStarts": true,
			"tracing": map[string]any{}, "zipkin": "x", "concurrency": 2,
			"proxyMetadata": map[string]any{"EXIT_ON_ZERO_ACTIVE_CONNECTIONS": "true"},
		},
	}
	if diff := cmp.Diff(want, c.Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if c.Proxy.Concurrency != 2 || !c.DrainToZero || c.MinimumDrain != 5*time.Second || c.ServiceCluster != "todoui.default" || c.CAAddress != "" || c.Plaintext {
		t.Errorf("got %+v", c)
	}
	if c.Admin != "127.0.0.1:15000" || c.Status != ":15020" || c.Health != ":15021" || c.Prometheus != ":15090" {
		t.Errorf("ports %s %s %s %s", c.Admin, c.Status, c.Health, c.Prometheus)
	}
	if got := strings.Join(c.Warnings, "|"); got != "PROXY_CONFIG: no effect here: tracing, zipkin" {
		t.Errorf("warnings %q", got)
	}
	bs, err := c.Bootstrap("1.0")
	if err != nil {
		t.Fatal(err)
	}
	if l := bs.Node.GetLocality(); l.GetRegion() != "west" || l.GetZone() != "west-1" {
		t.Errorf("locality %v", l)
	}
	if bs.ADS == nil || !bs.CDS || !bs.LDS {
		t.Error("the bootstrap does not follow a control plane")
	}
}

// Nobody has merged the annotation of a pod whose sidecar came without
// PROXY_CONFIG.
func TestLoadAnnotationWithoutProxyConfig(t *testing.T) {
	files := map[string]string{
		defaultAnnotations: "proxy.istio.io/config=\"concurrency: 3\\nproxyMetadata:\\n  ISTIO_META_DNS_CAPTURE: \\\"true\\\"\\n\"\n",
		"/mesh":            "defaultConfig: {concurrency: 4, discoveryAddress: 'lateend.mesh.svc:15010'}\n",
	}
	c, err := Load(Flags{Role: Sidecar, MeshConfigFile: "/mesh"}, environment(files, "POD_NAME=a", "POD_NAMESPACE=default"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Proxy.Concurrency != 3 || c.Metadata["DNS_CAPTURE"] != "true" || !c.Plaintext {
		t.Errorf("got %+v", c)
	}
}

func TestLoadDefaults(t *testing.T) {
	c, err := Load(Flags{Role: Router, MeshConfigFile: "/mesh"}, environment(map[string]string{"/mesh": "defaultConfig: {discoveryAddress: 'lateend.mesh.svc:15010'}\n"}, "POD_NAME=gw", "POD_NAMESPACE=edge"))
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeID() != "router~10.9.9.9~gw.edge~edge.svc.cluster.local" || !c.Plaintext || c.MinimumDrain != defaultTerminationDrain || c.DrainTime != defaultTerminationDrain {
		t.Errorf("got %+v", c)
	}
	bs, err := c.Bootstrap("")
	if err != nil {
		t.Fatal(err)
	}
	if bs.ADS.Cluster.GetTransportSocket() != nil {
		t.Error("TLS on the plaintext port")
	}
}

func TestLoadRefuses(t *testing.T) {
	base := []string{"POD_NAME=a", "POD_NAMESPACE=b"}
	for _, tc := range []struct{ env, want string }{
		{"POD_NAME=", "POD_NAME is not set: give it by the downward API"},
		{"INSTANCE_IP=10.0.0", `INSTANCE_IP: "10.0.0" is no IP address`},
		{"PROXY_CONFIG={", "PROXY_CONFIG: "},
		{`PROXY_CONFIG={"concurrency":-1}`, "PROXY_CONFIG: concurrency: -1 is negative"},
		{`PROXY_CONFIG={"statusPort":70000}`, "PROXY_CONFIG: statusPort: 70000 is no port"},
		{`PROXY_CONFIG={"terminationDrainDuration":"soon"}`, `PROXY_CONFIG: terminationDrainDuration: "soon" is no duration; write seconds as in 5s`},
		{`PROXY_CONFIG={"discoveryAddress":"istiod"}`, `discoveryAddress: "istiod" is not host:port`},
		{"CA_ADDR=:15012", `CA_ADDR: ":15012" is not host:port`},
		{"ENVOY_STATUS_PORT=x", `ENVOY_STATUS_PORT: "x" is no port`},
		{"SECRET_TTL=day", `SECRET_TTL: "day" is no duration`},
		{`ISTIO_KUBE_APP_PROBERS={"/etc":{"tcpSocket":{"port":1}}}`, `ISTIO_KUBE_APP_PROBERS: path "/etc" is neither`},
		{`ISTIO_KUBE_APP_PROBERS={"/app-health/c/livez":{}}`, "ISTIO_KUBE_APP_PROBERS: /app-health/c/livez: want one of httpGet, tcpSocket and grpc"},
		{`ISTIO_KUBE_APP_PROBERS={"/app-health/c/livez":{"tcpSocket":{"port":"web"}}}`, "ISTIO_KUBE_APP_PROBERS: port \"web\" is not a number"},
		{`ISTIO_PROMETHEUS_ANNOTATIONS={"scrape":"true","port":"0"}`, `ISTIO_PROMETHEUS_ANNOTATIONS: port "0" is not a number`},
		{"ISTIO_METAJSON_X=1", "ISTIO_METAJSON_X: "},
	} {
		_, err := Load(Flags{Role: Sidecar}, environment(nil, append(base[:2:2], tc.env)...))
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %s...", tc.env, err, tc.want)
		}
	}
	if _, err := Load(Flags{Role: "ztunnel"}, environment(nil, base...)); err == nil {
		t.Error("role ztunnel is taken")
	}
}

func TestLogLines(t *testing.T) {
	var b bytes.Buffer
	h := NewLogHandler(&b, slog.LevelInfo)
	r := slog.NewRecord(time.Date(2023, 2, 21, 12, 55, 5, 545859000, time.UTC), slog.LevelWarn, "two\nlines", 0)
	r.AddAttrs(slog.Any("ips", []netip.Addr{netip.MustParseAddr("10.0.0.1")}), slog.String("text", "a b"), slog.Group("g", slog.Int("n", 1)))
	if err := h.WithAttrs([]slog.Attr{slog.String("fixed", "x")}).WithGroup("p").Handle(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want := "2023-02-21T12:55:05.545859Z\twarn\ttwo\\nlines\tfixed=x p.ips=[10.0.0.1] p.text=\"a b\" p.g.n=1\n"
	if b.String() != want {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
	if h.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug is on")
	}
}

func FuzzParseProxyConfig(f *testing.F) {
	f.Add([]byte(`{"concurrency":2,"proxyMetadata":{"A":"b"}}`))
	f.Add([]byte("terminationDrainDuration: 5s\nstatusPort: 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c ProxyConfig
		if _, err := ParseProxyConfig(b, &c); err == nil && c.Concurrency < 0 {
			t.Error("negative concurrency is taken")
		}
	})
}

func FuzzParsePodinfo(f *testing.F) {
	f.Add("a=\"b\"\nc=\"d\\ne\"\n")
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := parsePodinfo(s); err == nil && m == nil {
			t.Error("neither a map nor an error")
		}
	})
}
