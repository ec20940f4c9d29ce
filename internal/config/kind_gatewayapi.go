// SPDX-License-Identifier: Apache-2.0

package config

import (
	networkingv1 "k8s.io/api/networking/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// The kinds by which Kubernetes itself says what a gateway serves: the Gateway
// API and Ingress. Their specs are the Go types of those APIs.
var (
	GatewayClass = &Kind{
		Group: gatewayGroup, Name: "GatewayClass", Plural: "gatewayclasses", Slug: "gateway-class",
		Short: []string{"gc"}, Versions: gatewayVersions, ClusterScoped: true,
		newSpec: func() any { return &gateway.GatewayClassSpec{} },
	}
	// KubeGateway is the Gateway API's Gateway; the word gateways alone means Istio's.
	KubeGateway = &Kind{
		Group: gatewayGroup, Name: "Gateway", Plural: "gateways", Slug: "kubernetes-gateway",
		Short: []string{"gtw"}, Versions: gatewayVersions,
		newSpec: func() any { return &gateway.GatewaySpec{} },
	}
	HTTPRoute = &Kind{
		Group: gatewayGroup, Name: "HTTPRoute", Plural: "httproutes", Slug: "http-route",
		Versions: gatewayVersions,
		newSpec:  func() any { return &gateway.HTTPRouteSpec{} },
	}
	GRPCRoute = &Kind{
		Group: gatewayGroup, Name: "GRPCRoute", Plural: "grpcroutes", Slug: "grpc-route",
		Versions: []string{"v1"},
		newSpec:  func() any { return &gateway.GRPCRouteSpec{} },
	}
	ReferenceGrant = &Kind{
		Group: gatewayGroup, Name: "ReferenceGrant", Plural: "referencegrants", Slug: "reference-grant",
		Short: []string{"refgrant"}, Versions: gatewayVersions,
		newSpec: func() any { return &gateway.ReferenceGrantSpec{} },
	}
	Ingress = &Kind{
		Group: ingressGroup, Name: "Ingress", Plural: "ingresses", Slug: "ingress",
		Short: []string{"ing"}, Versions: []string{"v1"},
		newSpec: func() any { return &networkingv1.IngressSpec{} },
	}
	IngressClass = &Kind{
		Group: ingressGroup, Name: "IngressClass", Plural: "ingressclasses", Slug: "ingress-class",
		Versions: []string{"v1"}, ClusterScoped: true,
		newSpec: func() any { return &networkingv1.IngressClassSpec{} },
	}
)

const (
	gatewayGroup = "gateway.networking.k8s.io"
	ingressGroup = "networking.k8s.io"
)

// ReferenceGrant became v1 later than the others; the types are the same.
var gatewayVersions = []string{"v1", "v1beta1"}
