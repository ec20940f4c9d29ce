// SPDX-License-Identifier: Apache-2.0

package message

// ID names a well-known header field, so that the hot path compares small
// integers and not strings.
type ID uint8

// Unknown is the ID of every name that is not in the table.
const Unknown ID = 0

// The well-known names. Sections: framing and hop-by-hop, end-to-end, Envoy's
// and Istio's, tracing.
const (
	Connection ID = 1 + iota
	ContentLength
	Expect
	Host
	HTTP2Settings
	KeepAlive
	ProxyConnection
	TE
	Trailer
	TransferEncoding
	Upgrade

	Accept
	AcceptEncoding
	AcceptLanguage
	AccessControlRequestMethod
	Authorization
	CacheControl
	ContentEncoding
	ContentType
	Cookie
	Date
	EndUser
	ETag
	GRPCMessage
	GRPCStatus
	GRPCTimeout
	IfModifiedSince
	IfNoneMatch
	LastModified
	Location
	Origin
	Range
	Referer
	Server
	SetCookie
	UserAgent
	Vary
	Via
	WWWAuthenticate

	XEnvoyAttemptCount
	XEnvoyDecoratorOperation
	XEnvoyExpectedRqTimeoutMs
	XEnvoyInternal
	XEnvoyMaxRetries
	XEnvoyOriginalHost
	XEnvoyOriginalPath
	XEnvoyOverloaded
	XEnvoyPeerMetadata
	XEnvoyPeerMetadataID
	XEnvoyRatelimited
	XEnvoyRetryOn
	XEnvoyRetryGRPCOn
	XEnvoyUpstreamRqPerTryTimeoutMs
	XEnvoyUpstreamRqTimeoutMs
	XEnvoyUpstreamServiceTime
	XForwardedClientCert
	XForwardedFor
	XForwardedHost
	XForwardedProto
	XRequestID

	B3
	Traceparent
	Tracestate
	XB3Flags
	XB3ParentSpanID
	XB3Sampled
	XB3SpanID
	XB3TraceID
	XOtSpanContext

	count
)

var names = [count][]byte{
	Unknown:                         nil,
	Connection:                      []byte("connection"),
	ContentLength:                   []byte("content-length"),
	Expect:                          []byte("expect"),
	Host:                            []byte("host"),
	HTTP2Settings:                   []byte("http2-settings"),
	KeepAlive:                       []byte("keep-alive"),
	ProxyConnection:                 []byte("proxy-connection"),
	TE:                              []byte("te"),
	Trailer:                         []byte("trailer"),
	TransferEncoding:                []byte("transfer-encoding"),
	Upgrade:                         []byte("upgrade"),
	Accept:                          []byte("accept"),
	AcceptEncoding:                  []byte("accept-encoding"),
	AcceptLanguage:                  []byte("accept-language"),
	AccessControlRequestMethod:      []byte("access-control-request-method"),
	Authorization:                   []byte("authorization"),
	CacheControl:                    []byte("cache-control"),
	ContentEncoding:                 []byte("content-encoding"),
	ContentType:                     []byte("content-type"),
	Cookie:                          []byte("cookie"),
	Date:                            []byte("date"),
	EndUser:                         []byte("end-user"),
	ETag:                            []byte("etag"),
	GRPCMessage:                     []byte("grpc-message"),
	GRPCStatus:                      []byte("grpc-status"),
	GRPCTimeout:                     []byte("grpc-timeout"),
	IfModifiedSince:                 []byte("if-modified-since"),
	IfNoneMatch:                     []byte("if-none-match"),
	LastModified:                    []byte("last-modified"),
	Location:                        []byte("location"),
	Origin:                          []byte("origin"),
	Range:                           []byte("range"),
	Referer:                         []byte("referer"),
	Server:                          []byte("server"),
	SetCookie:                       []byte("set-cookie"),
	UserAgent:                       []byte("user-agent"),
	Vary:                            []byte("vary"),
	Via:                             []byte("via"),
	WWWAuthenticate:                 []byte("www-authenticate"),
	XEnvoyAttemptCount:              []byte("x-envoy-attempt-count"),
	XEnvoyDecoratorOperation:        []byte("x-envoy-decorator-operation"),
	XEnvoyExpectedRqTimeoutMs:       []byte("x-envoy-expected-rq-timeout-ms"),
	XEnvoyInternal:                  []byte("x-envoy-internal"),
	XEnvoyMaxRetries:                []byte("x-envoy-max-retries"),
	XEnvoyOriginalHost:              []byte("x-envoy-original-host"),
	XEnvoyOriginalPath:              []byte("x-envoy-original-path"),
	XEnvoyOverloaded:                []byte("x-envoy-overloaded"),
	XEnvoyPeerMetadata:              []byte("x-envoy-peer-metadata"),
	XEnvoyPeerMetadataID:            []byte("x-envoy-peer-metadata-id"),
	XEnvoyRatelimited:               []byte("x-envoy-ratelimited"),
	XEnvoyRetryOn:                   []byte("x-envoy-retry-on"),
	XEnvoyRetryGRPCOn:               []byte("x-envoy-retry-grpc-on"),
	XEnvoyUpstreamRqPerTryTimeoutMs: []byte("x-envoy-upstream-rq-per-try-timeout-ms"),
	XEnvoyUpstreamRqTimeoutMs:       []byte("x-envoy-upstream-rq-timeout-ms"),
	XEnvoyUpstreamServiceTime:       []byte("x-envoy-upstream-service-time"),
	XForwardedClientCert:            []byte("x-forwarded-client-cert"),
	XForwardedFor:                   []byte("x-forwarded-for"),
	XForwardedHost:                  []byte("x-forwarded-host"),
	XForwardedProto:                 []byte("x-forwarded-proto"),
	XRequestID:                      []byte("x-request-id"),
	B3:                              []byte("b3"),
	Traceparent:                     []byte("traceparent"),
	Tracestate:                      []byte("tracestate"),
	XB3Flags:                        []byte("x-b3-flags"),
	XB3ParentSpanID:                 []byte("x-b3-parentspanid"),
	XB3Sampled:                      []byte("x-b3-sampled"),
	XB3SpanID:                       []byte("x-b3-spanid"),
	XB3TraceID:                      []byte("x-b3-traceid"),
	XOtSpanContext:                  []byte("x-ot-span-context"),
}

// byLength holds the names of each length: most look-ups end at the length or
// at the first byte, without hashing.
var byLength = func() (t [40][]ID) {
	for id := ID(1); id < count; id++ {
		n := len(names[id])
		t[n] = append(t[n], id)
	}
	return t
}()

// Lookup finds the ID of a lower-case name.
func Lookup(name []byte) ID {
	if len(name) == 0 || len(name) >= len(byLength) {
		return Unknown
	}
	for _, id := range byLength[len(name)] {
		n := names[id]
		if n[0] == name[0] && string(n) == string(name) {
			return id
		}
	}
	return Unknown
}

// Bytes is the lower-case name. The caller must not change it.
func (id ID) Bytes() []byte { return names[id] }

// String is the lower-case name.
func (id ID) String() string { return string(names[id]) }
