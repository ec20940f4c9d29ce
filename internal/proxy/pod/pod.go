// SPDX-License-Identifier: Apache-2.0

// Package pod runs the proxy in a Kubernetes pod: it reads what the injector and
// the downward API say, makes the bootstrap of it, serves the ports the kubelet
// and Prometheus use, and ends as a pod has to.
package pod

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/admin"
	"github.com/lateen-mesh/lateen/internal/proxy/agent"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
)

// Program is what the program knows of itself.
type Program struct {
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar // of Log, nil: it cannot be changed
}

// Run starts the proxy and serves until ctx is done; it then drains as the
// settings say and returns. Whatever is not there yet (the root, the token, the
// control plane) is waited for.
func Run(ctx context.Context, c *Config, p Program) error {
	log := p.Log
	log.Info("Version " + p.Version)
	log.Info("Proxy role", "ips", c.IPs, "type", c.Role, "id", c.ID(), "domain", c.Domain)
	for _, w := range c.Warnings {
		log.Warn("setting has no effect", "setting", w)
	}
	log.Info("control plane", "address", c.DiscoveryAddress, "tls", !c.Plaintext)
	setConcurrency(c)
	if !c.Plaintext {
		if err := awaitFile(ctx, c.RootFile, log); err != nil {
			return nil // asked to end before anything began
		}
	}
	bs, err := c.Bootstrap(p.Version)
	if err != nil {
		return err
	}
	roots, err := extraRoots(c.Proxy.CACertificatesPEM)
	if err != nil {
		return err
	}
	o := agent.Options{
		Log: log, Level: p.Level, Version: p.Version,
		DrainTime: c.DrainTime, MinimumDrain: c.MinimumDrain, DrainToZero: c.DrainToZero,
		CAAddress: c.CAAddress, CertificateTTL: c.CertificateTTL, ExtraRoots: roots,
		HealthAddress: c.Health,
		OnReady: func(after time.Duration) {
			log.Info("Readiness succeeded in " + after.String())
			log.Info("lateen-proxy is ready")
		},
	}
	if !c.Plaintext {
		o.TokenFile = c.TokenFile
	}
	s, err := agent.New(bs, o)
	if err != nil {
		return err
	}
	failed := s.Counter("scrape.application_failed")
	metrics := newMerged(s.Metrics(), c, failed.Inc, log)
	return serve(ctx, s, log, map[string]http.Handler{
		c.Status:     statusHandler(s, metrics, newProbers(c, log), log),
		c.Prometheus: only("/stats/prometheus", s.Metrics()),
	})
}

// serve runs the proxy with its ports beside it; they stay open while it drains.
func serve(ctx context.Context, s *agent.Server, log *slog.Logger, ports map[string]http.Handler) error {
	var addresses []string
	for a := range ports {
		addresses = append(addresses, a)
	}
	lns, err := listen(addresses...)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	for i, ln := range lns {
		wg.Go(func() { admin.Serve(serving, ln, ports[addresses[i]], log) })
	}
	err = s.Run(ctx)
	stop()
	wg.Wait()
	return err
}

// setConcurrency honours ProxyConfig.concurrency. Without it the Go runtime
// follows GOMAXPROCS and the container's processor limit.
func setConcurrency(c *Config) {
	if n := c.Proxy.Concurrency; n > 0 {
		runtime.GOMAXPROCS(n)
	}
}

// filePoll is how often a file that is not there yet is looked for.
const filePoll = 500 * time.Millisecond

// awaitFile waits until a file holds something.
func awaitFile(ctx context.Context, name string, log *slog.Logger) error {
	tick := time.NewTicker(filePoll)
	defer tick.Stop()
	for told := false; ; {
		b, err := os.ReadFile(name)
		if err == nil && len(b) > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !told {
			log.Error("root certificate cannot be read", "error", err)
			told = true
		}
		if !told {
			log.Warn("waiting for the root certificate", "file", name)
			told = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// extraRoots reads ProxyConfig.caCertificatesPem.
func extraRoots(texts []string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for i, t := range texts {
		if b, _ := pem.Decode([]byte(t)); b == nil {
			return nil, fmt.Errorf("caCertificatesPem[%d]: is no PEM", i)
		}
		certs, err := secret.ParseCertificates([]byte(t))
		if err != nil {
			return nil, fmt.Errorf("caCertificatesPem[%d]: %w", i, err)
		}
		out = append(out, certs...)
	}
	return out, nil
}
