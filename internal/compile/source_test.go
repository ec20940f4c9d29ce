// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"github.com/lateen-mesh/lateen/internal/config"
)

// TestSourceMatch is Istio's sourceMatchHTTP: where a match names gateways the
// source is not asked about; elsewhere the labels and the namespace are those of
// the proxy that routes, a gateway included.
func TestSourceMatch(t *testing.T) {
	object := &config.Object{Key: config.Key{Kind: config.VirtualService, Namespace: "default", Name: "v"}}
	client := map[string]string{"app": "client"}
	for _, c := range []struct {
		name      string
		gateway   string
		proxy     Client
		gateways  []string
		labels    map[string]string
		namespace string
		want      bool
	}{
		{"no source asked for", meshGateway, Client{Namespace: "default"}, nil, nil, "", true},
		{"sidecar with the labels", meshGateway, Client{Namespace: "default", Labels: client}, nil, client, "", true},
		{"sidecar without them", meshGateway, Client{Namespace: "default"}, nil, client, "", false},
		{"other namespace", meshGateway, Client{Namespace: "other", Labels: client}, nil, client, "default", false},
		{"gateway without the labels", "default/gw", Client{Namespace: "istio-system"}, nil, client, "", false},
		{"gateway in another namespace", "default/gw", Client{Namespace: "istio-system"}, nil, nil, "default", false},
		{"gateway named, source not asked", "default/gw", Client{Namespace: "istio-system"}, []string{"gw"}, client, "default", true},
		{"another gateway named", "default/gw", Client{Namespace: "istio-system"}, []string{"other"}, nil, "", false},
		{"mesh named, at a gateway", "default/gw", Client{Namespace: "istio-system"}, []string{meshGateway}, nil, "", false},
	} {
		in := &routing{object: object, gateway: c.gateway, port: 80, client: c.proxy}
		if got := in.applies(c.gateways, 0, c.labels, c.namespace); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}
