// SPDX-License-Identifier: Apache-2.0

// Package controlplane runs lateend: the store, the pipeline from objects to
// views, the discovery service, the authority, and the local socket.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/lateen-mesh/lateen/internal/ca"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/dir"
	"github.com/lateen-mesh/lateen/internal/xds/ads"
)

// Options say what to run. Empty addresses and paths turn their part off.
type Options struct {
	// Name of the mesh, for status.
	Name    string
	Version string
	// ConfigDir is the directory of the configuration; required unless
	// Kubernetes is set.
	ConfigDir string
	// Kubernetes makes a cluster's API server the source of the configuration.
	Kubernetes *Kubernetes
	// StateDir keeps the authority's root and token key; required for SecureAddress.
	StateDir string
	// Socket is the path of the local interface's Unix socket.
	Socket string
	// SecureAddress serves discovery and certificates over TLS (Istio's 15012).
	SecureAddress string
	// PlainAddress serves discovery without secrets (Istio's 15010); loopback
	// only, except in a cluster.
	PlainAddress string
	// DebugAddress serves metrics and /debug (Istio's 15014); loopback only,
	// except in a cluster, where /debug still answers loopback callers only.
	DebugAddress string
	// TrustDomain of the identities; empty: the mesh configuration's.
	TrustDomain string
	Log         *slog.Logger
}

// maxConnectionAge moves proxies on from time to time, so that they spread
// over replicas. Istio's value.
const maxConnectionAge = 30 * time.Minute

// drainTime is how long streams may take to end when the program stops.
const drainTime = 2 * time.Second

// objectStore is where configuration comes from: a directory or a cluster.
type objectStore interface {
	config.Store
	// Problems lists what is wrong with what is stored.
	Problems() []*config.Problem
	// Close ends watching.
	Close() error
}

// plane is a running control plane.
type plane struct {
	opts      Options
	log       *slog.Logger
	started   time.Time
	store     objectStore
	cluster   *cluster // nil outside Kubernetes
	publisher *publisher
	ads       *ads.Server
	authority *ca.Authority
	tokens    *ca.Tokens         // of a local mesh
	callers   []ca.Authenticator // who may have certificates
	caServer  *ca.Server
	addresses map[string]string

	mu     sync.Mutex
	closed []func()
}

// Run runs a control plane until ctx ends, then stops it in order. It returns
// an error if it cannot start or a listener fails.
func Run(ctx context.Context, opts Options) error {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	p := &plane{opts: opts, log: opts.Log, started: time.Now(), addresses: map[string]string{}}
	defer p.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := p.openStore(ctx); err != nil {
		return err
	}
	p.onClose(func() { _ = p.store.Close() }) // only stops watching
	p.publisher = newPublisher(opts.Log)
	p.publisher.pods = p.cluster != nil
	p.ads = ads.NewServer(p.publisher, ads.Options{Log: opts.Log})
	if err := p.openAuthority(ctx); err != nil {
		return err
	}
	var watching sync.WaitGroup
	watching.Go(func() { p.publisher.follow(ctx, p.store.Watch(ctx)) })
	p.onClose(watching.Wait)
	p.onClose(func() { cancel(nil) })
	select {
	case <-p.publisher.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// Decoding and the first build leave a lot behind that is not needed again.
	debug.FreeOSMemory()
	fail := func(err error) { cancel(err) }
	if err := errors.Join(p.servePlain(fail), p.serveSecure(fail), p.serveDebug(fail), p.serveSocket(fail), p.serveCluster(ctx, fail)); err != nil {
		return err
	}
	p.log.Info("control plane is ready", "name", opts.Name, "addresses", p.addresses, "config", opts.ConfigDir)
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (p *plane) onClose(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = append(p.closed, f)
}

// close undoes what was started, last first.
func (p *plane) close() {
	p.mu.Lock()
	list := p.closed
	p.closed = nil
	p.mu.Unlock()
	for i := len(list) - 1; i >= 0; i-- {
		list[i]()
	}
}

func (p *plane) openStore(ctx context.Context) error {
	if p.opts.Kubernetes != nil {
		return p.openCluster(ctx)
	}
	store, err := dir.Open(p.opts.ConfigDir, dir.Options{Log: p.opts.Log})
	if err != nil {
		return fmt.Errorf("configuration in %s: %w", p.opts.ConfigDir, err)
	}
	p.store = store
	return nil
}

// trustDomain is the one of the options, else of the mesh configuration.
func (p *plane) trustDomain(ctx context.Context) (string, error) {
	if p.opts.TrustDomain != "" {
		return p.opts.TrustDomain, nil
	}
	o, err := p.store.Get(ctx, config.MeshConfigKey)
	if errors.Is(err, config.ErrNotFound) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	return o.Spec.(*meshv1alpha1.MeshConfig).TrustDomain, nil
}

func (p *plane) openAuthority(ctx context.Context) error {
	domain, err := p.trustDomain(ctx)
	if err != nil {
		return err
	}
	if p.cluster != nil {
		return p.cluster.openAuthority(ctx, p, domain)
	}
	if p.opts.StateDir == "" {
		return nil
	}
	a, tokens, err := ca.OpenDir(p.authorityDir(), ca.Options{TrustDomain: domain})
	if err != nil {
		return fmt.Errorf("authority in %s: %w", p.authorityDir(), err)
	}
	p.authority, p.tokens = a, tokens
	p.callers = []ca.Authenticator{
		&ca.CertificateAuthenticator{TrustDomain: a.TrustDomain()},
		&ca.TokenAuthenticator{Verify: tokens.Verify, TrustDomain: a.TrustDomain()},
	}
	return nil
}

func (p *plane) authorityDir() string { return filepath.Join(p.opts.StateDir, "ca") }

func (p *plane) rootFile() string {
	if p.tokens == nil {
		return ""
	}
	return filepath.Join(p.authorityDir(), ca.RootFile)
}

// loopback refuses an address that others could reach: what is served there is
// not authenticated.
func loopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("address %q: want a loopback address, for this port authenticates nobody", address)
	}
	return nil
}

func (p *plane) listen(purpose, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s port: %w", purpose, err)
	}
	p.addresses[purpose] = l.Addr().String()
	return l, nil
}

func (p *plane) servePlain(fail func(error)) error {
	if p.opts.PlainAddress == "" {
		return nil
	}
	if p.cluster == nil {
		if err := loopback(p.opts.PlainAddress); err != nil {
			return err
		}
	}
	l, err := p.listen("xds-plaintext", p.opts.PlainAddress)
	if err != nil {
		return err
	}
	s := grpc.NewServer(ads.GRPCOptions(maxConnectionAge)...)
	p.ads.Register(s, ads.Access{})
	p.serve(s, l, fail)
	return nil
}

func (p *plane) serveSecure(fail func(error)) error {
	if p.opts.SecureAddress == "" {
		return nil
	}
	if p.authority == nil {
		return errors.New("the secure discovery port needs a state directory for its authority")
	}
	serving, err := ca.NewServing(p.authority, ca.ControlPlaneNames())
	if err != nil {
		return fmt.Errorf("certificate of the control plane: %w", err)
	}
	l, err := p.listen("xds", p.opts.SecureAddress)
	if err != nil {
		return err
	}
	opts := append(ads.GRPCOptions(maxConnectionAge), grpc.Creds(credentials.NewTLS(serving.TLSConfig())))
	s := grpc.NewServer(opts...)
	p.ads.Register(s, ads.Access{Authenticate: func(ctx context.Context) (string, error) {
		caller, err := ca.Authenticate(ctx, p.callers...)
		if err != nil {
			return "", err
		}
		return caller.ID.String(), nil
	}})
	p.caServer = ca.NewServer(p.authority, p.log, p.callers...)
	p.caServer.Register(s)
	p.serve(s, l, fail)
	return nil
}

// serve runs a gRPC server until close, which lets running calls end for a while.
func (p *plane) serve(s *grpc.Server, l net.Listener, fail func(error)) {
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			fail(fmt.Errorf("port %s: %w", l.Addr(), err))
		}
	})
	p.onClose(func() {
		force := time.AfterFunc(drainTime, s.Stop)
		defer force.Stop()
		s.GracefulStop()
		wg.Wait()
	})
}

// removeStale removes a socket that a killed process left behind. A socket
// somebody answers on is an error.
func removeStale(path string) error {
	if _, err := os.Stat(path); err != nil {
		return nil // nothing there
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close() // it only was to find out
		return fmt.Errorf("socket %s: another control plane answers there", path)
	}
	return os.Remove(path)
}
