// SPDX-License-Identifier: Apache-2.0

// Package format is Envoy's substitution format language: it compiles
// "%REQ(:METHOD)% %DURATION%" once into a list of operations that read one
// Entry, for access logs (text and JSON) and for header values.
package format

import (
	"net/netip"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// Entry is what is known of one exchange or one TCP connection. Whoever drives
// it fills the fields as they become known; operators read them at any time.
// An Entry holds no buffers: its messages live as long as the exchange. The
// zero value is an exchange of which nothing is known; Reset it for reuse.
type Entry struct {
	Request  *message.Request  // nil for TCP
	Response *message.Response // nil until there is one

	Start time.Time
	// The following count from Start; 0 means that the point was not reached.
	Duration        time.Duration // end of the stream
	RequestRead     time.Duration // last byte of the request received
	UpstreamFirstTx time.Duration // first byte sent upstream
	UpstreamLastTx  time.Duration
	UpstreamFirstRx time.Duration // first byte received from upstream
	UpstreamLastRx  time.Duration
	ResponseFirstTx time.Duration // first byte of the response sent downstream
	ResponseLastTx  time.Duration

	BytesReceived         uint64 // body bytes from downstream
	BytesSent             uint64 // body bytes to downstream
	UpstreamBytesReceived uint64 // wire bytes from upstream
	UpstreamBytesSent     uint64 // wire bytes to upstream

	Status             int // response code, 0 when there was none
	Flags              Flags
	Details            string // response code details, with '_' for spaces
	TerminationDetails string // why the connection was closed

	UpstreamHost             string // address and port of the chosen host
	UpstreamHostName         string
	UpstreamCluster          string
	UpstreamLocal            netip.AddrPort
	UpstreamTransportFailure string
	UpstreamProto            message.Proto
	Attempts                 int // upstream requests made, 0 when none

	DownstreamLocal        netip.AddrPort
	DownstreamRemote       netip.AddrPort // the trusted client address (XFF)
	DownstreamDirectRemote netip.AddrPort // the peer of the socket

	SNI             string
	RouteName       string
	VirtualHostName string
	ConnectionID    uint64
	StreamID        uint64
	TLS             *TLS // nil on a plain-text connection
}

// Reset empties e for the next exchange.
func (e *Entry) Reset() { *e = Entry{} }

// TLS describes a downstream TLS connection, made once per connection. Peer
// values come from a verified certificate only.
type TLS struct {
	Version, Cipher                   string
	PeerURISANs, PeerDNSSANs          string // joined with commas
	LocalURISANs, LocalDNSSANs        string
	PeerSubject, PeerIssuer           string
	LocalSubject                      string
	PeerFingerprint256                string // lower-case hexadecimal SHA-256 of the certificate
	PeerSerial                        string // lower-case hexadecimal
	PeerCertNotBefore, PeerCertNotEnd time.Time
}
