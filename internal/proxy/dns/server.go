// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// Bounds of what clients may hold: questions on their way upstream, TCP
// connections, and how long an idle one lives.
const (
	maxForwards = 1024
	maxConns    = 256
	idleTimeout = 10 * time.Second
)

// DefaultAddresses are where redirected queries arrive.
var DefaultAddresses = []string{"127.0.0.1:15053", "[::1]:15053"}

// Options are what a Server needs.
type Options struct {
	// Addresses are listened on, UDP and TCP; nil: DefaultAddresses. One that the
	// machine does not have is left out when another is there.
	Addresses []string
	// Namespace and Domain are the proxy's, as in "default" and
	// "default.svc.cluster.local".
	Namespace, Domain string
	Resolv            ResolvConf
	// UpstreamPort is the port of the servers of resolv.conf, 0: 53.
	UpstreamPort uint16
	Registry     *telemetry.Registry // nil: counts go nowhere
	Log          *slog.Logger        // nil: no log
}

// Server is the DNS proxy. It is safe for concurrent use.
type Server struct {
	opts    Options
	place   place
	table   atomic.Pointer[table] // nil until the control plane has sent one
	forward forwarder
	turn    atomic.Uint32
	slots   chan struct{} // of questions on their way upstream
	conns   chan struct{}

	packets   []net.PacketConn
	listeners []net.Listener

	requests, upstream, failures, malformed *telemetry.Counter
}

// New makes a server without opening anything.
func New(o Options) *Server {
	if o.Addresses == nil {
		o.Addresses = DefaultAddresses
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = telemetry.NewRegistry()
	}
	if o.UpstreamPort == 0 {
		o.UpstreamPort = 53
	}
	s := &Server{
		opts: o, place: newPlace(o.Namespace, o.Domain, o.Resolv.Search),
		slots: make(chan struct{}, maxForwards), conns: make(chan struct{}, maxConns),
		requests: o.Registry.Counter("dns.requests"), upstream: o.Registry.Counter("dns.upstream_requests"),
		failures: o.Registry.Counter("dns.upstream_failures"), malformed: o.Registry.Counter("dns.malformed_requests"),
	}
	s.forward.dial = new(net.Dialer).DialContext
	for _, a := range o.Resolv.Servers {
		s.forward.servers = append(s.forward.servers, netip.AddrPortFrom(a, o.UpstreamPort))
	}
	return s
}

// Listen opens the addresses; Run, which is called after it, serves them.
func (s *Server) Listen(ctx context.Context) error {
	var missing error
	for _, a := range s.opts.Addresses {
		err := s.open(ctx, a)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			missing = err
			continue
		}
		if err != nil {
			s.close()
			return err
		}
	}
	if len(s.listeners) == 0 {
		return fmt.Errorf("listen for DNS: no address: %w", missing)
	}
	return nil
}

func (s *Server) open(ctx context.Context, address string) error {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		return fmt.Errorf("listen for DNS: %w", err)
	}
	l, err := lc.Listen(ctx, "tcp", pc.LocalAddr().String())
	if err != nil {
		pc.Close()
		return fmt.Errorf("listen for DNS: %w", err)
	}
	s.packets, s.listeners = append(s.packets, pc), append(s.listeners, l)
	return nil
}

func (s *Server) close() {
	for _, pc := range s.packets {
		pc.Close()
	}
	for _, l := range s.listeners {
		l.Close()
	}
}

// Addresses are those that are open.
func (s *Server) Addresses() []string {
	var out []string
	for _, l := range s.listeners {
		out = append(out, l.Addr().String())
	}
	return out
}

// Update takes a new name table.
func (s *Server) Update(names map[string]Name) { s.table.Store(newTable(names, s.place)) }

// Ready says whether there is a table. Before, every question is answered with
// SERVFAIL, so that a name of the mesh is never said not to exist.
func (s *Server) Ready() bool { return s.table.Load() != nil }

// Dump is the table as istio-agent's /debug/ndsz prints it.
func (s *Server) Dump() ([]byte, error) {
	var out struct {
		Table map[string]Name `json:"table"`
	}
	if t := s.table.Load(); t != nil {
		out.Table = t.source
	}
	return json.MarshalIndent(out, "", "  ")
}

// Run serves until ctx is done and everything it began has ended.
func (s *Server) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, pc := range s.packets {
		wg.Go(func() { s.servePackets(ctx, pc, &wg) })
	}
	for _, l := range s.listeners {
		wg.Go(func() { s.serveStreams(ctx, l, &wg) })
	}
	<-ctx.Done()
	s.close()
	wg.Wait()
}

// acceptPause keeps a socket that fails over and over from filling the log.
const acceptPause = 50 * time.Millisecond

// pause waits a moment; false says that the server ends.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(acceptPause):
		return true
	}
}

func (s *Server) servePackets(ctx context.Context, pc net.PacketConn, wg *sync.WaitGroup) {
	buf := make([]byte, ednsSize)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.opts.Log.Warn("DNS socket failed", "error", err)
			if !pause(ctx) {
				return
			}
			continue
		}
		q, answer := s.begin(buf[:n], false)
		if answer == nil && q != nil {
			select {
			case s.slots <- struct{}{}:
				msg := bytes.Clone(buf[:n])
				wg.Go(func() {
					defer func() { <-s.slots }()
					_, _ = pc.WriteTo(s.ask(ctx, msg, q, false), from)
				})
				continue
			default:
				s.failures.Inc()
				answer = q.reply(dnsmessage.RCodeServerFailure, false)
			}
		}
		if answer != nil {
			_, _ = pc.WriteTo(answer, from)
		}
	}
}

func (s *Server) serveStreams(ctx context.Context, l net.Listener, wg *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.opts.Log.Warn("DNS accept failed", "error", err)
			if !pause(ctx) {
				return
			}
			continue
		}
		select {
		case s.conns <- struct{}{}:
		default:
			c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-s.conns }()
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			s.serveStream(ctx, c)
		})
	}
}

func (s *Server) serveStream(ctx context.Context, c net.Conn) {
	buf := make([]byte, minUDP)
	for {
		_ = c.SetDeadline(time.Now().Add(idleTimeout))
		msg, err := readMessage(c, buf)
		if err != nil {
			return
		}
		q, answer := s.begin(msg, true)
		if answer == nil && q != nil {
			answer = s.ask(ctx, msg, q, true)
		}
		if answer == nil || writeMessage(c, answer, true) != nil {
			return
		}
	}
}

// begin answers what needs nobody else. With a query and no answer, others have
// to be asked; with neither, the message deserves none.
func (s *Server) begin(msg []byte, tcp bool) (*query, []byte) {
	s.requests.Inc()
	q, err := parseQuery(msg, tcp)
	if err != nil {
		s.malformed.Inc()
		if len(msg) < 12 || q.header.Response {
			return nil, nil // nothing to answer to, or an answer: no ping-pong
		}
		q.question = dnsmessage.Question{}
		q.header.ID = uint16(msg[0])<<8 | uint16(msg[1])
		return nil, q.reply(dnsmessage.RCodeFormatError, false)
	}
	t := s.table.Load()
	if t == nil {
		return nil, q.reply(dnsmessage.RCodeServerFailure, false)
	}
	if answer, ok := t.local(&q, int(s.turn.Add(1)&0xffff)); ok {
		return nil, answer
	}
	return &q, nil
}

// ask gives the answer of the servers of resolv.conf, or SERVFAIL.
func (s *Server) ask(ctx context.Context, msg []byte, q *query, tcp bool) []byte {
	s.upstream.Inc()
	answer, err := s.forward.ask(ctx, msg, q, tcp)
	if err == nil {
		return answer
	}
	s.failures.Inc()
	s.opts.Log.Debug("DNS servers do not answer", "name", q.name, "error", err)
	return q.reply(dnsmessage.RCodeServerFailure, false)
}
