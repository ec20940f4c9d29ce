// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// plane is a small control plane: it answers each subscription with what it
// has and pushes changes.
type plane struct {
	addr string

	mu      sync.Mutex
	has     map[string]map[string]*anypb.Any // by type, name
	subs    map[string]map[string]bool
	send    func(*discoveryv3.DeltaDiscoveryResponse)
	version int
	nacks   []string
}

func newPlane(t *testing.T) *plane {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pl := &plane{addr: lis.Addr().String(), has: map[string]map[string]*anypb.Any{}, subs: map[string]map[string]bool{}}
	gs := grpc.NewServer()
	gs.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.discovery.v3.AggregatedDiscoveryService", HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "DeltaAggregatedResources", ServerStreams: true, ClientStreams: true, Handler: pl.stream}},
	}, struct{}{})
	go func() { _ = gs.Serve(lis) }()
	t.Cleanup(gs.Stop)
	return pl
}

func (pl *plane) stream(_ any, st grpc.ServerStream) error {
	pl.mu.Lock()
	pl.send = func(r *discoveryv3.DeltaDiscoveryResponse) { _ = st.SendMsg(r) }
	pl.mu.Unlock()
	for {
		r := new(discoveryv3.DeltaDiscoveryRequest)
		if err := st.RecvMsg(r); err != nil {
			return nil
		}
		pl.mu.Lock()
		if e := r.GetErrorDetail(); e != nil {
			pl.nacks = append(pl.nacks, e.GetMessage())
		}
		if pl.subs[r.GetTypeUrl()] == nil {
			pl.subs[r.GetTypeUrl()] = map[string]bool{}
		}
		var names []string
		for n := range pl.has[r.GetTypeUrl()] {
			for _, sub := range r.GetResourceNamesSubscribe() {
				if sub == "*" || sub == n || strings.HasSuffix(sub, "/*") && strings.HasPrefix(n, strings.TrimSuffix(sub, "*")) {
					names = append(names, n)
				}
			}
		}
		for _, n := range r.GetResourceNamesSubscribe() {
			pl.subs[r.GetTypeUrl()][n] = true
		}
		if len(r.GetResourceNamesSubscribe()) > 0 {
			pl.pushLocked(r.GetTypeUrl(), names, nil)
		}
		pl.mu.Unlock()
	}
}

func (pl *plane) pushLocked(url string, names, removed []string) {
	pl.version++
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: fmt.Sprint(pl.version), SystemVersionInfo: fmt.Sprint(pl.version), RemovedResources: removed}
	for _, n := range names {
		r.Resources = append(r.Resources, &discoveryv3.Resource{Name: n, Version: fmt.Sprint(pl.version), Resource: pl.has[url][n]})
	}
	pl.send(r)
}

// set gives a resource in YAML, with its type, and pushes it when a stream is
// open.
func (pl *plane) set(t *testing.T, typ xdsclient.Type, name, text string) {
	t.Helper()
	var v map[string]any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	v["@type"] = typ.URL()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	a := new(anypb.Any)
	if err := protojson.Unmarshal(b, a); err != nil {
		t.Fatal(err)
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.has[typ.URL()] == nil {
		pl.has[typ.URL()] = map[string]*anypb.Any{}
	}
	pl.has[typ.URL()][name] = a
	if pl.send != nil && len(pl.subs[typ.URL()]) > 0 {
		pl.pushLocked(typ.URL(), []string{name}, nil)
	}
}

func (pl *plane) remove(typ xdsclient.Type, name string) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	delete(pl.has[typ.URL()], name)
	pl.pushLocked(typ.URL(), nil, []string{name})
}

func (pl *plane) yaml(admin string) string {
	return fmt.Sprintf(`
node: {id: "sidecar~127.0.0.1~a.default~default.svc.cluster.local", cluster: a}
admin: {address: %s}
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}}
static_resources:
  clusters:
  - {name: xds-grpc, type: STATIC, load_assignment: {cluster_name: xds-grpc, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}}
`, socket(admin), socket(pl.addr))
}

func (pl *plane) seed(t *testing.T, in, origin string) {
	pl.set(t, xdsclient.Clusters, "c", `{name: c, type: EDS, eds_cluster_config: {eds_config: {ads: {}}, service_name: svc}}`)
	pl.set(t, xdsclient.Endpoints, "svc", `{cluster_name: svc, endpoints: [{lb_endpoints: [{endpoint: {address: `+socket(origin)+`}}]}]}`)
	pl.set(t, xdsclient.Listeners, "l", `
name: l
address: `+socket(in)+`
filter_chains:
- filters:
  - name: hcm
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: in
      rds: {config_source: {ads: {}, initial_fetch_timeout: 0s}, route_config_name: "9080"}
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`)
	pl.set(t, xdsclient.Routes, "9080", `
name: "9080"
vhds: {config_source: {ads: {}}}
virtual_hosts: [{name: block_all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 502}}]}]
`)
	pl.set(t, xdsclient.VirtualHosts, "9080/here", `{name: here, domains: ["127.0.0.1:*", "`+in+`"], routes: [{match: {prefix: /}, route: {cluster: c}}]}`)
}

func TestFollowsAControlPlane(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "from the origin") }))
	defer origin.Close()
	pl, in, admin := newPlane(t), free(t), free(t)
	pl.seed(t, in, origin.Listener.Addr().String())
	p := run(t, pl.yaml(admin), Options{})
	p.awaitReady(t)
	url := "http://" + in + "/"
	want(t, url, 200, "from the origin")

	// A virtual host changes, and goes.
	pl.set(t, xdsclient.VirtualHosts, "9080/here", `{name: here, domains: ["`+in+`"], routes: [{match: {prefix: /}, direct_response: {status: 418}}]}`)
	status := func(n int) func() error {
		return func() error {
			if code, _, err := get(url); code != n {
				return fmt.Errorf("got %d, %v; want %d", code, err, n)
			}
			return nil
		}
	}
	eventually(t, status(418))
	code, dump, err := get("http://" + admin + "/config_dump")
	if err != nil || code != 200 || !strings.Contains(dump, `"name": "here"`) {
		t.Errorf("the virtual host is not in the dump's route configuration: %d %v", code, err)
	}
	pl.remove(xdsclient.VirtualHosts, "9080/here")
	eventually(t, status(502))

	// A refused cluster is named; the others of its push are taken.
	pl.set(t, xdsclient.Clusters, "bad", `{name: bad, lb_subset_config: {}}`)
	eventually(t, func() error {
		pl.mu.Lock()
		defer pl.mu.Unlock()
		if len(pl.nacks) != 1 || !strings.Contains(pl.nacks[0], "bad: lb_subset_config: field is not supported") {
			return fmt.Errorf("refusals %q", pl.nacks)
		}
		return nil
	})
	if p.clusters.Get("c") == nil || p.clusters.Get("bad") != nil {
		t.Error("wrong clusters")
	}

	// The listener goes; what only it referred to is unsubscribed and forgotten.
	pl.remove(xdsclient.Listeners, "l")
	eventually(t, func() error {
		if n := len(p.xds.Cache().Entries(xdsclient.Routes)) + len(p.routes.names()); n != 0 {
			return fmt.Errorf("%d routes left", n)
		}
		return nil
	})
}

// A listener is replaced by another with the same routes in one push: the
// control plane does not send what is still subscribed to, so that the table
// must live on.
func TestRoutesOutliveTheListenerTheyCameFor(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	defer origin.Close()
	pl, in := newPlane(t), free(t)
	pl.seed(t, in, origin.Listener.Addr().String())
	p := run(t, pl.yaml(free(t)), Options{})
	p.awaitReady(t)
	pl.mu.Lock()
	ls := pl.has[xdsclient.Listeners.URL()]
	l := new(listenerv3.Listener)
	if err := ls["l"].UnmarshalTo(l); err != nil {
		t.Error(err)
	}
	l.Name = "m"
	a, err := anypb.New(l)
	if err != nil {
		t.Error(err)
	}
	ls["m"] = a
	delete(ls, "l")
	pl.pushLocked(xdsclient.Listeners.URL(), []string{"m"}, []string{"l"})
	pl.mu.Unlock()
	eventually(t, func() error {
		if s := p.listeners.Listeners(); len(s) != 1 || s[0].Name != "m" {
			return fmt.Errorf("listeners %v, warming %v", s, p.listeners.Warming())
		}
		return nil
	})
	want(t, "http://"+in+"/", 200, "ok")
}

func TestListenerWaitsForItsRoutes(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	defer origin.Close()
	pl, in, admin := newPlane(t), free(t), free(t)
	pl.seed(t, in, origin.Listener.Addr().String())
	pl.mu.Lock()
	routes := pl.has[xdsclient.Routes.URL()]
	delete(pl.has, xdsclient.Routes.URL())
	pl.mu.Unlock()
	p := run(t, pl.yaml(admin), Options{})
	eventually(t, func() error {
		if len(p.listeners.Warming()) != 1 {
			return fmt.Errorf("nothing warms")
		}
		return nil
	})
	if p.Ready() {
		t.Error("ready without routes")
	}
	if c, err := net.Dial("tcp", in); err == nil {
		c.Close()
		t.Error("listening without routes")
	}
	want(t, "http://"+admin+"/ready", 503, "INITIALIZING")
	pl.mu.Lock()
	pl.has[xdsclient.Routes.URL()] = routes
	pl.pushLocked(xdsclient.Routes.URL(), []string{"9080"}, nil)
	pl.mu.Unlock()
	p.awaitReady(t)
	want(t, "http://"+in+"/", 200, "ok")
}
