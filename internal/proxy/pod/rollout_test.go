// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3" // named in a route below

	"github.com/lateen-mesh/lateen/internal/identity/identitytest"
	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// TLS contexts as lateend writes them: the workload's certificate and the mesh's
// root by their names.
const (
	ownSecrets = `tls_certificate_sds_secret_configs: [{name: default, sds_config: {api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}, resource_api_version: V3}}]
validation_context_sds_secret_config: {name: ROOTCA, sds_config: {api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: sds-grpc}}]}, resource_api_version: V3}}`
	tlsTypes = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
)

func tlsSocket(kind, more string) string {
	return `{name: envoy.transport_sockets.tls, typed_config: {"@type": ` + tlsTypes + kind + `, ` + more + `common_tls_context: {` + strings.ReplaceAll(ownSecrets, "\n", ", ") + `}}}`
}

// backend is a pod of a service: its application and its sidecar with mutual
// TLS.
type backend struct {
	app  *http.Server
	ends atomic.Bool // the application says so on every answer
	ln   net.Listener
	addr string // of the sidecar
	pod  *runningPod
	e    *podEnv
}

func newBackend(t *testing.T, ca *identitytest.Authority) *backend {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{addr: free(t), ln: ln}
	b.app = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.ends.Load() {
			w.Header().Set("Connection", "close")
		}
		_, _ = io.Copy(w, r.Body)
		io.WriteString(w, "served")
	})}
	go func() {
		if err := b.app.Serve(ln); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { b.app.Close() })
	pl := newPlane(t, ca, func() string { return "t" })
	pl.routeTLS(t, b.addr, ln.Addr().String())
	b.e = newPodEnv(t, pl.addr)
	b.e.vars["PROXY_CONFIG"] = strings.Replace(b.e.vars["PROXY_CONFIG"], `"0.3s"`, `"3600s"`, 1) // no clock decides
	b.e.write(t, "root-cert.pem", string(ca.RootPEM()))
	b.e.write(t, "istio-token", "t")
	b.pod = start(t, b.e)
	t.Cleanup(func() { _, _, _ = ask(http.MethodPost, b.pod.status("/quitquitquit")) }) // those that are left
	want(t, b.pod.health(), 200, "LIVE")
	return b
}

// ending is how a pod ends.
type ending int

const (
	// The application takes no more connections and says so on those it has.
	politely ending = iota
	// It also closes those that are idle, as Go's servers do, and the sidecar is
	// told to end before anybody has heard.
	atOnce
	// It is gone, with requests half done, before its sidecar hears: Kubernetes
	// ends the application of a pod with a native sidecar first.
	gone
)

// remove ends the backend: its application, and the sidecar's preStop hook.
func (b *backend) remove(t *testing.T, how ending) {
	t.Helper()
	if how == gone {
		b.app.Close()
	}
	if code, _, err := ask(http.MethodPost, b.pod.status("/drain")); err != nil || code != 200 {
		t.Error(code, err)
	}
	switch how {
	case politely:
		b.ends.Store(true)
		b.ln.Close()
	case atOnce:
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.app.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		b.pod.stop()
	}
}

func endpoints(addrs ...string) string {
	var eps []string
	for _, a := range addrs {
		eps = append(eps, `{endpoint: {address: `+socket(a)+`}}`)
	}
	return `{cluster_name: svc, endpoints: [{lb_endpoints: [` + strings.Join(eps, ", ") + `]}]}`
}

// newCaller is the sidecar of a client of the backends; it listens on out.
func newCaller(t *testing.T, ca *identitytest.Authority, out string, addrs ...string) *plane {
	t.Helper()
	pl := newPlane(t, ca, func() string { return "t" })
	pl.set(t, xdsclient.Clusters, "outbound|80||svc", `{name: "outbound|80||svc", type: EDS, connect_timeout: 10s, circuit_breakers: {thresholds: [{max_retries: 4294967295}]}, eds_cluster_config: {eds_config: {ads: {}}, service_name: svc}, transport_socket: `+tlsSocket("UpstreamTlsContext", "sni: svc, ")+`}`)
	pl.set(t, xdsclient.Endpoints, "svc", endpoints(addrs...))
	pl.set(t, xdsclient.Listeners, "out", `
name: out
address: `+socket(out)+`
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: out
      route_config:
        virtual_hosts:
        - name: svc
          domains: ["*"]
          routes:
          - match: {prefix: /}
            route:
              cluster: outbound|80||svc
              timeout: 0s
              retry_policy: {retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", num_retries: 2, host_selection_retry_max_attempts: 5, retry_host_predicate: [{name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`)
	e := newPodEnv(t, pl.addr)
	e.write(t, "root-cert.pem", string(ca.RootPEM()))
	e.write(t, "istio-token", "t")
	p := start(t, e)
	want(t, p.health(), 200, "LIVE")
	return pl
}

// A service's pods are replaced one after the other under load. Each is told to
// end before its clients' proxies hear of it, and its application refuses
// connections by then. No request fails.
func TestRollingUpdateLosesNoRequest(t *testing.T) {
	t.Run("every method", func(t *testing.T) {
		replaceAll(t, politely, "GET", "POST", "PUT", "DELETE", "GET", "POST")
	})
	// A request on a connection that is closed at that moment may be seen or not:
	// only a safe one is sent again.
	t.Run("idle connections are closed", func(t *testing.T) {
		replaceAll(t, atOnce, "GET", "HEAD", "GET", "OPTIONS", "GET", "GET")
	})
	t.Run("the application is gone first", func(t *testing.T) {
		replaceAll(t, gone, "GET", "HEAD", "GET", "OPTIONS", "GET", "GET")
	})
}

func replaceAll(t *testing.T, how ending, methods ...string) {
	ca := identitytest.New(t)
	out := free(t)
	backends := []*backend{newBackend(t, ca), newBackend(t, ca), newBackend(t, ca)}
	addrs := func() (out []string) {
		for _, b := range backends {
			out = append(out, b.addr)
		}
		return out
	}
	pl := newCaller(t, ca, out, addrs()...)
	want(t, "http://"+out+"/", 200, "served")

	var done atomic.Bool
	var asked atomic.Int64
	var wg sync.WaitGroup
	for i, method := range methods {
		wg.Go(func() {
			client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: i >= 4}}
			defer client.CloseIdleConnections()
			for !done.Load() {
				if err := request(client, method, "http://"+out+"/"); err != nil {
					t.Errorf("%s: %v", method, err)
				}
				asked.Add(1)
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		until := asked.Load() + n
		eventually(t, func() error {
			if asked.Load() < until {
				return fmt.Errorf("%d requests, want %d", asked.Load(), until)
			}
			return nil
		})
	}
	more(50)
	for i := range backends {
		old, fresh := backends[i], newBackend(t, ca)
		old.remove(t, how)
		more(200) // nobody has heard yet
		backends[i] = fresh
		pl.set(t, xdsclient.Endpoints, "svc", endpoints(addrs()...))
		pl.push(t, xdsclient.Endpoints, "svc")
		more(50)
		old.pod.stop()
		old.pod.await(t)
	}
	done.Store(true)
	wg.Wait()
}

func request(client *http.Client, method, url string) error {
	var body io.Reader
	if method == "POST" || method == "PUT" {
		body = strings.NewReader("body ")
	}
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || method != "HEAD" && !strings.HasSuffix(string(text), "served") {
		return fmt.Errorf("%d %q %v", resp.StatusCode, text, err)
	}
	return nil
}
