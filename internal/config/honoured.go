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
}
