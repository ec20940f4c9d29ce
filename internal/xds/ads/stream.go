// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// firstRequest is how long a new stream may take to say who it is.
const firstRequest = 15 * time.Second

// service is the server as one listener offers it.
type service struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	server *Server
	access Access
}

// Register offers ADS on a grpc.Server made with GRPCOptions.
func (s *Server) Register(r grpc.ServiceRegistrar, access Access) {
	discovery.RegisterAggregatedDiscoveryServiceServer(r, &service{server: s, access: access})
}

func (s *service) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.serve(g, true, func() (*corev3.Node, *request, error) {
		m, err := g.Recv()
		if err != nil {
			return nil, nil, err
		}
		return m.GetNode(), &request{
			url: m.GetTypeUrl(), nonce: m.GetResponseNonce(),
			refused: m.GetErrorDetail() != nil, message: m.GetErrorDetail().GetMessage(),
			add: m.GetResourceNamesSubscribe(), remove: m.GetResourceNamesUnsubscribe(), initial: m.GetInitialResourceVersions(),
		}, nil
	})
}

func (s *service) StreamAggregatedResources(g discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return s.serve(g, false, func() (*corev3.Node, *request, error) {
		m, err := g.Recv()
		if err != nil {
			return nil, nil, err
		}
		return m.GetNode(), &request{
			url: m.GetTypeUrl(), nonce: m.GetResponseNonce(),
			refused: m.GetErrorDetail() != nil, message: m.GetErrorDetail().GetMessage(),
			names: m.GetResourceNames(),
		}, nil
	})
}

// received is what the reading goroutine hands over.
type received struct {
	node *corev3.Node
	req  *request
	err  error
}

// stream runs one stream: this goroutine decides, one reads, and one more writes
// while there is something to write, so that none of it can hold up the others.
type stream struct {
	server *Server
	client *client
	grpc   grpc.ServerStream
	in     chan received
	done   chan error    // of the write under way
	took   time.Duration // by the last write; read after done
}

// serve runs a stream to its end. When it returns, gRPC ends the reads and
// writes that are still waiting.
func (s *service) serve(g grpc.ServerStream, delta bool, recv func() (*corev3.Node, *request, error)) error {
	ctx := g.Context()
	identity := ""
	if s.access.Authenticate != nil {
		var err error
		if identity, err = s.access.Authenticate(ctx); err != nil {
			return status.Errorf(codes.Unauthenticated, "authentication: %v", err)
		}
	}
	st := &stream{server: s.server, grpc: g, in: make(chan received), done: make(chan error, 1)}
	go func() {
		for {
			n, r, err := recv()
			select {
			case st.in <- received{n, r, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	first, err := st.first(ctx)
	if first == nil {
		return err
	}
	c := &client{
		Client: Client{Node: slim(first.node), Identity: identity, Delta: delta},
		server: s.server, proxy: proxyName(first.node), connected: s.server.opts.Now(),
	}
	if p, ok := peer.FromContext(ctx); ok {
		c.Addr = p.Addr.String()
	}
	if err := authorize(first.node, identity); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	if c.sub, err = s.server.source.Connect(ctx, &c.Client); err != nil {
		if _, ok := status.FromError(err); ok {
			return err
		}
		return status.Errorf(codes.InvalidArgument, "node %q: %v", first.node.GetId(), err)
	}
	defer c.sub.Close()
	st.client = c
	c.refresh(s.server.opts.Now())
	s.server.join(c)
	defer s.server.leave(c)
	if err := c.handle(first.req, s.server.opts.Now()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return st.run(ctx)
}

// first waits for the first request, which must name the node.
func (s *stream) first(ctx context.Context) (*received, error) {
	timeout := time.NewTimer(firstRequest)
	defer timeout.Stop()
	select {
	case r := <-s.in:
		if r.err != nil {
			return nil, ended(r.err)
		}
		if r.node.GetId() == "" {
			return nil, status.Error(codes.InvalidArgument, "the first request names no node id")
		}
		return &r, nil
	case <-timeout.C:
		return nil, status.Error(codes.DeadlineExceeded, "no request on the new stream")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// slim keeps of a node what is used; Envoy lists hundreds of extensions in it.
func slim(n *corev3.Node) *corev3.Node {
	return &corev3.Node{Id: n.GetId(), Cluster: n.GetCluster(), Metadata: n.GetMetadata(), Locality: n.GetLocality(), UserAgentName: n.GetUserAgentName()}
}

func (s *stream) run(ctx context.Context) error {
	now, c := s.server.opts.Now, s.client
	alarm := newAlarm()
	defer alarm.Stop()
	writing := false
	for {
		if !writing {
			p, wake := c.next(now())
			if p != nil {
				writing = true
				s.write(p)
				wake = now().Add(s.server.opts.WriteTimeout)
			}
			set(alarm, wake, now())
		}
		select {
		case r := <-s.in:
			if r.err != nil {
				return ended(r.err)
			}
			if err := c.handle(r.req, now()); err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
		case <-c.changed:
			c.refresh(now())
		case err := <-s.done:
			if err != nil {
				return ended(err)
			}
			writing = false
			s.server.pace.wrote(now(), s.took)
		case <-alarm.C:
			if writing {
				s.server.metrics.slow.Add(1)
				s.server.opts.Log.Warn("proxy does not read, stream dropped", "proxy", c.proxy, "timeout", s.server.opts.WriteTimeout)
				return status.Errorf(codes.ResourceExhausted, "a response was not read for %v", s.server.opts.WriteTimeout)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// newAlarm returns a stopped timer.
func newAlarm() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func set(t *time.Timer, at, now time.Time) {
	if at.IsZero() {
		t.Stop()
	} else {
		t.Reset(at.Sub(now))
	}
}

// write encodes and sends a response in a goroutine of its own, which ends with
// the send or with the stream.
func (s *stream) write(p *push) {
	go func() {
		start := time.Now()
		var e *encoded
		if s.client.Delta {
			e = encodeDelta(p)
		} else {
			e = encodeWorld(p)
		}
		err := s.grpc.SendMsg(e)
		s.took = time.Since(start)
		if err == nil {
			s.server.metrics.pushed(p.st.url, e.size)
		}
		s.done <- err
	}()
}

// ended turns the end of a read or write into that of the stream.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// authorize holds what a proxy says it is against what it has proved to be:
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>. On plaintext there
// is nothing to compare with.
func authorize(n *corev3.Node, identity string) error {
	if identity == "" {
		return nil
	}
	parts := strings.Split(strings.TrimPrefix(identity, "spiffe://"), "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return fmt.Errorf("identity %q is not a workload's", identity)
	}
	ns := metadata(n, "NAMESPACE")
	if ns == "" {
		_, ns, _ = strings.Cut(proxyName(n), ".")
	}
	if ns != parts[2] {
		return fmt.Errorf("node %q says namespace %q, its identity is %q", n.GetId(), ns, identity)
	}
	if sa := metadata(n, "SERVICE_ACCOUNT"); sa != "" && sa != parts[4] {
		return fmt.Errorf("node %q says service account %q, its identity is %q", n.GetId(), sa, identity)
	}
	return nil
}
