// SPDX-License-Identifier: Apache-2.0

package retry

import (
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

func policy(t testing.TB, json string) *Policy {
	t.Helper()
	m := &routev3.RetryPolicy{}
	if err := protojson.Unmarshal([]byte(json), m); err != nil {
		t.Fatal(err)
	}
	p, err := Compile(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func request(headers ...string) *message.Request {
	r := &message.Request{Method: []byte("GET"), Path: []byte("/")}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add([]byte(headers[i]), []byte(headers[i+1]))
	}
	return r
}

func response(status int, headers ...string) *message.Response {
	r := &message.Response{Status: status}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add([]byte(headers[i]), []byte(headers[i+1]))
	}
	return r
}

func TestResponses(t *testing.T) {
	cases := []struct {
		rule, policy string
		resp         *message.Response
		want         bool
	}{
		{"5xx takes 500", `{"retryOn":"5xx"}`, response(500), true},
		{"5xx leaves 499", `{"retryOn":"5xx"}`, response(499), false},
		{"gateway-error takes 502 to 504", `{"retryOn":"gateway-error"}`, response(503), true},
		{"gateway-error leaves 500", `{"retryOn":"gateway-error"}`, response(500), false},
		{"retriable-4xx is 409", `{"retryOn":"retriable-4xx"}`, response(409), true},
		{"retriable-4xx is not 404", `{"retryOn":"retriable-4xx"}`, response(404), false},
		{"status codes", `{"retryOn":"retriable-status-codes","retriableStatusCodes":[404]}`, response(404), true},
		{"status codes need the condition", `{"retryOn":"reset","retriableStatusCodes":[404]}`, response(404), false},
		{"headers", `{"retryOn":"retriable-headers","retriableHeaders":[{"name":"x-again"}]}`, response(200, "x-again", ""), true},
		{"gRPC unavailable in the headers", `{"retryOn":"cancelled,unavailable"}`, response(200, "grpc-status", "14"), true},
		{"gRPC internal is another condition", `{"retryOn":"cancelled,unavailable"}`, response(200, "grpc-status", "13"), false},
		{"never when overloaded", `{"retryOn":"5xx"}`, response(503, "x-envoy-overloaded", "true"), false},
		{"not when rate limited", `{"retryOn":"5xx"}`, response(503, "x-envoy-ratelimited", "true"), false},
		{"rate limited with its condition", `{"retryOn":"envoy-ratelimited"}`, response(429, "x-envoy-ratelimited", "true"), true},
		{"Istio's default leaves a plain 503", `{"retryOn":"connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"}`, response(503), false},
		{"no condition", `{}`, response(503), false},
	}
	for _, c := range cases {
		s := Begin(policy(t, c.policy), request())
		if got := s.ShouldRetryResponse(c.resp); got != c.want {
			t.Errorf("%s: got %v", c.rule, got)
		}
	}
	// The trailers of a response come too late.
	resp := response(200)
	resp.Trailer.Add([]byte("grpc-status"), []byte("14"))
	if s := Begin(policy(t, `{"retryOn":"unavailable"}`), request()); s.ShouldRetryResponse(resp) {
		t.Error("a status in the trailers is retried")
	}
}

func TestResets(t *testing.T) {
	all := []message.ResetReason{
		message.LocalReset, message.RemoteReset, message.RefusedStream, message.ConnectionFailure,
		message.ConnectTimeout, message.ConnectionTermination, message.Overflow, message.ProtocolError,
	}
	cases := []struct {
		on   string
		sent bool
		want []message.ResetReason
	}{
		{"reset", true, without(all, message.Overflow)},
		{"5xx", true, without(all, message.Overflow)},
		{"gateway-error", true, without(all, message.Overflow)},
		{"connect-failure", true, []message.ResetReason{message.ConnectionFailure, message.ConnectTimeout}},
		{"refused-stream", true, []message.ResetReason{message.RefusedStream}},
		{"reset-before-request", true, nil},
		{"reset-before-request", false, without(all, message.Overflow)},
		{"retriable-4xx", false, nil},
	}
	for _, c := range cases {
		s := Begin(policy(t, `{"retryOn":"`+c.on+`"}`), request())
		var got []message.ResetReason
		for _, r := range all {
			if s.ShouldRetryReset(r, c.sent) {
				got = append(got, r)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s, sent %v: got %v, want %v", c.on, c.sent, got, c.want)
		}
	}
	for on, want := range map[string]bool{"5xx": true, "gateway-error": true, "reset": true, "connect-failure": false} {
		if s := Begin(policy(t, `{"retryOn":"`+on+`"}`), request()); s.ShouldRetryTimeout() != want {
			t.Errorf("per-try timeout with %s: %v", on, !want)
		}
	}
}

func without(all []message.ResetReason, x message.ResetReason) (out []message.ResetReason) {
	for _, r := range all {
		if r != x {
			out = append(out, r)
		}
	}
	return out
}

func TestNumberOfRetries(t *testing.T) {
	s := Begin(policy(t, `{"retryOn":"5xx","numRetries":2}`), request())
	for range 2 {
		if !s.Enabled() || !s.ShouldRetryResponse(response(500)) {
			t.Fatal("a retry is missing")
		}
		s.Use()
	}
	if s.Enabled() || s.ShouldRetryResponse(response(500)) || !s.Exhausted() || !s.WantsResponse(response(500)) {
		t.Error("the limit does not hold")
	}
	if s := Begin(policy(t, `{"retryOn":"5xx"}`), request()); s.remaining != 1 {
		t.Errorf("default of %d retries", s.remaining)
	}
	if s := Begin(policy(t, `{"retryOn":"5xx","numRetries":0}`), request()); s.Enabled() {
		t.Error("0 retries are enabled")
	}
	if s := Begin(nil, request()); s.Enabled() || s.WantsReset(message.ConnectionFailure, false) {
		t.Error("no policy retries")
	}
}

func TestRequestHeadersAskForRetries(t *testing.T) {
	s := Begin(nil, request("x-envoy-retry-on", "5xx, nonsense", "x-envoy-max-retries", "3"))
	if !s.ShouldRetryResponse(response(500)) || s.remaining != 3 {
		t.Errorf("got %+v", s)
	}
	s = Begin(nil, request("x-envoy-retry-grpc-on", "unavailable"))
	if !s.ShouldRetryResponse(response(200, "grpc-status", "14")) {
		t.Error("x-envoy-retry-grpc-on is not heard")
	}
	s = Begin(nil, request("x-envoy-retry-on", "retriable-status-codes", "x-envoy-retriable-status-codes", "404, 418"))
	if !s.ShouldRetryResponse(response(418)) || s.ShouldRetryResponse(response(500)) {
		t.Error("x-envoy-retriable-status-codes is not heard")
	}
	p := policy(t, `{"retryOn":"5xx","retriableRequestHeaders":[{"name":":method","stringMatch":{"exact":"HEAD"}}]}`)
	if s := Begin(p, request()); s.Enabled() {
		t.Error("retriable_request_headers do not restrict")
	}
}

func TestBackOff(t *testing.T) {
	s := Begin(policy(t, `{"retryOn":"5xx","numRetries":9}`), request())
	for i, limit := range []time.Duration{25, 75, 175, 250, 250} {
		s.Use()
		limit *= time.Millisecond
		var most time.Duration
		for r := range uint64(1000) {
			most = max(most, s.BackOff(r))
		}
		if most != limit-time.Millisecond {
			t.Errorf("retry %d waits up to %v, want below %v", i+1, most, limit)
		}
	}
	s = Begin(policy(t, `{"retryOn":"5xx","retryBackOff":{"baseInterval":"1s","maxInterval":"2s"}}`), request())
	s.Use()
	s.Use()
	if got := s.BackOff(2999); got != 999*time.Millisecond {
		t.Errorf("max_interval: %v", got)
	}
}

func TestRateLimitedBackOff(t *testing.T) {
	s := Begin(policy(t, `{"retryOn":"5xx","rateLimitedRetryBackOff":{"resetHeaders":[{"name":"Retry-After"},{"name":"X-RateLimit-Reset","format":"UNIX_TIMESTAMP"}],"maxInterval":"60s"}}`), request())
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		headers []string
		low, hi time.Duration
		ok      bool
	}{
		{[]string{"retry-after", "10"}, 10 * time.Second, 15 * time.Second, true},
		{[]string{"x-ratelimit-reset", "1020"}, 20 * time.Second, 30 * time.Second, true},
		{[]string{"retry-after", "61", "x-ratelimit-reset", "1004"}, 4 * time.Second, 6 * time.Second, true},
		{[]string{"retry-after", "99999999999999"}, 0, 0, false},
		{[]string{"x-ratelimit-reset", "1"}, 0, 0, false},
		{nil, 0, 0, false},
	} {
		for _, r := range []uint64{0, 1 << 40, 1<<64 - 1} {
			d, ok := s.RateLimitedBackOff(response(503, c.headers...), now, r)
			if ok != c.ok || d < c.low || d > c.hi {
				t.Errorf("%v: %v %v", c.headers, d, ok)
			}
		}
	}
}

func TestRefusedPolicies(t *testing.T) {
	for _, c := range []struct{ json, want string }{
		{`{"retryOn":"often"}`, "retry_on"},
		{`{"perTryTimeout":"-1s"}`, "per_try_timeout"},
		{`{"retryBackOff":{}}`, "retry_back_off.base_interval"},
		{`{"retryBackOff":{"baseInterval":"2s","maxInterval":"1s"}}`, "max_interval"},
		{`{"rateLimitedRetryBackOff":{}}`, "reset_headers"},
		{`{"retryHostPredicate":[{"name":"envoy.retry_host_predicates.omit_canary_hosts"}]}`, "retry_host_predicate[0]"},
	} {
		m := &routev3.RetryPolicy{}
		if err := protojson.Unmarshal([]byte(c.json), m); err != nil {
			t.Fatal(err)
		}
		if _, err := Compile(m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v", c.json, err)
		}
	}
	p := policy(t, `{"retryHostPredicate":[{"name":"envoy.retry_host_predicates.previous_hosts"}],"hostSelectionRetryMaxAttempts":"5"}`)
	if !p.PreviousHosts || p.HostAttempts != 5 {
		t.Errorf("got %+v", p)
	}
}

func TestDecisionsDoNotAllocate(t *testing.T) {
	p := policy(t, `{"retryOn":"5xx,retriable-status-codes,unavailable","retriableStatusCodes":[418]}`)
	req, resp := request("x-envoy-retry-on", "reset", "x-envoy-max-retries", "2"), response(404, "grpc-status", "3")
	n := testing.AllocsPerRun(100, func() {
		s := Begin(p, req)
		s.ShouldRetryResponse(resp)
		s.ShouldRetryReset(message.RemoteReset, true)
		s.Use()
		s.BackOff(7)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
