// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
)

// The fields that are honoured, and where. A field that is on no list fails
// the test: a new version of the API asks for a decision.
var honouredFields = map[string][]string{
	// compile.NewOptions, inject, kube.Store
	"MeshConfig": {
		"proxy_listen_port", "proxy_inbound_listen_port", "proxy_http_port", "connect_timeout", "protocol_detection_timeout", "tcp_keepalive",
		"ingress_class", "ingress_controller_mode", "ingress_selector", "access_log_file", "access_log_format", "access_log_encoding",
		"default_config", "outbound_traffic_policy", "inbound_traffic_policy", "enable_auto_mtls", "trust_domain", "trust_domain_aliases",
		"default_service_export_to", "default_virtual_service_export_to", "default_destination_rule_export_to", "root_namespace",
		"dns_refresh_rate", "h2_upgrade_policy", "enable_prometheus_merge", "discovery_selectors", "path_normalization", "default_http_retry_policy",
	},
	// inject, proxy/pod
	"ProxyConfig": {
		"discovery_address", "termination_drain_duration", "concurrency", "proxy_metadata", "status_port", "proxy_admin_port", "service_cluster",
		"ca_certificates_pem", "mesh_id", "hold_application_until_proxy_starts", "image", "readiness_probe", "interception_mode",
	},
}

// TestEveryFieldIsDecided holds that no field of the mesh configuration is
// silently without effect.
func TestEveryFieldIsDecided(t *testing.T) {
	for _, m := range []protoreflect.ProtoMessage{&meshv1alpha1.MeshConfig{}, &meshv1alpha1.ProxyConfig{}} {
		d := m.ProtoReflect().Descriptor()
		for i := range d.Fields().Len() {
			fd := d.Fields().Get(i)
			lists := 0
			if slices.Contains(honouredFields[string(d.Name())], string(fd.Name())) {
				lists++
			}
			if notHonoured[fd.FullName()] != "" {
				lists++
			}
			if refusedFields[fd.FullName()] != "" {
				lists++
			}
			if lists != 1 {
				t.Errorf("%s is on %d lists, want one of honoured, notHonoured, refused", fd.FullName(), lists)
			}
		}
	}
}

// TestMeshConfigMarks names what has no effect, and only what the user wrote.
func TestMeshConfigMarks(t *testing.T) {
	if warnings, errs := Validate(&Object{Key: MeshConfigKey, Spec: DefaultMeshConfig()}); len(warnings)+len(errs) > 0 {
		t.Errorf("the defaults: %v %v", warnings, errs)
	}
	r := DecodeMeshConfig([]byte(`
accessLogFile: /dev/stdout
enableTracing: true
ingressService: istio-ingressgateway
localityLbSetting: {enabled: false}
defaultConfig:
  drainDuration: 45s
  tracing: {sampling: 10}
  holdApplicationUntilProxyStarts: true
`), "configmap/istio")
	var fields []string
	for _, p := range r.Problems {
		if p.Severity != SeverityWarning || !strings.Contains(p.Message, "not honoured") || p.Line == 0 {
			t.Errorf("%v", p)
		}
		fields = append(fields, p.Field)
	}
	slices.Sort(fields)
	if want := []string{"defaultConfig.tracing", "enableTracing", "localityLbSetting"}; len(r.Objects) != 1 || !slices.Equal(fields, want) {
		t.Errorf("%d objects, %v", len(r.Objects), fields)
	}
	r = DecodeMeshConfig([]byte("meshMTLS: {minProtocolVersion: TLSV1_3}\n"), "configmap/istio")
	if len(r.Objects) != 0 || len(r.Problems) != 1 || r.Problems[0].Field != "meshMTLS" {
		t.Errorf("%v", r.Problems)
	}
}
