// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// ClustersInput is what the clusters of one service are made from.
type ClustersInput struct {
	Options *Options
	Service *mesh.Service
	// Rules are the DestinationRules in force, the first one leading; see Registry.RulesFor.
	Rules []*config.Object
	// ServiceAccounts are the SPIFFE ids of the endpoints.
	ServiceAccounts []string
	// Endpoints are needed only when the service is resolved by DNS, and of
	// headless services.
	Endpoints []mesh.Endpoint
	// Peers are the PeerAuthentications for a headless service's endpoints.
	Peers []*config.Object
	// Gateway: a gateway's connections have no original destination.
	Gateway bool
}

// rules is what same-host DestinationRules come to: subsets are united, the
// first traffic policy wins.
type rules struct {
	policy  *networking.TrafficPolicy
	subsets []subset
	origin  mesh.Origin
}

type subset struct {
	name   string
	labels map[string]string
	policy *networking.TrafficPolicy
}

func mergeRules(objects []*config.Object) rules {
	var out rules
	for _, o := range objects {
		spec := o.Spec.(*networking.DestinationRule)
		if out.origin == "" {
			out.origin = origin(o)
		}
		if out.policy == nil {
			out.policy = spec.TrafficPolicy
		}
		for _, s := range spec.Subsets {
			if !slices.ContainsFunc(out.subsets, func(x subset) bool { return x.name == s.Name }) {
				out.subsets = append(out.subsets, subset{s.Name, s.Labels, s.TrafficPolicy})
			}
		}
	}
	return out
}

// Clusters compiles all clusters of one service, for every port and subset.
func Clusters(in ClustersInput) []mesh.Cluster {
	merged := mergeRules(in.Rules)
	var out []mesh.Cluster
	for _, p := range in.Service.Ports {
		if p.Protocol == mesh.UDP {
			continue
		}
		base := portPolicy(merged.policy, p)
		out = append(out, in.cluster(merged.origin, p, subset{}, base))
		for _, s := range merged.subsets {
			out = append(out, in.cluster(merged.origin, p, s, subsetPolicy(base, s.policy, p)))
		}
	}
	return out
}

func (in *ClustersInput) cluster(from mesh.Origin, p mesh.Port, s subset, tp *networking.TrafficPolicy) mesh.Cluster {
	svc := in.Service
	c := mesh.Cluster{
		Name: mesh.OutboundCluster(p.Number, s.name, svc.ID.Host), Service: svc.ID, ServiceName: svc.Name,
		Port: p.Number, Subset: s.name, Origin: from, Protocol: p.Protocol,
		Policy: policy(tp, in.Options),
	}
	switch svc.Resolution {
	case mesh.Static:
		c.Kind = mesh.ClusterEDS
		if svc.Headless && !in.Gateway {
			c.Kind, c.Policy.Balancer = mesh.ClusterOriginalDst, mesh.PassthroughLB
		}
	case mesh.None:
		c.Kind = mesh.ClusterOriginalDst
		c.Policy.Balancer = mesh.PassthroughLB
	default:
		c.Kind = mesh.ClusterStrictDNS
		if svc.Resolution == mesh.DNSRoundRobin {
			c.Kind = mesh.ClusterLogicalDNS
		}
		c.Endpoints = localities(LoadInput{Service: svc, Port: p, Labels: s.labels, Endpoints: in.Endpoints})
	}
	if c.Policy.Balancer == mesh.PassthroughLB && c.Kind == mesh.ClusterEDS {
		c.Kind = mesh.ClusterOriginalDst
	}
	c.Upstream = upstream(p, c.Policy)
	c.TLS = in.clientTLS(tp.GetTls(), p, s.name)
	if c.Kind == mesh.ClusterOriginalDst && c.TLS.Mode == mesh.TLSAuto {
		// The one endpoint is not known beforehand: mutual TLS is for all or none.
		c.TLS.Mode = mesh.TLSIstioMutual
		if !in.allMutual(p) {
			c.TLS = mesh.ClientTLS{}
		}
	}
	return c
}

// NeedsEndpoints tells whether the clusters of a service depend on its endpoints.
func NeedsEndpoints(svc *mesh.Service, rules []*config.Object) bool {
	if svc.Headless || svc.Resolution != mesh.Static {
		return true
	}
	passes := func(tp *networking.TrafficPolicy) bool {
		return tp.GetLoadBalancer().GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH ||
			slices.ContainsFunc(tp.GetPortLevelSettings(), func(p *networking.TrafficPolicy_PortTrafficPolicy) bool {
				return p.GetLoadBalancer().GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH
			})
	}
	return slices.ContainsFunc(rules, func(o *config.Object) bool {
		spec := o.Spec.(*networking.DestinationRule)
		return passes(spec.TrafficPolicy) || slices.ContainsFunc(spec.Subsets, func(s *networking.Subset) bool { return passes(s.TrafficPolicy) })
	})
}

// allMutual tells whether every endpoint accepts mutual TLS, and there is one.
func (in *ClustersInput) allMutual(p mesh.Port) bool {
	for i := range in.Endpoints {
		e := &in.Endpoints[i]
		if !e.Mutual || PeerMode(PeerInput{in.Options.RootNamespace, e.Namespace, e.Labels, e.TargetPort(p), in.Peers}) == PeerDisable {
			return false
		}
	}
	return len(in.Endpoints) > 0
}

func upstream(p mesh.Port, policy mesh.Policy) mesh.Upstream {
	switch {
	case p.Protocol.IsHTTP2():
		return mesh.UpstreamHTTP2
	case policy.UseClientProtocol || p.Protocol == mesh.Unknown:
		return mesh.UpstreamAsClient
	case p.Protocol == mesh.HTTP && policy.H2Upgrade:
		return mesh.UpstreamHTTP2
	}
	return mesh.UpstreamHTTP1
}

// clientTLS follows Istio: what the rule says, else automatic mutual TLS
// inside of the mesh.
func (in *ClustersInput) clientTLS(t *networking.ClientTLSSettings, p mesh.Port, subset string) mesh.ClientTLS {
	meshSANs := in.Service.SubjectAltNames
	if len(meshSANs) == 0 {
		meshSANs = in.ServiceAccounts
	}
	sni := mesh.SNI(p.Number, subset, in.Service.ID.Host)
	if t == nil {
		if in.Options.AutoMTLS && in.Service.Mutual {
			return mesh.ClientTLS{Mode: mesh.TLSAuto, SNI: sni, SubjectAltNames: meshSANs}
		}
		return mesh.ClientTLS{}
	}
	out := mesh.ClientTLS{
		SNI: t.Sni, SubjectAltNames: t.SubjectAltNames, CertificateFile: t.ClientCertificate, KeyFile: t.PrivateKey,
		RootFile: t.CaCertificates, InsecureSkipVerify: t.InsecureSkipVerify.GetValue(),
	}
	if t.CredentialName != "" {
		out.Credential, out.Roots = credentialName(t.CredentialName), rootsName(t.CredentialName)
	}
	if len(out.SubjectAltNames) == 0 {
		out.SubjectAltNames = in.Service.SubjectAltNames
	}
	switch t.Mode {
	case networking.ClientTLSSettings_DISABLE:
		return mesh.ClientTLS{}
	case networking.ClientTLSSettings_SIMPLE:
		out.Mode = mesh.TLSSimple
	case networking.ClientTLSSettings_MUTUAL:
		out.Mode = mesh.TLSMutual
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
		out = mesh.ClientTLS{Mode: mesh.TLSIstioMutual, SNI: cmp.Or(t.Sni, sni), SubjectAltNames: t.SubjectAltNames}
		if len(out.SubjectAltNames) == 0 {
			out.SubjectAltNames = meshSANs
		}
	}
	if out.SNI == "" && out.Mode != mesh.TLSIstioMutual && !strings.Contains(in.Service.ID.Host, "*") {
		out.SNI = in.Service.ID.Host // Istio: the host for SIMPLE and MUTUAL when sni is empty
	}
	return out
}

// LoadInput is what the endpoints of one cluster are made from.
type LoadInput struct {
	Service   *mesh.Service
	Port      mesh.Port
	Labels    map[string]string // of the subset
	Endpoints []mesh.Endpoint
	// PlainText tells, if set, which endpoints must not be spoken mutual TLS to.
	PlainText func(*mesh.Endpoint, uint32) bool
}

// AssignmentsInput is what the endpoints of all clusters of a service are made from.
type AssignmentsInput struct {
	Options   *Options
	Service   *mesh.Service
	Rules     []*config.Object
	Endpoints []mesh.Endpoint
	// Peers are the PeerAuthentications of the endpoints' namespaces and of the root namespace.
	Peers []*config.Object
}

// Assignments compiles the endpoints of every EDS cluster of one service.
func Assignments(in AssignmentsInput) []mesh.LoadAssignment {
	if in.Service.Resolution != mesh.Static {
		return nil
	}
	merged := mergeRules(in.Rules)
	plain := func(e *mesh.Endpoint, port uint32) bool {
		return PeerMode(PeerInput{in.Options.RootNamespace, e.Namespace, e.Labels, port, in.Peers}) == PeerDisable
	}
	var out []mesh.LoadAssignment
	for _, p := range in.Service.Ports {
		if p.Protocol == mesh.UDP {
			continue
		}
		load := LoadInput{Service: in.Service, Port: p, Endpoints: in.Endpoints, PlainText: plain}
		out = append(out, mesh.LoadAssignment{Cluster: mesh.OutboundCluster(p.Number, "", in.Service.ID.Host), Localities: localities(load)})
		for _, s := range merged.subsets {
			load.Labels = s.labels
			out = append(out, mesh.LoadAssignment{Cluster: mesh.OutboundCluster(p.Number, s.name, in.Service.ID.Host), Localities: localities(load)})
		}
	}
	return out
}

func localities(in LoadInput) []mesh.LocalityEndpoints {
	byName := map[string]int{}
	var out []mesh.LocalityEndpoints
	for i := range in.Endpoints {
		e := &in.Endpoints[i]
		port := e.TargetPort(in.Port)
		if e.Unready || port == 0 || !mesh.HasLabels(e.Labels, in.Labels) {
			continue
		}
		ce := mesh.ClusterEndpoint{
			Address: e.Address, Port: port, Weight: max(1, e.Weight), Workload: workloadID(e),
			Mutual: e.Mutual && (in.PlainText == nil || !in.PlainText(e, port)),
		}
		n, ok := byName[e.Locality]
		if !ok {
			n = len(out)
			byName[e.Locality] = n
			out = append(out, mesh.LocalityEndpoints{Locality: e.Locality})
		}
		out[n].Weight += ce.Weight
		out[n].Endpoints = append(out[n].Endpoints, ce)
	}
	slices.SortFunc(out, func(a, b mesh.LocalityEndpoints) int { return cmp.Compare(a.Locality, b.Locality) })
	for _, l := range out {
		slices.SortStableFunc(l.Endpoints, func(a, b mesh.ClusterEndpoint) int {
			return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
		})
	}
	return out
}

// workloadID is Istio's endpoint metadata "workload": who answers there.
func workloadID(e *mesh.Endpoint) string {
	if e.Workload == "" {
		return ""
	}
	_, name, _ := strings.Cut(e.Workload, "/")
	name = cmp.Or(e.WorkloadName, name)
	canonical := cmp.Or(e.Labels["service.istio.io/canonical-name"], e.Labels["app.kubernetes.io/name"], e.Labels["app"], name)
	revision := cmp.Or(e.Labels["service.istio.io/canonical-revision"], e.Labels["app.kubernetes.io/version"], e.Labels["version"], "latest")
	return strings.Join([]string{name, e.Namespace, canonical, revision, "Kubernetes"}, ";")
}

// BuiltinClusters are the clusters every sidecar has.
func BuiltinClusters(opts *Options) []mesh.Cluster {
	base := policy(nil, opts)
	pass := base
	pass.Balancer = mesh.PassthroughLB
	return []mesh.Cluster{
		{Name: mesh.BlackHole, Kind: mesh.ClusterStatic, Policy: base},
		{Name: mesh.Passthrough, Kind: mesh.ClusterOriginalDst, Policy: pass, Upstream: mesh.UpstreamAsClient},
	}
}
