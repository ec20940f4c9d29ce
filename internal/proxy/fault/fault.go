// SPDX-License-Identifier: Apache-2.0

// Package fault decides which requests are delayed or aborted on purpose. It is
// data and a pure decision; the HTTP engine waits and replies.
package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/match"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// FilterName is the filter's well-known name, the usual key of per-route
// configuration.
const FilterName = "envoy.filters.http.fault"

// AbortBody is the body of the local reply to an aborted request.
const AbortBody = "fault filter abort"

// noGRPC marks an abort without a gRPC status.
const noGRPC = -1

// Config is one compiled envoy.extensions.filters.http.fault.v3.HTTPFault. It
// is immutable.
type Config struct {
	delay           time.Duration
	delayChance     chance
	abortStatus     int // 0: no abort
	abortGRPC       int
	abortChance     chance
	upstreamCluster string
	nodes           []string
	headers         []match.Header
	maxActive       int64 // -1: unbounded
}

// chance is a probability n/of.
type chance struct{ n, of uint64 }

func (c chance) hit(random uint64) bool { return c.n > 0 && random%c.of < c.n }

// Compile builds a config. The error names the refused field.
func Compile(m *faultv3.HTTPFault) (*Config, error) {
	c := &Config{
		upstreamCluster: m.GetUpstreamCluster(),
		nodes:           m.GetDownstreamNodes(),
		abortGRPC:       noGRPC,
		maxActive:       -1,
	}
	var err error
	if c.headers, err = match.CompileHeaders(m.GetHeaders()); err != nil {
		return nil, err
	}
	if v := m.GetMaxActiveFaults(); v != nil {
		c.maxActive = int64(v.GetValue())
	}
	if m.GetResponseRateLimit() != nil {
		return nil, errors.New("response_rate_limit: not supported")
	}
	if d := m.GetDelay(); d != nil {
		if d.GetHeaderDelay() != nil {
			return nil, errors.New("delay.header_delay: not supported")
		}
		if d.GetFixedDelay().CheckValid() != nil || d.GetFixedDelay().AsDuration() <= 0 {
			return nil, errors.New("delay.fixed_delay: must be a positive duration")
		}
		c.delay = d.GetFixedDelay().AsDuration()
		if c.delayChance, err = newChance(d.GetPercentage()); err != nil {
			return nil, fmt.Errorf("delay.percentage: %w", err)
		}
	}
	if a := m.GetAbort(); a != nil {
		if err := c.compileAbort(a); err != nil {
			return nil, fmt.Errorf("abort.%w", err)
		}
	}
	return c, nil
}

func (c *Config) compileAbort(a *faultv3.FaultAbort) error {
	switch e := a.GetErrorType().(type) {
	case *faultv3.FaultAbort_HttpStatus:
		if e.HttpStatus < 200 || e.HttpStatus >= 600 {
			return fmt.Errorf("http_status: %d is not in [200, 600)", e.HttpStatus)
		}
		c.abortStatus = int(e.HttpStatus)
	case *faultv3.FaultAbort_GrpcStatus:
		if e.GrpcStatus > 1<<16 {
			return fmt.Errorf("grpc_status: %d is no gRPC status", e.GrpcStatus)
		}
		c.abortGRPC = int(e.GrpcStatus)
		c.abortStatus = format.GRPCToHTTP(c.abortGRPC)
	default:
		return fmt.Errorf("error_type: %T is not supported", e)
	}
	var err error
	if c.abortChance, err = newChance(a.GetPercentage()); err != nil {
		return fmt.Errorf("percentage: %w", err)
	}
	return nil
}

func newChance(p *typev3.FractionalPercent) (chance, error) {
	c := chance{n: uint64(p.GetNumerator())}
	switch p.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
		c.of = 100
	case typev3.FractionalPercent_TEN_THOUSAND:
		c.of = 10_000
	case typev3.FractionalPercent_MILLION:
		c.of = 1_000_000
	default:
		return chance{}, fmt.Errorf("denominator %v is not known", p.GetDenominator())
	}
	return c, nil
}

// Filter is the fault filter of one HTTP connection manager: its own config and
// the number of faults that it injects now.
type Filter struct {
	own    *Config
	rand   func() uint64
	active atomic.Int64
}

// NewFilter returns a filter. own may be nil when faults come from routes only;
// rand nil means a random source of the runtime.
func NewFilter(own *Config, rnd func() uint64) *Filter {
	if rnd == nil {
		rnd = rand.Uint64
	}
	return &Filter{own: own, rand: rnd}
}

// Decision is what to do with one request. The zero value is nothing.
type Decision struct {
	// Delay is how long to wait first (flag DI), 0 for not at all. It counts as
	// active until End.
	Delay time.Duration
	// Abort says to answer with Status and AbortBody, after the delay (flag FI,
	// details fault_filter_abort).
	Abort  bool
	Status int
	// GRPCStatus is the configured gRPC status or -1: then a gRPC request gets
	// the one that Status maps to.
	GRPCStatus int
	// Overflow says that a fault was due but max_active_faults is reached.
	Overflow bool
}

// Decide draws for one request. route is the most specific per-route config and
// replaces the filter's own when not nil; cluster is the chosen one. When
// Decision.Active, End must be called once the delay or abort is done. It does
// not allocate.
func (f *Filter) Decide(route *Config, req *message.Request, cluster string) Decision {
	c := route
	if c == nil {
		c = f.own
	}
	if c == nil || !c.applies(req, cluster) {
		return Decision{}
	}
	d := Decision{GRPCStatus: noGRPC}
	// Both are drawn whatever the other gives: the percentages are independent.
	if c.delayChance.hit(f.rand()) {
		d.Delay = c.delay
	}
	if c.abortStatus != 0 && c.abortChance.hit(f.rand()) {
		d.Abort, d.Status, d.GRPCStatus = true, c.abortStatus, c.abortGRPC
	}
	if !d.Active() {
		return Decision{}
	}
	if n := f.active.Add(1); c.maxActive >= 0 && n > c.maxActive {
		f.active.Add(-1)
		return Decision{Overflow: true, GRPCStatus: noGRPC}
	}
	return d
}

// Active reports whether a fault is injected.
func (d *Decision) Active() bool { return d.Delay > 0 || d.Abort }

// End says that the injected fault of an active decision is over.
func (f *Filter) End() { f.active.Add(-1) }

// ActiveFaults is the number of faults being injected now.
func (f *Filter) ActiveFaults() int64 { return f.active.Load() }

// applies checks the conditions of the proto: upstream_cluster, downstream
// nodes and headers must all match.
func (c *Config) applies(req *message.Request, cluster string) bool {
	if c.upstreamCluster != "" && c.upstreamCluster != cluster {
		return false
	}
	if len(c.nodes) > 0 {
		v, ok := req.Header.GetName("x-envoy-downstream-service-node")
		if !ok {
			return false
		}
		found := false
		for _, n := range c.nodes {
			found = found || n == string(v)
		}
		if !found {
			return false
		}
	}
	return match.All(c.headers, req)
}
