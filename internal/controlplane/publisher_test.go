// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"testing"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/xds"
)

// TestProvedClass: what a proxy has proved decides its class, not what it says.
func TestProvedClass(t *testing.T) {
	const gw = "spiffe://cluster.local/ns/a/sa/gw"
	for _, c := range []struct {
		what    string
		pods    bool
		mode    compile.Mode
		proof   string
		account string
		refused bool
	}{
		{"a gateway in a cluster", true, compile.ModeGateway, gw, "gw", false},
		{"a gateway on a machine", false, compile.ModeGateway, gw, "", false},
		{"a sidecar, whose class others share", true, compile.ModeRedirect, gw, "", false},
		{"without a proof", true, compile.ModeGateway, "", "", false},
		{"of another namespace", true, compile.ModeGateway, "spiffe://cluster.local/ns/b/sa/gw", "", true},
		{"no identity", true, compile.ModeGateway, "gw", "", true},
	} {
		p := &publisher{pods: c.pods}
		got, err := p.proved(xds.Class{Mode: c.mode, Namespace: "a"}, c.proof)
		if got.Account != c.account || (err != nil) != c.refused {
			t.Errorf("%s: account %q, error %v; want %q, refused %v", c.what, got.Account, err, c.account, c.refused)
		}
	}
}
