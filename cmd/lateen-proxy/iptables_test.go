// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"flag"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden rule sets")

const goldenOutput = "-- output --\n"

// TestDryRun holds what istio-iptables prints for many flags to testdata: the
// first line is the command line, NAME=value words its environment, and
// addresses= those of the pod.
func TestDryRun(t *testing.T) {
	files, err := filepath.Glob("testdata/iptables/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			head, want, _ := strings.Cut(string(b), goldenOutput)
			addresses := "10.0.0.5/24"
			var args []string
			for _, w := range strings.Fields(head) {
				name, value, assigned := strings.Cut(w, "=")
				switch {
				case name == "addresses":
					addresses = value
				case assigned && !strings.HasPrefix(name, "-"):
					t.Setenv(name, value)
				default:
					args = append(args, strings.Trim(w, "'"))
				}
			}
			got := dryRun(t, args, addresses)
			if *update {
				if err := os.WriteFile(file, []byte(head+goldenOutput+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("run with -update if that is meant (-want +got):\n%s", diff)
			}
		})
	}
}

func dryRun(t *testing.T, args []string, addresses string) string {
	t.Helper()
	var s iptablesFlags
	f := s.set()
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := s.environment(f); err != nil {
		t.Fatal(err)
	}
	s.dryRun = true
	s.resolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(s.resolvConf, []byte("search a.svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.addresses = func() (out []net.Addr, err error) {
		for _, a := range strings.Split("127.0.0.1/8,"+addresses, ",") {
			ip, n, err := net.ParseCIDR(a)
			if err != nil {
				return nil, err
			}
			out = append(out, &net.IPNet{IP: ip, Mask: n.Mask})
		}
		return out, nil
	}
	c, host, err := s.config()
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	var out bytes.Buffer
	if _, err := s.run(c, host, slog.New(slog.DiscardHandler), &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestFlagsBeatEnvironment(t *testing.T) {
	t.Setenv("ENVOY_PORT", "1")
	t.Setenv("INBOUND_CAPTURE_PORT", "2")
	var s iptablesFlags
	f := s.set()
	if err := f.Parse([]string{"-p", "15001"}); err != nil {
		t.Fatal(err)
	}
	if err := s.environment(f); err != nil {
		t.Fatal(err)
	}
	if s.proxyPort != "15001" || s.inboundPort != "2" {
		t.Errorf("ports %s and %s, want 15001 and 2", s.proxyPort, s.inboundPort)
	}
}
