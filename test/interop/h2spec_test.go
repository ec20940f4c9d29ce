// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// TestH2Spec runs the whole of h2spec, strict cases included, against the HTTP/2
// side of lateen-proxy, in clear text and over TLS.
func TestH2Spec(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "a body of more than one byte, as h2spec's flow-control cases need")
	}))
	t.Cleanup(origin.Close)
	h2c, tls, admin := freePort(t), freePort(t), freePort(t)
	file := filepath.Join(t.TempDir(), "bootstrap.yaml")
	cert, key := selfSigned(t)
	text := fmt.Sprintf(h2specBootstrap, admin, h2c, tls, cert, key, origin.Listener.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, binary(t, "lateen-proxy"), "run", "-c", file)
	awaitHTTP(t, fmt.Sprintf("http://127.0.0.1:%d/ready", admin))

	for _, c := range []struct {
		name string
		port int
		tls  bool
	}{{"h2c", h2c, false}, {"tls", tls, true}} {
		t.Run(c.name, func(t *testing.T) {
			conf := &config.Config{
				Host: "127.0.0.1", Port: c.port, Path: "/", TLS: c.tls, Insecure: true,
				// How long an answer may take; the few cases that expect none wait
				// for all of it. A busy machine can stall a process for seconds.
				Timeout: 10 * time.Second, MaxHeaderLen: 4000, Strict: true,
			}
			total := 0
			for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
				group.Test(conf)
				total += group.PassedCount
				report(t, group)
			}
			t.Logf("h2spec: %d cases passed", total)
			if total < 140 {
				t.Errorf("only %d cases ran", total)
			}
		})
	}
}

// report fails t for every failed or skipped case below group.
func report(t *testing.T, group *spec.TestGroup) {
	for _, tc := range append(group.Tests, group.StrictTests...) {
		if r := tc.Result; r != nil && (r.Failed || r.Skipped) {
			t.Errorf("%s %s: failed %t, skipped %t after %v: %+v", group.ID(), tc.Desc, r.Failed, r.Skipped, r.Duration, r.Error)
		}
	}
	for _, g := range group.Groups {
		report(t, g)
	}
}

const h2specBootstrap = `
admin:
  address: {socket_address: {address: 127.0.0.1, port_value: %d}}
static_resources:
  listeners:
  - name: h2c
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters: [&hcm {name: envoy.filters.network.http_connection_manager, typed_config: {
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        codec_type: HTTP2, stat_prefix: h2spec,
        route_config: {name: all, virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: origin}}]}]},
        http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]
  - name: tls
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters: [*hcm]
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{certificate_chain: {filename: %q}, private_key: {filename: %q}}]
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: origin
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]
`

// selfSigned writes a certificate for 127.0.0.1 and returns the two files.
func selfSigned(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "h2spec"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}
