// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/lateen-mesh/lateen/internal/identity"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
	tlsconf "github.com/lateen-mesh/lateen/internal/proxy/tls"
	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// identityWait is how long configuration waits for the workload's certificate,
// so that the first connection to a new listener does not fail its handshake.
const identityWait = 5 * time.Second

func mergeInto(dst, src *listenerv3.Listener) { proto.Merge(dst, src) }

// startControlPlane begins to follow the control plane of the bootstrap.
func (s *Server) startControlPlane(ctx context.Context, wg *sync.WaitGroup) error {
	ads := s.bs.ADS
	if ads == nil {
		return nil
	}
	g := &xdsclient.GRPC{Authority: ads.Authority, Metadata: ads.Metadata, ConnectTimeout: ads.Cluster.GetConnectTimeout().AsDuration()}
	g.Address = func() (string, string, error) { return s.hostOf(ads.Cluster.GetName()) }
	tlsMsg, err := upstreamTLS(ads.Cluster)
	if err != nil {
		return fmt.Errorf("cluster %q: %w", ads.Cluster.GetName(), err)
	}
	if tlsMsg != nil {
		c, err := tlsconf.NewClient(tlsMsg, s.secrets)
		if err != nil {
			return fmt.Errorf("cluster %q: transport_socket: %w", ads.Cluster.GetName(), err)
		}
		g.TLS = c.Config(tlsconf.Override{ALPN: []string{"h2"}})
		if g.Authority == "" {
			g.Authority = c.SNI()
		}
	}
	if g.Authority == "" {
		g.Authority = ads.Cluster.GetName()
	}
	if s.opts.TokenFile != "" {
		token := identity.TokenFile(s.opts.TokenFile)
		g.Token = token
		if tlsMsg != nil {
			s.identity = s.newIdentity(tlsMsg, token)
		}
	}
	s.sink = &sink{s: s}
	s.xds = xdsclient.New(xdsclient.Config{
		Node: s.node(), Dial: g.Dial, Sink: s.sink, Registry: s.registry, Log: s.log,
		CDS: s.bs.CDS, LDS: s.bs.LDS, NDS: s.dns != nil, Settled: s.sink.settled,
	})
	want := func(name string) {
		s.wantMu.Lock()
		s.wanted[name] = true
		s.wantMu.Unlock()
		s.xds.NamesChanged()
	}
	for _, n := range s.secrets.OnWant(want) {
		want(n)
	}
	if s.identity != nil {
		wg.Go(func() { s.identity.Run(ctx) })
		wg.Go(func() {
			select {
			case <-s.identity.Ready():
				s.checkReady() // configuration may have come first
			case <-ctx.Done():
			}
		})
	}
	wg.Go(func() {
		if s.identity != nil {
			select {
			case <-s.identity.Ready():
			case <-time.After(identityWait):
				s.log.Warn("no certificate yet, going on without")
			case <-ctx.Done():
				return
			}
		}
		s.xds.Run(ctx)
	})
	return nil
}

// hostOf is where a cluster's first choice of host is dialled.
func (s *Server) hostOf(name string) (network, address string, err error) {
	c := s.clusters.Get(name)
	if c == nil {
		return "", "", fmt.Errorf("cluster %q is not resolved yet", name)
	}
	h := c.Pick(nil)
	if h == nil {
		return "", "", fmt.Errorf("cluster %q has no host", name)
	}
	return h.Network(), h.Address(), nil
}

// upstreamTLS is the TLS context of a cluster, nil for plain text.
func upstreamTLS(c *clusterv3.Cluster) (*tlsv3.UpstreamTlsContext, error) {
	a := c.GetTransportSocket().GetTypedConfig()
	if a == nil {
		return nil, nil
	}
	msg := new(tlsv3.UpstreamTlsContext)
	if !a.MessageIs(msg) {
		if a.GetTypeUrl() == "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" {
			return nil, nil
		}
		return nil, errors.New("transport_socket: only tls and raw_buffer are supported")
	}
	return msg, a.UnmarshalTo(msg)
}

// newIdentity has the workload's key certified by the control plane's own CA,
// which is verified as the control plane is.
func (s *Server) newIdentity(msg *tlsv3.UpstreamTlsContext, token identity.TokenSource) *secret.Identity {
	ca := &identity.Client{
		ServerName: msg.GetSni(),
		Token:      token,
		Roots:      func() *x509.CertPool { return s.controlPlaneRoots(msg) },
		// The mesh certificate stands in when the token has run out.
		Certificate: s.secrets.Certificate,
	}
	sign := func(ctx context.Context, csr []byte, pub crypto.PublicKey, want identity.ID, ttl time.Duration, now time.Time) (*identity.Bundle, error) {
		one := *ca
		one.Address = s.opts.CAAddress
		if one.Address == "" {
			_, address, err := s.hostOf(s.bs.ADS.Cluster.GetName())
			if err != nil {
				return nil, err
			}
			one.Address = address
		}
		return one.Sign(ctx, csr, pub, want, ttl, now)
	}
	// The authority knows from the token who this is.
	return &secret.Identity{Store: s.secrets, Sign: sign, TTL: s.opts.CertificateTTL, ExtraRoots: s.opts.ExtraRoots, Log: s.log}
}

func (s *Server) controlPlaneRoots(msg *tlsv3.UpstreamTlsContext) *x509.CertPool {
	common := msg.GetCommonTlsContext()
	vc := common.GetValidationContext()
	if vc == nil {
		vc = common.GetCombinedValidationContext().GetDefaultValidationContext()
	}
	if vc != nil {
		if t, err := secret.DecodeTrust(vc); err == nil && t.Roots != nil {
			return t.Roots
		}
	}
	if t := s.secrets.Trust(secret.RootName).Load(); t != nil {
		return t.Roots
	}
	return nil // the call fails: nobody vouches for the CA
}

// node is what the proxy says of itself: the bootstrap's node and what program
// it is.
func (s *Server) node() *corev3.Node {
	n := proto.Clone(s.bs.Node).(*corev3.Node)
	n.UserAgentName = "lateen-proxy"
	n.UserAgentVersionType = &corev3.Node_UserAgentVersion{UserAgentVersion: s.opts.Version + " " + runtime.Version()}
	return n
}
