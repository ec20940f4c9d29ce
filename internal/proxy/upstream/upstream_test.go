// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
)

// server answers every request and counts its connections.
type server struct {
	net.Listener
	conns atomic.Int32
	open  atomic.Int32
}

func newServer(t *testing.T) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: ln}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			s.open.Add(1)
			go func() {
				defer s.open.Add(-1)
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
				}
			}()
		}
	}()
	return s
}

type fixture struct {
	pools    *Pools
	clusters *cluster.Manager
	host     *cluster.Host
	server   *server
	want     Want
}

func setup(t *testing.T, more string) *fixture {
	t.Helper()
	f := &fixture{server: newServer(t), pools: New(telemetry.NewRegistry()), clusters: cluster.NewManager(cluster.Options{})}
	t.Cleanup(f.clusters.Close)
	var m clusterv3.Cluster
	text := fmt.Sprintf(`{"name":"a","type":"STATIC",%s"load_assignment":{"cluster_name":"a","endpoints":[{"lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"127.0.0.1","port_value":%d}}}}]}]}}`,
		more, f.server.Addr().(*net.TCPAddr).Port)
	if err := protojson.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	if err := f.clusters.Update(&m); err != nil {
		t.Fatal(err)
	}
	f.host = f.clusters.Get("a").Pick(nil)
	return f
}

func (f *fixture) get(t *testing.T) Stream {
	t.Helper()
	s, ok, err := f.pools.Try(f.host, &f.want)
	if err == nil && !ok {
		s, err = f.pools.Get(context.Background(), f.host, &f.want)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// exchange makes one whole request.
func exchange(t *testing.T, s *Stream) {
	t.Helper()
	req := &message.Request{Method: []byte("GET"), Path: []byte("/"), Authority: []byte("h")}
	if err := s.WriteHead(req, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadHead(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := s.ReadBody(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestReuse(t *testing.T) {
	f := setup(t, "")
	for i := range 5 {
		s := f.get(t)
		if s.Reused != (i > 0) {
			t.Errorf("exchange %d: reused is %v", i, s.Reused)
		}
		exchange(t, &s)
		s.Close()
	}
	if n := f.server.conns.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	c, p, r, _ := f.clusters.Get("a").Limits(false).Usage()
	if c != 1 || p != 0 || r != 0 {
		t.Errorf("in use: %d connections, %d pending, %d requests", c, p, r)
	}
}

// TestUnprovenIsNotReused: a connection whose response was not read to its end
// must not serve another exchange.
func TestUnprovenIsNotReused(t *testing.T) {
	f := setup(t, "")
	s := f.get(t)
	if err := s.WriteHead(&message.Request{Method: []byte("GET"), Path: []byte("/"), Authority: []byte("h")}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadHead(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = f.get(t)
	defer s.Close()
	if s.Reused {
		t.Error("the connection was reused")
	}
	if c, _, _, _ := f.clusters.Get("a").Limits(false).Usage(); c != 1 {
		t.Errorf("%d connections are counted, want 1", c)
	}
}

func TestMaxRequestsPerConnection(t *testing.T) {
	f := setup(t, `"typed_extension_protocol_options":{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":{"@type":"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions","common_http_protocol_options":{"max_requests_per_connection":2},"explicit_http_config":{"http_protocol_options":{}}}},`)
	for range 4 {
		s := f.get(t)
		exchange(t, &s)
		s.Close()
	}
	if n := f.server.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// TestCircuitBreaker: above max_connections a request waits for a connection to
// come back, above max_pending_requests it is refused.
func TestCircuitBreaker(t *testing.T) {
	f := setup(t, `"circuit_breakers":{"thresholds":[{"max_connections":1,"max_pending_requests":1}]},`)
	first := f.get(t)
	got := make(chan Stream)
	go func() {
		s, err := f.pools.Get(context.Background(), f.host, &f.want)
		if err != nil {
			t.Error(err)
		}
		got <- s
	}()
	limits := f.clusters.Get("a").Limits(false)
	for { // until the second waits
		if _, p, _, _ := limits.Usage(); p == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	_, err := f.pools.Get(context.Background(), f.host, &f.want)
	var se *message.StreamError
	if !errors.As(err, &se) || se.Reason != message.Overflow {
		t.Errorf("third request: %v", err)
	}
	exchange(t, &first)
	first.Close()
	second := <-got
	if !second.Reused {
		t.Error("the waiter did not get the connection that came back")
	}
	exchange(t, &second)
	// A waiter that gives up leaves nothing behind.
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the client left")
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if _, err := f.pools.Get(ctx, f.host, &f.want); !errors.Is(err, why) {
		t.Errorf("waiter that gave up: %v", err)
	}
	second.Close()
	third := f.get(t)
	exchange(t, &third)
	third.Close()
	if n := f.server.conns.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestHostRemoved: connections to a host that has left are closed, those in use
// after their exchange.
func TestHostRemoved(t *testing.T) {
	f := setup(t, "")
	idle, busy := f.get(t), f.get(t)
	exchange(t, &idle)
	idle.Close()
	limits := f.clusters.Get("a").Limits(false)
	f.clusters.Remove("a")
	exchange(t, &busy)
	busy.Close()
	for f.server.open.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	if c, _, r, _ := limits.Usage(); c != 0 || r != 0 {
		t.Errorf("still counted: %d connections, %d requests", c, r)
	}
}

func TestConnectFailure(t *testing.T) {
	f := setup(t, "")
	f.server.Close()
	_, err := f.pools.Get(context.Background(), f.host, &f.want)
	var se *message.StreamError
	if !errors.As(err, &se) || se.Reason != message.ConnectionFailure || !se.Unsent {
		t.Errorf("got %v", err)
	}
	if c, p, _, _ := f.clusters.Get("a").Limits(false).Usage(); c != 0 || p != 0 {
		t.Errorf("still counted: %d connections, %d pending", c, p)
	}
}
