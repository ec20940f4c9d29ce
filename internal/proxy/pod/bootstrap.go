// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
)

type object = map[string]any

// mergeRaw lays a ProxyConfig in JSON or YAML over what into holds, one level
// deep, as the control plane is to see it.
func mergeRaw(into map[string]any, text []byte) error {
	var m map[string]any
	if err := yaml.Unmarshal(text, &m); err != nil {
		return err
	}
	for k, v := range m {
		if inner, ok := v.(map[string]any); ok {
			if old, ok := into[k].(map[string]any); ok {
				merged := maps.Clone(old)
				maps.Copy(merged, inner)
				v = merged
			}
		}
		into[k] = v
	}
	return nil
}

// Bootstrap is the Envoy bootstrap these settings amount to: everything comes
// over ADS from the control plane.
func (c *Config) Bootstrap(version string) (*bootstrap.Bootstrap, error) {
	meta := maps.Clone(c.Metadata)
	if _, ok := meta["ISTIO_VERSION"]; !ok && version != "" {
		meta["ISTIO_VERSION"] = version
	}
	node := object{"id": c.NodeID(), "cluster": c.ServiceCluster, "metadata": meta}
	if c.Locality[0] != "" {
		node["locality"] = object{"region": c.Locality[0], "zone": c.Locality[1], "sub_zone": c.Locality[2]}
	}
	admin, err := socketAddress(c.Admin)
	if err != nil {
		return nil, err
	}
	cluster, err := c.controlPlaneCluster()
	if err != nil {
		return nil, err
	}
	source := object{"ads": object{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
	b, err := json.Marshal(object{
		"node":  node,
		"admin": object{"address": admin},
		"dynamic_resources": object{
			"cds_config": source, "lds_config": source,
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
				"grpc_services": []any{object{"envoy_grpc": object{"cluster_name": "xds-grpc"}}},
			},
		},
		"static_resources": object{"clusters": []any{cluster}},
	})
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return bootstrap.Parse(b, bootstrap.Options{})
}

func (c *Config) controlPlaneCluster() (object, error) {
	address, err := socketAddress(c.DiscoveryAddress)
	if err != nil {
		return nil, err
	}
	host := hostOf(c.DiscoveryAddress)
	kind := "STRICT_DNS"
	if net.ParseIP(host) != nil {
		kind = "STATIC"
	}
	out := object{
		"name": "xds-grpc", "type": kind, "connect_timeout": "10s", "dns_lookup_family": c.family(),
		"load_assignment": object{
			"cluster_name": "xds-grpc",
			"endpoints":    []any{object{"lb_endpoints": []any{object{"endpoint": object{"address": address}}}}},
		},
		"typed_extension_protocol_options": object{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": object{"http2_protocol_options": object{}},
			},
		},
	}
	if kind == "STRICT_DNS" {
		// A name that is not there yet is asked for again soon, then less often.
		out["dns_refresh_rate"] = "60s"
		out["dns_failure_refresh_rate"] = object{"base_interval": "0.2s", "max_interval": "10s"}
	}
	if !c.Plaintext {
		out["transport_socket"] = object{
			"name": "envoy.transport_sockets.tls",
			"typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
				"sni":   c.ServerName,
				"common_tls_context": object{
					"alpn_protocols": []any{"h2"},
					"validation_context": object{
						"trusted_ca":                    object{"filename": c.RootFile},
						"match_typed_subject_alt_names": []any{object{"san_type": "DNS", "matcher": object{"exact": c.ServerName}}},
					},
				},
			},
		}
	}
	return out, nil
}

// family looks the control plane up in the families the pod has.
func (c *Config) family() string {
	if !c.IPs[0].Is4() {
		return "AUTO"
	}
	for _, a := range c.IPs {
		if !a.Is4() {
			return "ALL"
		}
	}
	return "V4_ONLY"
}

func socketAddress(hostPort string) (object, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", hostPort, err)
	}
	return object{"socket_address": object{"address": host, "port_value": n}}, nil
}
