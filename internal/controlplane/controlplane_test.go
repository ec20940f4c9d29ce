// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/identity"
	"github.com/lateen-mesh/lateen/internal/xds"
)

const services = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews.default.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9080, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.1.5, labels: {version: v1}}]
`

// start runs a control plane until the test ends and returns its client and
// what it says of itself.
func start(t *testing.T, files map[string]string) (*api.Client, *api.Version) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lateen") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "config")
	if err := os.Mkdir(config, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(config, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	socket := filepath.Join(dir, "s")
	go func() {
		done <- Run(ctx, Options{
			Name: "test", Version: "1", ConfigDir: config, StateDir: filepath.Join(dir, "state"), Socket: socket,
			SecureAddress: "127.0.0.1:0", PlainAddress: "127.0.0.1:0", DebugAddress: "127.0.0.1:0",
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if _, err := os.Stat(socket); err == nil {
			t.Error("the socket is left behind")
		}
	})
	client := api.NewClient(socket)
	t.Cleanup(client.Close)
	for {
		v, err := client.Version(t.Context())
		if err == nil {
			return client, v
		}
		select {
		case err := <-done:
			t.Fatalf("Run ended: %v", err)
		case <-t.Context().Done():
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func node(namespace string) *corev3.Node {
	return &corev3.Node{Id: "sidecar~127.0.1.2~p." + namespace + "~" + namespace + ".svc.cluster.local", Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
		"NAMESPACE": structpb.NewStringValue(namespace), "INTERCEPTION_MODE": structpb.NewStringValue("NONE"), "LATEEN_VHDS": structpb.NewStringValue("true"),
	}}}
}

type stream = grpc.BidiStreamingClient[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]

func connect(t *testing.T, address string, creds credentials.TransportCredentials, token string) stream {
	t.Helper()
	cc, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	ctx := t.Context()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	s, err := discovery.NewAggregatedDiscoveryServiceClient(cc).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// clusters subscribes to clusters and returns the names of the first answer.
func clusters(t *testing.T, s stream, n *corev3.Node) ([]string, error) {
	t.Helper()
	if err := s.Send(&discovery.DeltaDiscoveryRequest{Node: n, TypeUrl: xds.ClusterType}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err) // EOF: the stream has ended, Recv says why
	}
	r, err := s.Recv()
	if err != nil {
		return nil, err
	}
	return names(r), s.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, ResponseNonce: r.Nonce})
}

func names(r *discovery.DeltaDiscoveryResponse) []string {
	var out []string
	for _, x := range r.Resources {
		out = append(out, x.Name)
	}
	return out
}

func manifest(kind, name, spec string) []byte {
	return []byte(`{"apiVersion":"networking.istio.io/v1","kind":"` + kind + `","metadata":{"name":"` + name + `","namespace":"default"},"spec":` + spec + `}`)
}

func TestApplyReachesProxy(t *testing.T) {
	client, v := start(t, map[string]string{"services.yaml": services})
	s := connect(t, v.Addresses["xds-plaintext"], insecure.NewCredentials(), "")
	got, err := clusters(t, s, node("default"))
	if err != nil || !strings.Contains(strings.Join(got, " "), "outbound|9080||reviews.default.svc.cluster.local") {
		t.Fatalf("clusters %v, error %v", got, err)
	}
	const rule = `{"host":"reviews","subsets":[{"name":"v1","labels":{"version":"v1"}}]}`
	done, err := client.Apply(t.Context(), manifest("DestinationRule", "reviews", rule))
	if err != nil || done.Result != "created" {
		t.Fatalf("apply: %+v, %v", done, err)
	}
	r, err := s.Recv()
	if err != nil || !strings.Contains(strings.Join(names(r), " "), "outbound|9080|v1|reviews.default.svc.cluster.local") {
		t.Fatalf("after the rule: %v, %v", names(r), err)
	}
	wait, err := client.Wait(t.Context(), api.WaitRequest{Epoch: done.Epoch, Timeout: time.Millisecond})
	if err != nil || len(wait.Waiting) != 1 || wait.Waiting[0].Proxy != "p.default" {
		t.Fatalf("before it answers: %+v, %v", wait, err)
	}
	if err := s.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ClusterType, ResponseNonce: r.Nonce}); err != nil {
		t.Fatal(err)
	}
	wait, err = client.Wait(t.Context(), api.WaitRequest{Epoch: done.Epoch, Timeout: time.Minute})
	if err != nil || len(wait.Waiting) != 0 {
		t.Fatalf("after it answered: %+v, %v", wait, err)
	}
	list, err := client.Proxies(t.Context())
	if err != nil || len(list.Items) != 1 || list.Items[0].Types["CDS"].Status != "SYNCED" || list.Items[0].Address != "127.0.1.2" {
		t.Errorf("proxies: %+v, %v", list, err)
	}
	again, err := client.Apply(t.Context(), manifest("DestinationRule", "reviews", rule))
	if err != nil || again.Result != "unchanged" {
		t.Errorf("apply again: %+v, %v", again, err)
	}
}

func TestHeldBackIsReported(t *testing.T) {
	client, _ := start(t, map[string]string{"services.yaml": services})
	steps := []struct{ kind, spec string }{
		{"DestinationRule", `{"host":"reviews","subsets":[{"name":"v1","labels":{"version":"v1"}}]}`},
		{"VirtualService", `{"hosts":["reviews"],"http":[{"route":[{"destination":{"host":"reviews","subset":"v1"}}]}]}`},
		{"VirtualService", `{"hosts":["reviews"],"http":[{"route":[{"destination":{"host":"reviews","subset":"v7"}}]}]}`},
	}
	var last *api.ApplyResponse
	for _, s := range steps {
		var err error
		if last, err = client.Apply(t.Context(), manifest(s.kind, "reviews", s.spec)); err != nil {
			t.Fatal(err)
		}
	}
	if len(last.Warnings) == 0 || !strings.Contains(last.Warnings[len(last.Warnings)-1], `subset "v7"`) {
		t.Errorf("warnings %v", last.Warnings)
	}
	list, err := client.List(t.Context(), "vs", "", "")
	if err != nil || len(list.Items) != 1 || list.Items[0].Held == "" {
		t.Errorf("list: %+v, %v", list, err)
	}
	found, err := client.Findings(t.Context())
	if err != nil || len(found.Items) != 1 || found.Items[0].Code != api.CodeHeld {
		t.Errorf("findings: %+v, %v", found, err)
	}
	if _, err := client.Delete(t.Context(), "vs", "default", "reviews"); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	client, v := start(t, map[string]string{"bad.yaml": "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selectr: {a: b}}\n"})
	code := func(err error) string {
		e := (*api.Error)(nil)
		if errors.As(err, &e) {
			return e.Code
		}
		return "?"
	}
	if _, err := client.List(t.Context(), "nonsense", "", ""); code(err) != "unknown_kind" {
		t.Errorf("unknown kind: %v", err)
	}
	if _, err := client.Delete(t.Context(), "vs", "default", "absent"); code(err) != "not_found" {
		t.Errorf("absent object: %v", err)
	}
	if _, err := client.Apply(t.Context(), manifest("VirtualService", "x", `{"hostz":[]}`)); code(err) != "invalid" {
		t.Errorf("bad object: %v", err)
	}
	found, err := client.Findings(t.Context())
	if err != nil || len(found.Items) == 0 || !strings.Contains(found.Items[0].Message, "selector") {
		t.Errorf("findings: %+v, %v", found, err)
	}
	s := connect(t, v.Addresses["xds-plaintext"], insecure.NewCredentials(), "")
	if _, err := clusters(t, s, &corev3.Node{Id: "what"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("bad node: %v", err)
	}
}

// TestRefusalIsPlaced holds that what a proxy refuses is reported on the object
// it comes from.
func TestRefusalIsPlaced(t *testing.T) {
	client, v := start(t, map[string]string{"gateway.yaml": `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: low, namespace: default}
spec:
  selector: {istio: gw}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
`})
	n := node("default")
	n.Id = strings.Replace(n.Id, "sidecar", "router", 1)
	labels, err := structpb.NewStruct(map[string]any{"istio": "gw"})
	if err != nil {
		t.Fatal(err)
	}
	n.Metadata.Fields["LABELS"] = structpb.NewStructValue(labels)
	s := connect(t, v.Addresses["xds-plaintext"], insecure.NewCredentials(), "")
	if err := s.Send(&discovery.DeltaDiscoveryRequest{Node: n, TypeUrl: xds.ListenerType}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	refusal := status.New(codes.InvalidArgument, "listener 0.0.0.0_80: bind: permission denied").Proto()
	if err := s.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: xds.ListenerType, ResponseNonce: r.Nonce, ErrorDetail: refusal}); err != nil {
		t.Fatal(err)
	}
	for {
		found, err := client.Findings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Items) > 0 {
			if f := found.Items[0]; f.Code != api.CodeRefused || f.Object != "Gateway/default/low" {
				t.Errorf("finding %+v", f)
			}
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestSecurePort(t *testing.T) {
	client, v := start(t, map[string]string{"services.yaml": services, "mesh.yaml": "trustDomain: example.org\n"})
	pem, err := os.ReadFile(v.RootFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	creds := func() credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: identity.ServerName, MinVersion: tls.VersionTLS12})
	}
	if _, err := clusters(t, connect(t, v.Addresses["xds"], creds(), ""), node("default")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	token, err := client.Token(t.Context(), api.TokenRequest{Namespace: "default", ServiceAccount: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clusters(t, connect(t, v.Addresses["xds"], creds(), token.Token), node("other")); status.Code(err) != codes.PermissionDenied {
		t.Errorf("as a proxy of another namespace: %v", err)
	}
	if _, err := clusters(t, connect(t, v.Addresses["xds"], creds(), token.Token), node("default")); err != nil {
		t.Errorf("with a token: %v", err)
	}
	list, err := client.Proxies(t.Context())
	if err != nil || len(list.Items) != 1 || list.Items[0].Identity != "spiffe://example.org/ns/default/sa/p" {
		t.Errorf("proxies: %+v, %v", list, err)
	}
}

func TestUnauthenticatedPortsAreLocal(t *testing.T) {
	for _, address := range []string{"0.0.0.0:15010", "10.0.0.1:15010", ":15010", "nonsense"} {
		if err := loopback(address); err == nil {
			t.Errorf("%s is taken", address)
		}
	}
}
