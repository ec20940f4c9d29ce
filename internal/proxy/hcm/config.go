// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lateen-mesh/lateen/internal/proxy/fault"
)

// config is an HttpConnectionManager message compiled once. The defaults are
// Envoy's (http_connection_manager.proto, protocol.proto).
type config struct {
	codec   hcmv3.HttpConnectionManager_CodecType
	rdsName string

	serverName   []byte
	serverAction hcmv3.HttpConnectionManager_ServerHeaderTransformation
	via          []byte

	idleTimeout       time.Duration // without a stream; 0: none
	streamIdle        time.Duration
	requestTimeout    time.Duration
	headersTimeout    time.Duration
	maxConnDuration   time.Duration
	maxStreamDuration time.Duration
	drainTimeout      time.Duration
	delayedClose      time.Duration
	maxRequests       int

	headBytes   int
	headFields  int
	underscores corev3.HttpProtocolOptions_HeadersWithUnderscoresAction

	http10        bool
	defaultHost   []byte
	trailers      bool
	chunkedLength bool
	noAbsolute    bool
	h2            h2Config

	useRemote       bool
	trustedHops     int
	skipXFF         bool
	internal        []netip.Prefix
	scheme          []byte
	generateID      bool
	preserveID      bool
	idInResponse    bool
	proxyContinue   bool
	addUserAgent    bool
	certDetails     hcmv3.HttpConnectionManager_ForwardClientCertDetails
	certSubject     bool
	certCert        bool
	certChain       bool
	certDNS         bool
	certURI         bool
	upgrades        []string
	normalize       bool
	mergeSlashes    bool
	escapedSlashes  hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction
	stripHostPort   bool // strip_matching_host_port
	stripAnyPort    bool
	stripHostDot    bool
	suppressHeaders bool

	hasFault  bool
	fault     *fault.Config
	faultName string
}

// h2Config is what goes to the HTTP/2 codec.
type h2Config struct {
	maxStreams, streamWindow, connWindow uint32
	allowConnect                         bool
}

func compile(msg *hcmv3.HttpConnectionManager) (*config, error) {
	common, h1, h2 := msg.GetCommonHttpProtocolOptions(), msg.GetHttpProtocolOptions(), msg.GetHttp2ProtocolOptions()
	c := &config{
		codec:           msg.GetCodecType(),
		rdsName:         msg.GetRds().GetRouteConfigName(),
		serverName:      []byte("envoy"),
		serverAction:    msg.GetServerHeaderTransformation(),
		via:             []byte(msg.GetVia()),
		idleTimeout:     duration(common.GetIdleTimeout(), time.Hour),
		streamIdle:      duration(msg.GetStreamIdleTimeout(), 5*time.Minute),
		requestTimeout:  duration(msg.GetRequestTimeout(), 0),
		headersTimeout:  duration(msg.GetRequestHeadersTimeout(), 0),
		maxConnDuration: duration(common.GetMaxConnectionDuration(), 0),
		drainTimeout:    duration(msg.GetDrainTimeout(), 5*time.Second),
		delayedClose:    duration(msg.GetDelayedCloseTimeout(), time.Second),
		maxRequests:     int(common.GetMaxRequestsPerConnection().GetValue()),
		headBytes:       int(orDefault(msg.GetMaxRequestHeadersKb().GetValue(), 60)) << 10,
		headFields:      int(orDefault(common.GetMaxHeadersCount().GetValue(), 100)),
		underscores:     common.GetHeadersWithUnderscoresAction(),
		http10:          h1.GetAcceptHttp_10(),
		defaultHost:     []byte(h1.GetDefaultHostForHttp_10()),
		trailers:        h1.GetEnableTrailers(),
		chunkedLength:   h1.GetAllowChunkedLength(),
		noAbsolute:      h1.GetAllowAbsoluteUrl() != nil && !h1.GetAllowAbsoluteUrl().GetValue(),
		useRemote:       msg.GetUseRemoteAddress().GetValue(),
		trustedHops:     int(msg.GetXffNumTrustedHops()),
		skipXFF:         msg.GetSkipXffAppend(),
		scheme:          []byte(msg.GetSchemeHeaderTransformation().GetSchemeToOverwrite()),
		generateID:      msg.GetGenerateRequestId() == nil || msg.GetGenerateRequestId().GetValue(),
		preserveID:      msg.GetPreserveExternalRequestId(),
		idInResponse:    msg.GetAlwaysSetRequestIdInResponse(),
		proxyContinue:   msg.GetProxy_100Continue(),
		addUserAgent:    msg.GetAddUserAgent().GetValue(),
		certDetails:     msg.GetForwardClientCertDetails(),
		normalize:       msg.GetNormalizePath().GetValue(),
		mergeSlashes:    msg.GetMergeSlashes(),
		escapedSlashes:  msg.GetPathWithEscapedSlashesAction(),
		stripHostPort:   msg.GetStripMatchingHostPort(),
		stripAnyPort:    msg.GetStripAnyHostPort(),
		stripHostDot:    msg.GetStripTrailingHostDot(),
		h2: h2Config{
			maxStreams:   h2.GetMaxConcurrentStreams().GetValue(),
			streamWindow: h2.GetInitialStreamWindowSize().GetValue(),
			connWindow:   h2.GetInitialConnectionWindowSize().GetValue(),
			allowConnect: h2.GetAllowConnect(),
		},
	}
	if d := common.GetMaxStreamDuration(); d != nil {
		c.maxStreamDuration = d.AsDuration()
	}
	if s := msg.GetServerName(); s != "" {
		c.serverName = []byte(s)
	}
	if d := msg.GetSetCurrentClientCertDetails(); d != nil {
		c.certSubject, c.certCert, c.certChain = d.GetSubject().GetValue(), d.GetCert(), d.GetChain()
		c.certDNS, c.certURI = d.GetDns(), d.GetUri()
	}
	for _, u := range msg.GetUpgradeConfigs() {
		if u.GetEnabled() == nil || u.GetEnabled().GetValue() {
			c.upgrades = append(c.upgrades, strings.ToLower(u.GetUpgradeType()))
		}
	}
	for i, r := range msg.GetInternalAddressConfig().GetCidrRanges() {
		a, err := netip.ParseAddr(r.GetAddressPrefix())
		if err == nil {
			var p netip.Prefix
			if p, err = a.Prefix(int(r.GetPrefixLen().GetValue())); err == nil {
				c.internal = append(c.internal, p)
				continue
			}
		}
		return nil, fmt.Errorf("internal_address_config.cidr_ranges[%d]: %w", i, err)
	}
	return c, c.filters(msg.GetHttpFilters())
}

// filters reads the HTTP filters. Only those that decide about requests are
// here; which others may be present without effect is the field policy's
// business.
func (c *config) filters(fs []*hcmv3.HttpFilter) error {
	if len(fs) == 0 {
		return errors.New("http_filters: empty: the last filter must be envoy.filters.http.router")
	}
	for i, f := range fs {
		if f.GetDisabled() {
			continue
		}
		switch f.GetTypedConfig().GetTypeUrl() {
		case "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router":
			if i != len(fs)-1 {
				return fmt.Errorf("http_filters[%d]: the router must be the last filter", i)
			}
			var r routerv3.Router
			if err := f.GetTypedConfig().UnmarshalTo(&r); err != nil {
				return fmt.Errorf("http_filters[%d].typed_config: %w", i, err)
			}
			c.suppressHeaders = r.GetSuppressEnvoyHeaders()
			return nil
		case "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault":
			if c.hasFault {
				return fmt.Errorf("http_filters[%d]: a second fault filter: keep one", i)
			}
			var h faultv3.HTTPFault
			if err := f.GetTypedConfig().UnmarshalTo(&h); err != nil {
				return fmt.Errorf("http_filters[%d].typed_config: %w", i, err)
			}
			fc, err := fault.Compile(&h)
			if err != nil {
				return fmt.Errorf("http_filters[%d].typed_config: %w", i, err)
			}
			c.hasFault, c.fault, c.faultName = true, fc, f.GetName()
		}
	}
	return errors.New("http_filters: the last filter must be envoy.filters.http.router")
}

// upgradeAllowed says whether the connection manager allows an upgrade type
// (lower case).
func (c *config) upgradeAllowed(kind string) bool {
	for _, u := range c.upgrades {
		if u == kind {
			return true
		}
	}
	return false
}

func duration(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return d.AsDuration()
}

func orDefault(v, def uint32) uint32 {
	if v == 0 {
		return def
	}
	return v
}
