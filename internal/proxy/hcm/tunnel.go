// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/route"
	"github.com/lateen-mesh/lateen/internal/proxy/sockio"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/format"
)

// bytesStream is one end of a tunnel.
type bytesStream interface {
	ReadBody() ([]byte, error)
	WriteBody(p []byte, end bool) error
	Flush() error
	SetReadDeadline(t time.Time)
	SetWriteDeadline(t time.Time)
}

// pipe moves bytes both ways until both sides are done. The route timeout no
// longer counts, the idle timeout does: a direction may be silent for long while
// the other is not, so it is the tunnel's last byte that counts.
func (x *exchange) pipe() { x.pipeWith(x.us.ClientStream, func() { x.us.Cancel() }) }

func (x *exchange) pipeWith(up bytesStream, cancel func()) {
	x.tunnel = true
	s := x.m.stats
	s.Inc(x.c.stripe, telemetry.HTTPCxUpgradesTotal)
	s.Inc(x.c.stripe, telemetry.HTTPCxUpgradesActive)
	defer s.Dec(x.c.stripe, telemetry.HTTPCxUpgradesActive)
	x.progress.Store(time.Now().UnixNano())
	done := make(chan error, 1)
	go func() {
		err := x.copy(up, x.ds)
		if err != nil {
			cancel()
		}
		done <- err
	}()
	down := x.copy(x.ds, up)
	if down != nil {
		x.ds.Reset(message.LocalReset)
	}
	upErr := <-done
	switch err := errors.Join(down, upErr); {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.Inc(x.c.stripe, telemetry.HTTPRqIdleTimeout)
		x.entry.Flags |= format.StreamIdleTimeout
		x.entry.Details = format.StreamIdleTimeoutDetails
	case upErr != nil && down != nil:
		x.entry.Details = format.DownstreamRemoteDisconnect
	}
	x.ended = down == nil && upErr == nil
	if !x.ended {
		x.abort()
	}
}

// copy moves one direction to its end.
func (x *exchange) copy(dst, src bytesStream) error {
	for {
		src.SetReadDeadline(x.tunnelEnd())
		p, err := src.ReadBody()
		if err == io.EOF {
			return dst.WriteBody(nil, true)
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(x.tunnelEnd()) {
				continue // the other direction moved
			}
			return err
		}
		if x.idle > 0 {
			x.progress.Store(time.Now().UnixNano())
			dst.SetWriteDeadline(x.tunnelEnd())
		}
		if err := dst.WriteBody(p, false); err != nil {
			return err
		}
		if err := dst.Flush(); err != nil {
			return err
		}
	}
}

func (x *exchange) tunnelEnd() time.Time {
	if x.idle <= 0 {
		return time.Time{}
	}
	return time.Unix(0, x.progress.Load()).Add(x.idle)
}

// terminatesConnect says that a CONNECT request ends here and its payload goes
// on as plain bytes.
func (x *exchange) terminatesConnect(a *route.Action) bool {
	if string(x.req.Method) != "CONNECT" || len(x.req.Upgrade) > 0 {
		return false
	}
	u := a.Upgrade("connect")
	return u != nil && u.Enabled && u.Terminate
}

// connect opens a connection for a CONNECT request and joins the two.
func (x *exchange) connect() {
	host := x.cl.Pick(&x.pick)
	if host == nil {
		x.reply(503, "no healthy upstream", format.NoHealthyUpstream, format.NoHealthyUpstreamDetails)
		return
	}
	x.entry.UpstreamHost = host.Address()
	x.attempts = 1
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	x.cancel = cancel
	x.ds.WatchPeer(x.onGone)
	conn, err := x.m.deps.Pools.Connect(ctx, host, &x.want)
	x.ds.UnwatchPeer()
	x.cancel = nil
	if err != nil {
		x.retry = noRetry
		x.failed(host, err, false)
		return
	}
	defer conn.Close()
	r := &x.local
	r.Status, r.BodyLength = 200, -1
	x.entry.Details = format.ViaUpstream
	x.finishHead(r)
	x.entry.Response, x.entry.Status = r, 200
	x.headSent = true
	if err := orFlush(x.ds.WriteHead(r, false), x.ds.Flush); err != nil {
		x.writeFailed(err)
		return
	}
	raw := newRaw(conn)
	x.pipeWith(raw, raw.ctl.Interrupt)
}

// raw is a plain connection as one end of a tunnel.
type raw struct {
	conn net.Conn
	ctl  *sockio.Conn
	buf  []byte
}

func newRaw(conn net.Conn) *raw {
	ctl, data := sockio.Split(conn)
	return &raw{conn: data, ctl: ctl, buf: make([]byte, 16<<10)}
}

func (r *raw) ReadBody() ([]byte, error) {
	n, err := r.conn.Read(r.buf)
	if n > 0 {
		return r.buf[:n], nil
	}
	return nil, err
}

func (r *raw) WriteBody(p []byte, end bool) error {
	if len(p) > 0 {
		if _, err := r.conn.Write(p); err != nil {
			return err
		}
	}
	if !end {
		return nil
	}
	if h, ok := r.conn.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite() // the other side may have closed already
	}
	return nil
}

func (r *raw) Flush() error                 { return nil }
func (r *raw) SetReadDeadline(t time.Time)  { _ = r.ctl.SetReadDeadline(t) }
func (r *raw) SetWriteDeadline(t time.Time) { _ = r.ctl.SetWriteDeadline(t) }
