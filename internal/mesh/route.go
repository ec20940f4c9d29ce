// SPDX-License-Identifier: Apache-2.0

package mesh

import "time"

// RouteConfig is the virtual hosts of one listener.
type RouteConfig struct {
	Name  string
	Hosts []*VirtualHost
	// OnDemand: the hosts are resources of their own; only the catch-all stays inline.
	OnDemand bool
	// KeepPort: domains contain ports, so the port of an authority counts.
	KeepPort bool
}

// VirtualHost is the routes of one host.
type VirtualHost struct {
	Name    string // host:port
	Domains []string
	Routes  []Route
	// RequireTLS redirects plain requests to https.
	RequireTLS bool
	Origin     Origin
}

// Route is one entry: what it matches and what is done. One of Forward,
// Redirect and Direct is set.
type Route struct {
	Name     string
	Origin   Origin
	Match    Match
	Forward  *Forward
	Redirect *Redirect
	Direct   *Direct
	Headers  HeaderOps
	Fault    *Fault
	CORS     *CORS
	// Operation names the route in traces: host:port/prefix*.
	Operation string
}

// MatchKind is how a string is compared.
type MatchKind uint8

const (
	Any MatchKind = iota // present at all
	Exact
	Prefix
	Regex // RE2, the whole string
)

// StringMatch compares one string.
type StringMatch struct {
	Kind       MatchKind
	Value      string
	IgnoreCase bool
}

// Match says which requests a route is for. The zero value matches all.
type Match struct {
	Path    StringMatch // Any: every path
	Headers []HeaderMatch
	Query   []QueryMatch
	// Connect matches CONNECT requests only; otherwise they do not match.
	Connect bool
}

// HeaderMatch compares one header (or :method, :scheme, :authority).
type HeaderMatch struct {
	Name   string
	Value  StringMatch
	Invert bool
}

// QueryMatch compares one query parameter.
type QueryMatch struct {
	Name  string
	Value StringMatch
}

// Forward sends the request on.
type Forward struct {
	Targets []Target // never empty
	Timeout time.Duration
	// Retry nil: never.
	Retry   *Retry
	Rewrite *Rewrite
	Mirrors []Mirror
	Hash    []HashKey
	// Terminate ends a CONNECT here and sends its bytes on as TCP.
	Terminate bool
}

// Target is one weighted destination.
type Target struct {
	Cluster string
	Weight  uint32
	Headers HeaderOps
	// Host replaces the authority for this target only.
	Host string
}

// Mirror copies a share of the requests.
type Mirror struct {
	Cluster string
	// PerMillion is the share out of 1,000,000.
	PerMillion uint32
}

// Retry says when and how often to try again.
type Retry struct {
	On            string // Envoy's comma-separated conditions
	StatusCodes   []uint32
	Attempts      uint32
	PerTryTimeout time.Duration
	AvoidPrevious bool
	Backoff       time.Duration
}

// Rewrite changes path and authority of a forwarded request.
type Rewrite struct {
	Prefix    string // replaces the matched prefix
	Path      string // replaces the whole path (of an exact or regex match)
	Regex     string
	Replace   string
	Authority string
}

// Redirect answers with a Location.
type Redirect struct {
	Scheme, Authority string
	Path, Prefix      string
	Port              uint32 // 0: unchanged
	Code              uint32
}

// Direct answers by itself.
type Direct struct {
	Status uint32
	Body   []byte
}

// HeaderOps changes headers; lists are sorted by name.
type HeaderOps struct {
	RequestSet, RequestAdd, ResponseSet, ResponseAdd []Header
	RequestRemove, ResponseRemove                    []string
}

// Header is a name and a value.
type Header struct{ Name, Value string }

// Fault delays or aborts a share of the requests, in parts per million.
type Fault struct {
	Delay           time.Duration
	DelayPerMillion uint32
	HTTPStatus      uint32 // of the abort; 0: none
	GRPCStatus      *uint32
	AbortPerMillion uint32
}

// CORS answers preflights and marks answers.
type CORS struct {
	Origins          []StringMatch
	Methods, Headers []string
	Expose           []string
	MaxAge           time.Duration
	AllowCredentials *bool
	IgnoreUnmatched  bool // a preflight that does not match is not forwarded
	HasMaxAge        bool
}
