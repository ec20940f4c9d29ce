// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// keyPair makes a self-signed certificate and its key in PEM.
func keyPair(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func secretEvent(namespace, name string, data map[string][]byte) config.Event {
	k := config.Key{Kind: config.Secret, Namespace: namespace, Name: name}
	return config.Event{Key: k, Object: &config.Object{Key: k, Spec: &k8s.Secret{Data: data}}}
}

const securedGateway = `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: MUTUAL, credentialName: shop-cert}}
  - {port: {number: 443, name: https-b, protocol: HTTPS}, hosts: [b.example.com], tls: {mode: SIMPLE, credentialName: generic}}
`

// TestGatewaySecrets: a gateway is given the secrets its Gateways name, from its
// own namespace, in both of Istio's forms, and a rotated one at once.
func TestGatewaySecrets(t *testing.T) {
	cert, key := keyPair(t)
	p := NewPipeline(nil)
	batch := events(t, securedGateway)
	batch = append(batch,
		secretEvent("istio-system", "shop-cert", map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": cert}),
		secretEvent("istio-system", "other", map[string][]byte{"tls.crt": cert, "tls.key": key}),
		secretEvent("shop", "generic", map[string][]byte{"cert": cert, "key": key}))
	p.Apply(batch)
	gateway := Class{Mode: compile.ModeGateway, Namespace: "istio-system", Address: "10.0.0.2", Labels: "istio=ingressgateway"}
	sidecar := Class{Mode: compile.ModeRedirect, Namespace: "istio-system", Address: "10.0.0.3", Labels: "istio=ingressgateway"}
	stranger := Class{Mode: compile.ModeGateway, Namespace: "istio-system", Address: "10.0.0.4", Labels: "istio=egressgateway"}
	for _, c := range []Class{gateway, sidecar, stranger} {
		p.Hold(c, func(*View) {})
	}
	names := func(c Class) string {
		var out []string
		for _, r := range p.View(c).Sets[SecretType] {
			out = append(out, r.Name)
		}
		return strings.Join(out, " ")
	}
	if got, want := names(gateway), "kubernetes://shop-cert kubernetes://shop-cert-cacert"; got != want {
		t.Errorf("the gateway is given %q, want %q", got, want)
	}
	if got := names(sidecar) + names(stranger); got != "" {
		t.Errorf("a sidecar and a gateway that nothing selects are given %q", got)
	}
	if m := p.Missing(); len(m) != 1 || m[0].Key.Name != "generic" || !strings.Contains(m[0].Reason, "no such Secret") {
		t.Errorf("missing: %v; want the one that is in another namespace", m)
	}
	accepted(t, p.View(gateway))

	p.Apply([]config.Event{secretEvent("istio-system", "generic", map[string][]byte{"cert": cert, "key": key})})
	if got, want := names(gateway), "kubernetes://generic kubernetes://shop-cert kubernetes://shop-cert-cacert"; got != want || len(p.Missing()) > 0 {
		t.Errorf("after it came the gateway is given %q, want %q; missing %v", got, want, p.Missing())
	}
	before := p.View(gateway)
	newCert, newKey := keyPair(t)
	p.Apply([]config.Event{secretEvent("istio-system", "shop-cert", map[string][]byte{"tls.crt": newCert, "tls.key": newKey})})
	after := p.View(gateway)
	got := decode(t, after.Sets[SecretType].Get("kubernetes://shop-cert")).(*tlsv3.Secret)
	if string(got.GetTlsCertificate().GetCertificateChain().GetInlineBytes()) != string(newCert) {
		t.Error("a rotated certificate does not reach the gateway")
	}
	if !sameSet(before.Sets[ListenerType], after.Sets[ListenerType]) {
		t.Error("a rotation changes listeners")
	}
	if m := p.Missing(); len(m) != 1 || m[0].Key.Name != "shop-cert" || !strings.Contains(m[0].Reason, "neither ca.crt nor cacert") {
		t.Errorf("missing: %v; want the roots that went away", m)
	}
	p.Apply([]config.Event{secretEvent("istio-system", "shop-cert-cacert", map[string][]byte{"cacert": cert})})
	if got := decode(t, p.View(gateway).Sets[SecretType].Get("kubernetes://shop-cert-cacert")).(*tlsv3.Secret); string(got.GetValidationContext().GetTrustedCa().GetInlineBytes()) != string(cert) {
		t.Error("roots in a secret of their own do not reach the gateway")
	}
	p.Apply([]config.Event{secretEvent("istio-system", "generic", map[string][]byte{"cert": cert, "key": newKey})})
	if m := p.Missing(); len(m) != 1 || strings.Contains(m[0].Reason, "PRIVATE KEY") {
		t.Errorf("missing: %v; want one whose key is not the certificate's", m)
	}
}

// TestGatewaySecretsNeedTheGatewaysAccount: whoever has another account of the
// namespace is not given a gateway's keys, whatever it says that it is.
func TestGatewaySecretsNeedTheGatewaysAccount(t *testing.T) {
	cert, key := keyPair(t)
	p := NewPipeline(nil)
	pod := func(name, address, account, app string) config.Event {
		k := config.Key{Kind: config.Pod, Namespace: "istio-system", Name: name}
		return config.Event{Key: k, Object: &config.Object{Key: k, Labels: map[string]string{"istio": app},
			Spec: &k8s.Pod{IPs: []string{address}, ServiceAccount: account}}}
	}
	p.Apply(append(events(t, securedGateway),
		secretEvent("istio-system", "shop-cert", map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": cert}),
		pod("gw", "10.0.0.2", "gateway", "ingressgateway"), pod("app", "10.0.0.3", "default", "app")))
	for _, c := range []struct {
		what, pod, address, account string
		want                        int
	}{
		{"the gateway", "gw", "10.0.0.2", "gateway", 2},
		{"another account under the gateway's name", "gw", "10.0.0.2", "default", 0},
		{"a pod that does not exist", "none", "10.0.0.9", "default", 0},
		{"a pod with the gateway's labels in its node only", "app", "10.0.0.3", "default", 0},
		{"the same at an address that is not its own", "app", "10.0.0.9", "default", 0},
	} {
		class := Class{Mode: compile.ModeGateway, Namespace: "istio-system", Address: c.address, Pod: c.pod,
			Account: c.account, Labels: "istio=ingressgateway"}
		p.Hold(class, func(*View) {})
		if got := len(p.View(class).Sets[SecretType]); got != c.want {
			t.Errorf("%s is given %d secrets, want %d", c.what, got, c.want)
		}
	}
	late := Class{Mode: compile.ModeGateway, Namespace: "istio-system", Address: "10.0.0.5", Pod: "late", Account: "gateway", Labels: "istio=ingressgateway"}
	p.Hold(late, func(*View) {})
	if p.Apply([]config.Event{pod("late", "10.0.0.5", "gateway", "ingressgateway")}); len(p.View(late).Sets[SecretType]) != 2 {
		t.Error("a gateway whose pod is seen after it connected is given no secrets")
	}
}
