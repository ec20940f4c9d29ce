// SPDX-License-Identifier: Apache-2.0

// Package compile turns what the user wrote into the compiled mesh: pure
// functions, each of whose only argument is an immutable input.
package compile

import (
	"slices"
	"strings"
	"time"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// ClusterDomain is the DNS domain of short host names.
const ClusterDomain = "cluster.local"

// Options are the settings of the whole mesh, taken from MeshConfig.
type Options struct {
	RootNamespace string
	TrustDomains  []string // the first one is the mesh's own
	AutoMTLS      bool
	RegistryOnly  bool // unknown destinations are refused
	// InboundLocalhost: applications are reached on their loopback address.
	InboundLocalhost bool
	ConnectTimeout   time.Duration
	// DetectionTimeout of the protocol inspectors; 0 waits for ever.
	DetectionTimeout time.Duration
	ProxyHTTPPort    uint32
	OutboundPort     uint32
	InboundPort      uint32
	Paths            mesh.PathNormalization
	AccessLog        *mesh.AccessLog
	DefaultRetry     *networking.HTTPRetry
	H2Upgrade        bool // of HTTP/1.1 to the mesh's own services, unless a rule says otherwise
	Keepalive        *networking.ConnectionPoolSettings_TCPSettings_TcpKeepalive
	DNSRefresh       time.Duration

	IngressMode     meshv1alpha1.MeshConfig_IngressControllerMode
	IngressClass    string
	IngressSelector string // of gateways' label istio

	ServiceExport, RouteExport, RuleExport mesh.Visibility
}

// NewOptions reads a MeshConfig that has its defaults filled in.
func NewOptions(m *meshv1alpha1.MeshConfig) *Options {
	if m == nil {
		m = &meshv1alpha1.MeshConfig{}
	}
	o := &Options{
		RootNamespace:    orDefault(m.RootNamespace, "istio-system"),
		TrustDomains:     append([]string{orDefault(m.TrustDomain, "cluster.local")}, m.TrustDomainAliases...),
		AutoMTLS:         m.EnableAutoMtls == nil || m.EnableAutoMtls.Value,
		RegistryOnly:     m.OutboundTrafficPolicy.GetMode() == meshv1alpha1.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY,
		ConnectTimeout:   10 * time.Second,
		DetectionTimeout: m.ProtocolDetectionTimeout.AsDuration(),
		ProxyHTTPPort:    uint32(m.ProxyHttpPort),
		OutboundPort:     orDefault(uint32(m.ProxyListenPort), 15001),
		InboundPort:      orDefault(uint32(m.ProxyInboundListenPort), 15006),
		DefaultRetry:     m.DefaultHttpRetryPolicy,
		AccessLog:        accessLog(m),
		H2Upgrade:        m.H2UpgradePolicy == meshv1alpha1.MeshConfig_UPGRADE,
		Keepalive:        m.TcpKeepalive,
		DNSRefresh:       60 * time.Second,
		IngressMode:      m.IngressControllerMode,
		IngressClass:     orDefault(m.IngressClass, "istio"),
		IngressSelector:  orDefault(m.IngressSelector, "ingressgateway"),
		ServiceExport:    exportDefault(m.DefaultServiceExportTo),
		RouteExport:      exportDefault(m.DefaultVirtualServiceExportTo),
		RuleExport:       exportDefault(m.DefaultDestinationRuleExportTo),
	}
	if o.IngressMode == meshv1alpha1.MeshConfig_UNSPECIFIED {
		o.IngressMode = meshv1alpha1.MeshConfig_STRICT
	}
	if p := m.InboundTrafficPolicy; p != nil {
		o.InboundLocalhost = p.Mode == meshv1alpha1.MeshConfig_InboundTrafficPolicy_LOCALHOST
	}
	if m.OutboundTrafficPolicy == nil {
		o.RegistryOnly = false // ALLOW_ANY is the default, though not the zero value
	}
	if m.DnsRefreshRate.AsDuration() > 0 {
		o.DNSRefresh = m.DnsRefreshRate.AsDuration()
	}
	if m.ConnectTimeout != nil {
		o.ConnectTimeout = m.ConnectTimeout.AsDuration()
	}
	switch m.PathNormalization.GetNormalization() {
	case meshv1alpha1.MeshConfig_ProxyPathNormalization_NONE:
		o.Paths = mesh.NormalizeNone
	case meshv1alpha1.MeshConfig_ProxyPathNormalization_MERGE_SLASHES:
		o.Paths = mesh.NormalizeMergeSlashes
	case meshv1alpha1.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES:
		o.Paths = mesh.NormalizeDecodeAndMerge
	}
	return o
}

func accessLog(m *meshv1alpha1.MeshConfig) *mesh.AccessLog {
	if m.AccessLogFile == "" {
		return nil
	}
	l := &mesh.AccessLog{Path: m.AccessLogFile}
	if m.AccessLogEncoding == meshv1alpha1.MeshConfig_JSON {
		l.IsJSON = true
		l.JSON = jsonFields(m.AccessLogFormat)
		return l
	}
	l.Format = m.AccessLogFormat
	if l.Format != "" && !strings.HasSuffix(l.Format, "\n") {
		l.Format += "\n"
	}
	return l
}

func exportDefault(list []string) mesh.Visibility {
	if len(list) == 0 {
		return mesh.Visibility{"*"}
	}
	return list
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Ref names an object whose kind follows from the place.
type Ref struct{ Namespace, Name string }

func refOf(o *config.Object) Ref { return Ref{o.Namespace, o.Name} }

func (r Ref) String() string { return r.Namespace + "/" + r.Name }

func parseRef(s, namespace string) Ref {
	if ns, name, ok := strings.Cut(s, "/"); ok {
		return Ref{ns, name}
	}
	return Ref{namespace, s}
}

func origin(o *config.Object) mesh.Origin {
	if o == nil {
		return ""
	}
	if len(o.Parents) > 0 {
		return mesh.Origin(o.Parents[0].ConfigPath())
	}
	return mesh.Origin(o.ConfigPath())
}

// FQDN completes a host as Istio does: a name without dots is a service of the
// object's namespace; names with dots and wildcards are complete.
func FQDN(host, namespace string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || strings.ContainsAny(host, ".*:") {
		return host
	}
	return host + "." + namespace + ".svc." + ClusterDomain
}

// hostMatches tells whether a host or wildcard covers a concrete host (or a
// narrower wildcard).
func hostMatches(pattern, host string) bool {
	if pattern == host || pattern == "*" {
		return true
	}
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return strings.HasSuffix(strings.TrimPrefix(host, "*"), suffix) && len(host) > len(suffix)
	}
	return false
}

// narrower returns the more specific of two hosts of which one covers the
// other, or "" when neither does.
func narrower(a, b string) string {
	switch {
	case hostMatches(a, b):
		return b
	case hostMatches(b, a):
		return a
	}
	return ""
}

func visibility(exportTo []string, def mesh.Visibility) mesh.Visibility {
	if len(exportTo) == 0 {
		return def
	}
	return slices.Clone(exportTo)
}
