// SPDX-License-Identifier: Apache-2.0

// Package k8s holds what the mesh needs to know of Kubernetes' own objects, as
// small immutable specs free of Kubernetes' packages: a cluster has thousands
// of pods, and of each only these fields are kept. Names, labels and
// annotations are in the config.Object around them.
package k8s

// Service is the spec of a core/v1 Service.
type Service struct {
	Type         string   // ClusterIP, NodePort, LoadBalancer, ExternalName
	ClusterIPs   []string // empty for headless services and external names
	Headless     bool     // clusterIP: None
	ExternalName string
	Selector     map[string]string
	Ports        []ServicePort
	// PublishNotReady: endpoints count before they are ready.
	PublishNotReady bool
	// TrafficDistribution is PreferClose, PreferSameZone, PreferSameNode or empty.
	TrafficDistribution string
	// Ingress are the addresses or names in status.loadBalancer, ExternalIPs those in the spec.
	Ingress     []string
	ExternalIPs []string
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name        string
	Number      uint32
	Target      uint32 // 0: by TargetName, or the same number
	TargetName  string // a container port's name
	NodePort    uint32
	Protocol    string // TCP, UDP, SCTP
	AppProtocol string
}

// EndpointSlice is a discovery/v1 EndpointSlice.
type EndpointSlice struct {
	Service     string // of the same namespace, from the label kubernetes.io/service-name
	AddressType string // IPv4, IPv6, FQDN
	Ports       []EndpointPort
	Endpoints   []Endpoint
}

// EndpointPort is one port of a slice; Name is the Service port's.
type EndpointPort struct {
	Name        string
	Number      uint32
	Protocol    string
	AppProtocol string
}

// Endpoint is one entry of a slice.
type Endpoint struct {
	Addresses   []string
	Ready       bool // conditions.ready; unset counts as true
	Serving     bool
	Terminating bool
	Pod         string // name of the pod it stands for, in the slice's namespace; may be empty
	Node        string
	Zone        string
	Hostname    string
}

// Pod is a core/v1 Pod that has an address.
type Pod struct {
	IPs            []string
	ServiceAccount string
	Node           string
	HostNetwork    bool
	Phase          string // Pending, Running, Succeeded, Failed
	Ready          bool
	// Able: its kubelet last said that all its containers are ready, and nothing
	// else was asked for (readiness gates). Able and not Ready is a pod that the
	// node controller has marked because it does not hear from the node.
	Able        bool
	Terminating bool
	Ports       []ContainerPort
	Hostname    string
	Subdomain   string
	// Workload is what owns the pod, as telemetry names it: the Deployment
	// behind a ReplicaSet, the CronJob behind a Job; WorkloadKind its kind.
	Workload     string
	WorkloadKind string
	// Injected: the pod has a container named istio-proxy.
	Injected bool
}

// ContainerPort is a declared port of any container of a pod.
type ContainerPort struct {
	Name     string
	Number   uint32
	Protocol string
}

// Node is a core/v1 Node's place, from its topology labels, and what runs it.
type Node struct {
	Region, Zone, Subzone string
	Addresses             []string
	// Kubelet is its kubelet's version, as in v1.36.3.
	Kubelet string
}

// Namespace has little but its labels and annotations.
type Namespace struct {
	Terminating bool // it is being deleted
}

// Secret is a core/v1 Secret that can hold a certificate: type
// kubernetes.io/tls, or Opaque with one of the keys tls.crt, cert, cacert,
// ca.crt. Its values are never logged or printed.
type Secret struct {
	Type string
	Data map[string][]byte
}

// ConfigMap is a core/v1 ConfigMap that something names as a CA bundle.
type ConfigMap struct {
	Data map[string]string
}
