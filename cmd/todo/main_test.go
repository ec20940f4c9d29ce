// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		args        string
		env         map[string]string
		code        int
		out, errOut string
	}{
		{"", nil, 0, "Usage:", ""},
		{"-h", nil, 0, "Usage:", ""},
		{"ui -h", nil, 0, "", "Usage:"},
		{"version", nil, 0, "unknown", ""},
		{"nobody", nil, 64, "", "unknown service"},
		{"backend --version v0.1", nil, 64, "", "-version"},
		{"backend now", nil, 64, "", `unexpected argument "now"`},
		{"ui --version v9", nil, 64, "", "v9"},
		{"ui --listen 127.0.0.1:0", map[string]string{"BACKEND_URL": "nowhere"}, 64, "", `backend "nowhere"`},
		{"ui --listen 127.0.0.1:0", map[string]string{"SERVICE_VERSION": "v7"}, 64, "", `"v7"`},
		{"backend --listen nowhere:x", nil, 1, "", "listen on nowhere:x"},
		{"backend", map[string]string{"LISTEN_ADDRESS": "127.0.0.1:0"}, 0, "", "service=backend address=127.0.0.1:"},
		{"ui --listen 127.0.0.1:0", nil, 0, "", "service=ui address=127.0.0.1:"},
	} {
		var out, errOut bytes.Buffer
		code := run(stopped, strings.Fields(c.args), func(k string) string { return c.env[k] }, &out, &errOut)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String(), c.errOut) {
			t.Errorf("todo %s: exit %d, stdout %q, stderr %q", c.args, code, out.String(), errOut.String())
		}
	}
}
