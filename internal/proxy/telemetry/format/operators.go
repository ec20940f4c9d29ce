// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"net/netip"
	"strconv"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/match"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

type evaluate func(o *op, dst []byte, e *Entry) ([]byte, bool)

type plainOp struct {
	eval    evaluate
	number  bool
	outside bool
	variant int
}

// The parts of an address an operator prints.
const (
	whole = iota
	withoutPort
	portOnly
)

// simple are the operators without arguments.
var simple = map[string]plainOp{
	"PROTOCOL": {eval: func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		if e.Request == nil {
			return dst, false
		}
		return append(dst, e.Request.Proto.String()...), true
	}},
	"UPSTREAM_PROTOCOL": {eval: func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		if e.UpstreamHost == "" || e.Request == nil {
			return dst, false
		}
		return append(dst, e.UpstreamProto.String()...), true
	}},
	"RESPONSE_CODE": {number: true, eval: func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		return strconv.AppendInt(dst, int64(e.Status), 10), true
	}},
	"RESPONSE_FLAGS": {eval: func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		return e.Flags.Append(dst), true
	}},
	"RESPONSE_FLAGS_LONG": {eval: func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		return e.Flags.AppendLong(dst), true
	}},
	"BYTES_RECEIVED":                 {number: true, eval: count(func(e *Entry) uint64 { return e.BytesReceived })},
	"BYTES_SENT":                     {number: true, eval: count(func(e *Entry) uint64 { return e.BytesSent })},
	"UPSTREAM_WIRE_BYTES_RECEIVED":   {number: true, eval: count(func(e *Entry) uint64 { return e.UpstreamBytesReceived })},
	"UPSTREAM_WIRE_BYTES_SENT":       {number: true, eval: count(func(e *Entry) uint64 { return e.UpstreamBytesSent })},
	"CONNECTION_ID":                  {number: true, eval: count(func(e *Entry) uint64 { return e.ConnectionID })},
	"UPSTREAM_REQUEST_ATTEMPT_COUNT": {number: true, eval: count(func(e *Entry) uint64 { return uint64(max(e.Attempts, 0)) })},
	"STREAM_ID":                      {eval: count(func(e *Entry) uint64 { return e.StreamID })},

	"DURATION":             {number: true, eval: millis(func(e *Entry) time.Duration { return e.Duration })},
	"REQUEST_DURATION":     {number: true, eval: millis(func(e *Entry) time.Duration { return e.RequestRead })},
	"REQUEST_TX_DURATION":  {number: true, eval: millis(func(e *Entry) time.Duration { return e.UpstreamLastTx })},
	"RESPONSE_DURATION":    {number: true, eval: millis(func(e *Entry) time.Duration { return e.UpstreamFirstRx })},
	"RESPONSE_TX_DURATION": {number: true, eval: evalResponseTx},

	"RESPONSE_CODE_DETAILS":             {eval: text(func(e *Entry) string { return e.Details }), outside: true},
	"CONNECTION_TERMINATION_DETAILS":    {eval: text(func(e *Entry) string { return e.TerminationDetails }), outside: true},
	"UPSTREAM_TRANSPORT_FAILURE_REASON": {eval: text(func(e *Entry) string { return e.UpstreamTransportFailure }), outside: true},
	"UPSTREAM_HOST":                     {eval: text(func(e *Entry) string { return e.UpstreamHost })},
	"UPSTREAM_HOST_NAME":                {eval: text(hostName)},
	"UPSTREAM_CLUSTER":                  {eval: text(func(e *Entry) string { return e.UpstreamCluster })},
	"UPSTREAM_CLUSTER_RAW":              {eval: text(func(e *Entry) string { return e.UpstreamCluster })},
	"REQUESTED_SERVER_NAME":             {eval: text(func(e *Entry) string { return e.SNI }), outside: true},
	"ROUTE_NAME":                        {eval: text(func(e *Entry) string { return e.RouteName })},
	"VIRTUAL_HOST_NAME":                 {eval: text(func(e *Entry) string { return e.VirtualHostName })},

	"UPSTREAM_REMOTE_ADDRESS":              {eval: upstreamRemote},
	"UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": {eval: upstreamRemote, variant: withoutPort},
	"UPSTREAM_REMOTE_PORT":                 {eval: upstreamRemote, variant: portOnly, number: true},
	"UPSTREAM_LOCAL_ADDRESS":               {eval: address(func(e *Entry) netip.AddrPort { return e.UpstreamLocal })},
	"UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":  {eval: address(func(e *Entry) netip.AddrPort { return e.UpstreamLocal }), variant: withoutPort},
	"UPSTREAM_LOCAL_PORT":                  {eval: address(func(e *Entry) netip.AddrPort { return e.UpstreamLocal }), variant: portOnly, number: true},

	"DOWNSTREAM_LOCAL_ADDRESS":                      {eval: address(local)},
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":         {eval: address(local), variant: withoutPort},
	"DOWNSTREAM_LOCAL_PORT":                         {eval: address(local), variant: portOnly, number: true},
	"DOWNSTREAM_REMOTE_ADDRESS":                     {eval: address(remote)},
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":        {eval: address(remote), variant: withoutPort},
	"DOWNSTREAM_REMOTE_PORT":                        {eval: address(remote), variant: portOnly, number: true},
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS":              {eval: address(direct)},
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": {eval: address(direct), variant: withoutPort},
	"DOWNSTREAM_DIRECT_REMOTE_PORT":                 {eval: address(direct), variant: portOnly, number: true},

	"DOWNSTREAM_PEER_URI_SAN":         {eval: peer(func(t *TLS) string { return t.PeerURISANs }), outside: true},
	"DOWNSTREAM_PEER_DNS_SAN":         {eval: peer(func(t *TLS) string { return t.PeerDNSSANs }), outside: true},
	"DOWNSTREAM_LOCAL_URI_SAN":        {eval: peer(func(t *TLS) string { return t.LocalURISANs })},
	"DOWNSTREAM_LOCAL_DNS_SAN":        {eval: peer(func(t *TLS) string { return t.LocalDNSSANs })},
	"DOWNSTREAM_PEER_SUBJECT":         {eval: peer(func(t *TLS) string { return t.PeerSubject }), outside: true},
	"DOWNSTREAM_PEER_ISSUER":          {eval: peer(func(t *TLS) string { return t.PeerIssuer }), outside: true},
	"DOWNSTREAM_LOCAL_SUBJECT":        {eval: peer(func(t *TLS) string { return t.LocalSubject })},
	"DOWNSTREAM_PEER_FINGERPRINT_256": {eval: peer(func(t *TLS) string { return t.PeerFingerprint256 })},
	"DOWNSTREAM_PEER_SERIAL":          {eval: peer(func(t *TLS) string { return t.PeerSerial })},
	"DOWNSTREAM_TLS_VERSION":          {eval: peer(func(t *TLS) string { return t.Version })},
	"DOWNSTREAM_TLS_CIPHER":           {eval: peer(func(t *TLS) string { return t.Cipher })},

	"GRPC_STATUS_NUMBER": {eval: evalGRPCStatus, variant: 2, number: true},
}

func local(e *Entry) netip.AddrPort  { return e.DownstreamLocal }
func remote(e *Entry) netip.AddrPort { return e.DownstreamRemote }
func direct(e *Entry) netip.AddrPort { return e.DownstreamDirectRemote }

func hostName(e *Entry) string {
	if e.UpstreamHostName != "" {
		return e.UpstreamHostName
	}
	return e.UpstreamHost
}

func text(get func(*Entry) string) evaluate {
	return func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		v := get(e)
		return append(dst, v...), v != ""
	}
}

func peer(get func(*TLS) string) evaluate {
	return func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		if e.TLS == nil {
			return dst, false
		}
		v := get(e.TLS)
		return append(dst, v...), v != ""
	}
}

func count(get func(*Entry) uint64) evaluate {
	return func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		return strconv.AppendUint(dst, get(e), 10), true
	}
}

func millis(get func(*Entry) time.Duration) evaluate {
	return func(_ *op, dst []byte, e *Entry) ([]byte, bool) {
		d := get(e)
		if d <= 0 {
			return dst, false
		}
		return strconv.AppendInt(dst, d.Milliseconds(), 10), true
	}
}

// evalResponseTx is the time from the first upstream byte to the last one sent
// downstream.
func evalResponseTx(_ *op, dst []byte, e *Entry) ([]byte, bool) {
	if e.UpstreamFirstRx <= 0 || e.ResponseLastTx <= 0 {
		return dst, false
	}
	return strconv.AppendInt(dst, (e.ResponseLastTx - e.UpstreamFirstRx).Milliseconds(), 10), true
}

func address(get func(*Entry) netip.AddrPort) evaluate {
	return func(o *op, dst []byte, e *Entry) ([]byte, bool) {
		a := get(e)
		if !a.IsValid() {
			return dst, false
		}
		switch o.variant {
		case withoutPort:
			return a.Addr().Unmap().AppendTo(dst), true
		case portOnly:
			return strconv.AppendUint(dst, uint64(a.Port()), 10), true
		}
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(dst), true
	}
}

func upstreamRemote(o *op, dst []byte, e *Entry) ([]byte, bool) {
	v := e.UpstreamHost
	if v == "" {
		return dst, false
	}
	if o.variant == whole {
		return append(dst, v...), true
	}
	a, err := netip.ParseAddrPort(v)
	if err != nil {
		return dst, false
	}
	if o.variant == portOnly {
		return strconv.AppendUint(dst, uint64(a.Port()), 10), true
	}
	return a.Addr().AppendTo(dst), true
}

func evalReq(o *op, dst []byte, e *Entry) ([]byte, bool) {
	v, ok := requestValue(e.Request, &o.first, &o.second)
	return append(dst, v...), ok
}

func evalReqWithoutQuery(o *op, dst []byte, e *Entry) ([]byte, bool) {
	v, ok := requestValue(e.Request, &o.first, &o.second)
	if i := bytes.IndexByte(v, '?'); i >= 0 {
		v = v[:i]
	}
	return append(dst, v...), ok
}

func evalQuery(o *op, dst []byte, e *Entry) ([]byte, bool) {
	if e.Request == nil {
		return dst, false
	}
	v, ok := match.QueryValue(e.Request.Path, o.first.text)
	return append(dst, v...), ok
}

func requestValue(req *message.Request, names ...*name) ([]byte, bool) {
	if req == nil {
		return nil, false
	}
	for _, n := range names {
		var v []byte
		ok := true
		switch n.text {
		case "":
			continue
		case ":method":
			v = req.Method
		case ":path":
			v = req.Path
		case ":authority":
			v = req.Authority
		case ":scheme":
			v = req.Scheme
		case ":protocol":
			v = req.Upgrade
		default:
			v, ok = fieldValue(&req.Header, n)
		}
		if ok && len(v) > 0 {
			return v, true
		}
	}
	return nil, false
}

func fieldValue(h *message.Header, n *name) ([]byte, bool) {
	if n.id != message.Unknown {
		return h.Get(n.id)
	}
	return h.GetName(n.text)
}

func listValue(h *message.Header, names ...*name) ([]byte, bool) {
	for _, n := range names {
		if n.text == "" {
			continue
		}
		if v, ok := fieldValue(h, n); ok && len(v) > 0 {
			return v, true
		}
	}
	return nil, false
}

func evalResp(o *op, dst []byte, e *Entry) ([]byte, bool) {
	if o.first.text == ":status" {
		return strconv.AppendInt(dst, int64(e.Status), 10), e.Status != 0
	}
	if e.Response == nil {
		return dst, false
	}
	v, ok := listValue(&e.Response.Header, &o.first, &o.second)
	return append(dst, v...), ok
}

func evalTrailer(o *op, dst []byte, e *Entry) ([]byte, bool) {
	if e.Response == nil {
		return dst, false
	}
	v, ok := listValue(&e.Response.Trailer, &o.first, &o.second)
	return append(dst, v...), ok
}
