// SPDX-License-Identifier: Apache-2.0

// Package mesh is the compiled mesh: services, endpoints, clusters, routes,
// listeners and policies as small immutable values, free of the form in which
// the user wrote them and of the form in which a proxy receives them.
package mesh

import (
	"cmp"
	"time"
)

// Origin names the object a value was compiled from, as the path Istio writes
// into metadata: /apis/<group>/<version>/namespaces/<ns>/<kind>/<name>.
// Empty: the value follows from no single object.
type Origin string

// Protocol is what is spoken on a port, as declared.
type Protocol uint8

const (
	// Unknown is not declared: the proxy looks at the first bytes.
	Unknown Protocol = iota
	HTTP
	HTTP2
	GRPC
	HTTPS // opaque, routed by SNI
	TLS   // opaque, routed by SNI
	TCP
	UDP // never proxied
)

var protocolNames = [...]string{"", "HTTP", "HTTP2", "GRPC", "HTTPS", "TLS", "TCP", "UDP"}

func (p Protocol) String() string { return protocolNames[p] }

// IsHTTP tells whether requests on the port are routed one by one.
func (p Protocol) IsHTTP() bool { return p == HTTP || p == HTTP2 || p == GRPC }

// IsHTTP2 tells whether the workload speaks HTTP/2 with prior knowledge.
func (p Protocol) IsHTTP2() bool { return p == HTTP2 || p == GRPC }

// IsTLS tells whether connections are opaque TLS, routed by server name.
func (p Protocol) IsTLS() bool { return p == HTTPS || p == TLS }

// MaybeHTTP tells whether HTTP requests can come on the port.
func (p Protocol) MaybeHTTP() bool { return p.IsHTTP() || p == Unknown }

// Port is one port of a service.
type Port struct {
	Number   uint32
	Target   uint32 // of the workload; equals Number if nothing else was said
	Name     string
	Protocol Protocol
}

// ServiceID names a service. Host is a fully qualified name.
type ServiceID struct{ Namespace, Host string }

// Compare orders by host, then namespace.
func (s ServiceID) Compare(o ServiceID) int {
	return cmp.Or(cmp.Compare(s.Host, o.Host), cmp.Compare(s.Namespace, o.Namespace))
}

// Resolution says how the addresses of a service's endpoints are found.
type Resolution uint8

const (
	Static        Resolution = iota // endpoints are addresses
	DNS                             // every address of every endpoint's name
	DNSRoundRobin                   // the first address
	None                            // the address the client connected to
)

// Service is what clients see of a service; its endpoints are kept apart
// because they change more often.
type Service struct {
	ID         ServiceID
	Name       string // the first label of a cluster-local host, else the host
	Origin     Origin
	Created    time.Time
	Ports      []Port // by number
	Addresses  []string
	Resolution Resolution
	External   bool
	// Mutual is whether the mesh's own mutual TLS may be used towards it.
	Mutual bool
	// SubjectAltNames restrict the server's certificate, if given.
	SubjectAltNames []string
	ExportTo        Visibility
	// Cluster tells that it is Kubernetes' own: it goes before others of its host.
	Cluster bool
	// Headless services have no address of their own: clients connect to the
	// addresses of the endpoints, by their names too.
	Headless bool
	// FixedAddresses: none is to be given to it when it has none.
	FixedAddresses bool
}

// Port returns the port of that number.
func (s *Service) Port(number uint32) (Port, bool) {
	for _, p := range s.Ports {
		if p.Number == number {
			return p, true
		}
	}
	return Port{}, false
}

// Visibility lists the namespaces that may see something. Nil: none.
type Visibility []string

// Allows tells whether a client in the namespace may see what is owned by owner.
func (v Visibility) Allows(owner, client string) bool {
	for _, ns := range v {
		switch ns {
		case "*", client:
			return true
		case ".":
			if owner == client {
				return true
			}
		}
	}
	return false
}

// Name is a host as a DNS proxy answers for it.
type Name struct {
	Host      string
	IPs       []string
	Registry  string // Kubernetes or External
	Shortname string // of the cluster's hosts, below their namespace
	Namespace string
}

// Endpoint is one workload of a service.
type Endpoint struct {
	Address        string // IP address or, for DNS resolution, a name
	Ports          map[string]uint32
	Labels         map[string]string
	Workload       string // namespace/name
	ServiceAccount string
	Namespace      string
	Locality       string // region/zone/subzone
	Network        string
	Weight         uint32 // 0: 1
	// Mutual tells that the endpoint's sidecar accepts mesh mutual TLS.
	Mutual bool
	// WorkloadName is what owns the workload, as telemetry names it; empty: its own name.
	WorkloadName string
	// Hostname is the name of the endpoint below that of its service, if it has one.
	Hostname string
	// PortsOnly tells that the endpoint has no other ports than Ports.
	PortsOnly bool
	// Unready endpoints are not sent to clients, but are the workload's all the same.
	Unready bool
}

// TargetPort returns the port that p has at the endpoint, or 0 if it has it not.
func (e *Endpoint) TargetPort(p Port) uint32 {
	if n := e.Ports[p.Name]; n != 0 || e.PortsOnly {
		return n
	}
	if p.Target != 0 {
		return p.Target
	}
	return p.Number
}

// HasLabels tells whether every wanted label is there.
func HasLabels(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
