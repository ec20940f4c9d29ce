// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// seen is an origin that answers with what it was sent.
func seen(t testing.TB) string {
	return origin(t, func(w http.ResponseWriter, r *http.Request) {
		for _, k := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Client-Cert", "X-Request-Id", "X-Envoy-Retry-On", "X-Envoy-Internal", "X-Envoy-External-Address", "X-Envoy-Attempt-Count", "Via", "Under_score"} {
			if v, ok := r.Header[k]; ok {
				fmt.Fprintf(w, "%s=%s\n", strings.ToLower(k), strings.Join(v, "|"))
			}
		}
	})
}

const steering = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Client-Cert: By=evil\r\nX-Request-Id: mine\r\nX-Envoy-Retry-On: 5xx\r\nX-Envoy-Internal: true\r\nX-Envoy-External-Address: 9.9.9.9\r\nX-Envoy-Attempt-Count: 77\r\nUnder_score: 1\r\n\r\n"

func TestSidecarTrustsWhatComes(t *testing.T) {
	p := start(t, `"via":"lateen",`, "", toA, static("a", "", seen(t)))
	_, body := p.dial(t).do(t, steering)
	want := "x-forwarded-for=1.1.1.1\nx-forwarded-proto=https\nx-request-id=mine\nx-envoy-external-address=9.9.9.9\nx-envoy-attempt-count=77\nvia=lateen\nunder_score=1\n"
	if body != want {
		t.Errorf("got %q, want %q", body, want)
	}
}

func TestEdgeTrustsNothing(t *testing.T) {
	p := start(t, `"use_remote_address":true,"common_http_protocol_options":{"headers_with_underscores_action":"DROP_HEADER"},`, "", toA, static("a", "", seen(t)))
	_, body := p.dial(t).do(t, steering)
	want := regexp.MustCompile(`^x-forwarded-for=1\.1\.1\.1,127\.0\.0\.1
x-forwarded-proto=http
x-request-id=[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}
x-envoy-external-address=127\.0\.0\.1
$`)
	if !want.MatchString(body) {
		t.Errorf("got %q", body)
	}
}

// TestForwardedClientCert: the modes of forward_client_cert_details, on a
// connection with a verified certificate and on one without.
func TestForwardedClientCert(t *testing.T) {
	up := seen(t)
	mtls := &format.TLS{PeerFingerprint256: "ab12", PeerSubject: `CN="a"`, PeerURISANs: "spiffe://cluster.local/ns/d/sa/a", LocalURISANs: "spiffe://cluster.local/ns/d/sa/b"}
	const ours = `By=spiffe://cluster.local/ns/d/sa/b;Hash=ab12;Subject="CN=\"a\"";URI=spiffe://cluster.local/ns/d/sa/a`
	for _, tc := range []struct {
		mode, plain, tls string
	}{
		{"SANITIZE", "", ""},
		{"FORWARD_ONLY", "", "By=evil"},
		{"APPEND_FORWARD", "", "By=evil," + ours},
		{"SANITIZE_SET", "", ours},
		{"ALWAYS_FORWARD_ONLY", "By=evil", "By=evil"},
	} {
		p := start(t, fmt.Sprintf(`"forward_client_cert_details":%q,"set_current_client_cert_details":{"subject":true,"uri":true},`, tc.mode), "", toA, static("a", "", up))
		_, body := p.dial(t).do(t, steering)
		if got := xfcc(body); got != tc.plain {
			t.Errorf("%s without a certificate: %q, want %q", tc.mode, got, tc.plain)
		}
		client, server := net.Pipe()
		info := &ConnInfo{Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.1:2"), TLS: mtls, PeerCertificates: []*x509.Certificate{{}}}
		done := make(chan struct{})
		go func() { p.ServeConn(context.Background(), server, info); close(done) }()
		go io.WriteString(client, strings.Replace(steering, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		b, _ := io.ReadAll(client)
		client.Close()
		<-done
		if got := xfcc(string(b)); got != tc.tls {
			t.Errorf("%s with a certificate: %q, want %q", tc.mode, got, tc.tls)
		}
	}
}

func xfcc(body string) string {
	_, v, _ := strings.Cut(body, "x-forwarded-client-cert=")
	v, _, _ = strings.Cut(v, "\n")
	return v
}

// TestSeveralLines: a list field that came in several lines goes on whole
// (RFC 9110 section 5.3), and places in it are counted over all of them.
func TestSeveralLines(t *testing.T) {
	up := seen(t)
	raw := strings.Replace(steering, "X-Request-Id", "X-Forwarded-Client-Cert: By=second\r\nX-Forwarded-For: 2.2.2.2\r\nVia: one\r\nVia: two\r\nX-Request-Id", 1)
	p := start(t, `"use_remote_address":true,"xff_num_trusted_hops":1,"via":"lateen",`, "", toA, static("a", "", up))
	_, body := p.dial(t).do(t, raw)
	for _, want := range []string{"x-forwarded-for=1.1.1.1,2.2.2.2,127.0.0.1\n", "x-envoy-external-address=2.2.2.2\n", "via=one,two,lateen\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in %q", want, body)
		}
	}
	p = start(t, `"forward_client_cert_details":"APPEND_FORWARD","set_current_client_cert_details":{"uri":true},`, "", toA, static("a", "", up))
	client, server := net.Pipe()
	info := &ConnInfo{Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.1:2"),
		TLS: &format.TLS{PeerURISANs: "spiffe://a"}, PeerCertificates: []*x509.Certificate{{}}}
	done := make(chan struct{})
	go func() { p.ServeConn(context.Background(), server, info); close(done) }()
	go io.WriteString(client, strings.Replace(raw, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	b, _ := io.ReadAll(client)
	client.Close()
	<-done
	if got, want := xfcc(string(b)), "By=evil,By=second,URI=spiffe://a"; got != want {
		t.Errorf("x-forwarded-client-cert %q, want %q", got, want)
	}
}
