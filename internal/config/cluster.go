// SPDX-License-Identifier: Apache-2.0

package config

// The kinds of the cluster itself: Kubernetes' own objects, as a cluster store
// gives them to the control plane. Nobody applies them through a Store and no
// file holds them; their specs are those of package k8s.
var (
	Service       = clusterKind("", "v1", "Service", "services", "service", "svc")
	EndpointSlice = clusterKind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpoint-slice")
	Pod           = clusterKind("", "v1", "Pod", "pods", "pod", "po")
	Node          = outside(clusterKind("", "v1", "Node", "nodes", "node", "no"))
	Namespace     = outside(clusterKind("", "v1", "Namespace", "namespaces", "namespace", "ns"))
	Secret        = clusterKind("", "v1", "Secret", "secrets", "secret")
	ConfigMap     = clusterKind("", "v1", "ConfigMap", "configmaps", "config-map", "cm")
)

var clusterKinds = []*Kind{Service, EndpointSlice, Pod, Node, Namespace, Secret, ConfigMap}

// ClusterKinds returns the kinds that only a cluster has. Node and Namespace
// objects have an empty namespace. The caller must not change the slice.
func ClusterKinds() []*Kind { return clusterKinds }

func clusterKind(group, version, name, plural, slug string, short ...string) *Kind {
	return &Kind{Group: group, Name: name, Plural: plural, Slug: slug, Short: short, Versions: []string{version}}
}

// outside marks a kind whose objects are in no namespace.
func outside(k *Kind) *Kind {
	k.ClusterScoped = true
	return k
}
