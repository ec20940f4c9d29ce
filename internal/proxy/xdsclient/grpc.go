// SPDX-License-Identifier: Apache-2.0

package xdsclient

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// GRPC says how to reach a control plane over gRPC.
type GRPC struct {
	// Address gives network and address for each attempt: "tcp" and "host:port",
	// or "unix" and a path.
	Address func() (network, address string, err error)
	// TLS is the configuration of the connection, nil for plain text.
	TLS *tls.Config
	// Authority is the :authority to send.
	Authority string
	// Token gives the bearer token of a stream, nil or "" for none. It is sent
	// over TLS only.
	Token func() (string, error)
	// Metadata are headers sent when the stream opens.
	Metadata []*corev3.HeaderValue
	// ConnectTimeout bounds making the connection, default 10 s.
	ConnectTimeout time.Duration
}

// Bounds of one connection to the control plane. A response may hold a whole
// mesh's clusters.
const (
	maxResponse   = 256 << 20
	pingEvery     = 30 * time.Second
	pingTimeout   = 10 * time.Second
	streamWindow  = 1 << 20
	defaultDialTo = 10 * time.Second
)

const deltaMethod = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

// Dial opens a connection of its own for one stream: a control plane that moves
// clients by closing connections is followed at once, and the client's back-off
// is the only one.
func (g *GRPC) Dial(ctx context.Context) (Stream, error) {
	if g.ConnectTimeout <= 0 {
		g.ConnectTimeout = defaultDialTo
	}
	creds := insecure.NewCredentials()
	if g.TLS != nil {
		creds = credentials.NewTLS(g.TLS)
	}
	cc, err := grpc.NewClient("passthrough:///"+g.Authority,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(g.dial),
		grpc.WithAuthority(g.Authority),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithReadBufferSize(4<<10),
		grpc.WithWriteBufferSize(4<<10),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(streamWindow),
		grpc.WithIdleTimeout(0),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		grpc.WithUserAgent("lateen-proxy"),
	)
	if err != nil {
		return nil, err
	}
	if ctx, err = g.withHeaders(ctx); err != nil {
		cc.Close()
		return nil, err
	}
	st, err := cc.NewStream(ctx, &grpc.StreamDesc{StreamName: "DeltaAggregatedResources", ClientStreams: true, ServerStreams: true}, deltaMethod)
	if err != nil {
		cc.Close()
		return nil, err
	}
	return &grpcStream{cc: cc, st: st}, nil
}

func (g *GRPC) dial(ctx context.Context, _ string) (net.Conn, error) {
	network, address, err := g.Address()
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{Timeout: g.ConnectTimeout}).DialContext(ctx, network, address)
}

func (g *GRPC) withHeaders(ctx context.Context) (context.Context, error) {
	for _, h := range g.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, h.GetKey(), h.GetValue())
	}
	if g.Token == nil || g.TLS == nil {
		return ctx, nil
	}
	token, err := g.Token()
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	return ctx, nil
}

type grpcStream struct {
	cc *grpc.ClientConn
	st grpc.ClientStream
}

func (s *grpcStream) Send(r *discoveryv3.DeltaDiscoveryRequest) error { return s.st.SendMsg(r) }

func (s *grpcStream) Recv() (*discoveryv3.DeltaDiscoveryResponse, error) {
	r := new(discoveryv3.DeltaDiscoveryResponse)
	if err := s.st.RecvMsg(r); err != nil {
		return nil, err
	}
	return r, nil
}

func (s *grpcStream) Close() { s.cc.Close() }
