// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// The conversions of Kubernetes' objects to the specs of package k8s. They
// keep no reference to what they are given but its strings.

// shared returns the one copy of a string that thousands of objects have.
func shared(s string) string { return unique.Make(s).Value() }

func sharedMap(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[shared(k)] = shared(v)
	}
	return out
}

// meshAnnotations keeps the annotations that are said to a mesh.
func meshAnnotations(m map[string]string) map[string]string {
	var out map[string]string
	for k, v := range m {
		domain, _, _ := strings.Cut(k, "/")
		if domain == "istio.io" || strings.HasSuffix(domain, ".istio.io") || domain == "gateway.networking.k8s.io" || strings.HasSuffix(domain, "lateen.dev") || domain == "prometheus.io" {
			if out == nil {
				out = map[string]string{}
			}
			out[shared(k)] = shared(v)
		}
	}
	return out
}

func object(kind *config.Kind, m metav1.Object, spec any) *config.Object {
	return &config.Object{
		Key:               config.Key{Kind: kind, Namespace: shared(m.GetNamespace()), Name: m.GetName()},
		APIVersion:        clusterVersions[kind],
		Labels:            sharedMap(m.GetLabels()),
		Annotations:       meshAnnotations(m.GetAnnotations()),
		CreationTimestamp: m.GetCreationTimestamp().UTC(),
		Spec:              spec,
	}
}

// clusterVersions writes the core group's version without a slash.
var clusterVersions = func() map[*config.Kind]string {
	out := map[*config.Kind]string{}
	for _, k := range config.ClusterKinds() {
		out[k] = strings.TrimPrefix(k.APIVersion(), "/")
	}
	return out
}()

// Service converts a Service.
func Service(s *corev1.Service) *config.Object {
	spec := &k8s.Service{
		Type:            string(s.Spec.Type),
		ExternalName:    s.Spec.ExternalName,
		Selector:        sharedMap(s.Spec.Selector),
		PublishNotReady: s.Spec.PublishNotReadyAddresses,
		ExternalIPs:     s.Spec.ExternalIPs,
	}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 && s.Spec.ClusterIP != "" {
		ips = []string{s.Spec.ClusterIP}
	}
	if slices.Contains(ips, corev1.ClusterIPNone) {
		spec.Headless = true
	} else {
		spec.ClusterIPs = ips
	}
	if s.Spec.TrafficDistribution != nil {
		spec.TrafficDistribution = *s.Spec.TrafficDistribution
	}
	for _, p := range s.Spec.Ports {
		port := k8s.ServicePort{
			Name: p.Name, Number: uint32(p.Port), NodePort: uint32(p.NodePort), Protocol: protocol(p.Protocol),
			Target: uint32(p.TargetPort.IntVal), TargetName: p.TargetPort.StrVal,
		}
		if p.AppProtocol != nil {
			port.AppProtocol = *p.AppProtocol
		}
		spec.Ports = append(spec.Ports, port)
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			spec.Ingress = append(spec.Ingress, in.IP)
		} else if in.Hostname != "" {
			spec.Ingress = append(spec.Ingress, in.Hostname)
		}
	}
	return object(config.Service, s, spec)
}

func protocol(p corev1.Protocol) string {
	if p == "" {
		return string(corev1.ProtocolTCP)
	}
	return shared(string(p))
}

// EndpointSlice converts an EndpointSlice, or returns nil for one that belongs to no Service.
func EndpointSlice(s *discoveryv1.EndpointSlice) *config.Object {
	service := s.Labels[discoveryv1.LabelServiceName]
	if service == "" {
		return nil
	}
	spec := &k8s.EndpointSlice{Service: shared(service), AddressType: string(s.AddressType)}
	for _, p := range s.Ports {
		port := k8s.EndpointPort{Protocol: string(corev1.ProtocolTCP)}
		if p.Port == nil {
			continue // all ports: only for slices that nothing but DNS reads
		}
		port.Number = uint32(*p.Port)
		if p.Name != nil {
			port.Name = shared(*p.Name)
		}
		if p.Protocol != nil {
			port.Protocol = protocol(*p.Protocol)
		}
		if p.AppProtocol != nil {
			port.AppProtocol = shared(*p.AppProtocol)
		}
		spec.Ports = append(spec.Ports, port)
	}
	for _, e := range s.Endpoints {
		ready := e.Conditions.Ready == nil || *e.Conditions.Ready
		out := k8s.Endpoint{
			Addresses:   e.Addresses,
			Ready:       ready,
			Serving:     ready,
			Terminating: e.Conditions.Terminating != nil && *e.Conditions.Terminating,
		}
		if e.Conditions.Serving != nil {
			out.Serving = *e.Conditions.Serving
		}
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
			out.Pod = e.TargetRef.Name
		}
		if e.NodeName != nil {
			out.Node = shared(*e.NodeName)
		}
		if e.Zone != nil {
			out.Zone = shared(*e.Zone)
		}
		if e.Hostname != nil {
			out.Hostname = *e.Hostname
		}
		spec.Endpoints = append(spec.Endpoints, out)
	}
	o := object(config.EndpointSlice, s, spec)
	o.Labels, o.Annotations = nil, nil // the controller's own, and one of them is a time
	return o
}

// Pod converts a Pod, or returns nil for one that has no address yet.
func Pod(p *corev1.Pod) *config.Object {
	spec := &k8s.Pod{
		ServiceAccount: shared(p.Spec.ServiceAccountName),
		Node:           shared(p.Spec.NodeName),
		HostNetwork:    p.Spec.HostNetwork,
		Phase:          shared(string(p.Status.Phase)),
		Terminating:    p.DeletionTimestamp != nil,
		Hostname:       p.Spec.Hostname,
		Subdomain:      shared(p.Spec.Subdomain),
	}
	for _, ip := range p.Status.PodIPs {
		spec.IPs = append(spec.IPs, ip.IP)
	}
	if len(spec.IPs) == 0 && p.Status.PodIP != "" {
		spec.IPs = []string{p.Status.PodIP}
	}
	if len(spec.IPs) == 0 {
		return nil
	}
	for _, c := range p.Status.Conditions {
		switch c.Type {
		case corev1.PodReady:
			spec.Ready = c.Status == corev1.ConditionTrue
		case corev1.ContainersReady:
			spec.Able = c.Status == corev1.ConditionTrue && len(p.Spec.ReadinessGates) == 0
		}
	}
	// A native sidecar is an init container.
	for i, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range containers {
			if c.Name == "istio-proxy" {
				spec.Injected = true
			}
			sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
			if i == 1 && !sidecar {
				continue // it is over before the pod serves
			}
			for _, port := range c.Ports {
				spec.Ports = append(spec.Ports, k8s.ContainerPort{Name: shared(port.Name), Number: uint32(port.ContainerPort), Protocol: protocol(port.Protocol)})
			}
		}
	}
	spec.Workload, spec.WorkloadKind = Workload(p)
	spec.Workload, spec.WorkloadKind = shared(spec.Workload), shared(spec.WorkloadKind)
	return object(config.Pod, p, spec)
}

// Workload names what owns a pod, as Istio's injector and telemetry do
// (pkg/kube/controllers GetDeployMetaFromPod): the Deployment behind a
// ReplicaSet, the CronJob behind a Job that it timed, the pod itself if
// nothing owns it.
func Workload(p *corev1.Pod) (name, kind string) {
	var owner *metav1.OwnerReference
	for i := range p.OwnerReferences {
		if c := p.OwnerReferences[i].Controller; c != nil && *c {
			owner = &p.OwnerReferences[i]
		}
	}
	if owner == nil {
		name = p.Name
		if name == "" {
			name = strings.TrimSuffix(p.GenerateName, "-")
		}
		return name, "Pod"
	}
	switch owner.Kind {
	case "ReplicaSet":
		if hash := p.Labels["pod-template-hash"]; hash != "" && strings.HasSuffix(owner.Name, "-"+hash) {
			return strings.TrimSuffix(owner.Name, "-"+hash), "Deployment"
		}
	case "Job":
		// A CronJob's Jobs end in the minute they were due, as Unix time in
		// minutes (8 digits), in older clusters in seconds (10).
		if i := strings.LastIndexByte(owner.Name, '-'); i > 0 {
			if n := len(owner.Name) - i - 1; (n == 8 || n == 10) && strings.Trim(owner.Name[i+1:], "0123456789") == "" {
				return owner.Name[:i], "CronJob"
			}
		}
	case "ReplicationController":
		if dc := p.Labels["deploymentconfig"]; dc != "" {
			return dc, "DeploymentConfig"
		}
	}
	return owner.Name, owner.Kind
}

// Node converts a Node.
func Node(n *corev1.Node) *config.Object {
	spec := &k8s.Node{
		Region:  first(n.Labels, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaRegion),
		Zone:    first(n.Labels, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone),
		Subzone: n.Labels["topology.istio.io/subzone"],
		Kubelet: n.Status.NodeInfo.KubeletVersion,
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			spec.Addresses = append(spec.Addresses, a.Address)
		}
	}
	return object(config.Node, n, spec)
}

func first(m map[string]string, keys ...string) string {
	for _, k := range keys {
		if v := m[k]; v != "" {
			return v
		}
	}
	return ""
}

// Namespace converts a Namespace.
func Namespace(n *corev1.Namespace) *config.Object {
	return object(config.Namespace, n, &k8s.Namespace{
		Terminating: n.Status.Phase == corev1.NamespaceTerminating || n.DeletionTimestamp != nil,
	})
}

// credentialKeys are the keys of a Secret that holds a certificate.
var credentialKeys = []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey, "ca.crt", "ca.crl", "cert", "key", "cacert", "crl"}

// ownSecrets are the control plane's: no proxy may ever be given them.
var ownSecrets = []string{"istio-ca-secret", "cacerts"}

// Secret converts a Secret that can be a gateway's credential, or returns nil:
// of type kubernetes.io/tls, or Opaque with a certificate; never the control
// plane's own, those of namespace controlPlane. Of the data only certificates
// and their keys are kept.
func Secret(s *corev1.Secret, controlPlane string) *config.Object {
	if s.Namespace == controlPlane && slices.Contains(ownSecrets, s.Name) {
		return nil
	}
	if s.Type != corev1.SecretTypeTLS && s.Type != corev1.SecretTypeOpaque && s.Type != "" {
		return nil
	}
	spec := &k8s.Secret{Type: string(s.Type), Data: map[string][]byte{}}
	certificate := false
	for _, k := range credentialKeys {
		if v, ok := s.Data[k]; ok {
			spec.Data[k] = v
			certificate = certificate || k != corev1.TLSPrivateKeyKey && k != "key" && k != "crl" && k != "ca.crl"
		}
	}
	if !certificate {
		return nil
	}
	return object(config.Secret, s, spec)
}
