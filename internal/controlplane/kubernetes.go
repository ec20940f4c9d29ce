// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lateen-mesh/lateen/internal/ca"
	"github.com/lateen-mesh/lateen/internal/config/kube"
	chores "github.com/lateen-mesh/lateen/internal/controlplane/kube"
	"github.com/lateen-mesh/lateen/internal/install/gateway"
	"github.com/lateen-mesh/lateen/internal/webhook"
)

// Kubernetes says which cluster a control plane serves, and as what.
type Kubernetes struct {
	// Kubeconfig is the file with the credentials; empty: those of the pod.
	Kubeconfig string
	// Namespace and Pod are the control plane's own.
	Namespace, Pod string
	// Revision of this control plane; "default" is the one without.
	Revision string
	// WebhookAddress serves injection and validation (Istio's 15017).
	WebhookAddress string
	// ReadyAddress serves /ready to the kubelet (Istio's 8080).
	ReadyAddress string
	// APIAddress is the loopback address of the command line's interface,
	// which reaches it by a port-forward. It changes nothing.
	APIAddress string
}

// suffix is what the names of a revision's objects end with.
func (k *Kubernetes) suffix() string {
	if k.Revision == "" || k.Revision == "default" {
		return ""
	}
	return "-" + k.Revision
}

// cluster is what a control plane has besides when it serves a cluster.
type cluster struct {
	Kubernetes
	config    *rest.Config
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	store     *kube.Store
	authority *chores.Authority
	settings  *injectorSettings
	webhook   *webhook.Server
	log       *slog.Logger
}

const (
	clientQPS   = 50
	clientBurst = 100
)

func (p *plane) openCluster(ctx context.Context) error {
	k := *p.opts.Kubernetes
	if k.Namespace == "" || k.Pod == "" {
		return errors.New("a control plane in a cluster needs POD_NAMESPACE and POD_NAME in its environment")
	}
	cfg, err := credentialsOf(k.Kubeconfig)
	if err != nil {
		return fmt.Errorf("cluster credentials: %w", err)
	}
	// Every proxy that connects costs a review, every route a status.
	cfg.QPS, cfg.Burst = clientQPS, clientBurst
	c := &cluster{Kubernetes: k, config: cfg, log: p.log}
	if c.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("cluster client: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(cfg); err != nil {
		return fmt.Errorf("cluster client: %w", err)
	}
	c.store, err = kube.Open(ctx, kube.Options{Config: cfg, Namespace: k.Namespace, Revision: k.Revision, Log: p.log})
	if err != nil {
		return err
	}
	p.cluster, p.store = c, c.store
	// The mesh configuration decides the trust domain, which the authority is made for.
	select {
	case <-c.store.Synced():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func credentialsOf(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

func (c *cluster) openAuthority(ctx context.Context, p *plane, trustDomain string) error {
	a, err := chores.OpenAuthority(ctx, c.client, c.Namespace, ca.Options{TrustDomain: trustDomain}, p.log)
	if err != nil {
		return err
	}
	c.authority, p.authority = a, a.Authority
	// A client of its own: whoever sends tokens by the thousand must not hold up
	// the election and what else this replica writes.
	reviewer, err := kubernetes.NewForConfig(c.config)
	if err != nil {
		return fmt.Errorf("cluster client: %w", err)
	}
	p.callers = []ca.Authenticator{
		&ca.CertificateAuthenticator{TrustDomain: a.TrustDomain()},
		&ca.TokenAuthenticator{Verify: chores.NewTokens(reviewer, nil).Verify, TrustDomain: a.TrustDomain()},
	}
	return nil
}

// serveCluster serves what only a cluster has and starts the chores of a leader.
func (p *plane) serveCluster(ctx context.Context, fail func(error)) error {
	if p.cluster == nil {
		return nil
	}
	c := p.cluster
	var running sync.WaitGroup
	p.onClose(running.Wait)
	serving, err := ca.NewServing(p.authority, c.names())
	if err != nil {
		return fmt.Errorf("certificate of the webhooks: %w", err)
	}
	c.settings = newInjectorSettings(c)
	running.Go(func() { c.settings.run(ctx) })
	c.webhook = webhook.NewServer(webhook.Options{Input: c.injection, Certificate: serving.Certificate, Log: p.log})
	l, err := p.listen("webhook", c.WebhookAddress)
	if err != nil {
		return err
	}
	running.Go(func() {
		if err := c.webhook.Serve(ctx, l); err != nil {
			fail(fmt.Errorf("webhook port: %w", err))
		}
	})
	if err := p.serveAPI(fail); err != nil {
		return err
	}
	running.Go(func() { c.authority.Follow(ctx) })
	running.Go(func() {
		if err := chores.Lead(ctx, c.client, c.Namespace, "istio-leader"+c.suffix(), c.Pod, p.log, c.lead); err != nil {
			fail(err)
		}
	})
	// Last: who is sent here must find everything else.
	return p.serveReady(fail)
}

// serveAPI serves the reading part of the local interface to whoever may have
// a port of this pod forwarded.
func (p *plane) serveAPI(fail func(error)) error {
	if err := loopback(p.cluster.APIAddress); err != nil {
		return err
	}
	l, err := p.listen("api", p.cluster.APIAddress)
	if err != nil {
		return err
	}
	p.serveHTTP(l, hostGuard(p.readHandler()), maxWait+time.Minute, fail)
	return nil
}

func (p *plane) serveReady(fail func(error)) error {
	l, err := p.listen("ready", p.cluster.ReadyAddress)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := p.cluster.settings.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	p.serveHTTP(l, mux, 10*time.Second, fail)
	return nil
}

// names are those that proxies and the API server reach this control plane by.
func (c *cluster) names() ca.Names {
	n := ca.ControlPlaneNames()
	for _, service := range []string{"istiod", "istiod" + c.suffix()} {
		for _, domain := range []string{"", ".svc", ".svc.cluster.local"} {
			n.DNS = append(n.DNS, service+"."+c.Namespace+domain)
		}
	}
	n.IPs = append(n.IPs, net.IPv4(127, 0, 0, 1))
	return n
}

// lead does what only one replica may, until ctx ends.
func (c *cluster) lead(ctx context.Context) {
	status := &chores.Status{Reports: c.store.Reports, Client: c.dynamic, Log: c.log}
	gateways := &gateway.Controller{Client: c.client, Dynamic: c.dynamic, Objects: c.store, Revision: c.Revision, Log: c.log}
	var running sync.WaitGroup
	running.Go(func() { gateways.Run(ctx) })
	running.Go(func() { c.authority.Guard(ctx) })
	running.Go(func() { c.authority.WithRoots(ctx, c.publishRoots) })
	running.Go(func() { status.Run(ctx) })
	ingresses := &ingressStatus{client: c.client, namespace: c.Namespace, log: c.log}
	running.Go(func() { ingresses.run(ctx, c.store) })
	running.Wait()
}

// publishRoots tells namespaces and the API server whom to trust.
func (c *cluster) publishRoots(ctx context.Context, pem []byte) {
	roots := &chores.Roots{Client: c.client, PEM: pem, Log: c.log}
	bundles := &chores.Bundles{
		Client: c.client, Mutating: "istio-sidecar-injector" + c.suffix(), Validating: "istio-validator" + c.suffix() + "-" + c.Namespace,
		PEM: pem, Log: c.log,
	}
	var running sync.WaitGroup
	running.Go(func() { roots.Run(ctx) })
	running.Go(func() { bundles.Run(ctx) })
	running.Wait()
}
