// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/xds"
)

// TestGRPCFollowsWeights connects grpc-go's own xDS client to lateend, with the
// node metadata Istio's agent writes for proxyless gRPC, and holds its calls to
// the weights of a VirtualService, before and after a change.
func TestGRPCFollowsWeights(t *testing.T) {
	dir := t.TempDir()
	v1, v2 := version(t, "v1"), version(t, "v2")
	write(t, dir, "services.yaml", fmt.Sprintf(echoServices, v1, v2))
	write(t, dir, "route.yaml", fmt.Sprintf(echoRoute, 80, 20))
	xdsPort, tlsPort, debugPort := freePort(t), freePort(t), freePort(t)
	start(t, binary(t, "lateend"),
		"--config-dir", dir, "--state-dir", filepath.Join(t.TempDir(), "state"), "--socket", filepath.Join(t.TempDir(), "s"), "--name", "interop",
		"--xds-plaintext-address", loopback(xdsPort), "--xds-address", loopback(tlsPort), "--debug-address", loopback(debugPort))

	bootstrap := fmt.Sprintf(grpcBootstrap, loopback(xdsPort))
	resolver, err := xds.NewXDSResolverWithConfigForTesting([]byte(bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///echo.default.svc.cluster.local:7070", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := grpc_health_v1.NewHealthClient(conn)

	eventually(t, "first call", func() error {
		_, err := call(client)
		return err
	})
	share(t, client, 0.2)

	write(t, dir, "route.yaml", fmt.Sprintf(echoRoute, 0, 100))
	eventually(t, "the new weights", func() error {
		for range 30 {
			if v, err := call(client); err != nil || v != "v2" {
				return fmt.Errorf("served by %q, %v", v, err)
			}
		}
		return nil
	})
	share(t, client, 1)
}

// share makes 1,000 calls and holds v2's share to want, within five standard
// deviations.
func share(t *testing.T, client grpc_health_v1.HealthClient, want float64) {
	t.Helper()
	const n = 1000
	got := 0
	for range n {
		v, err := call(client)
		if err != nil {
			t.Fatal(err)
		}
		if v == "v2" {
			got++
		}
	}
	t.Logf("v2 served %d of %d calls, weight %.0f%%", got, n, 100*want)
	if d := math.Abs(float64(got) - n*want); d > 5*math.Sqrt(n*want*(1-want)) {
		t.Errorf("v2 served %d of %d calls, want a share of %.2f", got, n, want)
	}
}

func call(client grpc_health_v1.HealthClient) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var header metadata.MD
	if _, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
		return "", err
	}
	if v := header.Get("version"); len(v) == 1 {
		return v[0], nil
	}
	return "", fmt.Errorf("no version in %v", header)
}

// version starts a gRPC server that tells its version, and returns its port.
func version(t *testing.T, v string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, versioned{v: v})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().(*net.TCPAddr).Port
}

type versioned struct {
	grpc_health_v1.UnimplementedHealthServer
	v string
}

func (s versioned) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if err := grpc.SetHeader(ctx, metadata.Pairs("version", s.v)); err != nil {
		return nil, err
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const echoServices = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 7070, name: grpc, protocol: GRPC}]
  endpoints:
  - {address: 127.0.0.1, ports: {grpc: %d}, labels: {version: v1}}
  - {address: 127.0.0.1, ports: {grpc: %d}, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo.default.svc.cluster.local
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
`

const echoRoute = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo.default.svc.cluster.local]
  http:
  - route:
    - {destination: {host: echo.default.svc.cluster.local, subset: v1}, weight: %d}
    - {destination: {host: echo.default.svc.cluster.local, subset: v2}, weight: %d}
`

const grpcBootstrap = `{
  "xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
  "node": {
    "id": "sidecar~127.0.0.9~caller.default~default.svc.cluster.local",
    "metadata": {"GENERATOR": "grpc", "NAMESPACE": "default", "CLUSTER_ID": "Kubernetes", "INSTANCE_IPS": "127.0.0.9"}
  },
  "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%%s"
}`
