// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

const tlsModeLabel = "security.istio.io/tlsMode"

// ServiceInput is what a service is made from.
type ServiceInput struct {
	Options *Options
	ID      mesh.ServiceID
	// Entries are the ServiceEntries of the namespace that name the host. The
	// oldest decides; younger ones add ports and addresses.
	Entries []*config.Object
	// Cluster is Kubernetes' Service of that host, if there is one: then the
	// entries do not count, as in Istio.
	Cluster *config.Object
}

// ServiceHosts returns the hosts a ServiceEntry defines.
func ServiceHosts(o *config.Object) []string {
	spec := o.Spec.(*networking.ServiceEntry)
	hosts := make([]string, 0, len(spec.Hosts))
	for _, h := range spec.Hosts {
		hosts = append(hosts, strings.ToLower(h))
	}
	return hosts
}

// Service compiles one service. It returns nil when there is nothing to make it from.
func Service(in ServiceInput) *mesh.Service {
	if in.Cluster != nil {
		return clusterService(in.Cluster, in.ID, in.Options)
	}
	if len(in.Entries) == 0 {
		return nil
	}
	entries := slices.Clone(in.Entries)
	config.SortByAge(entries)
	first := entries[0]
	spec := first.Spec.(*networking.ServiceEntry)
	s := &mesh.Service{
		ID: in.ID, Name: shortName(in.ID.Host), Origin: origin(first), Created: first.CreationTimestamp,
		External:        spec.Location == networking.ServiceEntry_MESH_EXTERNAL,
		Mutual:          spec.Location == networking.ServiceEntry_MESH_INTERNAL,
		SubjectAltNames: spec.SubjectAltNames,
		ExportTo:        visibility(spec.ExportTo, in.Options.ServiceExport),
		Resolution:      resolution(spec.Resolution),
		FixedAddresses:  first.Labels[autoAllocateLabel] == "false",
	}
	for _, e := range entries {
		es := e.Spec.(*networking.ServiceEntry)
		for _, p := range es.Ports {
			if _, dup := s.Port(p.Number); !dup {
				s.Ports = append(s.Ports, mesh.Port{
					Number: p.Number, Target: cmp.Or(p.TargetPort, p.Number), Name: p.Name,
					Protocol: protocol(p.Protocol, p.Name, p.Number),
				})
			}
		}
		for _, a := range es.Addresses {
			if !slices.Contains(s.Addresses, a) {
				s.Addresses = append(s.Addresses, a)
			}
		}
	}
	slices.SortFunc(s.Ports, func(a, b mesh.Port) int { return cmp.Compare(a.Number, b.Number) })
	return s
}

func resolution(r networking.ServiceEntry_Resolution) mesh.Resolution {
	switch r {
	case networking.ServiceEntry_STATIC:
		return mesh.Static
	case networking.ServiceEntry_DNS:
		return mesh.DNS
	case networking.ServiceEntry_DNS_ROUND_ROBIN:
		return mesh.DNSRoundRobin
	}
	return mesh.None
}

func shortName(host string) string {
	if name, rest, ok := strings.Cut(host, "."); ok && strings.HasSuffix(rest, ".svc."+ClusterDomain) {
		return name
	}
	return host
}

// protocol follows Istio's selection: the declared protocol, else the port's
// name, else well-known server-first ports, else detection.
func protocol(declared, name string, number uint32) mesh.Protocol {
	if p, ok := protocolByName(declared); ok {
		return p
	}
	prefix := strings.ToLower(name)
	if strings.HasPrefix(prefix, "grpc-web") {
		return mesh.HTTP
	}
	prefix, _, _ = strings.Cut(prefix, "-")
	if p, ok := protocolByName(prefix); ok {
		return p
	}
	switch number {
	case 25, 53, 3306, 27017:
		return mesh.TCP
	}
	return mesh.Unknown
}

func protocolByName(s string) (mesh.Protocol, bool) {
	switch strings.ToUpper(s) {
	case "HTTP", "HTTP_PROXY", "GRPC-WEB":
		return mesh.HTTP, true
	case "HTTP2":
		return mesh.HTTP2, true
	case "GRPC":
		return mesh.GRPC, true
	case "HTTPS":
		return mesh.HTTPS, true
	case "TLS":
		return mesh.TLS, true
	case "TCP", "MONGO", "MYSQL", "REDIS":
		return mesh.TCP, true
	case "UDP":
		return mesh.UDP, true
	}
	return mesh.Unknown, false
}

// EndpointsInput is what the endpoints of a service are made from.
type EndpointsInput struct {
	ID      mesh.ServiceID
	Entries []*config.Object // as in ServiceInput
	// Workloads are WorkloadEntries of the namespace, at least those that the
	// entries' workload selectors match.
	Workloads []*config.Object
	// Cluster is Kubernetes' Service, as in ServiceInput, and Slices its EndpointSlices.
	Cluster *config.Object
	Slices  []*config.Object
	// Pods of the namespace, by name: those that slices refer to, or else at
	// least those that the workload selectors match.
	Pods map[string]*config.Object
	// Localities of the pods' nodes (region/zone/subzone), by node.
	Localities map[string]string
}

// Endpoints compiles the endpoints of one service, in a stable order.
func Endpoints(in EndpointsInput) []mesh.Endpoint {
	if in.Cluster != nil {
		return in.clusterEndpoints()
	}
	entries := slices.Clone(in.Entries)
	config.SortByAge(entries)
	var out []mesh.Endpoint
	seen := map[string]bool{}
	add := func(e mesh.Endpoint) {
		key := e.Address + "|" + e.Workload
		if len(e.Ports) > 0 { // several may share an address and differ in ports
			key += fmt.Sprint("|", e.Ports)
		}
		if !seen[key] {
			seen[key] = true
			out = append(out, e)
		}
	}
	for _, e := range entries {
		spec := e.Spec.(*networking.ServiceEntry)
		if spec.WorkloadSelector != nil {
			for _, w := range in.Workloads {
				if mesh.HasLabels(WorkloadLabels(w), spec.WorkloadSelector.Labels) {
					add(workloadEndpoint(w.Spec.(*networking.WorkloadEntry), WorkloadLabels(w), e.Namespace, w.Namespace+"/"+w.Name))
				}
			}
			for _, p := range in.selectedPods(spec.WorkloadSelector.Labels) {
				add(p)
			}
			continue
		}
		for _, w := range spec.Endpoints {
			add(workloadEndpoint(w, w.Labels, e.Namespace, ""))
		}
		if len(spec.Endpoints) == 0 && (spec.Resolution == networking.ServiceEntry_DNS || spec.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN) {
			if !strings.Contains(in.ID.Host, "*") {
				add(mesh.Endpoint{Address: in.ID.Host, Namespace: e.Namespace})
			}
		}
	}
	return out
}

// WorkloadLabels returns the labels of a WorkloadEntry: those of its metadata,
// overridden by those of its spec.
func WorkloadLabels(o *config.Object) map[string]string {
	spec := o.Spec.(*networking.WorkloadEntry)
	if len(o.Labels) == 0 {
		return spec.Labels
	}
	all := make(map[string]string, len(o.Labels)+len(spec.Labels))
	for k, v := range o.Labels {
		all[k] = v
	}
	for k, v := range spec.Labels {
		all[k] = v
	}
	return all
}

func workloadEndpoint(w *networking.WorkloadEntry, labels map[string]string, namespace, workload string) mesh.Endpoint {
	return mesh.Endpoint{
		Address: w.Address, Ports: w.Ports, Labels: labels, Workload: workload, Namespace: namespace,
		ServiceAccount: w.ServiceAccount, Locality: w.Locality, Network: w.Network, Weight: w.Weight,
		Mutual: labels[tlsModeLabel] == "istio",
	}
}

// ServiceAccounts returns the SPIFFE ids a server of the service may have, in
// the mesh's trust domain and its aliases.
func ServiceAccounts(trustDomains []string, endpoints []mesh.Endpoint) []string {
	var out []string
	for _, e := range endpoints {
		if e.ServiceAccount == "" {
			continue
		}
		for _, d := range trustDomains {
			out = append(out, "spiffe://"+d+"/ns/"+e.Namespace+"/sa/"+e.ServiceAccount)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
