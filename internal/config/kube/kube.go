// SPDX-License-Identifier: Apache-2.0

// Package kube keeps configuration in a cluster: a config.Store over the API
// server, which also gives the cluster's own objects as rows.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Options are the choices of Open.
type Options struct {
	// Config reaches the API server; required.
	Config *rest.Config
	// Namespace is the control plane's own; default istio-system. It is always
	// visible, whatever the discovery selectors say.
	Namespace string
	// Revision of the control plane; empty or "default" reads ConfigMap istio,
	// another one istio-<revision>.
	Revision string
	// Log receives every new problem and outages of the API server; default: discarded.
	Log *slog.Logger
}

// Store is a config.Store over the API server.
//
// It watches every kind that the cluster knows, its own ones included, and a
// kind whose definition is missing as soon as it is there. Reads are answered
// from what was watched. Objects that do not decode or validate are reported
// by Problems and Reports; what they last were stays in force. While the API
// server is away nothing changes.
//
// Of Kubernetes' own objects only what package k8s names is kept. Objects in a
// namespace that the mesh configuration's discoverySelectors leave out are not
// there for a reader of the store.
type Store struct {
	opts    Options
	log     *slog.Logger
	clients clients
	cancel  context.CancelFunc
	running sync.WaitGroup
	synced  chan struct{} // closed when everything was read once

	mu        sync.RWMutex // guards what follows
	items     map[config.Key]*item
	sources   map[*config.Kind]*source // that are running
	waiting   map[string]bool          // names of sources that were not read yet
	selectors []labels.Selector        // nil: every namespace
	shown     map[string]bool          // the namespaces they select; nil: every one
	feed      config.Feed
	reports   reportFeed
	moved     chan struct{} // closed and replaced when something changes, for those who wait
	outage    bool
}

type clients struct {
	typed   kubernetes.Interface
	dynamic dynamic.Interface
}

var _ config.Store = (*Store)(nil)

// The client's own bounds, above what a mesh's control plane asks for: it
// lists and watches some thirty kinds and writes little.
const (
	clientQPS   = 80
	clientBurst = 160
)

// Open starts to watch and returns at once; Synced tells when everything was
// read. It watches until ctx ends or Close.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Config == nil {
		return nil, errors.New("open cluster: no client configuration")
	}
	if opts.Namespace == "" {
		opts.Namespace = config.MeshConfigKey.Namespace
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	c, err := newClients(opts.Config)
	if err != nil {
		return nil, fmt.Errorf("open cluster: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Store{
		opts: opts, log: opts.Log, clients: c, cancel: cancel, synced: make(chan struct{}),
		items: map[config.Key]*item{}, sources: map[*config.Kind]*source{}, waiting: map[string]bool{},
		moved: make(chan struct{}),
	}
	s.start(ctx)
	return s, nil
}

func newClients(c *rest.Config) (clients, error) {
	base := rest.CopyConfig(c)
	base.QPS, base.Burst = clientQPS, clientBurst
	if base.UserAgent == "" {
		base.UserAgent = "lateend"
	}
	// Answers in protobuf cost a fraction of the CPU; only reads are typed here.
	proto := rest.CopyConfig(base)
	proto.AcceptContentTypes, proto.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/json"
	var out clients
	var err error
	if out.typed, err = kubernetes.NewForConfig(proto); err != nil {
		return out, err
	}
	out.dynamic, err = dynamic.NewForConfig(base)
	return out, err
}

// Synced is closed when every kind that the cluster knows was read once.
func (s *Store) Synced() <-chan struct{} { return s.synced }

// Close stops watching and ends all watches.
func (s *Store) Close() error {
	s.cancel()
	s.running.Wait()
	s.feed.Close()
	return nil
}

// patience is how long Apply and Delete wait to see their own change.
const patience = 10 * time.Second
