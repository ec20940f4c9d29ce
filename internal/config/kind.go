// SPDX-License-Identifier: Apache-2.0

// Package config holds what the user wrote: the kinds, their strict decoding
// and validation, and the Store the objects live in.
package config

import (
	"strings"

	extensions "istio.io/api/extensions/v1alpha1"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	networkingv1beta1 "istio.io/api/networking/v1beta1"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	lateen "github.com/lateen-mesh/lateen/api/mesh/v1alpha1"
)

// Kind is one row of the registry. There is exactly one *Kind per kind, so two
// kinds are the same if and only if the pointers are.
type Kind struct {
	Group    string
	Name     string // VirtualService
	Plural   string // virtualservices
	Slug     string // virtual-service, as provenance paths write it
	Short    []string
	Versions []string // the storage version first

	// ClusterScoped objects have no namespace.
	ClusterScoped bool
	// NotHonoured says, when not empty, that objects of the kind are accepted
	// and have no effect, and what to use in their place.
	NotHonoured string

	// newSpec makes an empty spec: a proto message or a pointer to a struct.
	newSpec func() any
	// validate checks one decoded object beyond what decoding did; nil: nothing to check.
	validate func(*checker, *Object)
}

// The kinds. A further kind is one more row in the list of Kinds.
var (
	VirtualService = &Kind{
		Group: networkingGroup, Name: "VirtualService", Plural: "virtualservices", Slug: "virtual-service",
		Short: []string{"vs"}, Versions: networkingVersions,
		newSpec:  func() any { return &networking.VirtualService{} },
		validate: validateVirtualService,
	}
	DestinationRule = &Kind{
		Group: networkingGroup, Name: "DestinationRule", Plural: "destinationrules", Slug: "destination-rule",
		Short: []string{"dr"}, Versions: networkingVersions,
		newSpec:  func() any { return &networking.DestinationRule{} },
		validate: validateDestinationRule,
	}
	Gateway = &Kind{
		Group: networkingGroup, Name: "Gateway", Plural: "gateways", Slug: "gateway",
		Short: []string{"gw"}, Versions: networkingVersions,
		newSpec:  func() any { return &networking.Gateway{} },
		validate: validateGateway,
	}
	ServiceEntry = &Kind{
		Group: networkingGroup, Name: "ServiceEntry", Plural: "serviceentries", Slug: "service-entry",
		Short: []string{"se"}, Versions: networkingVersions,
		newSpec:  func() any { return &networking.ServiceEntry{} },
		validate: validateServiceEntry,
	}
	WorkloadEntry = &Kind{
		Group: networkingGroup, Name: "WorkloadEntry", Plural: "workloadentries", Slug: "workload-entry",
		Short: []string{"we"}, Versions: networkingVersions,
		newSpec:  func() any { return &networking.WorkloadEntry{} },
		validate: validateWorkloadEntry,
	}
	Sidecar = &Kind{
		Group: networkingGroup, Name: "Sidecar", Plural: "sidecars", Slug: "sidecar",
		Versions: networkingVersions,
		newSpec:  func() any { return &networking.Sidecar{} },
		validate: validateSidecar,
	}
	ProxyConfig = &Kind{
		Group: networkingGroup, Name: "ProxyConfig", Plural: "proxyconfigs", Slug: "proxy-config",
		Versions: []string{"v1beta1"},
		newSpec:  func() any { return &networkingv1beta1.ProxyConfig{} },
		validate: validateProxyConfig,
	}
	WorkloadGroup = &Kind{
		Group: networkingGroup, Name: "WorkloadGroup", Plural: "workloadgroups", Slug: "workload-group",
		Short: []string{"wg"}, Versions: networkingVersions,
		newSpec:     func() any { return &networking.WorkloadGroup{} },
		NotHonoured: "no workload registers itself; write a WorkloadEntry for each",
	}
	Telemetry = &Kind{
		Group: "telemetry.istio.io", Name: "Telemetry", Plural: "telemetries", Slug: "telemetry",
		Versions:    []string{"v1", "v1alpha1"},
		newSpec:     func() any { return &telemetry.Telemetry{} },
		NotHonoured: "every proxy has the same metrics and access log; use accessLogFile, accessLogFormat and accessLogEncoding of the mesh configuration",
	}
	EnvoyFilter = &Kind{
		Group: networkingGroup, Name: "EnvoyFilter", Plural: "envoyfilters", Slug: "envoy-filter",
		Versions:    []string{"v1alpha3"},
		newSpec:     func() any { return &networking.EnvoyFilter{} },
		NotHonoured: "the proxy is not Envoy and takes no patches; use VirtualService, DestinationRule or ProxyConfig",
	}
	WasmPlugin = &Kind{
		Group: extensionsGroup, Name: "WasmPlugin", Plural: "wasmplugins", Slug: "wasm-plugin",
		Versions:    []string{"v1alpha1"},
		newSpec:     func() any { return &extensions.WasmPlugin{} },
		NotHonoured: "the proxy runs no plugins; use VirtualService for headers, faults and routes",
	}
	TrafficExtension = &Kind{
		Group: extensionsGroup, Name: "TrafficExtension", Plural: "trafficextensions", Slug: "traffic-extension",
		Versions:    []string{"v1alpha1"},
		newSpec:     func() any { return &extensions.TrafficExtension{} },
		NotHonoured: "the proxy runs no plugins or scripts; use VirtualService for headers, faults and routes",
	}
	PeerAuthentication = &Kind{
		Group: securityGroup, Name: "PeerAuthentication", Plural: "peerauthentications", Slug: "peer-authentication",
		Short: []string{"pa"}, Versions: []string{"v1", "v1beta1"},
		newSpec:  func() any { return &security.PeerAuthentication{} },
		validate: validatePeerAuthentication,
	}
	LocalWorkload = &Kind{
		Group: lateen.Group, Name: "LocalWorkload", Plural: "localworkloads", Slug: "local-workload",
		Short: []string{"lw"}, Versions: []string{lateen.Version},
		newSpec:  func() any { return &lateen.LocalWorkload{} },
		validate: validateLocalWorkload,
	}
	// MeshConfig is the mesh-wide configuration: a file named mesh.yaml that
	// is the message itself, without kind and metadata. There is one, with key
	// MeshConfigKey; its spec is the user's values over DefaultMeshConfig.
	MeshConfig = &Kind{
		Group: "mesh.istio.io", Name: "MeshConfig", Plural: "meshconfigs", Slug: "mesh-config",
		Versions: []string{"v1alpha1"},
		newSpec:  func() any { return &meshv1alpha1.MeshConfig{} },
	}
)

// MeshConfigKey is the key of the one MeshConfig, named as Istio's ConfigMap.
var MeshConfigKey = Key{Kind: MeshConfig, Namespace: "istio-system", Name: "istio"}

const (
	networkingGroup = "networking.istio.io"
	securityGroup   = "security.istio.io"
	extensionsGroup = "extensions.istio.io"
)

var networkingVersions = []string{"v1", "v1beta1", "v1alpha3"}

// Kinds returns every kind, in the order they are listed to a user. The caller
// must not change the slice.
func Kinds() []*Kind { return kinds }

var kinds = []*Kind{
	VirtualService, DestinationRule, Gateway, ServiceEntry, WorkloadEntry, Sidecar,
	PeerAuthentication, ProxyConfig, WorkloadGroup, Telemetry, EnvoyFilter, WasmPlugin, TrafficExtension,
	KubeGateway, GatewayClass, HTTPRoute, GRPCRoute, ReferenceGrant, Ingress, IngressClass,
	LocalWorkload, MeshConfig,
}

// String returns the kind's name.
func (k *Kind) String() string { return k.Name }

// APIVersion returns the group and storage version.
func (k *Kind) APIVersion() string { return k.Group + "/" + k.Versions[0] }

// FindKind resolves what a user types: name, plural, short name, or
// plural.group, in any case; of two kinds that share a word, the one listed
// first in Kinds (gateways are Istio's). If there is none, suggestion is the nearest known
// plural, or empty.
func FindKind(word string) (kind *Kind, suggestion string) {
	w := strings.ToLower(word)
	var words []string
	for _, k := range kinds {
		names := append([]string{strings.ToLower(k.Name), k.Plural, k.Plural + "." + k.Group, strings.ToLower(k.Name) + "." + k.Group}, k.Short...)
		for _, n := range names {
			if n == w {
				return k, ""
			}
		}
		words = append(words, k.Plural, strings.ToLower(k.Name))
	}
	near := nearest(w, words)
	for _, k := range kinds {
		if near == k.Plural || near == strings.ToLower(k.Name) {
			return nil, k.Plural
		}
	}
	return nil, ""
}
