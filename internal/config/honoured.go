// SPDX-License-Identifier: Apache-2.0

package config

import "google.golang.org/protobuf/reflect/protoreflect"

// notHonoured lists the fields that Istio's API has and that have no effect
// here, with the sentence a user reads. An object that uses one is accepted
// with a warning. A field leaves the list in the change that honours it.
var notHonoured = map[protoreflect.FullName]string{
	"istio.networking.v1alpha3.HTTPRoute.cors_policy":                                       "CORS requests are passed on to the workload",
	"istio.networking.v1alpha3.HTTPRoute.mirror":                                            "requests are not mirrored",
	"istio.networking.v1alpha3.HTTPRoute.mirrors":                                           "requests are not mirrored",
	"istio.networking.v1alpha3.HTTPFaultInjection.Delay.exponential_delay":                  "only fixedDelay delays",
	"istio.networking.v1alpha3.L4MatchAttributes.source_subnet":                             "every source matches, in Istio too",
	"istio.networking.v1alpha3.TrafficPolicy.outlier_detection":                             "no endpoint is ejected",
	"istio.networking.v1alpha3.TrafficPolicy.PortTrafficPolicy.outlier_detection":           "no endpoint is ejected",
	"istio.networking.v1alpha3.TrafficPolicy.tunnel":                                        "connections are not tunnelled",
	"istio.networking.v1alpha3.TrafficPolicy.proxy_protocol":                                "no PROXY header is sent",
	"istio.networking.v1alpha3.TrafficPolicy.retry_budget":                                  "retries are bounded by maxRetries alone",
	"istio.networking.v1alpha3.LoadBalancerSettings.locality_lb_setting":                    "all localities are alike",
	"istio.networking.v1alpha3.LoadBalancerSettings.zone_aware_lb_setting":                  "all zones are alike",
	"istio.networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.HTTPCookie.attributes": "the cookie has no attributes but its path and age",
	"istio.networking.v1alpha3.ConnectionPoolSettings.HTTPSettings.http2_keep_alive":        "no HTTP/2 pings are sent",
	"istio.networking.v1alpha3.ConnectionPoolSettings.TCPSettings.idle_timeout":             "an idle TCP connection is closed after one hour",
	"istio.networking.v1alpha3.ConnectionPoolSettings.TCPSettings.max_connection_duration":  "connections last as long as they are used",
	"istio.networking.v1alpha3.HTTPRetry.retry_remote_localities":                           "all localities are alike",
	"istio.networking.v1alpha3.Sidecar.inbound_connection_pool":                             "connections to the workload are not bounded",
	"istio.networking.v1alpha3.OutboundTrafficPolicy.egress_proxy":                          "unknown hosts are reached directly",

	"istio.mesh.v1alpha1.MeshConfig.hbone_idle_timeout":              "connections between sidecars are plain mutual TLS, not HBONE",
	"istio.mesh.v1alpha1.MeshConfig.ingress_service":                 "the address of an Ingress is that of the gateway which ingressSelector names",
	"istio.mesh.v1alpha1.MeshConfig.enable_tracing":                  "no spans are sent",
	"istio.mesh.v1alpha1.MeshConfig.enable_envoy_access_log_service": "the access log goes to accessLogFile alone",
	"istio.mesh.v1alpha1.MeshConfig.disable_envoy_listener_log":      "connections that no filter chain accepts are not logged anyway",
	"istio.mesh.v1alpha1.MeshConfig.config_sources":                  "configuration comes from the API server or the directory alone",
	"istio.mesh.v1alpha1.MeshConfig.locality_lb_setting":             "all localities are alike",
	"istio.mesh.v1alpha1.MeshConfig.zone_aware_lb_setting":           "all zones are alike",
	"istio.mesh.v1alpha1.MeshConfig.inbound_cluster_stat_name":       "clusters have Istio's usual names",
	"istio.mesh.v1alpha1.MeshConfig.outbound_cluster_stat_name":      "clusters have Istio's usual names",
	"istio.mesh.v1alpha1.MeshConfig.certificates":                    "the control plane certifies itself alone",
	"istio.mesh.v1alpha1.MeshConfig.service_settings":                "there is one cluster, so every service is local to it",
	"istio.mesh.v1alpha1.MeshConfig.service_scope_configs":           "there is one cluster, so every service is local to it",
	"istio.mesh.v1alpha1.MeshConfig.service_entry_visibility":        "exportTo alone decides who sees a ServiceEntry",
	"istio.mesh.v1alpha1.MeshConfig.verify_certificate_at_client":    "each DestinationRule's tls says whether a server is verified",
	"istio.mesh.v1alpha1.MeshConfig.ca_certificates":                 "the mesh trusts the roots of its authority; put further ones into root-cert.pem of Secret cacerts",
	"istio.mesh.v1alpha1.MeshConfig.extension_providers":             "there are no providers; the access log goes to accessLogFile",
	"istio.mesh.v1alpha1.MeshConfig.default_providers":               "there are no providers; the access log goes to accessLogFile",
	"istio.mesh.v1alpha1.MeshConfig.default_traffic_policy":          "write a DestinationRule for each service",
	"istio.mesh.v1alpha1.ProxyConfig.config_path":                    "the proxy writes no bootstrap file",
	"istio.mesh.v1alpha1.ProxyConfig.binary_path":                    "the proxy is its own binary",
	"istio.mesh.v1alpha1.ProxyConfig.custom_config_file":             "the proxy takes no Envoy bootstrap",
	"istio.mesh.v1alpha1.ProxyConfig.proxy_bootstrap_template_path":  "the proxy takes no Envoy bootstrap",
	"istio.mesh.v1alpha1.ProxyConfig.discovery_refresh_delay":        "changes are pushed at once",
	"istio.mesh.v1alpha1.ProxyConfig.control_plane_auth_policy":      "the control plane is always reached over TLS",
	"istio.mesh.v1alpha1.ProxyConfig.drain_duration":                 "connections are drained within terminationDrainDuration",
	"istio.mesh.v1alpha1.ProxyConfig.availability_zone":              "the zone is that of the pod's node",
	"istio.mesh.v1alpha1.ProxyConfig.zipkin_address":                 "no spans are sent",
	"istio.mesh.v1alpha1.ProxyConfig.tracing":                        "no spans are sent",
	"istio.mesh.v1alpha1.ProxyConfig.tracing_service_name":           "no spans are sent",
	"istio.mesh.v1alpha1.ProxyConfig.statsd_udp_address":             "metrics are served for Prometheus alone",
	"istio.mesh.v1alpha1.ProxyConfig.envoy_metrics_service_address":  "metrics are served for Prometheus alone",
	"istio.mesh.v1alpha1.ProxyConfig.envoy_metrics_service":          "metrics are served for Prometheus alone",
	"istio.mesh.v1alpha1.ProxyConfig.envoy_access_log_service":       "the access log goes to accessLogFile alone",
	"istio.mesh.v1alpha1.ProxyConfig.stat_name_length":               "names of metrics are not cut",
	"istio.mesh.v1alpha1.ProxyConfig.extra_stat_tags":                "metrics have Istio's labels",
	"istio.mesh.v1alpha1.ProxyConfig.proxy_stats_matcher":            "all metrics are there",
	"istio.mesh.v1alpha1.ProxyConfig.stats_compression":              "metrics are sent as Prometheus asks for them",
	"istio.mesh.v1alpha1.ProxyConfig.sds":                            "certificates come from the control plane",
	"istio.mesh.v1alpha1.ProxyConfig.runtime_values":                 "the proxy has no Envoy runtime",
	"istio.mesh.v1alpha1.ProxyConfig.gateway_topology":               "X-Forwarded-For from outside is trusted from nobody",
	"istio.mesh.v1alpha1.ProxyConfig.proxy_headers":                  "headers are those of Istio's defaults",
	"istio.mesh.v1alpha1.ProxyConfig.private_key_provider":           "keys are made and kept in the proxy's memory",
	"istio.mesh.v1alpha1.ProxyConfig.file_flush_interval":            "the access log is written at once",
	"istio.mesh.v1alpha1.ProxyConfig.file_flush_min_size_kb":         "the access log is written at once",
	"istio.mesh.v1alpha1.ProxyConfig.connection_settings":            "connections have Istio's usual bounds",
}

// refusedFields lists those that narrow who is trusted. An object that uses one
// is refused: without the field it would let in whom it means to keep out.
var refusedFields = map[protoreflect.FullName]string{
	"istio.networking.v1alpha3.ClientTLSSettings.ca_crl":                  "remove it: revocation lists are not read",
	"istio.networking.v1alpha3.ServerTLSSettings.ca_crl":                  "remove it: revocation lists are not read",
	"istio.networking.v1alpha3.ServerTLSSettings.verify_certificate_spki": "use subjectAltNames",
	"istio.networking.v1alpha3.ServerTLSSettings.verify_certificate_hash": "use subjectAltNames",
	"istio.networking.v1alpha3.ServerTLSSettings.ca_cert_credential_name": "put the roots into the credential itself, or name a file in caCertificates",
	"istio.networking.v1alpha3.ServerTLSSettings.credential_names":        "use one credentialName",
	"istio.networking.v1alpha3.ServerTLSSettings.tls_certificates":        "use serverCertificate and privateKey",

	"istio.mesh.v1alpha1.MeshConfig.ca":           "remove it: the mesh's own authority signs; bring yours as Secret cacerts",
	"istio.mesh.v1alpha1.MeshConfig.mesh_mTLS":    "remove it: workloads speak TLS 1.2 and later with forward secrecy",
	"istio.mesh.v1alpha1.MeshConfig.tls_defaults": "remove it: TLS 1.2 and later with forward secrecy is the rule; a Gateway may narrow its own servers",
}
