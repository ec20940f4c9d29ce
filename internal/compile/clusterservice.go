// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// Labels and annotations of Kubernetes' objects that say something to the mesh.
const (
	exportToAnnotation = "networking.istio.io/exportTo"
	localityLabel      = "istio-locality"
	networkLabel       = "topology.istio.io/network"
)

// ClusterHost is the host of a Kubernetes Service.
func ClusterHost(service Ref) string {
	return service.Name + "." + service.Namespace + ".svc." + ClusterDomain
}

// ClusterServiceRef names the Kubernetes Service that a service may be made
// from; ok is false when its host is not of that form.
func ClusterServiceRef(id mesh.ServiceID) (ref Ref, ok bool) {
	name, found := strings.CutSuffix(id.Host, "."+id.Namespace+".svc."+ClusterDomain)
	return Ref{id.Namespace, name}, found && name != "" && !strings.ContainsAny(name, ".*")
}

// clusterService compiles a Kubernetes Service.
func clusterService(o *config.Object, id mesh.ServiceID, opts *Options) *mesh.Service {
	spec := o.Spec.(*k8s.Service)
	s := &mesh.Service{
		ID: id, Name: o.Name, Origin: origin(o), Created: o.CreationTimestamp, Cluster: true, Mutual: true,
		ExportTo: opts.ServiceExport, Addresses: spec.ClusterIPs, Headless: spec.Headless,
	}
	if list := o.Annotations[exportToAnnotation]; list != "" {
		s.ExportTo = exportList(list)
	}
	if spec.Type == "ExternalName" {
		// A name outside: nothing is known of who answers there.
		s.External, s.Mutual, s.Resolution = true, false, mesh.DNS
	}
	for _, p := range spec.Ports {
		if _, dup := s.Port(p.Number); dup && isUDP(p.Protocol) {
			continue // TCP and UDP may share a number; only TCP is proxied
		} else if dup {
			s.Ports = slices.DeleteFunc(s.Ports, func(x mesh.Port) bool { return x.Number == p.Number })
		}
		s.Ports = append(s.Ports, mesh.Port{
			Number: p.Number, Target: cmp.Or(p.Target, p.Number), Name: p.Name, Protocol: clusterProtocol(p.Protocol, p.AppProtocol, p.Name, p.Number),
		})
	}
	slices.SortFunc(s.Ports, func(a, b mesh.Port) int { return cmp.Compare(a.Number, b.Number) })
	return s
}

// exportList reads networking.istio.io/exportTo. "~" exports to nobody.
func exportList(list string) mesh.Visibility {
	out := mesh.Visibility{}
	for ns := range strings.SplitSeq(list, ",") {
		if ns = strings.TrimSpace(ns); ns != "" && ns != "~" {
			out = append(out, ns)
		}
	}
	return out
}

// isUDP: a transport that is never proxied (UDP, SCTP).
func isUDP(transport string) bool { return transport != "" && transport != "TCP" }

// clusterProtocol is Istio's rule for a Service's port: the transport, then
// appProtocol, then the name, then well-known ports, else detection.
func clusterProtocol(transport, app, name string, number uint32) mesh.Protocol {
	if isUDP(transport) {
		return mesh.UDP
	}
	switch strings.ToLower(app) {
	case "kubernetes.io/h2c":
		return mesh.HTTP2
	case "kubernetes.io/ws":
		return mesh.HTTP
	case "kubernetes.io/wss":
		return mesh.HTTPS
	}
	return protocol(app, name, number)
}

// clusterEndpoints joins the slices of a Service with their pods. A pod that a
// slice refers to and that is not there (yet) gives no endpoint: without it
// nothing is known of its identity. Of a pod with addresses of two families the
// one of the Service's first address is taken.
func (in *EndpointsInput) clusterEndpoints() []mesh.Endpoint {
	spec := in.Cluster.Spec.(*k8s.Service)
	if spec.Type == "ExternalName" {
		if spec.ExternalName == "" {
			return nil
		}
		return []mesh.Endpoint{{Address: strings.ToLower(spec.ExternalName), Namespace: in.Cluster.Namespace}}
	}
	list := slices.Clone(in.Slices)
	primary := addressType(spec)
	slices.SortFunc(list, func(a, b *config.Object) int {
		x, y := a.Spec.(*k8s.EndpointSlice), b.Spec.(*k8s.EndpointSlice)
		return cmp.Or(cmp.Compare(familyRank(x.AddressType, primary), familyRank(y.AddressType, primary)), cmp.Compare(a.Name, b.Name))
	})
	type place struct{ family, pod string }
	families := map[string]string{} // by pod, the family that was taken
	seen := map[string]bool{}
	var out []mesh.Endpoint
	var able []int // of out, those whose pods' containers are ready
	for _, o := range list {
		s := o.Spec.(*k8s.EndpointSlice)
		if s.AddressType == "FQDN" {
			continue
		}
		ports := slicePorts(s)
		key := portsKey(s)
		for i := range s.Endpoints {
			e, ok := in.sliceEndpoint(&s.Endpoints[i], ports)
			if !ok {
				continue
			}
			e.Unready = !s.Endpoints[i].Ready && !spec.PublishNotReady
			at := place{s.AddressType, cmp.Or(s.Endpoints[i].Pod, e.Address)}
			if f, known := families[at.pod]; known && f != at.family {
				continue
			}
			families[at.pod] = at.family
			if id := e.Address + "|" + e.Workload + "|" + key; !seen[id] {
				seen[id] = true
				if in.able(&s.Endpoints[i]) {
					able = append(able, len(out))
				}
				out = append(out, e)
			}
		}
	}
	if !slices.ContainsFunc(out, func(e mesh.Endpoint) bool { return !e.Unready }) {
		// Not one is left. When it is because the cluster has lost sight of the
		// nodes, as it does after an outage of its API server, a try is better than
		// a certain refusal.
		for _, i := range able {
			out[i].Unready = false
		}
	}
	return out
}

// able tells whether an endpoint that is not ready is so only by the word of
// the node controller.
func (in *EndpointsInput) able(e *k8s.Endpoint) bool {
	pod := in.Pods[e.Pod]
	return pod != nil && !e.Terminating && pod.Spec.(*k8s.Pod).Able && !pod.Spec.(*k8s.Pod).Terminating
}

func addressType(s *k8s.Service) string {
	if len(s.ClusterIPs) > 0 && strings.Contains(s.ClusterIPs[0], ":") {
		return "IPv6"
	}
	return "IPv4"
}

func familyRank(family, primary string) int {
	if family == primary {
		return 0
	}
	return 1
}

// slicePorts maps the names of the Service's ports to the endpoints' numbers;
// all endpoints of a slice share the map.
func slicePorts(s *k8s.EndpointSlice) map[string]uint32 {
	ports := make(map[string]uint32, len(s.Ports))
	for _, p := range s.Ports {
		if _, dup := ports[p.Name]; !dup && p.Number != 0 {
			ports[p.Name] = p.Number
		}
	}
	return ports
}

func portsKey(s *k8s.EndpointSlice) string {
	var b strings.Builder
	for _, p := range s.Ports {
		b.WriteString(p.Name + "=" + portName(p.Number) + ",")
	}
	return b.String()
}

func (in *EndpointsInput) sliceEndpoint(from *k8s.Endpoint, ports map[string]uint32) (mesh.Endpoint, bool) {
	if len(from.Addresses) == 0 {
		return mesh.Endpoint{}, false
	}
	e := mesh.Endpoint{
		Address: canonical(from.Addresses[0]), Namespace: in.Cluster.Namespace, Ports: ports, PortsOnly: true,
		Hostname: from.Hostname, Locality: cmp.Or(in.Localities[from.Node], zone(from.Zone)),
	}
	if from.Pod == "" {
		return e, true
	}
	pod := in.Pods[from.Pod]
	if pod == nil {
		return mesh.Endpoint{}, false
	}
	of := podEndpoint(pod, in.Localities)
	of.Address, of.Ports, of.PortsOnly = e.Address, ports, true
	of.Hostname, of.Locality = cmp.Or(from.Hostname, of.Hostname), cmp.Or(of.Locality, e.Locality)
	return of, true
}

func zone(z string) string {
	if z == "" {
		return ""
	}
	return "/" + z
}

// podEndpoint is what is known of a pod wherever it is an endpoint.
func podEndpoint(o *config.Object, localities map[string]string) mesh.Endpoint {
	spec := o.Spec.(*k8s.Pod)
	e := mesh.Endpoint{
		Labels: o.Labels, Workload: o.Namespace + "/" + o.Name, WorkloadName: spec.Workload, Namespace: o.Namespace,
		ServiceAccount: spec.ServiceAccount, Locality: localities[spec.Node], Network: o.Labels[networkLabel],
		Mutual: o.Labels[tlsModeLabel] == "istio",
	}
	if l := o.Labels[localityLabel]; l != "" {
		e.Locality = strings.ReplaceAll(l, ".", "/") // a label has no slashes
	}
	if spec.Hostname != "" && spec.Subdomain != "" {
		e.Hostname = spec.Hostname
	}
	if len(spec.IPs) > 0 {
		e.Address = canonical(spec.IPs[0])
	}
	return e
}

// selectedPods are the endpoints that a ServiceEntry's workloadSelector finds
// among the pods of its namespace.
func (in *EndpointsInput) selectedPods(selector map[string]string) []mesh.Endpoint {
	var out []mesh.Endpoint
	if len(selector) == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(in.Pods)) {
		o := in.Pods[name]
		spec := o.Spec.(*k8s.Pod)
		if len(spec.IPs) == 0 || spec.Phase == "Succeeded" || spec.Phase == "Failed" || !mesh.HasLabels(o.Labels, selector) {
			continue
		}
		e := podEndpoint(o, in.Localities)
		e.Unready = !spec.Ready || spec.Terminating
		out = append(out, e)
	}
	return out
}

// PodNames are the pods that EndpointSlices refer to.
func PodNames(list []*config.Object) []string {
	var out []string
	for _, o := range list {
		for i := range o.Spec.(*k8s.EndpointSlice).Endpoints {
			if n := o.Spec.(*k8s.EndpointSlice).Endpoints[i].Pod; n != "" {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// NodeNames are the nodes that endpoints of slices and pods are on.
func NodeNames(list []*config.Object, pods map[string]*config.Object) []string {
	var out []string
	for _, o := range list {
		for i := range o.Spec.(*k8s.EndpointSlice).Endpoints {
			out = append(out, o.Spec.(*k8s.EndpointSlice).Endpoints[i].Node)
		}
	}
	for _, o := range pods {
		out = append(out, o.Spec.(*k8s.Pod).Node)
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(n string) bool { return n == "" })
}

// SliceService names the Service that an EndpointSlice belongs to.
func SliceService(o *config.Object) Ref { return Ref{o.Namespace, o.Spec.(*k8s.EndpointSlice).Service} }

// Locality of a node, as region/zone/subzone without empty ends.
func Locality(o *config.Object) string {
	n := o.Spec.(*k8s.Node)
	return strings.TrimRight(n.Region+"/"+n.Zone+"/"+n.Subzone, "/")
}

// canonical writes an IP address as everything else does.
func canonical(address string) string {
	if a, err := netip.ParseAddr(address); err == nil {
		return a.Unmap().String()
	}
	return address
}

// PodWorkload is the workload with what its pod says of it. It is the given one,
// and ok is false, when the pod has another address.
func PodWorkload(w Workload, pod *config.Object) (_ Workload, ok bool) {
	var addresses []string
	for _, a := range pod.Spec.(*k8s.Pod).IPs {
		addresses = append(addresses, canonical(a))
	}
	if !slices.Contains(addresses, w.Address) {
		return w, false
	}
	w.Addresses, w.Labels, w.Name = addresses, pod.Labels, pod.Name
	return w, true
}
