// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"
)

// command goes to the process of the clients, a line each.
type command struct {
	Op    string // watch, bytes
	Watch watch
}

// watch is what to wait for: a response with a resource of one of these types
// (last part of the name) whose name contains Name.
type watch struct {
	Types []string
	Name  string
}

// event comes from the process of the clients, a line each.
type event struct {
	Name      string         // connected, watching, seen, bytes, error
	Error     string         `json:",omitempty"`
	Seconds   float64        `json:",omitempty"`
	Bytes     int64          `json:",omitempty"` // received by all since the start or the watch
	Resources map[string]int `json:",omitempty"` // of the first client
	At        []int64        `json:",omitempty"` // when each client saw it, Unix nanoseconds
}

// stuck is how long the fleet may get no further.
const stuck = 3 * time.Minute

// sidecar is the node of client i as Istio's agent describes it.
func sidecar(i, namespaces int) *corev3.Node {
	ns, name := fmt.Sprint("ns-", i%namespaces), fmt.Sprint("app-", i)
	md, _ := structpb.NewStruct(map[string]any{ // nothing in it can be refused
		"NAME": name, "NAMESPACE": ns, "SERVICE_ACCOUNT": name, "WORKLOAD_NAME": name, "CLUSTER_ID": "Kubernetes",
		"ISTIO_VERSION": "1.31.0", "INTERCEPTION_MODE": "REDIRECT", "LATEEN_VHDS": "true",
		"LABELS": map[string]any{"app": name, "version": "v1"},
	})
	return &corev3.Node{
		Id:       fmt.Sprintf("sidecar~10.250.%d.%d~%s.%s~%s.svc.cluster.local", i/250, 1+i%250, name, ns, ns),
		Cluster:  name + "." + ns,
		Metadata: md,
	}
}

// swarm is all clients of this process.
type swarm struct {
	mu       sync.Mutex // guards what follows
	complete int
	bytes    int64
	watching *watch
	seen     map[int]int64
	clients  int
	done     chan event // connected, seen or error
}

func runFleet(args []string, in io.Reader, out io.Writer) error {
	fs := flag.NewFlagSet("fleet", flag.ContinueOnError)
	addr := fs.String("addr", "", "")
	n := fs.Int("clients", 1, "")
	rate := fs.Float64("rate", 0, "")
	namespaces := fs.Int("namespaces", 1, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s := &swarm{clients: *n, done: make(chan event, 2**n)}
	say := json.NewEncoder(out)
	begin := time.Now()
	var first *sidecarClient
	for i := range *n {
		c := &sidecarClient{swarm: s, index: i, node: sidecar(i, *namespaces), names: map[string]map[string]bool{}, owed: map[string]int{}}
		if first == nil {
			first = c
		}
		go func() {
			if err := c.run(context.Background(), *addr); err != nil {
				s.done <- event{Name: "error", Error: fmt.Sprintf("client %d: %v", c.index, err)}
			}
		}()
		if *rate > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(float64(i+1) / *rate * float64(time.Second)))))
		}
	}
	e := s.await()
	e.Seconds, e.Bytes, e.Resources = time.Since(begin).Seconds(), s.received(), first.counts()
	if err := say.Encode(e); err != nil {
		return err
	}
	for d := json.NewDecoder(in); ; {
		var c command
		if err := d.Decode(&c); err != nil {
			return nil // the driver is done
		}
		switch c.Op {
		case "watch":
			s.watch(c.Watch)
			if err := say.Encode(event{Name: "watching"}); err != nil {
				return err
			}
			if err := say.Encode(s.await()); err != nil {
				return err
			}
		case "bytes":
			if err := say.Encode(event{Name: "bytes", Bytes: s.received()}); err != nil {
				return err
			}
		}
	}
}

func (s *swarm) await() event {
	select {
	case e := <-s.done:
		return e
	case <-time.After(stuck):
		s.mu.Lock()
		defer s.mu.Unlock()
		return event{Name: "error", Error: fmt.Sprintf("%d of %d complete, %d have seen the change", s.complete, s.clients, len(s.seen))}
	}
}

func (s *swarm) watch(w watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watching, s.seen, s.bytes = &w, map[int]int64{}, 0
}

func (s *swarm) received() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// got notes a response of one client.
func (s *swarm) got(client int, at time.Time, size int, url string, names []string, completes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += int64(size)
	if completes {
		if s.complete++; s.complete == s.clients {
			s.done <- event{Name: "connected"}
		}
	}
	w := s.watching
	if w == nil || !slices.Contains(w.Types, url[strings.LastIndexByte(url, '.')+1:]) {
		return
	}
	if _, ok := s.seen[client]; ok || !slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, w.Name) }) {
		return
	}
	if s.seen[client] = at.UnixNano(); len(s.seen) == s.clients {
		e := event{Name: "seen"}
		for _, at := range s.seen {
			e.At = append(e.At, at)
		}
		s.watching = nil
		s.done <- e
	}
}

// sidecarClient is one sidecar: it subscribes as lateen-proxy does, and keeps
// nothing but names.
type sidecarClient struct {
	swarm *swarm
	index int
	node  *corev3.Node
	s     grpc.ClientStream

	names    map[string]map[string]bool // subscribed or, of wildcard types, held
	owed     map[string]int             // answers outstanding by type
	complete bool

	mu   sync.Mutex
	held map[string]int // resources received by type
}

func (c *sidecarClient) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

func (c *sidecarClient) run(ctx context.Context, addr string) error {
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithReadBufferSize(64<<10), grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<20),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return err
	}
	defer cc.Close()
	if c.s, err = cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, discovery.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName); err != nil {
		return err
	}
	c.held = map[string]int{}
	for _, url := range []string{clusterType, listenerType} {
		c.owed[url] = 1
		if err := c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: url}); err != nil {
			return err
		}
	}
	for {
		var r raw
		if err := c.s.RecvMsg(&r); err != nil {
			return err
		}
		if err := c.take(r.data, time.Now()); err != nil {
			return err
		}
	}
}

func (c *sidecarClient) send(r *discovery.DeltaDiscoveryRequest) error {
	r.Node, c.node = c.node, nil
	return c.s.SendMsg(r)
}

// take reads a response, answers it and subscribes to what it refers to.
func (c *sidecarClient) take(b []byte, at time.Time) error {
	url, nonce := text(b, 4), text(b, 5)
	var names []string
	var endpoints, routes, hosts []string
	count := map[string]int{}
	each(b, 2, func(res []byte) {
		name := text(res, 3)
		names = append(names, name)
		count[url]++
		each(res, 2, func(typed []byte) {
			each(typed, 2, func(body []byte) {
				switch url {
				case clusterType:
					if usesEDS(body) {
						endpoints = c.fresh(endpointType, name, endpoints)
					}
				case listenerType:
					routeNames(body, func(n string) { routes = c.fresh(routeType, n, routes) })
				case routeType:
					if hasVHDS(body) {
						hosts = c.fresh(hostType, name+"/*", hosts)
					}
				}
			})
		})
	})
	c.settle(url, names)
	if err := c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: url, ResponseNonce: nonce}); err != nil {
		return err
	}
	for _, sub := range []struct {
		url   string
		names []string
	}{{endpointType, endpoints}, {routeType, routes}, {hostType, hosts}} {
		if len(sub.names) == 0 {
			continue
		}
		c.owed[sub.url]++
		if err := c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: sub.url, ResourceNamesSubscribe: sub.names}); err != nil {
			return err
		}
	}
	c.mu.Lock()
	for u, n := range count {
		c.held[u[strings.LastIndexByte(u, '.')+1:]] += n
	}
	c.mu.Unlock()
	completes := !c.complete && c.answered()
	c.complete = c.complete || completes
	c.swarm.got(c.index, at, len(b), url, names, completes)
	return nil
}

// fresh adds a name to subscribe to, unless it is already.
func (c *sidecarClient) fresh(url, name string, to []string) []string {
	if c.names[url] == nil {
		c.names[url] = map[string]bool{}
	}
	if c.names[url][name] {
		return to
	}
	c.names[url][name] = true
	return append(to, name)
}

// settle notes that a response has answered what was asked of its type.
func (c *sidecarClient) settle(url string, _ []string) { c.owed[url] = 0 }

func (c *sidecarClient) answered() bool {
	for _, n := range c.owed {
		if n > 0 {
			return false
		}
	}
	return len(c.owed) >= 4
}
