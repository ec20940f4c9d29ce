// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"cmp"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Server is the state all listeners share: who is connected and how far.
type Server struct {
	source  Source
	opts    Options
	names   interner
	pace    pace
	metrics metrics

	mu      sync.Mutex // guards what follows
	clients map[*client]struct{}
	nextID  uint64
	moved   chan struct{} // closed when a client has caught up or left; nil when nobody waits
}

// NewServer returns a server of the views of source.
func NewServer(source Source, opts Options) *Server {
	opts.Log = cmp.Or(opts.Log, slog.New(slog.DiscardHandler))
	if opts.Now == nil {
		opts.Now = time.Now
	}
	opts.WriteTimeout = cmp.Or(opts.WriteTimeout, 15*time.Second)
	opts.EndpointGrace = cmp.Or(opts.EndpointGrace, time.Second)
	opts.MaxWindow = cmp.Or(opts.MaxWindow, time.Second)
	opts.MaxNames = cmp.Or(opts.MaxNames, 200000)
	return &Server{source: source, opts: opts, pace: pace{max: opts.MaxWindow}, clients: map[*client]struct{}{}}
}

func (s *Server) join(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextID++
	c.id = c.Node.GetId() + "-" + nonceText(s.nextID)
	s.clients[c] = struct{}{}
	s.metrics.connected.Add(1)
}

func (s *Server) leave(c *client) {
	s.mu.Lock()
	delete(s.clients, c)
	s.metrics.connected.Add(-1)
	s.mu.Unlock()
	s.progressed()
	c.close()
}

func (s *Server) left(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.clients[c]
	return !ok
}

func (s *Server) snapshot() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*client, 0, len(s.clients))
	for c := range s.clients {
		out = append(out, c)
	}
	return out
}

// progress returns a channel that is closed by the next progressed.
func (s *Server) progress() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.moved == nil {
		s.moved = make(chan struct{})
	}
	return s.moved
}

func (s *Server) progressed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

// proxyName is name.namespace of a node id as Istio writes it,
// type~ip~name.namespace~domain, else the node id.
func proxyName(n *corev3.Node) string {
	if parts := strings.Split(n.GetId(), "~"); len(parts) == 4 {
		return parts[2]
	}
	return n.GetId()
}

func metadata(n *corev3.Node, key string) string {
	return n.GetMetadata().GetFields()[key].GetStringValue()
}
