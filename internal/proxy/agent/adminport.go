// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/lateen-mesh/lateen/internal/proxy/admin"
)

// startAdmin opens the admin port, and the health port when one is asked for.
func (s *Server) startAdmin(ctx context.Context, wg *sync.WaitGroup) error {
	p := &admin.Proxy{
		Bootstrap: s.bs.Message, Registry: s.registry, Clusters: s.clusters, Listeners: s.listeners, Secrets: s.secrets,
		Level: s.opts.Level, Version: s.opts.Version, Started: s.started, State: s.state, Live: s.becameLive,
		Drain: s.requestDrain, StopListening: s.listeners.StopListening, Quit: s.requestQuit,
		Options: map[string]any{
			"service_node": s.bs.Node.GetId(), "service_cluster": s.bs.Node.GetCluster(),
			"drain_time": fmt.Sprintf("%gs", s.opts.DrainTime.Seconds()), "concurrency": 0,
		},
	}
	if s.xds != nil {
		p.Cache = s.xds.Cache()
	}
	network, address, err := s.bs.AdminAddress()
	if err != nil {
		return fmt.Errorf("admin.address: %w", err)
	}
	if address != "" {
		ln, err := net.Listen(network, address)
		if err != nil {
			return fmt.Errorf("admin port: %w", err)
		}
		if network == "unix" {
			if err := os.Chmod(address, 0o600); err != nil {
				ln.Close()
				return fmt.Errorf("admin port: %w", err)
			}
		}
		s.log.Info("admin port open", "address", ln.Addr().String())
		wg.Go(func() { admin.Serve(ctx, ln, p.Handler(), s.log) })
	}
	if health := s.healthAddress(address); health != "" {
		ln, err := net.Listen("tcp", health)
		if err != nil {
			return fmt.Errorf("health port: %w", err)
		}
		wg.Go(func() { admin.Serve(ctx, ln, p.Health(), s.log) })
	}
	return nil
}

// healthAddress is the option's, else the port the node's metadata names as
// Istio's agent does, on the admin port's host.
func (s *Server) healthAddress(adminAddress string) string {
	if s.opts.HealthAddress != "" {
		return s.opts.HealthAddress
	}
	v := s.bs.Node.GetMetadata().GetFields()["ENVOY_STATUS_PORT"]
	port := v.GetStringValue()
	if n := v.GetNumberValue(); n > 0 && n < 65536 {
		port = strconv.Itoa(int(n))
	}
	host, _, err := net.SplitHostPort(adminAddress)
	if port == "" || err != nil {
		return ""
	}
	return net.JoinHostPort(host, port)
}

// state is the server state as /ready prints it.
func (s *Server) state() string {
	switch {
	case s.draining.Load():
		return "DRAINING"
	case s.live.Load():
		return "LIVE"
	}
	return "INITIALIZING"
}

func (s *Server) requestDrain() {
	select {
	case s.drainReq <- struct{}{}:
	default:
	}
}

func (s *Server) requestQuit() { s.quitOnce.Do(func() { close(s.quit) }) }
