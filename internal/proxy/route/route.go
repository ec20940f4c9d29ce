// SPDX-License-Identifier: Apache-2.0

// Package route compiles xDS route configurations and virtual hosts into
// immutable tables and matches requests against them. It is the one matcher of
// the mesh: the proxy, simulation and explanations all use it. Matching and
// rewriting do not allocate, but for regular-expression substitutions.
package route

import (
	"bytes"
	"math/rand/v2"
	"regexp"
	"strconv"

	"github.com/lateen-mesh/lateen/internal/proxy/fault"
	"github.com/lateen-mesh/lateen/internal/proxy/match"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// Options are what compilation and matching need besides the messages. The zero
// value is what a proxy uses.
type Options struct {
	// Rand gives 64 random bits for weighted clusters and fractions; nil means a
	// random source of the runtime. It must be safe for concurrent use.
	Rand func() uint64
}

func (o Options) random() func() uint64 {
	if o.Rand != nil {
		return o.Rand
	}
	return rand.Uint64
}

// Table is one route configuration. It is immutable: a change makes a new one,
// which shares every virtual host that did not change.
type Table struct {
	*settings
	hosts []*VirtualHost // in the order of index
	index *index
}

// settings are a RouteConfiguration without its virtual hosts.
type settings struct {
	name              string
	config            string
	ignorePort        bool
	mostSpecificWins  bool
	vhds              bool
	maxDirectBody     int
	internalOnly      []headerName
	request, response *mutations
	filters           []FilterConfig
	mirrors           []Mirror
	rand              func() uint64
}

// Name is the route configuration's name.
func (t *Table) Name() string { return t.name }

// Config names the configuration object it was made from, or is empty.
func (t *Table) Config() string { return t.config }

// VHDS reports whether virtual hosts come as resources of their own.
func (t *Table) VHDS() bool { return t.vhds }

// Hosts are the virtual hosts, the discovered ones first. The caller must not change
// the slice.
func (t *Table) Hosts() []*VirtualHost { return t.hosts }

// TLS is a virtual host's require_tls.
type TLS uint8

// The values of require_tls.
const (
	TLSNone TLS = iota
	TLSExternalOnly
	TLSAll
)

// VirtualHost is one compiled virtual host. It is immutable and belongs to no
// table: many may share it.
type VirtualHost struct {
	Name    string
	Domains []string // lower case
	Routes  []*Route
	// Config names the configuration object it was made from, or is empty.
	Config                        string
	RequireTLS                    TLS
	IncludeRequestAttemptCount    bool // set x-envoy-attempt-count on requests
	IncludeAttemptCountInResponse bool // and on responses

	request, response *mutations
	filters           []FilterConfig
	mirrors           []Mirror
	directBody        int // length of the longest direct response
}

// Route is one compiled route. Exactly one of Action, Redirect and Direct is
// not nil, or all are nil and NonForwarding is set.
type Route struct {
	Name string
	// Config names the configuration object it was made from, as in
	// /apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews.
	Config        string
	Action        *Action
	Redirect      *Redirect
	Direct        *DirectResponse
	NonForwarding bool
	// Operation is the decorator's operation, the name of the span.
	Operation string

	path              pathMatcher
	headers           []match.Header
	query             []match.Query
	grpc              bool
	fraction          fraction
	request, response *mutations
	filters           []FilterConfig
}

// DirectResponse is a local answer.
type DirectResponse struct {
	Status int
	Body   []byte // may be nil; the caller must not change it
}

// FilterConfig is the configuration of one HTTP filter on a route, a virtual
// host, a weighted cluster or the whole table.
type FilterConfig struct {
	Name     string // the filter's name in the connection manager
	Disabled bool
	Fault    *fault.Config
}

// fraction is a runtime_fraction; of is 0 when there is none.
type fraction struct{ n, of uint64 }

// Match is what a request was matched to: a value, valid for the exchange.
type Match struct {
	Table       *Table
	VirtualHost *VirtualHost // nil: no virtual host (route_not_found)
	Route       *Route       // nil: no route (route_not_found)
	// Cluster is the chosen cluster when Route.Action is set. With
	// cluster_header it aliases the request's memory, and is empty when the
	// header is absent (503, cluster_not_found).
	Cluster string
	// Weighted is the entry of weighted_clusters that was drawn, or nil.
	Weighted *Weighted
}

// Match finds the virtual host and the route of a request, and draws the
// cluster. It reports whether there is a route.
func (t *Table) Match(req *message.Request) (Match, bool) {
	m := Match{Table: t, VirtualHost: t.host(req.Authority)}
	if m.VirtualHost == nil {
		return m, false
	}
	if m.VirtualHost.RequireTLS != TLSNone && m.VirtualHost.needsTLS(req) {
		m.Route = httpsRedirect
		return m, true
	}
	for _, r := range m.VirtualHost.Routes {
		if r.matches(req, t.rand) {
			m.Route = r
			m.choose(req)
			return m, true
		}
	}
	return m, false
}

// httpsRedirect answers plain-text requests where TLS is required (Envoy:
// SslRedirectRoute).
var httpsRedirect = &Route{Redirect: &Redirect{Status: 301, https: true}}

// needsTLS follows x-forwarded-proto, as Envoy does.
func (v *VirtualHost) needsTLS(req *message.Request) bool {
	if proto, ok := req.Header.Get(message.XForwardedProto); ok {
		if string(proto) == "https" {
			return false
		}
	} else if string(req.Scheme) == "https" {
		return false
	}
	if v.RequireTLS == TLSExternalOnly {
		internal, _ := req.Header.Get(message.XEnvoyInternal)
		return string(internal) != "true"
	}
	return true
}

func (r *Route) matches(req *message.Request, rnd func() uint64) bool {
	if !r.path.match(req) {
		return false
	}
	if r.grpc && !format.IsGRPC(req) {
		return false
	}
	if !match.All(r.headers, req) {
		return false
	}
	for i := range r.query {
		if !r.query[i].Match(req.Path) {
			return false
		}
	}
	return r.fraction.of == 0 || rnd()%r.fraction.of < r.fraction.n
}

// choose fills Cluster and Weighted.
func (m *Match) choose(req *message.Request) {
	a := m.Route.Action
	if a == nil {
		return
	}
	header := &a.clusterHeader
	if len(a.Weighted) > 0 {
		m.Weighted = a.pick(req, m.Table.rand)
		m.Cluster = m.Weighted.Cluster
		header = &m.Weighted.clusterHeader
	} else {
		m.Cluster = a.Cluster
	}
	if header.name != nil {
		v, _ := header.get(&req.Header)
		m.Cluster = alias(v)
	}
}

// pick draws an entry by weight, or by a header's number (random_value_specifier).
func (a *Action) pick(req *message.Request, rnd func() uint64) *Weighted {
	var n uint64
	fromHeader := false
	if a.randomHeader.name != nil {
		if v, ok := a.randomHeader.get(&req.Header); ok {
			if u, err := strconv.ParseUint(string(v), 10, 64); err == nil {
				n, fromHeader = u, true
			}
		}
	}
	if !fromHeader {
		n = rnd()
	}
	n %= a.total
	for i := range a.Weighted {
		if w := &a.Weighted[i]; n < w.upTo {
			return w
		}
	}
	return &a.Weighted[len(a.Weighted)-1]
}

// Filter returns the most specific configuration of a filter: of the weighted
// cluster, the route, the virtual host or the table. It returns nil when there
// is none.
func (m *Match) Filter(name string) *FilterConfig {
	if m.Weighted != nil {
		if f := findFilter(m.Weighted.filters, name); f != nil {
			return f
		}
	}
	if m.Route != nil {
		if f := findFilter(m.Route.filters, name); f != nil {
			return f
		}
	}
	if m.VirtualHost != nil {
		if f := findFilter(m.VirtualHost.filters, name); f != nil {
			return f
		}
	}
	return findFilter(m.Table.filters, name)
}

func findFilter(fs []FilterConfig, name string) *FilterConfig {
	for i := range fs {
		if fs[i].Name == name {
			return &fs[i]
		}
	}
	return nil
}

// Mirrors are the shadow policies: the route's, else the virtual host's, else
// the table's.
func (m *Match) Mirrors() []Mirror {
	if m.Route != nil && m.Route.Action != nil && len(m.Route.Action.mirrors) > 0 {
		return m.Route.Action.mirrors
	}
	if m.VirtualHost != nil && len(m.VirtualHost.mirrors) > 0 {
		return m.VirtualHost.mirrors
	}
	return m.Table.mirrors
}

// pathKind says how a route matches the path.
type pathKind uint8

const (
	pathPrefix pathKind = iota
	pathExact
	pathRegex
	pathSeparated
	pathConnect
)

type pathMatcher struct {
	kind  pathKind
	fold  bool   // case_sensitive is false
	value string // lower case when fold
	re    *regexp.Regexp
}

func (p *pathMatcher) match(req *message.Request) bool {
	if p.kind == pathConnect {
		return string(req.Method) == "CONNECT"
	}
	path := withoutQuery(req.Path)
	switch p.kind {
	case pathPrefix:
		return p.hasPrefix(path)
	case pathExact:
		return len(path) == len(p.value) && p.hasPrefix(path)
	case pathSeparated:
		n := len(p.value)
		return p.hasPrefix(path) && (len(path) == n || path[n] == '/')
	default:
		return p.re.Match(path)
	}
}

func (p *pathMatcher) hasPrefix(path []byte) bool {
	n := len(p.value)
	if len(path) < n {
		return false
	}
	if p.fold {
		return match.EqualFold(path[:n], p.value)
	}
	return string(path[:n]) == p.value
}

// matched is the number of bytes at the start of the path that prefix_rewrite replaces.
func (p *pathMatcher) matched(path []byte) int {
	if p.kind == pathPrefix || p.kind == pathSeparated {
		return min(len(p.value), len(path))
	}
	return len(withoutQuery(path))
}

// withoutQuery cuts the query, and a fragment should there be one: what is
// matched is what Envoy matches (removeQueryAndFragment).
func withoutQuery(path []byte) []byte {
	for i, c := range path {
		if c == '?' || c == '#' {
			return path[:i]
		}
	}
	return path
}

// headerName is a name as it is looked up; name is nil when there is none.
type headerName struct {
	name []byte
	id   message.ID
}

func newHeaderName(s string) headerName {
	if s == "" {
		return headerName{}
	}
	b := match.AppendLower(nil, []byte(s))
	return headerName{name: b, id: message.Lookup(b)}
}

func (h *headerName) get(fields *message.Header) ([]byte, bool) {
	if h.id != message.Unknown {
		return fields.Get(h.id)
	}
	for i := range fields.Fields {
		if bytes.Equal(fields.Fields[i].Name, h.name) {
			return fields.Fields[i].Value, true
		}
	}
	return nil, false
}

func (h *headerName) remove(fields *message.Header) {
	if h.id != message.Unknown {
		fields.RemoveID(h.id)
		return
	}
	fields.Remove(h.name)
}
