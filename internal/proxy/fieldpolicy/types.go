// SPDX-License-Identifier: Apache-2.0

package fieldpolicy

import (
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// roots are the messages that come as resources or inside a
// google.protobuf.Any: where a walk begins.
var roots = []proto.Message{
	(*bootstrapv3.Bootstrap)(nil),
	(*clusterv3.Cluster)(nil),
	(*endpointv3.ClusterLoadAssignment)(nil),
	(*listenerv3.Listener)(nil),
	(*routev3.RouteConfiguration)(nil),
	(*routev3.VirtualHost)(nil),
	(*tlsv3.Secret)(nil),
	(*filev3.FileAccessLog)(nil),
	(*streamv3.StdoutAccessLog)(nil),
	(*streamv3.StderrAccessLog)(nil),
	(*corsv3.Cors)(nil),
	(*corsv3.CorsPolicy)(nil),
	(*faultv3.HTTPFault)(nil),
	(*grpcstatsv3.FilterConfig)(nil),
	(*routerv3.Router)(nil),
	(*httpinspectorv3.HttpInspector)(nil),
	(*originaldstv3.OriginalDst)(nil),
	(*tlsinspectorv3.TlsInspector)(nil),
	(*hcmv3.HttpConnectionManager)(nil),
	(*tcpproxyv3.TcpProxy)(nil),
	(*previoushostsv3.PreviousHostsPredicate)(nil),
	(*rawbufferv3.RawBuffer)(nil),
	(*tlsv3.UpstreamTlsContext)(nil),
	(*tlsv3.DownstreamTlsContext)(nil),
	(*upstreamhttpv3.HttpProtocolOptions)(nil),
}

// typePrefix is what every type URL of an xDS message begins with.
const typePrefix = "type.googleapis.com/"

// acceptedTypes are extension messages that are accepted without effect: they
// observe or tune and decide about no request. Their content is not decoded.
var acceptedTypes = map[string]string{
	"envoy.extensions.filters.http.grpc_stats.v3.FilterConfig":              "statistics only",
	"envoy.extensions.filters.http.grpc_web.v3.GrpcWeb":                     "gRPC-Web is passed on untranslated",
	"envoy.extensions.filters.http.cors.v3.Cors":                            "there is no CORS filter yet; browsers then refuse cross-origin use",
	"envoy.extensions.filters.http.cors.v3.CorsPolicy":                      "there is no CORS filter yet; browsers then refuse cross-origin use",
	"envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig":               "the extension's behaviour is built in",
	"istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig":             "the upstream ALPN offer is that of its TLS context",
	"io.istio.http.peer_metadata.Config":                                    "peer metadata is not exchanged yet",
	"stats.PluginConfig":                                                    "Istio's standard metrics are not recorded yet",
	"envoy.tcp.metadataexchange.config.MetadataExchange":                    "peer metadata is not exchanged over TCP yet",
	"envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig": "the system's resolver is used",
}

// typedStructs are the wrappers whose type_url field (1) names the message inside,
// as Istio sends messages that its control-plane library has no descriptors for.
var typedStructs = map[string]bool{
	"udpa.type.v1.TypedStruct": true,
	"xds.type.v3.TypedStruct":  true,
}

// Accepted says whether an Any of that type URL is accepted without effect, so
// that a builder of filters skips it.
func Accepted(typeURL string) bool {
	_, ok := acceptedTypes[strings.TrimPrefix(typeURL, typePrefix)]
	return ok
}

func rootDescriptors() []protoreflect.MessageDescriptor {
	out := make([]protoreflect.MessageDescriptor, len(roots))
	for i, m := range roots {
		out[i] = m.ProtoReflect().Descriptor()
	}
	return out
}
