// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// connectFailure reports whether no connection was there to send on.
func connectFailure(r message.ResetReason) bool {
	return r == message.ConnectionFailure || r == message.ConnectTimeout
}

// State is the retry state of one request: keep it by value in the exchange.
type State struct {
	policy    *Policy
	on        On
	remaining int
	attempt   int // retries made
	codes     [4]int
	extra     int // of codes, from the request
}

// noPolicy stands in when only request headers ask for retries.
var noPolicy = &Policy{NumRetries: 1, HostAttempts: 1, BaseInterval: defaultBase, MaxInterval: 10 * defaultBase}

// Begin reads the policy, which may be nil, and the request's x-envoy-retry-*
// headers, which a listener at the edge has removed before. It does not change
// the request.
func Begin(p *Policy, req *message.Request) State {
	if p == nil {
		p = noPolicy
	}
	s := State{policy: p, on: p.On, remaining: p.NumRetries}
	asked := false
	for _, id := range [...]message.ID{message.XEnvoyRetryOn, message.XEnvoyRetryGRPCOn} {
		if v, ok := req.Header.Get(id); ok {
			s.on |= conditionsOf(v)
			asked = true
		}
	}
	if asked {
		if v, ok := req.Header.GetName("x-envoy-retriable-status-codes"); ok {
			s.parseCodes(v)
		}
	}
	if len(p.requestHeaders) > 0 && !anyMatches(p, req) {
		s.on = 0
	}
	if s.on != 0 {
		if v, ok := req.Header.Get(message.XEnvoyMaxRetries); ok {
			if n, err := strconv.ParseUint(string(v), 10, 16); err == nil {
				s.remaining = int(n)
			}
		}
	}
	if s.on == 0 {
		s.remaining = 0
	}
	return s
}

func anyMatches(p *Policy, req *message.Request) bool {
	for i := range p.requestHeaders {
		if p.requestHeaders[i].Match(req) {
			return true
		}
	}
	return false
}

// conditionsOf reads a header's list; unknown words are ignored, as in Envoy.
func conditionsOf(v []byte) On {
	var on On
	for len(v) > 0 {
		part := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			part, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		on |= conditions[string(bytes.TrimSpace(part))]
	}
	return on
}

func (s *State) parseCodes(v []byte) {
	for len(v) > 0 && s.extra < len(s.codes) {
		part := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			part, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		if n, err := strconv.ParseUint(string(bytes.TrimSpace(part)), 10, 16); err == nil {
			s.codes[s.extra] = int(n)
			s.extra++
		}
	}
}

// Enabled reports whether any retry can still happen: whether the request's
// body has to be kept.
func (s *State) Enabled() bool { return s.on != 0 && s.remaining > 0 }

// Policy is the policy in force; never nil after Begin.
func (s *State) Policy() *Policy { return s.policy }

// Attempt is the number of retries made so far.
func (s *State) Attempt() int { return s.attempt }

// Use counts one retry. Call it when a decision is acted on.
func (s *State) Use() { s.remaining--; s.attempt++ }

// Exhausted reports whether a response or reset that the policy would retry
// comes when no retry is left (flag URX).
func (s *State) Exhausted() bool { return s.on != 0 && s.remaining <= 0 }

// WantsResponse reports whether the policy retries on that response head,
// whether or not a retry is left. Only headers count for gRPC: trailers come too late.
func (s *State) WantsResponse(resp *message.Response) bool {
	if s.on == 0 {
		return false
	}
	if _, ok := resp.Header.Get(message.XEnvoyOverloaded); ok {
		return false
	}
	if _, ok := resp.Header.Get(message.XEnvoyRatelimited); ok {
		return s.on&OnEnvoyRatelimited != 0
	}
	st := resp.Status
	switch {
	case s.on&On5xx != 0 && st >= 500 && st < 600,
		s.on&OnGatewayError != 0 && st >= 502 && st <= 504,
		s.on&OnRetriable4xx != 0 && st == 409:
		return true
	}
	if s.on&OnRetriableStatusCodes != 0 &&
		(slices.Contains(s.policy.StatusCodes, st) || slices.Contains(s.codes[:s.extra], st)) {
		return true
	}
	if s.on&OnRetriableHeaders != 0 {
		for i := range s.policy.headers {
			if s.policy.headers[i].MatchFields(&resp.Header) {
				return true
			}
		}
	}
	return s.wantsGRPC(resp)
}

const onGRPC = OnGRPCCancelled | OnGRPCDeadlineExceeded | OnGRPCResourceExhausted | OnGRPCInternal | OnGRPCUnavailable

func (s *State) wantsGRPC(resp *message.Response) bool {
	if s.on&onGRPC == 0 {
		return false
	}
	v, ok := resp.Header.Get(message.GRPCStatus)
	if !ok {
		return false
	}
	var c On
	switch string(v) {
	case "1":
		c = OnGRPCCancelled
	case "4":
		c = OnGRPCDeadlineExceeded
	case "8":
		c = OnGRPCResourceExhausted
	case "13":
		c = OnGRPCInternal
	case "14":
		c = OnGRPCUnavailable
	}
	return s.on&c != 0
}

// WantsReset reports whether the policy retries after that reset, whether or
// not a retry is left. sent says that the request's head was written to an
// upstream connection.
func (s *State) WantsReset(r message.ResetReason, sent bool) bool {
	switch {
	case s.on == 0 || r == message.Overflow:
		return false
	case s.on&(OnReset|On5xx|OnGatewayError) != 0:
		return true
	case s.on&OnRefusedStream != 0 && r == message.RefusedStream:
		return true
	case s.on&OnConnectFailure != 0 && connectFailure(r):
		return true
	}
	return s.on&OnResetBeforeRequest != 0 && !sent
}

// WantsTimeout reports whether the policy retries after a per-try timeout:
// policies that cover a 504 or a missing answer do.
func (s *State) WantsTimeout() bool { return s.on&(OnReset|On5xx|OnGatewayError) != 0 }

// ShouldRetryResponse is WantsResponse while a retry is left.
func (s *State) ShouldRetryResponse(resp *message.Response) bool {
	return s.remaining > 0 && s.WantsResponse(resp)
}

// ShouldRetryReset is WantsReset while a retry is left.
func (s *State) ShouldRetryReset(r message.ResetReason, sent bool) bool {
	return s.remaining > 0 && s.WantsReset(r, sent)
}

// ShouldRetryTimeout is WantsTimeout while a retry is left.
func (s *State) ShouldRetryTimeout() bool { return s.remaining > 0 && s.WantsTimeout() }

// BackOff is how long to wait before the retry that Use counted last: uniform
// in [0, (2^N-1)*base) for the Nth, at most the maximum interval. random is any
// 64 random bits.
func (s *State) BackOff(random uint64) time.Duration {
	n := max(s.attempt, 1)
	limit := s.policy.MaxInterval
	if n < 32 {
		if d := time.Duration(1<<n-1) * s.policy.BaseInterval; d > 0 && d < limit {
			limit = d
		}
	}
	// Whole milliseconds, as Envoy: 25 ms gives 0 to 24.
	ms := max(uint64(limit/time.Millisecond), 1)
	return time.Duration(random%ms) * time.Millisecond
}

// RateLimitedBackOff reads when to come back from a response's reset headers.
// It reports false when the policy or the response says nothing of use, then
// BackOff applies. The wait is the interval times 1.0 to 1.5.
func (s *State) RateLimitedBackOff(resp *message.Response, now time.Time, random uint64) (time.Duration, bool) {
	for i := range s.policy.resets {
		h := &s.policy.resets[i]
		var v []byte
		var ok bool
		if h.id != message.Unknown {
			v, ok = resp.Header.Get(h.id)
		} else {
			v, ok = resp.Header.GetName(h.name)
		}
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(string(v), 10, 64)
		if err != nil || n < 0 || n > 1<<33 {
			continue
		}
		d := time.Duration(0)
		if h.unix {
			d = time.Unix(n, 0).Sub(now)
		} else if n <= int64(s.policy.resetsMax/time.Second) {
			d = time.Duration(n) * time.Second
		}
		if d <= 0 || d > s.policy.resetsMax {
			continue
		}
		return d + time.Duration(random%(uint64(d)/2+1)), true
	}
	return 0, false
}
