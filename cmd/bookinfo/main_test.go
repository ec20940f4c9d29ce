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
		{"details --listen 127.0.0.1:0", 0, "", "serving"},
	} {
		var out, errOut bytes.Buffer
		code := run(stopped, strings.Fields(c.args), func(string) string { return "" }, &out, &errOut)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String(), c.errOut) {
			t.Errorf("bookinfo %s: exit %d, stdout %q, stderr %q", c.args, code, out.String(), errOut.String())
		}
	}
}
