// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 deprecated fields are written where Istio writes them, so that any proxy that Istio drives understands them

package xds

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lateen-mesh/lateen/internal/mesh"
)

// The secrets every proxy makes or receives by itself, by Istio's names.
const (
	WorkloadSecret = "default"
	RootSecret     = "ROOTCA"
)

// The application protocols a mesh client offers: the first tells the server's
// filter chains what is inside, the last is what the TLS library agrees on.
var (
	alpnHTTP1 = []string{"istio-http/1.1", "istio", "http/1.1"}
	alpnHTTP2 = []string{"istio-h2", "istio", "h2"}
	alpnTCP   = []string{"istio-peer-exchange", "istio"}
)

func clientALPN(c *mesh.Cluster) []string {
	switch {
	case c.Upstream == mesh.UpstreamHTTP2:
		return alpnHTTP2
	case c.Protocol.MaybeHTTP():
		return alpnHTTP1
	}
	return alpnTCP
}

func clientTLS(out *clusterv3.Cluster, c *mesh.Cluster) {
	switch c.TLS.Mode {
	case mesh.TLSAuto:
		out.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{
			{
				Name:            "tlsMode-istio",
				Match:           &structpb.Struct{Fields: map[string]*structpb.Value{"tlsMode": text("istio")}},
				TransportSocket: tlsSocket(meshClient(c)),
			},
			{Name: "tlsMode-disabled", Match: &structpb.Struct{}, TransportSocket: rawSocket()},
		}
	case mesh.TLSIstioMutual:
		out.TransportSocket = tlsSocket(meshClient(c))
	case mesh.TLSSimple, mesh.TLSMutual:
		out.TransportSocket = tlsSocket(ownClient(c))
	}
}

func tlsSocket(m proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: typed(m)}}
}

func rawSocket() *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.raw_buffer", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: typed(&rawv3.RawBuffer{})}}
}

// workloadSecret refers to a secret of the proxy's own, as Istio writes it.
func workloadSecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_GRPC, TransportApiVersion: corev3.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "sds-grpc"},
			}}},
		}},
		InitialFetchTimeout: duration(0), ResourceApiVersion: corev3.ApiVersion_V3,
	}}
}

// credential refers to a gateway's secret, which comes over ADS.
func credential(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: ads()}
}

// Secret translates a secret.
func Secret(s *mesh.Secret) *tlsv3.Secret {
	out := &tlsv3.Secret{Name: s.Name}
	if len(s.Key) > 0 {
		out.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inlineBytes(s.Certificate), PrivateKey: inlineBytes(s.Key)}}
		return out
	}
	roots := &tlsv3.CertificateValidationContext{TrustedCa: inlineBytes(s.Roots)}
	if len(s.Revoked) > 0 {
		roots.Crl = inlineBytes(s.Revoked)
	}
	out.Type = &tlsv3.Secret_ValidationContext{ValidationContext: roots}
	return out
}

func inlineBytes(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func meshParams() *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3}
}

func meshClient(c *mesh.Cluster) *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{Sni: c.TLS.SNI, CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsParams: meshParams(), AlpnProtocols: clientALPN(c),
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{workloadSecret(WorkloadSecret)},
		ValidationContextType:          combined(workloadSecret(RootSecret), exactNames(c.TLS.SubjectAltNames)),
	}}
}

func combined(root *tlsv3.SdsSecretConfig, names []*matcherv3.StringMatcher) *tlsv3.CommonTlsContext_CombinedValidationContext {
	return &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
		DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchSubjectAltNames: names},
		ValidationContextSdsSecretConfig: root,
	}}
}

func exactNames(names []string) []*matcherv3.StringMatcher {
	var out []*matcherv3.StringMatcher
	for _, n := range names {
		out = append(out, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: n}})
	}
	return out
}

func file(name string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: name}}
}

// ownClient is TLS with the files or credentials of a DestinationRule.
func ownClient(c *mesh.Cluster) *tlsv3.UpstreamTlsContext {
	t := &c.TLS
	common := &tlsv3.CommonTlsContext{TlsParams: meshParams()}
	if c.Upstream == mesh.UpstreamHTTP2 {
		common.AlpnProtocols = []string{"h2"}
	}
	names := exactNames(t.SubjectAltNames)
	switch {
	case t.Credential != "":
		if t.Mode == mesh.TLSMutual {
			common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{credential(t.Credential)}
		}
		if !t.InsecureSkipVerify {
			common.ValidationContextType = combined(credential(t.Roots), names)
		}
	default:
		if t.Mode == mesh.TLSMutual {
			common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: file(t.CertificateFile), PrivateKey: file(t.KeyFile)}}
		}
		root := t.RootFile
		if root == "" && !t.InsecureSkipVerify {
			root = "/etc/ssl/certs/ca-certificates.crt" // Istio verifies against the system's roots
		}
		if root != "" {
			common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: file(root), MatchSubjectAltNames: names,
			}}
		}
	}
	return &tlsv3.UpstreamTlsContext{Sni: t.SNI, CommonTlsContext: common}
}

// serverCiphers is Istio's list for inbound mutual TLS with TLS 1.2.
var serverCiphers = []string{
	"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
	"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256",
}

func serverTLS(t *mesh.ServerTLS) *corev3.TransportSocket {
	common := &tlsv3.CommonTlsContext{AlpnProtocols: t.ALPN}
	out := &tlsv3.DownstreamTlsContext{CommonTlsContext: common}
	if t.Mesh {
		out.RequireClientCertificate = wrapperspb.Bool(true)
		common.TlsParams = meshParams()
		common.TlsParams.CipherSuites = serverCiphers
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{workloadSecret(WorkloadSecret)}
		var names []*matcherv3.StringMatcher
		for _, d := range t.TrustDomains {
			names = append(names, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + d + "/"}})
		}
		common.ValidationContextType = combined(workloadSecret(RootSecret), names)
		return tlsSocket(out)
	}
	common.TlsParams = &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsVersion(t.MinVersion, tlsv3.TlsParameters_TLSv1_2), TlsMaximumProtocolVersion: tlsVersion(t.MaxVersion, tlsv3.TlsParameters_TLSv1_3),
		CipherSuites: t.CipherSuites,
	}
	names := exactNames(t.SubjectAltNames)
	verify := t.RequireClient || t.OptionalClient
	switch {
	case len(t.Credentials) > 0:
		for _, name := range t.Credentials {
			common.TlsCertificateSdsSecretConfigs = append(common.TlsCertificateSdsSecretConfigs, credential(name))
		}
		if verify {
			common.ValidationContextType = combined(credential(t.Roots), names)
		}
	default:
		common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: file(t.CertificateFile), PrivateKey: file(t.KeyFile)}}
		if verify {
			common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: file(t.RootFile), MatchSubjectAltNames: names,
			}}
		}
	}
	out.RequireClientCertificate = wrapperspb.Bool(t.RequireClient)
	return tlsSocket(out)
}

func tlsVersion(v uint8, def tlsv3.TlsParameters_TlsProtocol) tlsv3.TlsParameters_TlsProtocol {
	switch v {
	case 10:
		return tlsv3.TlsParameters_TLSv1_0
	case 11:
		return tlsv3.TlsParameters_TLSv1_1
	case 12:
		return tlsv3.TlsParameters_TLSv1_2
	case 13:
		return tlsv3.TlsParameters_TLSv1_3
	}
	return def
}
