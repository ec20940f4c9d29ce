// SPDX-License-Identifier: Apache-2.0

// Package retry decides whether a failed upstream request is tried again and
// when. It is pure: no clocks, no sockets, injected randomness. Limits that are
// shared between requests (max_retries, retry budgets) belong to the cluster.
package retry

import (
	"errors"
	"fmt"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lateen-mesh/lateen/internal/proxy/match"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// On is the set of conditions of a retry policy.
type On uint32

// The conditions (config_http_filters/router_filter, x-envoy-retry-on and
// x-envoy-retry-grpc-on).
const (
	On5xx On = 1 << iota
	OnGatewayError
	OnReset
	OnResetBeforeRequest
	OnConnectFailure
	OnEnvoyRatelimited
	OnRetriable4xx
	OnRefusedStream
	OnRetriableStatusCodes
	OnRetriableHeaders
	OnHTTP3PostConnectFailure // never happens here: no HTTP/3
	OnGRPCCancelled
	OnGRPCDeadlineExceeded
	OnGRPCResourceExhausted
	OnGRPCInternal
	OnGRPCUnavailable
)

var conditions = map[string]On{
	"5xx":                        On5xx,
	"gateway-error":              OnGatewayError,
	"reset":                      OnReset,
	"reset-before-request":       OnResetBeforeRequest,
	"connect-failure":            OnConnectFailure,
	"envoy-ratelimited":          OnEnvoyRatelimited,
	"retriable-4xx":              OnRetriable4xx,
	"refused-stream":             OnRefusedStream,
	"retriable-status-codes":     OnRetriableStatusCodes,
	"retriable-headers":          OnRetriableHeaders,
	"http3-post-connect-failure": OnHTTP3PostConnectFailure,
	"cancelled":                  OnGRPCCancelled,
	"deadline-exceeded":          OnGRPCDeadlineExceeded,
	"resource-exhausted":         OnGRPCResourceExhausted,
	"internal":                   OnGRPCInternal,
	"unavailable":                OnGRPCUnavailable,
}

// Policy is one compiled envoy.config.route.v3.RetryPolicy. It is immutable.
type Policy struct {
	On                On
	NumRetries        int           // default 1
	PerTryTimeout     time.Duration // 0: none
	PerTryIdleTimeout time.Duration // 0: none
	StatusCodes       []int
	// PreviousHosts avoids hosts that were tried, for at most HostAttempts picks.
	PreviousHosts bool
	HostAttempts  int // default 1
	// BaseInterval and MaxInterval bound the exponential back-off.
	BaseInterval time.Duration // default 25 ms
	MaxInterval  time.Duration // default 10 x BaseInterval

	headers        []match.Header // of responses
	requestHeaders []match.Header
	resets         []resetHeader
	resetsMax      time.Duration
}

// resetHeader names a response header that says when to come back.
type resetHeader struct {
	name string
	id   message.ID
	unix bool // Unix seconds, not a number of seconds
}

// Defaults of the proto.
const (
	defaultBase   = 25 * time.Millisecond
	defaultResets = 300 * time.Second
)

const (
	previousHosts     = "envoy.retry_host_predicates.previous_hosts"
	previousHostsType = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
)

// Compile builds a policy; nil in, nil out. The error names the refused field.
func Compile(m *routev3.RetryPolicy) (*Policy, error) {
	if m == nil {
		return nil, nil
	}
	p := &Policy{NumRetries: 1, HostAttempts: 1}
	var err error
	if p.On, err = parseOn(m.GetRetryOn()); err != nil {
		return nil, fmt.Errorf("retry_on: %w", err)
	}
	if n := m.GetNumRetries(); n != nil {
		p.NumRetries = int(min(n.GetValue(), 1<<16))
	}
	if p.PerTryTimeout, err = duration(m.GetPerTryTimeout()); err != nil {
		return nil, fmt.Errorf("per_try_timeout: %w", err)
	}
	if p.PerTryIdleTimeout, err = duration(m.GetPerTryIdleTimeout()); err != nil {
		return nil, fmt.Errorf("per_try_idle_timeout: %w", err)
	}
	for _, c := range m.GetRetriableStatusCodes() {
		p.StatusCodes = append(p.StatusCodes, int(c))
	}
	if p.headers, err = match.CompileHeaders(m.GetRetriableHeaders()); err != nil {
		return nil, fmt.Errorf("retriable_headers: %w", err)
	}
	if p.requestHeaders, err = match.CompileHeaders(m.GetRetriableRequestHeaders()); err != nil {
		return nil, fmt.Errorf("retriable_request_headers: %w", err)
	}
	if err := p.compileHosts(m); err != nil {
		return nil, err
	}
	if err := p.compileBackOff(m); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Policy) compileHosts(m *routev3.RetryPolicy) error {
	for i, h := range m.GetRetryHostPredicate() {
		if h.GetName() != previousHosts && h.GetTypedConfig().GetTypeUrl() != previousHostsType {
			return fmt.Errorf("retry_host_predicate[%d]: %q is not supported; use %s", i, h.GetName(), previousHosts)
		}
		p.PreviousHosts = true
	}
	if m.GetHostSelectionRetryMaxAttempts() > 0 {
		p.HostAttempts = int(min(m.GetHostSelectionRetryMaxAttempts(), 1024))
	}
	return nil
}

func (p *Policy) compileBackOff(m *routev3.RetryPolicy) error {
	p.BaseInterval = defaultBase
	if b := m.GetRetryBackOff(); b != nil {
		base, err := duration(b.GetBaseInterval())
		if err != nil || base <= 0 {
			return fmt.Errorf("retry_back_off.base_interval: must be a positive duration")
		}
		// Envoy rounds intervals below 1 ms up.
		p.BaseInterval = max(base, time.Millisecond)
		if p.MaxInterval, err = duration(b.GetMaxInterval()); err != nil {
			return fmt.Errorf("retry_back_off.max_interval: %w", err)
		}
		if b.GetMaxInterval() != nil && p.MaxInterval < base {
			return errors.New("retry_back_off.max_interval: must not be less than base_interval")
		}
	}
	if p.MaxInterval == 0 {
		p.MaxInterval = 10 * p.BaseInterval
	}
	p.MaxInterval = max(p.MaxInterval, p.BaseInterval)
	r := m.GetRateLimitedRetryBackOff()
	if r == nil {
		return nil
	}
	p.resetsMax = defaultResets
	if d, err := duration(r.GetMaxInterval()); err != nil {
		return fmt.Errorf("rate_limited_retry_back_off.max_interval: %w", err)
	} else if d > 0 {
		p.resetsMax = d
	}
	if len(r.GetResetHeaders()) == 0 {
		return errors.New("rate_limited_retry_back_off.reset_headers: must not be empty")
	}
	for _, h := range r.GetResetHeaders() {
		name := strings.ToLower(h.GetName())
		p.resets = append(p.resets, resetHeader{
			name: name, id: message.Lookup([]byte(name)),
			unix: h.GetFormat() == routev3.RetryPolicy_UNIX_TIMESTAMP,
		})
	}
	return nil
}

// parseOn reads a comma-separated list. Envoy ignores unknown conditions; a
// number is a retriable status code only in Istio's API, never here.
func parseOn(s string) (On, error) {
	var on On
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		c, ok := conditions[part]
		if !ok {
			return 0, fmt.Errorf("condition %q is not known", part)
		}
		on |= c
	}
	return on, nil
}

func duration(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, fmt.Errorf("not a valid duration: %w", err)
	}
	if v := d.AsDuration(); v >= 0 {
		return v, nil
	}
	return 0, errors.New("must not be negative")
}
