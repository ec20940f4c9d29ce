// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"
	"strconv"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// RewriteRequest applies what the match says about the request that goes
// upstream: header operations (weighted cluster, route, virtual host, table, or
// the reverse with most_specific_header_mutations_wins), then the authority,
// then the path. e feeds %...% formatters and a holds new values. envoyHeaders
// says to set x-envoy-original-path and -host (the router's suppress_envoy_headers is off).
func (m *Match) RewriteRequest(req *message.Request, e *format.Entry, a *message.Arena, envoyHeaders bool) {
	r := m.Route
	levels := [4]*mutations{1: r.request, 3: m.Table.request}
	if m.Weighted != nil {
		levels[0] = m.Weighted.request
	}
	if m.VirtualHost != nil {
		levels[2] = m.VirtualHost.request
	}
	m.applyLevels(&levels, &req.Header, e, a)
	if r.Action == nil {
		return
	}
	if m.Weighted != nil && m.Weighted.hostRewrite != nil {
		r.Action.SetAuthority(req, m.Weighted.hostRewrite, a, envoyHeaders)
	} else if w := r.Action.rewrite; w != nil {
		if host := w.authority(req); len(host) > 0 {
			r.Action.SetAuthority(req, host, a, envoyHeaders)
		}
	}
	if w := r.Action.rewrite; w != nil && (w.prefix != nil || w.path != nil) {
		old := req.Path
		req.Path = newPath(&r.path, w.prefix, w.path, old, a)
		if envoyHeaders {
			req.Header.SetID(message.XEnvoyOriginalPath, old)
		}
	}
}

// RewriteResponse applies the header operations on the response that goes
// downstream, local replies of redirects and direct responses included.
func (m *Match) RewriteResponse(h *message.Header, e *format.Entry, a *message.Arena) {
	levels := [4]*mutations{3: m.Table.response}
	if m.Weighted != nil {
		levels[0] = m.Weighted.response
	}
	if m.Route != nil {
		levels[1] = m.Route.response
	}
	if m.VirtualHost != nil {
		levels[2] = m.VirtualHost.response
	}
	m.applyLevels(&levels, h, e, a)
}

func (m *Match) applyLevels(levels *[4]*mutations, h *message.Header, e *format.Entry, a *message.Arena) {
	for i := range levels {
		if m.Table.mostSpecificWins {
			i = len(levels) - 1 - i
		}
		levels[i].apply(h, e, a)
	}
}

// RemoveInternalOnly drops the headers that only internal requests may carry
// (internal_only_headers); the caller knows whether the request is one.
func (t *Table) RemoveInternalOnly(h *message.Header) {
	for i := range t.internalOnly {
		t.internalOnly[i].remove(h)
	}
}

// authority is the new authority, empty for none.
func (w *rewrite) authority(req *message.Request) []byte {
	switch {
	case w.host != nil:
		return w.host
	case w.hostHeader.name != nil:
		v, _ := w.hostHeader.get(&req.Header)
		return v
	case w.hostFromPath != nil:
		return w.hostFromPath.apply(withoutQuery(req.Path))
	}
	return nil
}

// SetAuthority replaces the authority; the old one goes to x-forwarded-host
// when the route says so, and to x-envoy-original-host with envoyHeaders. The
// engine calls it for AutoHostRewrite, when it knows the host.
func (a *Action) SetAuthority(req *message.Request, host []byte, arena *message.Arena, envoyHeaders bool) {
	old := req.Authority
	if a.AppendXForwardedHost && len(old) > 0 {
		appendForwardedHost(req, old, arena)
	}
	if envoyHeaders && len(old) > 0 && !bytes.Equal(old, host) {
		req.Header.SetID(message.XEnvoyOriginalHost, old)
	}
	req.Authority = host
}

// appendForwardedHost adds host to the list unless it is its last element
// (Envoy: Utility::appendXForwardedHost).
func appendForwardedHost(req *message.Request, host []byte, a *message.Arena) {
	v, ok := req.Header.Get(message.XForwardedHost)
	if !ok || len(v) == 0 {
		req.Header.SetID(message.XForwardedHost, host)
		return
	}
	last := v
	if i := bytes.LastIndexByte(v, ','); i >= 0 {
		last = v[i+1:]
	}
	if bytes.Equal(bytes.TrimSpace(last), host) {
		return
	}
	b := append(a.Tail(), v...)
	b = append(b, ',')
	b = append(b, host...)
	req.Header.SetID(message.XForwardedHost, a.Commit(b))
}

// newPath replaces the matched prefix, or the pattern's matches in the path
// without its query. A path always begins with a slash.
func newPath(p *pathMatcher, prefix []byte, sub *substitution, path []byte, a *message.Arena) []byte {
	b := a.Tail()
	if sub != nil {
		q := len(withoutQuery(path))
		b = appendRooted(b, sub.apply(path[:q]), path[q:])
	} else {
		b = appendRooted(b, prefix, path[p.matched(path):])
	}
	return a.Commit(b)
}

func appendRooted(b, head, tail []byte) []byte {
	if (len(head) == 0 || head[0] != '/') && (len(head) > 0 || len(tail) == 0 || tail[0] != '/') {
		b = append(b, '/')
	}
	return append(append(b, head...), tail...)
}

// Redirect is a redirect action.
type Redirect struct {
	Status int // 301, 302, 303, 307 or 308

	https       bool
	scheme      []byte
	host        []byte
	port        uint32
	path        []byte // path_redirect
	pathQuery   bool   // path has a query of its own
	prefix      []byte
	regex       *substitution
	stripQuery  bool
	replacePath bool
}

// Location builds the location of the match's redirect in the arena (Envoy:
// RouteEntryImplBase::newUri).
func (m *Match) Location(req *message.Request, a *message.Arena) []byte {
	r := m.Route.Redirect
	scheme := req.Scheme
	switch {
	case r.https:
		scheme = []byte("https")
	case len(r.scheme) > 0:
		scheme = r.scheme
	}
	path := req.Path
	if r.replacePath {
		// Into the arena first: the location is built at its tail afterwards.
		path = newPath(&m.Route.path, r.prefix, r.regex, path, a)
	}
	b := append(a.Tail(), scheme...)
	b = append(b, "://"...)
	if len(r.host) > 0 {
		b = append(b, r.host...)
	} else {
		b = append(b, requestHost(req, scheme, r.port != 0)...)
	}
	if r.port != 0 {
		b = append(b, ':')
		b = strconv.AppendUint(b, uint64(r.port), 10)
	}
	bare := withoutQuery(path)
	switch {
	case len(r.path) > 0:
		b = append(b, r.path...)
		if !r.pathQuery && !r.stripQuery {
			b = append(b, path[len(bare):]...)
		}
	case r.stripQuery:
		b = append(b, bare...)
	default:
		b = append(b, path...)
	}
	return a.Commit(b)
}

// requestHost is the request's authority, without its port when a port is set
// or when the scheme changes away from the port's own (Envoy: processRequestHost).
func requestHost(req *message.Request, scheme []byte, newPort bool) []byte {
	host := withoutPort(req.Authority)
	port := req.Authority[len(host):]
	if newPort {
		return host
	}
	from := req.Scheme
	if v, ok := req.Header.Get(message.XForwardedProto); ok && len(v) > 0 {
		from = v
	}
	if !bytes.Equal(from, scheme) {
		if string(from) == "https" && string(port) == ":443" || string(from) == "http" && string(port) == ":80" {
			return host
		}
	}
	return req.Authority
}
