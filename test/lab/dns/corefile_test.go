// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
)

func TestNipIO(t *testing.T) {
	for name, want := range map[string]string{
		"172.30.1.1.nip.io.":             "172.30.1.1",
		"todoapp.172.30.1.1.nip.io.":     "172.30.1.1",
		"a.b.todoapp.172.30.1.1.nip.io.": "172.30.1.1",
		"172-30-1-1.nip.io.":             "172.30.1.1",
		"app-172-30-1-255.nip.io.":       "172.30.1.255",
		"x.app-10-0-0-1.nip.io.":         "10.0.0.1",
		"nip.io.":                        "",
		"todoapp.nip.io.":                "",
		"1.2.3.nip.io.":                  "",
		"1.2.3.256.nip.io.":              "",
		"1.2.3.4.nip.io.example.":        "",
	} {
		got := ""
		for _, p := range NipIO {
			if m := regexp.MustCompile(p).FindStringSubmatch(name); m != nil {
				got = strings.Join(m[2:6], ".")
				break
			}
		}
		if got != want {
			t.Errorf("%s means %q, want %q", name, got, want)
		}
	}
}

func TestCorefile(t *testing.T) {
	got := Corefile(netip.MustParseAddr("172.30.0.1"), "/lab/admin.conf")
	if n := strings.Count(got, "bind 172.30.0.1\n"); n != 3 {
		t.Errorf("%d of 3 servers are bound to the address", n)
	}
	if !strings.Contains(got, "kubeconfig /lab/admin.conf\n") {
		t.Error("the cluster's names are read without the kubeconfig")
	}
	if strings.Contains(got, "forward") {
		t.Error("names are asked outside")
	}
	if strings.Count(got, "{") != strings.Count(got, "}") {
		t.Error("braces do not match")
	}
}
