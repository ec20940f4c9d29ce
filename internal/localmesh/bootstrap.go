// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
)

// The ports a sidecar opens on its workload's address, as in Istio.
const (
	adminPort  = 15000
	healthPort = 15021
)

// bootstrapInput is all a proxy's bootstrap depends on.
type bootstrapInput struct {
	Workload     workload
	ControlPlane netip.AddrPort // of ADS and of the CA, with TLS
	RootFile     string         // certificates that verify the control plane
	MeshName     string
	TrustDomain  string
	Version      string
	GatewayPort  uint16 // what a gateway opens for its port 8080
}

type object = map[string]any

// istiodName is the name in the control plane's certificate.
const istiodName = "istiod.istio-system.svc"

// renderBootstrap renders an Envoy v3 bootstrap in JSON that leads to the control
// plane and says who the proxy is, with the metadata names of Istio's proxies
// (istio/istio pkg/model/proxy.go).
func renderBootstrap(in bootstrapInput) ([]byte, error) {
	w := in.Workload
	source := object{"ads": object{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
	doc := object{
		"node": node(in),
		"admin": object{
			"address": socketAddress(netip.AddrPortFrom(w.Address, adminPort)),
		},
		"dynamic_resources": object{
			"cds_config": source,
			"lds_config": source,
			"ads_config": object{
				"api_type":                       "DELTA_GRPC",
				"transport_api_version":          "V3",
				"set_node_on_first_message_only": true,
				"grpc_services":                  []any{object{"envoy_grpc": object{"cluster_name": "xds-grpc"}}},
			},
		},
		"static_resources": object{"clusters": []any{controlPlaneCluster(in)}},
	}
	return json.MarshalIndent(doc, "", "  ")
}

func node(in bootstrapInput) object {
	w := in.Workload
	kind, mode := "sidecar", "NONE"
	if w.gateway() {
		kind = "router"
	}
	app := w.Labels["app"]
	if app == "" {
		app = w.Name
	}
	meta := object{
		"NAME":              w.Name,
		"NAMESPACE":         w.Namespace,
		"WORKLOAD_NAME":     w.Name,
		"OWNER":             "lateen://" + in.MeshName + "/" + w.Namespace + "/" + w.Name,
		"SERVICE_ACCOUNT":   w.ServiceAccount,
		"LABELS":            w.Labels,
		"INSTANCE_IPS":      w.nodeIP(),
		"CLUSTER_ID":        "Kubernetes",
		"MESH_ID":           in.TrustDomain,
		"INTERCEPTION_MODE": mode,
		"WORKLOAD_ENTRY":    w.Entry,
		"ISTIO_VERSION":     in.Version,
		"LATEEN_VHDS":       "true",
	}
	if len(w.Annotations) > 0 {
		meta["ANNOTATIONS"] = w.Annotations
	}
	if w.Network != "" {
		meta["NETWORK"] = w.Network
	}
	if w.gateway() {
		// A Gateway's 0.0.0.0:8080 is opened where the user wants it, and what
		// is for this machine is not opened to the network.
		meta["LATEEN_PUBLISH_ON"] = "127.0.0.1"
		meta["LATEEN_PUBLISHED_PORTS"] = "8080=" + strconv.Itoa(int(in.GatewayPort))
	}
	n := object{
		"id":       kind + "~" + w.nodeIP() + "~" + w.Name + "." + w.Namespace + "~" + w.Namespace + ".svc.cluster.local",
		"cluster":  app + "." + w.Namespace,
		"metadata": meta,
	}
	if region, rest, _ := strings.Cut(w.Locality, "/"); region != "" {
		zone, sub, _ := strings.Cut(rest, "/")
		n["locality"] = object{"region": region, "zone": zone, "sub_zone": sub}
	}
	return n
}

func controlPlaneCluster(in bootstrapInput) object {
	return object{
		"name":            "xds-grpc",
		"type":            "STATIC",
		"connect_timeout": "1s",
		"load_assignment": object{
			"cluster_name": "xds-grpc",
			"endpoints": []any{object{"lb_endpoints": []any{object{
				"endpoint": object{"address": socketAddress(in.ControlPlane)},
			}}}},
		},
		"typed_extension_protocol_options": object{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": object{"http2_protocol_options": object{}},
			},
		},
		"transport_socket": object{
			"name": "envoy.transport_sockets.tls",
			"typed_config": object{
				"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
				"sni":   istiodName,
				"common_tls_context": object{
					"alpn_protocols": []any{"h2"},
					"validation_context": object{
						"trusted_ca": object{"filename": in.RootFile},
						"match_typed_subject_alt_names": []any{object{
							"san_type": "DNS", "matcher": object{"exact": istiodName},
						}},
					},
				},
			},
		},
	}
}

func socketAddress(a netip.AddrPort) object {
	return object{"socket_address": object{"address": a.Addr().String(), "port_value": a.Port()}}
}
