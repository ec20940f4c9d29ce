// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"
)

func readDump(t *testing.T, name string) any {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestProxyConfigTables reads a dump in both spellings of JSON.
func TestProxyConfigTables(t *testing.T) {
	a := &app{Env: Env{Now: func() time.Time { return now }}}
	var all strings.Builder
	for _, v := range views() {
		if v.table == nil || v.name == "secret" {
			continue
		}
		dump := readDump(t, "config_dump.json")
		if v.name == "endpoint" {
			dump = readDump(t, "clusters.json")
		}
		var out bytes.Buffer
		tab := v.table(a, dump)
		if err := tab.write(&out); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "$ lateen proxy config %s\n%s\n", v.name, out.String())
	}
	golden(t, "proxyconfig.txt", all.String())
}

func TestSecretTable(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(0xabc), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	chain := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	var dump any
	text := `{"configs":[{"@type":"type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
		"dynamic_active_secrets":[{"name":"default","secret":{"name":"default","tls_certificate":{"certificate_chain":{"inline_bytes":"` + chain + `"}}}}],
		"dynamicWarmingSecrets":[{"name":"ROOTCA","secret":{"validationContext":{"trustedCa":{"inlineBytes":"bm90IHBlbQ=="}}}}]}]}`
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	tab := secretTable(&app{Env: Env{Now: func() time.Time { return now }}}, dump)
	if err := tab.write(&out); err != nil {
		t.Fatal(err)
	}
	golden(t, "secret.txt", out.String())
}

func TestCamel(t *testing.T) {
	for in, want := range map[string]string{"name": "name", "route_config_name": "routeConfigName", "a__b": "aB"} {
		if got := camel(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
