// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// nameTable is a serialized NameTable of one host outside Kubernetes.
func nameTable(host, ip string) *anypb.Any {
	field := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	info := field(field(nil, 1, []byte(ip)), 2, []byte("External"))
	entry := field(field(nil, 1, []byte(host)), 2, info)
	return &anypb.Any{TypeUrl: xdsclient.NameTables.URL(), Value: field(nil, 1, entry)}
}

func (pl *plane) setNames(name string, table *anypb.Any) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	url := xdsclient.NameTables.URL()
	pl.has[url] = map[string]*anypb.Any{name: table}
	if pl.send != nil && len(pl.subs[url]) > 0 {
		pl.pushLocked(url, []string{name}, nil)
	}
}

func TestAnswersCapturedDNS(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("search default.svc.cluster.local\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pl, in, admin, dns := newPlane(t), free(t), free(t), free(t)
	pl.seed(t, in, in)
	text := strings.Replace(pl.yaml(admin), "cluster: a}", `cluster: a, metadata: {DNS_CAPTURE: "true", NAMESPACE: default}}`, 1)
	p := run(t, text, Options{ResolvConf: conf, DNSAddresses: []string{dns}})
	p.awaitReady(t) // the control plane answered that it has no names
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, dns)
	}}
	finds := func(ip string) func() error {
		return func() error {
			got, err := r.LookupHost(t.Context(), "api.example.com")
			if err != nil || len(got) != 1 || got[0] != ip {
				return fmt.Errorf("got %v, %v", got, err)
			}
			return nil
		}
	}
	pl.setNames("", nameTable("api.example.com", "240.240.0.1")) // as istiod names it
	eventually(t, finds("240.240.0.1"))
	pl.setNames("names", nameTable("api.example.com", "240.240.0.2"))
	eventually(t, finds("240.240.0.2"))
	pl.setNames("names", &anypb.Any{TypeUrl: xdsclient.NameTables.URL(), Value: []byte{0xff}})
	eventually(t, func() error { return pl.refused("names: name table") })
	if err := finds("240.240.0.2")(); err != nil {
		t.Errorf("after a table that is none: %v", err)
	}
}

func (pl *plane) refused(text string) error {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for _, n := range pl.nacks {
		if strings.Contains(n, text) {
			return nil
		}
	}
	return fmt.Errorf("no refusal with %q: %q", text, pl.nacks)
}

func TestNameTableOfNobody(t *testing.T) {
	w := httptest.NewRecorder()
	new(Server).ServeNameTable(w, nil)
	if w.Code != 404 || !strings.Contains(w.Body.String(), "ISTIO_META_DNS_CAPTURE") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
