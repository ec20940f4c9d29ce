// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/identity/identitytest"
	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
)

// patience bounds what a test waits for; nothing asserts on it.
const patience = 30 * time.Second

func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func socket(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	return fmt.Sprintf("{socket_address: {address: %q, port_value: %s}}", host, port)
}

// staticYAML is a proxy with one listener and one cluster; the extras are
// transport sockets, or empty.
func staticYAML(admin, in, origin, inTLS, outTLS string) string {
	return fmt.Sprintf(`
admin: {address: %s}
static_resources:
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 10s
    load_assignment: {cluster_name: origin, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}
    %s
  listeners:
  - address: %s
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: origin}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
      %s
`, socket(admin), socket(origin), outTLS, socket(in), inTLS)
}

// proxy is a running proxy of a test.
type proxy struct {
	*Server
	stop func() // begins the drain
	done chan error
}

func run(t *testing.T, yaml string, o Options) *proxy {
	t.Helper()
	bs, err := bootstrap.Parse([]byte(yaml), bootstrap.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if o.DrainTime == 0 {
		o.DrainTime = time.Second
	}
	o.Stdout, o.Stderr = io.Discard, io.Discard
	s, err := newServer(bs, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &proxy{Server: s, stop: cancel, done: make(chan error, 1)}
	go func() { p.done <- s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-p.done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the proxy does not end")
		}
	})
	return p
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

func (p *proxy) awaitReady(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		select {
		case err := <-p.done:
			p.done <- nil
			t.Fatalf("ended: %v", err)
		default:
		}
		if !p.Ready() {
			return fmt.Errorf("not ready: %s", p.state())
		}
		return nil
	})
}

// get asks without keeping the connection.
func get(url string) (int, string, error) {
	c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

func want(t *testing.T, url string, status int, part string) {
	t.Helper()
	code, body, err := get(url)
	if err != nil || code != status || !strings.Contains(body, part) {
		t.Errorf("%s: %d %q, %v; want %d with %q", url, code, body, err, status, part)
	}
}

func TestStaticServesAndDrainsInOrder(t *testing.T) {
	inOrigin, release := make(chan struct{}), make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(inOrigin)
			<-release
		}
		io.WriteString(w, "hello "+r.URL.Path)
	}))
	defer origin.Close()
	admin, in := free(t), free(t)
	p := run(t, staticYAML(admin, in, origin.Listener.Addr().String(), "", ""), Options{DrainTime: patience})
	p.awaitReady(t)
	want(t, "http://"+in+"/x", 200, "hello /x")
	want(t, "http://"+admin+"/ready", 200, "LIVE")

	slow := make(chan string, 1)
	go func() {
		code, body, err := get("http://" + in + "/slow")
		slow <- fmt.Sprint(code, " ", body, " ", err)
	}()
	<-inOrigin
	p.stop()
	eventually(t, func() error {
		if p.state() != "DRAINING" {
			return fmt.Errorf("state %s", p.state())
		}
		return nil
	})
	want(t, "http://"+admin+"/ready", 503, "DRAINING")
	want(t, "http://"+in+"/late", 200, "hello /late") // whoever has not heard yet
	close(release)
	if got := <-slow; got != "200 hello /slow <nil>" {
		t.Errorf("request in flight: %s", got)
	}
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	p.done <- nil
	if _, err := net.Dial("tcp", in); err == nil {
		t.Error("still listening")
	}
}

func TestBadBootstrapIsAnError(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, tc := range map[string]struct{ yaml, want string }{
		"listener address in use": {staticYAML(free(t), busy.Addr().String(), "127.0.0.1:1", "", ""), "address already in use"},
		"admin address in use":    {staticYAML(busy.Addr().String(), free(t), "127.0.0.1:1", "", ""), "admin port"},
		"cluster refused":         {staticYAML(free(t), free(t), "127.0.0.1:1", "", "lb_policy: CLUSTER_PROVIDED"), `"origin"`},
	} {
		t.Run(name, func(t *testing.T) {
			bs, err := bootstrap.Parse([]byte(tc.yaml), bootstrap.Options{})
			if err != nil {
				t.Fatal(err)
			}
			err = Run(t.Context(), bs, Options{Stdout: io.Discard, Stderr: io.Discard})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

// A bootstrap that is read leniently skips the field policy; routes that would
// never come are refused all the same.
func TestRoutesFromAFileAreRefused(t *testing.T) {
	for _, source := range []string{"path_config_source: {path: /routes}", "path: /routes"} {
		yaml := strings.Replace(staticYAML(free(t), free(t), "127.0.0.1:1", "", ""), "route_config: {virtual_hosts", "rds: {route_config_name: r, config_source: {"+source+"}}\n          # {virtual_hosts", 1)
		if _, err := bootstrap.Parse([]byte(yaml), bootstrap.Options{}); err == nil || !strings.Contains(err.Error(), "rds.config_source."+strings.SplitN(source, ":", 2)[0]) {
			t.Errorf("strict: error %v", err)
		}
		bs, err := bootstrap.Parse([]byte(yaml), bootstrap.Options{AllowUnknownFields: true})
		if err != nil {
			t.Fatal(err)
		}
		err = Run(t.Context(), bs, Options{Stdout: io.Discard, Stderr: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "routes from a file are not supported") {
			t.Errorf("lenient: error %v", err)
		}
	}
}

// material writes a workload's certificate files and returns the transport
// sockets of both sides.
func material(t *testing.T, ca *identitytest.Authority, account, peer string) (server, client string) {
	t.Helper()
	dir := t.TempDir()
	chain, key := ca.IssuePEM(t, account)
	for name, b := range map[string][]byte{"chain": chain, "key": key, "root": ca.RootPEM()} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	common := fmt.Sprintf(`common_tls_context: {alpn_protocols: [http/1.1], tls_certificates: [{certificate_chain: {filename: %q}, private_key: {filename: %q}}], validation_context: {trusted_ca: {filename: %q}, match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: "spiffe://cluster.local/ns/default/sa/%s"}}]}}`,
		filepath.Join(dir, "chain"), filepath.Join(dir, "key"), filepath.Join(dir, "root"), peer)
	server = `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: true, ` + common + `}}`
	client = `transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, ` + common + `}}`
	return server, client
}

func TestMutualTLSBetweenTwoProxies(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "behind mTLS") }))
	defer origin.Close()
	ca := identitytest.New(t)
	in := free(t)
	serverTLS, _ := material(t, ca, "server", "client")
	run(t, staticYAML(free(t), in, origin.Listener.Addr().String(), serverTLS, ""), Options{}).awaitReady(t)

	front := func(ca *identitytest.Authority, account, peer string) string {
		_, clientTLS := material(t, ca, account, peer)
		addr := free(t)
		run(t, staticYAML(free(t), addr, in, "", clientTLS), Options{}).awaitReady(t)
		return "http://" + addr + "/"
	}
	want(t, front(ca, "client", "server"), 200, "behind mTLS")
	want(t, front(ca, "client", "other"), 503, "")                   // the server is not whom the client wants
	want(t, front(ca, "stranger", "server"), 503, "")                // the client is not whom the server wants
	want(t, front(identitytest.New(t), "client", "server"), 503, "") // another authority
	if _, _, err := get("http://" + in + "/"); err == nil {
		t.Error("plain text was answered")
	}
}

// TestForwardedClientCertNamesTheServer: By is the URI of the certificate the
// listener used, also where a resumed session showed none.
func TestForwardedClientCertNamesTheServer(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Join(r.Header.Values("X-Forwarded-Client-Cert"), "\n"))
	}))
	defer origin.Close()
	ca := identitytest.New(t)
	in := free(t)
	serverTLS, _ := material(t, ca, "server", "client")
	yaml := staticYAML(free(t), in, origin.Listener.Addr().String(), serverTLS, "")
	yaml = strings.Replace(yaml, "stat_prefix: in", "stat_prefix: in\n          forward_client_cert_details: APPEND_FORWARD\n          set_current_client_cert_details: {uri: true}", 1)
	run(t, yaml, Options{}).awaitReady(t)

	cert := ca.Issue(t, "client")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, ServerName: "server", MaxVersion: version,
			ClientSessionCache: tls.NewLRUClientSessionCache(1),
		}}}
		for _, resumed := range []bool{false, true} {
			req, err := http.NewRequest(http.MethodGet, "https://"+in+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			before := ""
			if resumed {
				req.Header.Set("X-Forwarded-Client-Cert", "By=before")
				before = "By=before,"
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			want := before + fmt.Sprintf("By=spiffe://cluster.local/ns/default/sa/server;Hash=%x;URI=spiffe://cluster.local/ns/default/sa/client", sha256.Sum256(cert.Certificate[0]))
			if err != nil || string(b) != want {
				t.Errorf("%s: got %q, %v; want %q", tls.VersionName(version), b, err, want)
			}
			if resp.TLS.DidResume != resumed {
				t.Errorf("%s: resumed %v, want %v", tls.VersionName(version), resp.TLS.DidResume, resumed)
			}
		}
	}
}

func TestConfigDumpIsRedacted(t *testing.T) {
	ca := identitytest.New(t)
	chain, key := ca.IssuePEM(t, "server")
	inline := fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: %q}, private_key: {inline_string: %q}}]}}}`, chain, key)
	admin := free(t)
	p := run(t, staticYAML(admin, free(t), "127.0.0.1:1", inline, ""), Options{})
	p.awaitReady(t)
	code, body, err := get("http://" + admin + "/config_dump")
	if err != nil || code != 200 {
		t.Fatal(code, err)
	}
	if strings.Contains(body, "PRIVATE KEY") || !strings.Contains(body, "BEGIN CERTIFICATE") {
		t.Error("the key is shown, or the certificate is not")
	}
	var dump struct {
		Configs []map[string]any `json:"configs"`
	}
	if err := json.Unmarshal([]byte(body), &dump); err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, c := range dump.Configs {
		types = append(types, strings.TrimPrefix(c["@type"].(string), "type.googleapis.com/envoy.admin.v3."))
	}
	if got := strings.Join(types, " "); got != "BootstrapConfigDump ClustersConfigDump ListenersConfigDump ScopedRoutesConfigDump RoutesConfigDump SecretsConfigDump EcdsConfigDump" {
		t.Errorf("parts %s", got)
	}
}
