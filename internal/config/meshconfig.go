// SPDX-License-Identifier: Apache-2.0

package config

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
)

// DefaultMeshConfig returns a new MeshConfig with Istio's defaults
// (pkg/config/mesh/mesh.go). A Store that holds no MeshConfig has this one in effect.
func DefaultMeshConfig() *meshv1alpha1.MeshConfig {
	everyone := []string{"*"}
	return &meshv1alpha1.MeshConfig{
		ProxyListenPort:                15001,
		ProxyInboundListenPort:         15006,
		ConnectTimeout:                 durationpb.New(10 * time.Second),
		ProtocolDetectionTimeout:       durationpb.New(0),
		IngressService:                 "istio-ingressgateway",
		IngressControllerMode:          meshv1alpha1.MeshConfig_STRICT,
		IngressClass:                   "istio",
		TrustDomain:                    "cluster.local",
		EnableAutoMtls:                 wrapperspb.Bool(true),
		OutboundTrafficPolicy:          &meshv1alpha1.MeshConfig_OutboundTrafficPolicy{Mode: meshv1alpha1.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY},
		InboundTrafficPolicy:           &meshv1alpha1.MeshConfig_InboundTrafficPolicy{Mode: meshv1alpha1.MeshConfig_InboundTrafficPolicy_PASSTHROUGH},
		LocalityLbSetting:              &networking.LocalityLoadBalancerSetting{Enabled: wrapperspb.Bool(true)},
		RootNamespace:                  "istio-system",
		DefaultServiceExportTo:         everyone,
		DefaultVirtualServiceExportTo:  everyone,
		DefaultDestinationRuleExportTo: everyone,
		DnsRefreshRate:                 durationpb.New(60 * time.Second),
		EnablePrometheusMerge:          wrapperspb.Bool(true),
		AccessLogEncoding:              meshv1alpha1.MeshConfig_TEXT,
		DefaultConfig: &meshv1alpha1.ProxyConfig{
			DrainDuration:            durationpb.New(45 * time.Second),
			TerminationDrainDuration: durationpb.New(5 * time.Second),
			DiscoveryAddress:         "istiod.istio-system.svc:15012",
			ProxyAdminPort:           15000,
			StatusPort:               15020,
			InterceptionMode:         meshv1alpha1.ProxyConfig_REDIRECT,
		},
	}
}
