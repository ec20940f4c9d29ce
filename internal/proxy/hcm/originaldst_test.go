// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"strings"
	"testing"
)

// TestOriginalDestinationNeedsOne: on a listener that nothing is redirected to,
// the "original destination" is the listener itself. A request sent there would
// come back until the proxy has no sockets left.
func TestOriginalDestinationNeedsOne(t *testing.T) {
	p := start(t, "", "", toA, `{"name":"a","type":"ORIGINAL_DST","lb_policy":"CLUSTER_PROVIDED","connect_timeout":"5s"}`)
	resp, body := p.dial(t).do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if resp.StatusCode != 503 || body != "no healthy upstream" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
	if got := p.log(t, 1); len(got) != 1 || !strings.HasPrefix(got[0], "503 UH no_healthy_upstream") {
		t.Errorf("logged %q", got)
	}
}
