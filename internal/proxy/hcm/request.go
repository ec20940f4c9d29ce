// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/netip"
	"net/url"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// admit checks a request before anything reads it (Envoy:
// ConnectionManagerImpl::ActiveStream::decodeHeaders) and brings its path into
// the one form that everything from here on sees.
func (x *exchange) admit() bool {
	r, cfg := x.req, x.cfg
	if len(r.Upgrade) > 0 && r.Proto != message.HTTP2 && r.BodyLength != 0 {
		r.Upgrade = nil // a request with a body of its own cannot become a tunnel
	}
	if r.Proto == message.HTTP2 && (len(r.Upgrade) > 0 || string(r.Method) == "CONNECT") {
		r.BodyLength = -1 // payload of the tunnel to be: it has no length
	}
	if r.Proto == message.HTTP10 {
		if !cfg.http10 {
			x.ds.Drain()
			x.reply(426, "", 0, format.LowVersion)
			return false
		}
		if len(r.Authority) == 0 {
			r.Authority = cfg.defaultHost
		}
	}
	if len(r.Authority) == 0 {
		x.reply(400, "", 0, format.MissingHost)
		return false
	}
	if cfg.underscores != corev3.HttpProtocolOptions_ALLOW && !x.underscores() {
		x.reply(400, "", format.DownstreamProtocolError, format.HTTP1UnexpectedUnderscore)
		return false
	}
	x.normalizeHost()
	if len(r.Path) == 0 {
		if string(r.Method) == "CONNECT" {
			return true
		}
		x.reply(404, "", 0, format.MissingPath)
		return false
	}
	return x.normalizePath()
}

// underscores drops or refuses fields with an underscore in their name: some
// servers take it for a hyphen, and so for another field.
func (x *exchange) underscores() bool {
	h := &x.req.Header
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if f.ID == message.Unknown && bytes.IndexByte(f.Name, '_') >= 0 {
			if x.cfg.underscores == corev3.HttpProtocolOptions_REJECT_REQUEST {
				return false
			}
			continue
		}
		kept = append(kept, f)
	}
	h.Fields = kept
	return true
}

func (x *exchange) normalizeHost() {
	cfg := x.cfg
	a := x.req.Authority
	if cfg.stripAnyPort || cfg.stripHostPort {
		if i := bytes.LastIndexByte(a, ':'); i > 0 && bytes.IndexByte(a[i:], ']') < 0 {
			port := a[i+1:]
			if cfg.stripAnyPort || string(port) == string(x.number(int64(x.c.info.Local.Port()))) {
				a = a[:i]
			}
		}
	}
	if cfg.stripHostDot {
		host, port := a, []byte(nil)
		if i := bytes.LastIndexByte(a, ':'); i > 0 && bytes.IndexByte(a[i:], ']') < 0 {
			host, port = a[:i], a[i:]
		}
		if n := len(host); n > 1 && host[n-1] == '.' {
			a = x.arena.Commit(append(append(x.arena.Tail(), host[:n-1]...), port...))
		}
	}
	x.req.Authority = a
}

// mutateRequest sets what a request tells the next hop about where it came from
// (Envoy: ConnectionManagerUtility::mutateRequestHeaders).
func (x *exchange) mutateRequest() {
	cfg, h := x.cfg, &x.req.Header
	edge := cfg.useRemote
	x.xEnvoy = false
	hasID, hasProto := false, false
	xff, xfcc := 0, 0 // lines of each
	for i := range h.Fields {
		f := &h.Fields[i]
		switch f.ID {
		case message.XForwardedFor:
			xff++
		case message.XRequestID:
			hasID = true
		case message.XForwardedClientCert:
			xfcc++
		case message.XForwardedProto:
			hasProto = true
		default:
			x.xEnvoy = x.xEnvoy || len(f.Name) > 8 && f.Name[0] == 'x' && string(f.Name[:8]) == "x-envoy-"
		}
	}
	if xff > 1 {
		x.joinLines(h, message.XForwardedFor) // its places count over all lines
	}
	x.forwardedFor(edge, xff > 0)
	internal := xff > 0 && x.singleInternal()
	if edge {
		x.external(internal)
	}
	if internal {
		h.SetID(message.XEnvoyInternal, trueValue)
	} else if x.xEnvoy {
		h.RemoveID(message.XEnvoyInternal)
	}
	if edge && cfg.trustedHops == 0 || !hasProto {
		h.SetID(message.XForwardedProto, x.c.proto())
	}
	if len(cfg.scheme) > 0 {
		x.req.Scheme = cfg.scheme
	} else if v, ok := h.Get(message.XForwardedProto); ok && (string(v) == "http" || string(v) == "https") {
		x.req.Scheme = v
	}
	if cfg.generateID && (!hasID || edge && !internal && !cfg.preserveID) {
		h.SetID(message.XRequestID, x.requestID())
	}
	x.clientCert(xfcc > 0)
	if len(cfg.via) > 0 {
		x.appendList(h, message.Via, cfg.via)
	}
	if !internal {
		if t := x.m.table.Load(); t != nil {
			t.RemoveInternalOnly(h)
		}
	}
}

// forwardedFor keeps x-forwarded-for and takes the client's address from it.
func (x *exchange) forwardedFor(edge, has bool) {
	h := &x.req.Header
	if edge {
		if has && x.cfg.trustedHops > 0 {
			x.trustXFF(x.cfg.trustedHops - 1)
		}
		if !x.cfg.skipXFF {
			b := x.c.info.Remote.Addr().Unmap().AppendTo(x.arena.Tail())
			x.appendList(h, message.XForwardedFor, x.arena.Commit(b))
		}
		return
	}
	if has {
		x.trustXFF(x.cfg.trustedHops)
	}
}

// trustXFF makes the address that stands skip places before the last the
// client's address.
func (x *exchange) trustXFF(skip int) {
	v, _ := x.req.Header.Get(message.XForwardedFor)
	for {
		i := bytes.LastIndexByte(v, ',')
		if skip == 0 {
			if a, err := netip.ParseAddr(string(bytes.TrimSpace(v[i+1:]))); err == nil {
				x.entry.DownstreamRemote = netip.AddrPortFrom(a, 0)
			}
			return
		}
		if i < 0 {
			return
		}
		v, skip = v[:i], skip-1
	}
}

// singleInternal says whether x-forwarded-for holds one address, and that is
// one of the configured internal ones; nobody is internal by default.
func (x *exchange) singleInternal() bool {
	if len(x.cfg.internal) == 0 {
		return false
	}
	v, _ := x.req.Header.Get(message.XForwardedFor)
	a, err := netip.ParseAddr(string(bytes.TrimSpace(v)))
	if err != nil {
		return false
	}
	for _, p := range x.cfg.internal {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// edgeOnly are the fields that steer the proxy and are not taken from outside.
var edgeOnly = map[string]bool{
	"x-envoy-decorator-operation": true, "x-envoy-downstream-service-cluster": true,
	"x-envoy-downstream-service-node": true, "x-envoy-original-path": true, "x-envoy-original-host": true,
	"x-envoy-retriable-status-codes": true, "x-envoy-retriable-header-names": true, "x-envoy-retry-on": true,
	"x-envoy-retry-grpc-on": true, "x-envoy-max-retries": true, "x-envoy-upstream-alt-stat-name": true,
	"x-envoy-upstream-rq-timeout-ms": true, "x-envoy-upstream-rq-per-try-timeout-ms": true,
	"x-envoy-upstream-rq-timeout-alt-response": true, "x-envoy-expected-rq-timeout-ms": true,
	"x-envoy-force-trace": true, "x-envoy-ip-tags": true, "x-envoy-hedge-on-per-try-timeout": true,
	"x-envoy-upstream-stream-duration-ms": true, "x-envoy-peer-metadata": true, "x-envoy-peer-metadata-id": true,
	"x-envoy-attempt-count": true, "x-envoy-external-address": true,
}

// external settles what an edge proxy's request says about being at the edge:
// of a request from outside, the steering fields go and the client's trusted
// address is named; nothing names it in one from inside.
func (x *exchange) external(internal bool) {
	if x.xEnvoy && !internal {
		x.stripEnvoy(edgeOnly)
	}
	if internal {
		x.req.Header.Remove(externalAddress)
		return
	}
	b := x.entry.DownstreamRemote.Addr().Unmap().AppendTo(x.arena.Tail())
	x.req.Header.Set(externalAddress, x.arena.Commit(b))
}

var externalAddress = []byte("x-envoy-external-address")

// routerOnly are the fields that the router reads and does not pass on.
var routerOnly = map[string]bool{
	"x-envoy-retriable-status-codes": true, "x-envoy-retriable-header-names": true, "x-envoy-retry-on": true,
	"x-envoy-retry-grpc-on": true, "x-envoy-max-retries": true, "x-envoy-upstream-alt-stat-name": true,
	"x-envoy-upstream-rq-timeout-ms": true, "x-envoy-upstream-rq-per-try-timeout-ms": true,
	"x-envoy-upstream-rq-timeout-alt-response": true, "x-envoy-hedge-on-per-try-timeout": true,
	"x-envoy-upstream-stream-duration-ms": true,
}

func (x *exchange) stripEnvoy(names map[string]bool) {
	h := &x.req.Header
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if !names[string(f.Name)] {
			kept = append(kept, f)
		}
	}
	h.Fields = kept
}

// requestID makes a version 4 UUID. The first digit of its third group says why
// it would be traced: 4, not at all, as there is no tracing yet.
func (x *exchange) requestID() []byte {
	var raw [16]byte
	a, b := x.m.rand(), x.m.rand()
	for i := range 8 {
		raw[i], raw[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], raw[0:4])
	hex.Encode(text[9:13], raw[4:6])
	hex.Encode(text[14:18], raw[6:8])
	hex.Encode(text[19:23], raw[8:10])
	hex.Encode(text[24:], raw[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return x.arena.Copy(text[:])
}

// clientCert keeps x-forwarded-client-cert (Envoy: mutateXfccRequestHeader). It
// is set from the verified certificate of this connection only.
func (x *exchange) clientCert(has bool) {
	cfg, h := x.cfg, &x.req.Header
	mode := cfg.certDetails
	if mode == hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY {
		return
	}
	if mode == hcmv3.HttpConnectionManager_SANITIZE || x.c.info.TLS == nil || len(x.c.info.PeerCertificates) == 0 {
		if has {
			h.RemoveID(message.XForwardedClientCert)
		}
		return
	}
	switch mode {
	case hcmv3.HttpConnectionManager_APPEND_FORWARD:
		x.appendList(h, message.XForwardedClientCert, x.c.xfccElement())
	case hcmv3.HttpConnectionManager_SANITIZE_SET:
		h.SetID(message.XForwardedClientCert, x.c.xfccElement())
	}
}

// xfccElement describes the client's certificate once per connection.
func (c *conn) xfccElement() []byte {
	if p := c.xfcc.Load(); p != nil {
		return *p
	}
	t, cfg := c.info.TLS, c.m.cfg
	var parts []string
	if t.LocalURISANs != "" {
		local, _, _ := strings.Cut(t.LocalURISANs, ",")
		parts = append(parts, "By="+local)
	}
	if t.PeerFingerprint256 != "" {
		parts = append(parts, "Hash="+t.PeerFingerprint256)
	}
	if cfg.certCert {
		parts = append(parts, `Cert="`+escapedPEM(c.info.PeerCertificates[:1])+`"`)
	}
	if cfg.certChain {
		parts = append(parts, `Chain="`+escapedPEM(c.info.PeerCertificates)+`"`)
	}
	if cfg.certSubject {
		parts = append(parts, `Subject="`+quoted.Replace(t.PeerSubject)+`"`)
	}
	if cfg.certURI {
		parts = appendSANs(parts, "URI=", t.PeerURISANs)
	}
	if cfg.certDNS {
		parts = appendSANs(parts, "DNS=", t.PeerDNSSANs)
	}
	b := []byte(oneLine.Replace(strings.Join(parts, ";")))
	c.xfcc.Store(&b)
	return b
}

var (
	quoted  = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	oneLine = strings.NewReplacer("\r", "", "\n", "", "\x00", "")
)

func appendSANs(parts []string, key, list string) []string {
	if list == "" {
		return parts
	}
	for san := range strings.SplitSeq(list, ",") {
		parts = append(parts, key+san)
	}
	return parts
}

func escapedPEM(certs []*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return url.QueryEscape(b.String())
}

// normalizePath brings the path into the form the configuration asks for and
// says whether the request goes on.
func (x *exchange) normalizePath() bool {
	p := x.req.Path
	if p[0] != '/' {
		if len(p) == 1 && p[0] == '*' {
			return true
		}
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPRqNonRelativePath)
		x.reply(404, "", 0, format.AbsolutePathRejected)
		return false
	}
	if bytes.IndexByte(p, '#') >= 0 {
		x.reply(400, "", 0, "path_with_fragment_rejected")
		return false
	}
	out, verdict := canonicalPath(p, x.cfg, &x.arena)
	switch verdict {
	case pathBad:
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPRqFailedPathNormalization)
		x.reply(400, "", 0, format.PathNormalizationFailed)
		return false
	case pathRedirect:
		x.m.stats.Inc(x.c.stripe, telemetry.HTTPRqRedirectedWithNormalizedPath)
		x.local.Status = 307
		x.local.Header.AddID(message.Location, out)
		x.entry.Details = "path_normalization_redirect"
		x.sendLocal(nil)
		return false
	}
	x.req.Path = out
	return true
}
