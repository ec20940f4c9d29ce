// SPDX-License-Identifier: Apache-2.0

// Package upstream keeps the connections to upstream hosts and lends them to
// exchanges: HTTP/1.1 connections one exchange at a time, the last one given
// back first, HTTP/2 connections to many at once.
//
// The pools hang on the cluster's hosts and are shared by all processors. A
// connection goes back only when both messages of its exchange are proven to
// have ended.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// Pools lends connections. One value serves a proxy.
type Pools struct {
	reg         *telemetry.Registry
	createStats func(*cluster.Cluster) any
	createPool  func(*cluster.Host) cluster.Pool
}

// New makes pools that count in reg.
func New(reg *telemetry.Registry) *Pools {
	p := &Pools{reg: reg}
	p.createStats = func(c *cluster.Cluster) any { return reg.Cluster(c.StatName) }
	p.createPool = func(h *cluster.Host) cluster.Pool { return newPool(p, h) }
	return p
}

// Stats are the counters of a cluster.
func (p *Pools) Stats(c *cluster.Cluster) *telemetry.ClusterStats {
	return c.Attach(p.createStats).(*telemetry.ClusterStats)
}

// Want says what kind of connection an exchange needs.
type Want struct {
	// Downstream is the protocol of the request that comes in, for clusters with
	// useClientProtocol.
	Downstream message.Proto
	// Authority is the request's, for auto_sni.
	Authority []byte
	// High takes the circuit breaker of routing priority HIGH.
	High   bool
	Stripe telemetry.Stripe
}

// Stream is a lent exchange. It is used by value; the zero value is none.
type Stream struct {
	message.ClientStream
	Proto message.Proto
	// Reused says that the connection has served another exchange before, so
	// that it may turn out to be closed (StreamError.Unsent).
	Reused bool
	// Local is the connection's own address, nil when unknown.
	Local net.Addr

	host   *cluster.Host
	limits *cluster.Limits
	stats  *telemetry.ClusterStats
	stripe telemetry.Stripe
}

// Host is the host the stream goes to.
func (s *Stream) Host() *cluster.Host { return s.host }

// Close ends the exchange and gives the connection back if it may be reused.
func (s *Stream) Close() {
	if s.ClientStream == nil {
		return
	}
	s.ClientStream.Close()
	s.ClientStream = nil
	s.host.End()
	s.limits.ReleaseRequest()
	s.stats.Dec(s.stripe, telemetry.ClusterRqActive)
}

var errOverflow = &message.StreamError{Reason: message.Overflow}

// Try lends a connection that is open already. ok is false when there is none;
// err is an overflow.
func (p *Pools) Try(h *cluster.Host, w *Want) (s Stream, ok bool, err error) {
	hp := h.Pool(p.createPool).(*pool)
	s = p.begin(h, w)
	if !s.limits.AcquireRequest() {
		s.stats.Inc(w.Stripe, telemetry.ClusterRqPendingOverflow)
		return Stream{}, false, errOverflow
	}
	if !hp.take(&s, w) {
		s.limits.ReleaseRequest()
		return Stream{}, false, nil
	}
	p.lent(&s)
	return s, true, nil
}

func (p *Pools) begin(h *cluster.Host, w *Want) Stream {
	c := h.Cluster()
	return Stream{host: h, limits: c.Limits(w.High), stats: p.Stats(c), stripe: w.Stripe}
}

func (p *Pools) lent(s *Stream) {
	s.host.Begin()
	s.stats.Inc(s.stripe, telemetry.ClusterRqTotal)
	s.stats.Inc(s.stripe, telemetry.ClusterRqActive)
}

// Get lends a connection, making or awaiting one when none is free. ctx ends
// the wait: its cause is what is returned then. A failure is a
// *message.StreamError.
func (p *Pools) Get(ctx context.Context, h *cluster.Host, w *Want) (Stream, error) {
	hp := h.Pool(p.createPool).(*pool)
	s := p.begin(h, w)
	if !s.limits.AcquirePending() {
		s.stats.Inc(w.Stripe, telemetry.ClusterRqPendingOverflow)
		return Stream{}, errOverflow
	}
	s.stats.Inc(w.Stripe, telemetry.ClusterRqPendingTotal)
	s.stats.Inc(w.Stripe, telemetry.ClusterRqPendingActive)
	err := hp.wait(ctx, &s, w)
	s.stats.Dec(w.Stripe, telemetry.ClusterRqPendingActive)
	s.limits.ReleasePending()
	if err != nil {
		return Stream{}, err
	}
	if !s.limits.AcquireRequest() {
		s.ClientStream.Close()
		s.stats.Inc(w.Stripe, telemetry.ClusterRqPendingOverflow)
		return Stream{}, errOverflow
	}
	p.lent(&s)
	return s, nil
}

// Connect opens a connection of its own to the host, for a CONNECT request that
// ends here: bytes then go both ways without HTTP.
func (p *Pools) Connect(ctx context.Context, h *cluster.Host, w *Want) (net.Conn, error) {
	hp := h.Pool(p.createPool).(*pool)
	l := h.Cluster().Limits(w.High)
	if !l.AcquireConnection() {
		p.Stats(h.Cluster()).Inc(w.Stripe, telemetry.ClusterCxOverflow)
		return nil, errOverflow
	}
	conn, err := hp.dial(ctx, w)
	if err != nil {
		l.ReleaseConnection()
		return nil, err
	}
	return &owned{Conn: conn, done: func() {
		l.ReleaseConnection()
		p.Stats(h.Cluster()).Dec(w.Stripe, telemetry.ClusterCxActive)
	}}, nil
}

// owned gives its place in the circuit breaker back once.
type owned struct {
	net.Conn
	done func()
}

func (o *owned) Close() error {
	if o.done != nil {
		o.done()
		o.done = nil
	}
	return o.Conn.Close()
}

// CloseWrite half-closes.
func (o *owned) CloseWrite() error {
	if h, ok := o.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// failure turns a failed dial or handshake into the stream's error.
func failure(ctx context.Context, timeout time.Duration, stage string, err error) error {
	// The socket's deadline is the context's, and its timer may be the first to
	// run; the context then says within moments whose time it was.
	if d, ok := ctx.Deadline(); ok && errors.Is(err, os.ErrDeadlineExceeded) && !time.Now().Before(d) {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		if cause := context.Cause(ctx); !errors.Is(cause, errConnectTimeout) {
			return cause
		}
		return &message.StreamError{Reason: message.ConnectTimeout, Unsent: true, Err: fmt.Errorf("no connection within %v", timeout)}
	}
	e := &message.StreamError{Reason: message.ConnectionFailure, Unsent: true, Err: err}
	if stage == "tls" {
		e.Detail = "TLS_error: " + err.Error()
	}
	return e
}

var errConnectTimeout = errors.New("connect timeout")
