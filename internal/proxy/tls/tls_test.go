// SPDX-License-Identifier: Apache-2.0

package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/lateen-mesh/lateen/internal/identity"
	"github.com/lateen-mesh/lateen/internal/identity/identitytest"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func parse[T proto.Message](t testing.TB, m T, text string) T {
	t.Helper()
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func newCA(t testing.TB) *identitytest.Authority { return identitytest.New(t) }

// give puts a workload's certificate and root into a store, as secret.Identity
// does.
func give(t testing.TB, s *secret.Store, a *identitytest.Authority, sa string) {
	t.Helper()
	s.KeyPair("default").Set(&secret.KeyPair{TLS: a.Issue(t, sa)}, time.Now())
	s.Trust("ROOTCA").Set(secret.TrustOf("identity", a.Root), time.Now())
}

const sds = `"sdsConfig":{"apiConfigSource":{"apiType":"GRPC","grpcServices":[{"envoyGrpc":{"clusterName":"sds-grpc"}}]}}`

func upstream(sans string) string {
	return `{"sni":"outbound_.9080_._.reviews","commonTlsContext":{"alpnProtocols":["istio-peer-exchange","istio"],
		"tlsParams":{"tlsMinimumProtocolVersion":"TLSv1_2","tlsMaximumProtocolVersion":"TLSv1_3"},
		"tlsCertificateSdsSecretConfigs":[{"name":"default",` + sds + `}],
		"combinedValidationContext":{"defaultValidationContext":{` + sans + `},"validationContextSdsSecretConfig":{"name":"ROOTCA",` + sds + `}}}}`
}

const downstream = `{"requireClientCertificate":true,"commonTlsContext":{"alpnProtocols":["istio-peer-exchange","h2","http/1.1"],
	"tlsCertificateSdsSecretConfigs":[{"name":"default",` + sds + `}],
	"combinedValidationContext":{"defaultValidationContext":{"matchTypedSubjectAltNames":[{"sanType":"URI","matcher":{"prefix":"spiffe://cluster.local/"}}]},
		"validationContextSdsSecretConfig":{"name":"ROOTCA",` + sds + `}}}}`

const sanReviews = `"matchTypedSubjectAltNames":[{"sanType":"URI","matcher":{"exact":"spiffe://cluster.local/ns/default/sa/reviews"}}]`

func client(t testing.TB, s *secret.Store, text string) *Client {
	t.Helper()
	c, err := NewClient(parse(t, new(tlsv3.UpstreamTlsContext), text), s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func server(t testing.TB, s *secret.Store, text string) *Server {
	t.Helper()
	c, err := NewServer(parse(t, new(tlsv3.DownstreamTlsContext), text), s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// handshake runs one over a real socket and exchanges a byte each way, so that
// both sides have accepted and TLS 1.3 tickets have arrived.
func handshake(cc, sc *tls.Config) (client, server tls.ConnectionState, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return client, server, err
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		c := tls.Server(raw, sc)
		if err = c.HandshakeContext(ctx); err == nil {
			server = c.ConnectionState()
			_, err = c.Write([]byte("x"))
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return client, server, err
	}
	c := tls.Client(raw, cc)
	if err = c.HandshakeContext(ctx); err == nil {
		client = c.ConnectionState()
		if _, err = c.Read(make([]byte, 1)); err == nil {
			_, err = c.Write([]byte("y"))
		}
	}
	raw.Close()
	return client, server, errors.Join(err, <-done)
}

func TestMutualTLS(t *testing.T) {
	a := newCA(t)
	var productpage, reviews secret.Store
	give(t, &productpage, a, "productpage")
	give(t, &reviews, a, "reviews")
	c, s := client(t, &productpage, upstream(sanReviews)), server(t, &reviews, downstream)
	cs, ss, err := handshake(c.Config(Override{}), s.Config())
	if err != nil {
		t.Fatal(err)
	}
	if cs.Version != tls.VersionTLS13 || ss.NegotiatedProtocol != "istio-peer-exchange" || ss.ServerName != "outbound_.9080_._.reviews" {
		t.Errorf("version %x, protocol %q, name %q", cs.Version, ss.NegotiatedProtocol, ss.ServerName)
	}
	if cs.CurveID != tls.X25519 {
		t.Errorf("key exchange %v, want X25519", cs.CurveID)
	}
	if id, err := identity.FromCertificate(ss.PeerCertificates[0]); err != nil || id.ServiceAccount != "productpage" {
		t.Errorf("client identity %v %v", id, err)
	}
	// The second handshake resumes, and is checked all the same.
	if cs, _, err = handshake(c.Config(Override{}), s.Config()); err != nil || !cs.DidResume {
		t.Errorf("resumed %v, %v", cs.DidResume, err)
	}
	other := newCA(t)
	productpage.Trust("ROOTCA").Set(secret.TrustOf("identity", other.Root), time.Now())
	if _, _, err = handshake(c.Config(Override{}), s.Config()); err == nil {
		t.Error("the client went on with a server it trusts no more")
	}
	productpage.Trust("ROOTCA").Set(secret.TrustOf("identity", a.Root), time.Now())
	if _, _, err = handshake(c.Config(Override{}), s.Config()); err != nil {
		t.Error(err)
	}
	reviews.Trust("ROOTCA").Set(secret.TrustOf("identity", other.Root), time.Now())
	if _, _, err = handshake(c.Config(Override{}), s.Config()); err == nil {
		t.Error("the server went on with a client it trusts no more")
	}
}

func TestRefusedPeers(t *testing.T) {
	a, other := newCA(t), newCA(t)
	var mesh, foreign secret.Store
	give(t, &mesh, a, "reviews")
	give(t, &foreign, other, "reviews")
	foreign.Trust("ROOTCA").Set(secret.TrustOf("identity", a.Root), time.Now())
	srv, cl := server(t, &mesh, downstream), client(t, &mesh, upstream(sanReviews))
	noCert := &tls.Config{InsecureSkipVerify: true}

	for name, tt := range map[string]struct{ c, s *tls.Config }{
		"client of another authority": {client(t, &foreign, upstream("")).Config(Override{}), srv.Config()},
		"client without certificate":  {noCert, srv.Config()},
		"server of another authority": {cl.Config(Override{}), server(t, &foreign, downstream).Config()},
		"server of another account":   {client(t, &mesh, upstream(strings.ReplaceAll(sanReviews, "reviews", "ratings"))).Config(Override{}), srv.Config()},
		"old protocol version":        {&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}, srv.Config()},
	} {
		if _, _, err := handshake(tt.c, tt.s); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMissingSecretsFailClosed(t *testing.T) {
	a := newCA(t)
	var full, empty, noTrust secret.Store
	give(t, &full, a, "reviews")
	give(t, &noTrust, a, "reviews")
	noTrust.Trust("ROOTCA").Set(nil, time.Now())
	for name, s := range map[string]*secret.Store{"nothing": &empty, "no trust": &noTrust} {
		if _, _, err := handshake(client(t, s, upstream("")).Config(Override{}), server(t, &full, downstream).Config()); err == nil {
			t.Errorf("client with %s: connected", name)
		}
		if _, _, err := handshake(client(t, &full, upstream("")).Config(Override{}), server(t, s, downstream).Config()); err == nil {
			t.Errorf("server with %s: connected", name)
		}
	}
	// Once the secrets come, the same configurations work.
	c := client(t, &empty, upstream(""))
	give(t, &empty, a, "late")
	if _, _, err := handshake(c.Config(Override{}), server(t, &full, downstream).Config()); err != nil {
		t.Errorf("after the secret came: %v", err)
	}
}

func TestRotationDropsNoConnection(t *testing.T) {
	a := newCA(t)
	var cs, ss secret.Store
	give(t, &cs, a, "c")
	give(t, &ss, a, "s")
	c, s := client(t, &cs, upstream("")), server(t, &ss, downstream)
	l, err := tls.Listen("tcp", "127.0.0.1:0", s.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 1)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), c.Config(Override{}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ping := func() {
		t.Helper()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	ping()
	next := newCA(t)
	give(t, &cs, next, "c")
	give(t, &ss, next, "s")
	ping()
	_, st, err := handshake(c.Config(Override{}), s.Config())
	if err != nil || st.DidResume || !st.PeerCertificates[0].Equal(cs.KeyPair("default").Load().TLS.Leaf) {
		t.Errorf("a new connection does not use the new certificate: %v", err)
	}
}

func TestALPN(t *testing.T) {
	a := newCA(t)
	var st secret.Store
	give(t, &st, a, "x")
	s := server(t, &st, downstream)
	for _, tt := range []struct {
		offer []string
		want  string
	}{{nil, "istio-peer-exchange"}, {[]string{"h2", "http/1.1"}, "h2"}, {[]string{"unknown"}, ""}} {
		_, got, err := handshake(client(t, &st, upstream("")).Config(Override{ALPN: tt.offer}), s.Config())
		if err != nil || got.NegotiatedProtocol != tt.want {
			t.Errorf("offer %v: %q %v, want %q", tt.offer, got.NegotiatedProtocol, err, tt.want)
		}
	}
}

func TestOverrides(t *testing.T) {
	a := newCA(t)
	var st secret.Store
	give(t, &st, a, "x")
	c := client(t, &st, upstream(""))
	o := Override{ServerName: "example.com", SANs: []string{"example.com"}}
	if first := c.Config(o); c.Config(o) != first {
		t.Error("equal overrides give different configurations")
	}
	_, ss, err := handshake(c.Config(Override{ServerName: "example.com"}), server(t, &st, downstream).Config())
	if err != nil || ss.ServerName != "example.com" {
		t.Errorf("%q %v", ss.ServerName, err)
	}
	if _, _, err := handshake(c.Config(o), server(t, &st, downstream).Config()); !errors.Is(err, errSAN) {
		t.Errorf("a certificate without the DNS name passed auto_san_validation: %v", err)
	}
	for i := range 2 * variantsPerClient {
		c.Config(Override{ServerName: fmt.Sprint(i)})
	}
	if len(c.variants) > variantsPerClient {
		t.Errorf("%d variants kept", len(c.variants))
	}
}

func TestSANMatchers(t *testing.T) {
	cert := &x509.Certificate{DNSNames: []string{"*.example.com", "api.example.org"}}
	for _, tt := range []struct {
		text string
		want bool
	}{
		{`{"sanType":"DNS","matcher":{"exact":"www.example.com"}}`, true},
		{`{"sanType":"DNS","matcher":{"exact":"a.b.example.com"}}`, false},
		{`{"sanType":"DNS","matcher":{"exact":"example.com"}}`, false},
		{`{"sanType":"DNS","matcher":{"suffix":".example.org"}}`, true},
		{`{"sanType":"DNS","matcher":{"prefix":"API.","ignoreCase":true}}`, true},
		{`{"sanType":"DNS","matcher":{"safeRegex":{"regex":"api"}}}`, false},
		{`{"sanType":"DNS","matcher":{"safeRegex":{"regex":"api\\..*"}}}`, true},
		{`{"sanType":"URI","matcher":{"contains":"example"}}`, false},
	} {
		m := parse(t, new(tlsv3.SubjectAltNameMatcher), tt.text)
		s, err := newSANMatcher(m.GetSanType(), m.GetMatcher())
		if err != nil {
			t.Fatal(err)
		}
		if got := s.match(cert); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.text, got, tt.want)
		}
	}
}

func TestRefusedContextsNameTheField(t *testing.T) {
	var st secret.Store
	for field, text := range map[string]string{
		"allow_renegotiation": `{"allowRenegotiation":true}`,
		"cipher suite":        `{"commonTlsContext":{"tlsParams":{"cipherSuites":["RC4"]}}}`,
		"curve":               `{"commonTlsContext":{"tlsParams":{"ecdhCurves":["P-1"]}}}`,
		"TLSv1_0":             `{"commonTlsContext":{"tlsParams":{"tlsMinimumProtocolVersion":"TLSv1_0"}}}`,
		"is above":            `{"commonTlsContext":{"tlsParams":{"tlsMinimumProtocolVersion":"TLSv1_3","tlsMaximumProtocolVersion":"TLSv1_2"}}}`,
		"without trusted_ca":  `{"commonTlsContext":{"validationContext":{` + sanReviews + `}}}`,
		"OTHER_NAME":          `{"commonTlsContext":{"validationContext":{"matchTypedSubjectAltNames":[{"sanType":"OTHER_NAME","oid":"1.2.3","matcher":{"exact":"x"}}]}}}`,
		"custom_validator":    `{"commonTlsContext":{"validationContext":{"customValidatorConfig":{"name":"x"}}}}`,
		"trusted_ca":          `{"commonTlsContext":{"validationContext":{"trustedCa":{"inlineString":"x"}}}}`,
	} {
		if _, err := NewClient(parse(t, new(tlsv3.UpstreamTlsContext), text), &st); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: error %v does not name %q", text, err, field)
		}
	}
	for field, text := range map[string]string{
		"no certificate":             `{}`,
		"require_client_certificate": `{"requireClientCertificate":true,"commonTlsContext":{"tlsCertificateSdsSecretConfigs":[{"name":"x"}]}}`,
		"ocsp_staple_policy":         `{"ocspStaplePolicy":"MUST_STAPLE"}`,
	} {
		if _, err := NewServer(parse(t, new(tlsv3.DownstreamTlsContext), text), &st); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: error %v does not name %q", text, err, field)
		}
	}
}

func TestSDSOverADSIsAskedFor(t *testing.T) {
	var st secret.Store
	server(t, &st, `{"commonTlsContext":{"tlsCertificateSdsSecretConfigs":[{"name":"kubernetes://cred","sdsConfig":{"ads":{}}}]}}`)
	if w := st.OnWant(nil); len(w) != 1 || w[0] != "kubernetes://cred" {
		t.Errorf("wanted %v", w)
	}
}

func BenchmarkHandshake(b *testing.B) {
	a := newCA(b)
	var cs, ss secret.Store
	give(b, &cs, a, "c")
	give(b, &ss, a, "reviews")
	for _, resume := range []bool{false, true} {
		b.Run(fmt.Sprintf("resume=%v", resume), func(b *testing.B) {
			c, s := client(b, &cs, upstream(sanReviews)).Config(Override{}), server(b, &ss, downstream)
			if !resume {
				c = c.Clone()
				c.ClientSessionCache = nil
			}
			for b.Loop() {
				if _, _, err := handshake(c, s.Config()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
