// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/lateen-mesh/lateen/internal/identity"
	"github.com/lateen-mesh/lateen/internal/identity/identitytest"
	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// patience bounds what a test waits for; nothing asserts on it.
const patience = 30 * time.Second

// plane is a small control plane with its certificate authority, on one TLS
// port as lateend's 15012.
type plane struct {
	securityv1alpha1.UnimplementedIstioCertificateServiceServer
	addr  string
	ca    *identitytest.Authority
	token func() string // the one that is right now

	mu     sync.Mutex
	has    map[string]map[string]*anypb.Any                // by type, name
	send   func(*discoveryv3.DeltaDiscoveryResponse) error // of the open stream
	pushed int
	node   *corev3.Node
	signed int
	grpc   *grpc.Server
}

func newPlane(t *testing.T, ca *identitytest.Authority, token func() string) *plane {
	t.Helper()
	pl := &plane{ca: ca, token: token, has: map[string]map[string]*anypb.Any{}}
	pl.start(t, "127.0.0.1:0")
	t.Cleanup(func() { pl.grpc.Stop() })
	return pl
}

func (pl *plane) start(t *testing.T, addr string) {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	pl.addr = lis.Addr().String()
	cert := pl.ca.Issue(t, "istiod", defaultServerName)
	pl.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert})))
	securityv1alpha1.RegisterIstioCertificateServiceServer(pl.grpc, pl)
	pl.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.discovery.v3.AggregatedDiscoveryService", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true, Handler: pl.stream}},
	}, struct{}{})
	gs := pl.grpc
	go func() { _ = gs.Serve(lis) }()
}

func (pl *plane) authenticate(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if got := md.Get("authorization"); len(got) != 1 || got[0] != "Bearer "+pl.token() {
		return status.Error(codes.Unauthenticated, "wrong token")
	}
	return nil
}

func (pl *plane) CreateCertificate(ctx context.Context, r *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
	if err := pl.authenticate(ctx); err != nil {
		return nil, err
	}
	chain, err := pl.ca.SignCSR([]byte(r.GetCsr()), identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"}, time.Duration(r.GetValidityDuration())*time.Second)
	if err != nil {
		return nil, err
	}
	pl.mu.Lock()
	pl.signed++
	pl.mu.Unlock()
	return &securityv1alpha1.IstioCertificateResponse{CertChain: chain}, nil
}

func (pl *plane) stream(_ any, st grpc.ServerStream) error {
	if err := pl.authenticate(st.Context()); err != nil {
		return err
	}
	pl.mu.Lock()
	pl.send = func(r *discoveryv3.DeltaDiscoveryResponse) error {
		pl.pushed++
		r.Nonce = fmt.Sprint(pl.pushed)
		return st.SendMsg(r)
	}
	pl.mu.Unlock()
	for {
		r := new(discoveryv3.DeltaDiscoveryRequest)
		if err := st.RecvMsg(r); err != nil {
			return nil
		}
		pl.mu.Lock()
		if r.GetNode() != nil {
			pl.node = r.GetNode()
		}
		resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.GetTypeUrl()}
		for n, a := range pl.has[r.GetTypeUrl()] {
			for _, sub := range r.GetResourceNamesSubscribe() {
				if sub == "*" || sub == n {
					resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: n, Version: fmt.Sprint(pl.pushed), Resource: a})
				}
			}
		}
		var err error
		if len(r.GetResourceNamesSubscribe()) > 0 {
			err = pl.send(resp)
		}
		pl.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// push sends a resource as it is now to the proxy.
func (pl *plane) push(t *testing.T, typ xdsclient.Type, name string) {
	t.Helper()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typ.URL()}
	r.Resources = append(r.Resources, &discoveryv3.Resource{Name: name, Version: fmt.Sprint("p", pl.pushed), Resource: pl.has[typ.URL()][name]})
	if err := pl.send(r); err != nil {
		t.Error(err)
	}
}

func (pl *plane) set(t *testing.T, typ xdsclient.Type, name, text string) {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	v["@type"] = typ.URL()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	a := new(anypb.Any)
	if err := protojson.Unmarshal(b, a); err != nil {
		t.Fatal(err)
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.has[typ.URL()] == nil {
		pl.has[typ.URL()] = map[string]*anypb.Any{}
	}
	pl.has[typ.URL()][name] = a
}

func socket(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf("{socket_address: {address: %q, port_value: %s}}", host, port)
}

// route has the proxy listen at in and send everything to origin.
func (pl *plane) route(t *testing.T, in, origin string) { pl.routeWith(t, in, origin, "") }

// routeTLS is route with mutual TLS.
func (pl *plane) routeTLS(t *testing.T, in, origin string) {
	pl.routeWith(t, in, origin, "  transport_socket: "+tlsSocket("DownstreamTlsContext", "require_client_certificate: true, ")+"\n")
}

func (pl *plane) routeWith(t *testing.T, in, origin, more string) {
	pl.set(t, xdsclient.Clusters, "inbound|80||", `{name: "inbound|80||", type: STATIC, load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: `+socket(origin)+`}}]}]}}`)
	pl.set(t, xdsclient.Listeners, "virtualInbound", `
name: virtualInbound
address: `+socket(in)+`
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: in
      route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: "inbound|80||"}}]}]}
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`+more)
}

// logged collects a proxy's log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func portOf(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// podEnv is the environment of a pod whose files are in a directory of the test.
type podEnv struct {
	dir  string
	vars map[string]string
}

func newPodEnv(t *testing.T, discovery string) *podEnv {
	t.Helper()
	e := &podEnv{dir: t.TempDir()}
	e.vars = map[string]string{
		"POD_NAME": "cart-5d9", "POD_NAMESPACE": "shop", "SERVICE_ACCOUNT": "cart", "INSTANCE_IP": "127.0.0.1",
		"CA_ADDR": discovery, "XDS_ROOT_CA": filepath.Join(e.dir, "root-cert.pem"), "LATEEN_TOKEN_FILE": filepath.Join(e.dir, "istio-token"),
		"ENVOY_STATUS_PORT": portOf(free(t)), "ENVOY_PROMETHEUS_PORT": portOf(free(t)),
		"PROXY_CONFIG": fmt.Sprintf(`{"discoveryAddress":%q,"statusPort":%s,"proxyAdminPort":%s,"terminationDrainDuration":"0.3s"}`, discovery, portOf(free(t)), portOf(free(t))),
	}
	return e
}

func (e *podEnv) write(t *testing.T, name, text string) {
	t.Helper()
	tmp := filepath.Join(e.dir, name+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(e.dir, name)); err != nil {
		t.Fatal(err)
	}
}

func (e *podEnv) environment() Environment {
	var list []string
	for k, v := range e.vars {
		list = append(list, k+"="+v)
	}
	return Environment{
		Environ:  func() []string { return list },
		ReadFile: func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(e.dir, filepath.Base(name))) },
	}
}

// runningPod is a proxy of a test.
type runningPod struct {
	c    *Config
	log  *logged
	stop func() // as SIGTERM
	done chan struct{}
	err  error
}

func start(t *testing.T, e *podEnv) *runningPod {
	t.Helper()
	c, err := Load(Flags{Role: Sidecar}, e.environment())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &runningPod{c: c, log: new(logged), stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = Run(ctx, c, Program{Version: "1.2.3", Log: slog.New(NewLogHandler(p.log, slog.LevelInfo))})
	}()
	t.Cleanup(func() {
		cancel()
		p.await(t)
		if t.Failed() {
			t.Logf("the proxy's log:\n%s", p.log)
		}
	})
	return p
}

// await waits for the end.
func (p *runningPod) await(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
		if p.err != nil {
			t.Error(p.err)
		}
	case <-time.After(patience):
		t.Fatal("the proxy does not end")
	}
}

// eventually waits until f says nothing is missing any more.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var once = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

// ask sends a request on a connection of its own.
func ask(method, url string) (int, string, error) {
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := once.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func want(t *testing.T, url string, code int, text string) {
	t.Helper()
	eventually(t, func() error {
		got, body, err := ask(http.MethodGet, url)
		if err != nil || got != code || !strings.Contains(body, text) {
			return fmt.Errorf("GET %s: %d %.300q %v, want %d with %q", url, got, body, err, code, text)
		}
		return nil
	})
}
