// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	want := ID{"cluster.local", "default", "bookinfo-reviews"}
	got, err := Parse("spiffe://cluster.local/ns/default/sa/bookinfo-reviews")
	if err != nil || got != want {
		t.Fatalf("%v %v", got, err)
	}
	if got.Principal() != "cluster.local/ns/default/sa/bookinfo-reviews" {
		t.Errorf("principal %q", got.Principal())
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", "spiffe://", "spiffe://cluster.local", "http://cluster.local/ns/a/sa/b", "SPIFFE://cluster.local/ns/a/sa/b",
		"spiffe://Cluster.local/ns/a/sa/b", "spiffe://cluster.local:80/ns/a/sa/b", "spiffe://u@cluster.local/ns/a/sa/b",
		"spiffe://cluster.local/ns/a/sa/", "spiffe://cluster.local/ns//sa/b", "spiffe://cluster.local/ns/a/sa/b/",
		"spiffe://cluster.local/ns/a/sa/b/c", "spiffe://cluster.local/ns/../sa/b", "spiffe://cluster.local/ns/./sa/b",
		"spiffe://cluster.local/ns/a/sa/b?x", "spiffe://cluster.local/ns/a/sa/b#x", "spiffe://cluster.local/ns/a%2fb/sa/c",
		"spiffe://cluster.local/sa/a/ns/b", "spiffe:///ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/b\x00", "spiffe://cluster.local/ns/ä/sa/b",
		"spiffe://cluster.local/ns/a/sa/" + strings.Repeat("x", 2048),
	} {
		if id, err := Parse(s); err == nil {
			t.Errorf("%q: parsed as %v", s, id)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/default/sa/x")
	f.Add("spiffe://a/ns/b/sa/c/../d")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Fatalf("%q parsed, printed as %q", s, id)
		}
		u, err := url.Parse(s)
		if err != nil || u.Host != id.TrustDomain || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			t.Fatalf("%q is read differently as an URL: %v", s, err)
		}
	})
}

func TestFromSubject(t *testing.T) {
	got, err := FromSubject("td", "system:serviceaccount:ns:sa")
	if err != nil || got != (ID{"td", "ns", "sa"}) {
		t.Fatalf("%v %v", got, err)
	}
	for _, s := range []string{"", "system:serviceaccount:ns", "system:serviceaccount:ns:", "system:serviceaccount::sa", "system:node:x", "system:serviceaccount:a:b:c", "system:serviceaccount:a/b:c"} {
		if id, err := FromSubject("td", s); err == nil {
			t.Errorf("%q: parsed as %v", s, id)
		}
	}
}

func TestFromCertificateWantsOneURI(t *testing.T) {
	u, _ := url.Parse("spiffe://a/ns/b/sa/c")
	for _, uris := range [][]*url.URL{nil, {u, u}} {
		if _, err := FromCertificate(&x509.Certificate{URIs: uris}); err == nil {
			t.Errorf("%d URIs accepted", len(uris))
		}
	}
}

func TestRenewAt(t *testing.T) {
	start := time.Unix(0, 0)
	c := &x509.Certificate{NotBefore: start, NotAfter: start.Add(100 * time.Hour)}
	for _, tt := range []struct {
		random float64
		want   time.Duration
	}{{0, 49 * time.Hour}, {0.5, 50 * time.Hour}} {
		if got := RenewAt(c, 0.01, tt.random).Sub(start); got != tt.want {
			t.Errorf("random %v: %v, want %v", tt.random, got, tt.want)
		}
	}
}

func TestTokenFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "token")
	src := TokenFile(name)
	if _, err := src(); err == nil {
		t.Error("no error for a missing file")
	}
	for _, content := range []string{"one\n", "two"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := src(); err != nil || got != strings.TrimSpace(content) {
			t.Errorf("%q %v", got, err)
		}
	}
}
