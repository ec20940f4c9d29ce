// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const static = `
node: {id: "sidecar~127.0.1.1~a.default~default.svc.cluster.local", cluster: a, metadata: {NAMESPACE: default}}
admin:
  address:
    socket_address: {address: 127.0.0.1, port_value: 15000}
static_resources:
  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: origin
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8080}}}}]}]
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: origin}}]}]
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

const dynamic = `
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]}
  cds_config: {ads: {}}
  lds_config: {ads: {}}
static_resources:
  clusters: [{name: xds-grpc, type: STATIC}]
`

func TestParse(t *testing.T) {
	bs, err := Parse([]byte(static), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if network, addr, err := bs.AdminAddress(); network != "tcp" || addr != "127.0.0.1:15000" || err != nil {
		t.Errorf("AdminAddress() = %q, %q, %v", network, addr, err)
	}
	if bs.ADS != nil || bs.CDS || bs.LDS || bs.Node.GetCluster() != "a" {
		t.Errorf("got %+v", bs)
	}
}

func TestJSONIsTheSame(t *testing.T) {
	var v map[string]any
	if err := yaml.Unmarshal([]byte(dynamic), &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	bs, err := Parse(text, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if bs.ADS == nil || bs.ADS.Cluster.GetName() != "xds-grpc" || !bs.CDS || !bs.LDS {
		t.Errorf("got %+v", bs)
	}
}

func TestErrorsNameTheField(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"empty":               {"", "the file is empty"},
		"unknown field":       {strings.Replace(static, "stat_prefix", "stat_prefixx", 1), `line 22: unknown field "stat_prefixx"`},
		"wrong type":          {strings.Replace(static, "port_value: 15000", "port_value: x", 1), "invalid value for uint32"},
		"unknown extension":   {strings.Replace(static, "router.v3.Router", "router.v3.Routerr", 1), "router.v3.Routerr"},
		"unsupported field":   {strings.Replace(static, "type: STATIC", "type: STATIC\n    lb_subset_config: {}", 1), "static_resources.clusters[0].lb_subset_config: field is not supported"},
		"no ads_config":       {strings.Replace(dynamic, "  ads_config", "  #", 1), "ads_config is missing"},
		"no such cluster":     {strings.Replace(dynamic, "name: xds-grpc, type", "name: other, type", 1), `cluster "xds-grpc" is not among`},
		"state of the world":  {strings.Replace(dynamic, "DELTA_GRPC", "REST", 1), "REST is not supported"},
		"cluster named twice": {strings.Replace(dynamic, "[{name: xds-grpc, type: STATIC}]", "[{name: xds-grpc}, {name: xds-grpc}]", 1), "defined twice"},
		"not over ads":        {strings.Replace(dynamic, "cds_config: {ads: {}}", "cds_config: {path_config_source: {path: /x}}", 1), "dynamic_resources.cds_config.path_config_source: field is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.in), Options{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestAllowUnknownFields(t *testing.T) {
	in := strings.Replace(static, "stat_prefix", "new_field: 1\n          stat_prefix", 1)
	if _, err := Parse([]byte(in), Options{AllowUnknownFields: true}); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(static))
	f.Add([]byte(dynamic))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = Parse(b, Options{}) })
}
