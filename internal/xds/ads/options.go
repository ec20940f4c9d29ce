// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// Options of a Server. The zero value of each field stands for its default.
type Options struct {
	Log *slog.Logger // default: discards
	// Now is the clock of status and pacing. Default time.Now.
	Now func() time.Time
	// WriteTimeout is how long one response may wait for the connection before the
	// stream is dropped; the proxy comes back and is sent what it lacks. Default 15 s.
	WriteTimeout time.Duration
	// EndpointGrace is how long listeners and routes wait, after new clusters were
	// acknowledged, for the proxy to ask for their endpoints. Default 1 s.
	EndpointGrace time.Duration
	// MaxWindow bounds the pause between two pushes of configuration other than
	// endpoints; the pause itself follows what pushes cost. Default 1 s.
	MaxWindow time.Duration
	// MaxNames bounds the names one stream may subscribe to in one type. Default 200000.
	MaxNames int
}

// Access says who may use a listener and how they are known.
type Access struct {
	// Authenticate returns the verified SPIFFE id of the peer, from its certificate
	// or a token in the metadata; its error refuses the stream. Nil on a plaintext
	// listener: identities are then empty and no secret is served.
	Authenticate func(ctx context.Context) (string, error)
}

// GRPCOptions returns the options of a grpc.Server that serves ADS to many
// proxies: the codec that sends shared bytes (other services on the same server
// use it as plain protobuf), small buffers, keepalive and bounds, and the age at
// which a connection is moved on (with gRPC's jitter of 10 %), 0 for never.
func GRPCOptions(maxAge time.Duration) []grpc.ServerOption {
	kp := keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 15 * time.Second}
	if maxAge > 0 {
		kp.MaxConnectionAge, kp.MaxConnectionAgeGrace = maxAge, 5*time.Second
	}
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.ReadBufferSize(2 << 10),
		grpc.WriteBufferSize(16 << 10),
		grpc.MaxConcurrentStreams(32),
		grpc.MaxRecvMsgSize(16 << 20),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(kp),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}
