// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/http1"
	"github.com/lateen-mesh/lateen/internal/proxy/http2"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// conn is one downstream connection. Between requests it holds no buffers.
type conn struct {
	m      *Manager
	nc     net.Conn
	info   *ConnInfo
	ctl    *sockio.Conn
	h1     *http1.ServerConn
	h2     atomic.Pointer[http2.ServerConn]
	stripe telemetry.Stripe
	born   time.Time
	// requests counts those begun; maxRequests ends the connection.
	requests atomic.Int64
	aborted  atomic.Bool
	// xfcc is this connection's element of x-forwarded-client-cert, made on first
	// use.
	xfcc atomic.Pointer[[]byte]
}

func newConn(m *Manager, nc net.Conn, info *ConnInfo) *conn {
	c := &conn{m: m, nc: nc, info: info, stripe: telemetry.NextStripe(), born: time.Now()}
	c.ctl, _ = sockio.Split(nc)
	if c.ctl.NetConn() == nc {
		c.nc = c.ctl
	}
	return c
}

// serve runs the connection and closes it.
func (c *conn) serve(ctx context.Context) {
	s, st := c.m.stats, c.stripe
	s.Inc(st, telemetry.HTTPCxTotal)
	s.Inc(st, telemetry.HTTPCxActive)
	if c.info.TLS != nil {
		s.Inc(st, telemetry.HTTPCxSSLTotal)
		s.Inc(st, telemetry.HTTPCxSSLActive)
		defer s.Dec(st, telemetry.HTTPCxSSLActive)
	}
	defer func() {
		s.Dec(st, telemetry.HTTPCxActive)
		s.Inc(st, telemetry.HTTPCxDestroy)
		s.Observe(st, telemetry.HTTPCxLength, time.Since(c.born))
	}()
	isH2, err := c.speaksHTTP2()
	switch {
	case err != nil:
		_ = c.nc.Close()
	case isH2:
		c.serveHTTP2(ctx)
	default:
		c.serveHTTP1(ctx)
	}
}

// speaksHTTP2 decides the codec: by configuration, by ALPN, else by the first
// bytes, which are put back.
func (c *conn) speaksHTTP2() (bool, error) {
	switch c.m.cfg.codec {
	case hcmv3.HttpConnectionManager_HTTP1:
		return false, nil
	case hcmv3.HttpConnectionManager_HTTP2:
		return true, nil
	}
	if a := c.info.ALPN; a != "" {
		return a == "h2" || a == "h2c" || a == "istio-h2", nil
	}
	if c.nc != net.Conn(c.ctl) {
		return false, nil // TLS without ALPN: as Envoy, HTTP/1.1 is assumed
	}
	if d := c.m.cfg.idleTimeout; d > 0 {
		_ = c.ctl.SetReadDeadline(c.born.Add(d))
	}
	var b [len(http2.Preface)]byte
	n := 0
	for n < len(b) {
		k, err := c.ctl.Read(b[n:])
		n += k
		if err != nil && n == 0 {
			return false, err
		}
		if err != nil || !strings.HasPrefix(http2.Preface, string(b[:n])) {
			break
		}
	}
	c.ctl.Unread(b[:n])
	return string(b[:n]) == http2.Preface, nil
}

func (c *conn) serveHTTP1(ctx context.Context) {
	cfg, s := c.m.cfg, c.m.stats
	s.Inc(c.stripe, telemetry.HTTPCxHTTP1Total)
	s.Inc(c.stripe, telemetry.HTTPCxHTTP1Active)
	defer s.Dec(c.stripe, telemetry.HTTPCxHTTP1Active)
	h := http1.NewServerConn(c.nc, http1.ServerConfig{
		Limits:             http1.Limits{HeadBytes: cfg.headBytes, Fields: cfg.headFields},
		TLS:                c.info.TLS != nil,
		Trailers:           cfg.trailers,
		AllowChunkedLength: cfg.chunkedLength,
		NoAbsoluteURL:      cfg.noAbsolute,
		LingerTimeout:      cfg.delayedClose,
	})
	c.m.mu.Lock()
	c.h1 = h
	c.m.mu.Unlock()
	defer h.Close()
	end := c.born
	for !c.aborted.Load() {
		if err := h.Next(c.idleDeadline(end), c.headTimeout()); err != nil {
			if err != io.EOF {
				c.refuse(ctx, h, err)
			} else if c.idleExpired(end) {
				s.Inc(c.stripe, telemetry.HTTPCxIdleTimeout)
			}
			h.Finish()
			return
		}
		x := newExchange(c, h)
		x.run(ctx)
		end = x.end
		x.free()
		if !h.Finish() {
			return
		}
	}
}

// refuse answers a request that could not be parsed, or did not come in time.
func (c *conn) refuse(ctx context.Context, h *http1.ServerConn, err error) {
	var se *message.StreamError
	x := newExchange(c, h)
	defer x.free()
	x.begin(ctx)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.m.stats.Inc(c.stripe, telemetry.HTTPRqHeaderTimeout)
		x.reply(408, "", format.Flags(0), format.RequestHeaderTimeout)
	case errors.As(err, &se) && se.Status != 0:
		if se.Status == 431 {
			c.m.stats.Inc(c.stripe, telemetry.HTTPRqTooLarge)
		} else {
			c.m.stats.Inc(c.stripe, telemetry.HTTPCxProtocolError)
		}
		x.reply(se.Status, "", format.DownstreamProtocolError, se.Detail)
	default:
		return // the client left in the middle of a head: nobody is there to answer
	}
	x.finish()
}

// idleDeadline is when a connection without requests is closed.
func (c *conn) idleDeadline(since time.Time) time.Time {
	var t time.Time
	if d := c.m.cfg.idleTimeout; d > 0 {
		t = since.Add(d)
	}
	if d := c.m.cfg.maxConnDuration; d > 0 {
		if m := c.born.Add(d); t.IsZero() || m.Before(t) {
			t = m
		}
	}
	return t
}

func (c *conn) idleExpired(since time.Time) bool {
	d := c.idleDeadline(since)
	return !d.IsZero() && !time.Now().Before(d)
}

// headTimeout bounds the reading of a head. Without a configured one the stream
// idle timeout's default stands in: a head that never ends must not hold a
// connection for ever (slowloris).
func (c *conn) headTimeout() time.Duration {
	switch cfg := c.m.cfg; {
	case cfg.headersTimeout > 0:
		return cfg.headersTimeout
	case cfg.streamIdle > 0:
		return cfg.streamIdle
	}
	return 5 * time.Minute
}

func (c *conn) serveHTTP2(ctx context.Context) {
	cfg, s := c.m.cfg, c.m.stats
	s.Inc(c.stripe, telemetry.HTTPCxHTTP2Total)
	s.Inc(c.stripe, telemetry.HTTPCxHTTP2Active)
	defer s.Dec(c.stripe, telemetry.HTTPCxHTTP2Active)
	h := http2.NewServerConn(ctx, c.nc, http2.Options{
		MaxConcurrentStreams: cfg.h2.maxStreams,
		StreamWindow:         cfg.h2.streamWindow,
		ConnWindow:           cfg.h2.connWindow,
		MaxHeaderBytes:       uint32(cfg.headBytes),
		MaxHeaderFields:      cfg.headFields,
		AllowConnect:         cfg.h2.allowConnect,
		IdleTimeout:          cfg.idleTimeout,
		DrainTimeout:         cfg.drainTimeout,
	}, c.handle)
	c.h2.Store(h)
	if c.m.draining.Load() {
		h.Drain()
	}
	_ = h.Serve()
	_ = c.nc.Close()
}

// handle serves one HTTP/2 stream.
func (c *conn) handle(ctx context.Context, s message.ServerStream) {
	x := newExchange(c, s)
	x.run(ctx)
	x.free()
}

// last says whether the response that is about to be sent should be the
// connection's last, and says why in the statistics.
func (c *conn) last() bool {
	cfg := c.m.cfg
	switch {
	case c.m.draining.Load():
		c.m.stats.Inc(c.stripe, telemetry.HTTPCxDrainClose)
	case cfg.maxRequests > 0 && c.requests.Load() >= int64(cfg.maxRequests):
		c.m.stats.Inc(c.stripe, telemetry.HTTPCxMaxRequestsReached)
	case cfg.maxConnDuration > 0 && time.Since(c.born) >= cfg.maxConnDuration:
		c.m.stats.Inc(c.stripe, telemetry.HTTPCxMaxDurationReached)
	default:
		return false
	}
	return true
}

// drain is called with the manager's mutex held.
func (c *conn) drain() {
	if h := c.h2.Load(); h != nil {
		h.Drain()
	}
}

// closeIdle is called with the manager's mutex held.
func (c *conn) closeIdle() {
	if c.h1 != nil {
		c.h1.CloseIdle()
	}
	c.drain()
}

// abort ends the connection at once.
func (c *conn) abort() {
	c.aborted.Store(true)
	if h := c.h2.Load(); h != nil {
		h.Close()
		return
	}
	c.m.mu.Lock()
	h := c.h1
	c.m.mu.Unlock()
	if h != nil {
		h.Reset(message.LocalReset)
		return
	}
	c.ctl.Interrupt()
}

var (
	httpScheme  = []byte("http")
	httpsScheme = []byte("https")
)

// proto is what x-forwarded-proto says of this connection.
func (c *conn) proto() []byte {
	if c.info.TLS != nil {
		return httpsScheme
	}
	return httpScheme
}
