// SPDX-License-Identifier: Apache-2.0

package mesh

import "time"

// Direction is which way a listener's traffic goes.
type Direction uint8

const (
	Outbound Direction = iota
	Inbound
	Edge // a gateway
)

// Listener is one socket or hand-off target.
type Listener struct {
	Name      string
	Address   string
	Port      uint32
	Direction Direction
	// HandOff: no socket of its own; connections come from the listener with OriginalDst.
	HandOff     bool
	OriginalDst bool
	InspectTLS  bool
	InspectHTTP bool
	// PlainPorts and OpaquePorts are original destination ports on which TLS
	// and HTTP are not looked for: there the first bytes are not waited for.
	PlainPorts, OpaquePorts []uint32
	// DualStack: the address is the IPv6 wildcard and stands for IPv4 too.
	DualStack bool
	// DetectionTimeout of the inspectors; 0 waits for ever.
	DetectionTimeout time.Duration
	Chains           []Chain
	Default          *Chain
	Origin           Origin
}

// Chain is what is done with the connections that match. One of HTTP and TCP is set.
type Chain struct {
	Name   string
	Match  ChainMatch
	TLS    *ServerTLS
	HTTP   *HTTPConn
	TCP    *TCPProxy
	Origin Origin
}

// ChainMatch is a filter chain match; empty fields match all.
type ChainMatch struct {
	Port         uint32
	Prefixes     []string // CIDR of the destination address
	ServerNames  []string
	Transport    string // "tls" or "raw_buffer"
	Applications []string
}

// ServerTLS is the server side of TLS.
type ServerTLS struct {
	// Mesh uses the workload's certificate and root and requires a client
	// certificate of the trust domains.
	Mesh         bool
	TrustDomains []string
	// Otherwise the certificates are files, or secrets by their resource names:
	// Credentials of the server, Roots for its clients' certificates.
	CertificateFile, KeyFile, RootFile string
	Credentials                        []string
	Roots                              string
	RequireClient                      bool
	OptionalClient                     bool
	SubjectAltNames                    []string
	MinVersion, MaxVersion             uint8 // 0 default, else 10 to 13 for 1.0 to 1.3
	CipherSuites                       []string
	ALPN                               []string
}

// Secret is a certificate with its key, or roots: what a proxy asks for by name.
type Secret struct {
	Name             string
	Certificate, Key []byte // PEM; set together
	Roots, Revoked   []byte // PEM
}

// HTTPConn handles HTTP connections.
type HTTPConn struct {
	StatPrefix string
	// RouteConfig is the name of a route configuration; Inline is used if it is set.
	RouteConfig string
	Inline      *RouteConfig
	Direction   Direction
	Paths       PathNormalization
	AccessLog   *AccessLog
	// Connect lets CONNECT through to the routes.
	Connect bool
	// ForwardCert passes the peer's certificate on (inbound mutual TLS).
	ForwardCert bool
	// Edge values follow the gateway profile (times, limits).
	XFFTrustedHops uint32
}

// PathNormalization is how paths are made canonical before they are matched.
type PathNormalization uint8

const (
	NormalizeBase PathNormalization = iota
	NormalizeNone
	NormalizeMergeSlashes
	NormalizeDecodeAndMerge
)

// AccessLog is where and how requests are logged. Format empty: Istio's own.
type AccessLog struct {
	Path   string
	Format string // text
	JSON   [][2]string
	IsJSON bool
}

// TCPProxy passes bytes on.
type TCPProxy struct {
	StatPrefix            string
	Targets               []Target
	IdleTimeout           time.Duration
	MaxConnectionDuration time.Duration
	AccessLog             *AccessLog
}
