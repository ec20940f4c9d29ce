// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		args        string
		code        int
		out, errOut string
	}{
		{"", 0, "Usage:", ""},
		{"-h", 0, "Usage:", ""},
		{"version", 0, "unknown", ""},
		{"nobody", 64, "", "unknown service"},
		{"details --oops", 64, "", "oops"},
		{"reviews --version v9", 64, "", "v9"},
		{"details --listen nowhere:x", 1, "", "listen on nowhere:x"},
		{"details --version v9", 64, "", "v9"},
		{"details --listen 127.0.0.1:0", 0, "", "serving"},
	} {
		var out, errOut bytes.Buffer
		code := run(stopped, strings.Fields(c.args), func(string) string { return "" }, &out, &errOut)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String(), c.errOut) {
			t.Errorf("bookinfo %s: exit %d, stdout %q, stderr %q", c.args, code, out.String(), errOut.String())
		}
	}
}

// A container image names its service in the environment; arguments win.
func TestServiceFromEnvironment(t *testing.T) {
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		args, service string
		code          int
		errOut        string
	}{
		{"", "reviews", 0, "service=reviews version=v3"},
		{"", "nobody", 64, `unknown service "nobody"`},
		{"ratings --version v1", "reviews", 0, "service=ratings version=v1"},
	} {
		env := map[string]string{"SERVICE_NAME": c.service, "SERVICE_VERSION": "v3", "LISTEN_ADDRESS": "127.0.0.1:0"}
		var out, errOut bytes.Buffer
		code := run(stopped, strings.Fields(c.args), func(k string) string { return env[k] }, &out, &errOut)
		if code != c.code || !strings.Contains(errOut.String(), c.errOut) {
			t.Errorf("bookinfo %s for %s: exit %d, stderr %q", c.args, c.service, code, errOut.String())
		}
	}
}
