// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/listener"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry"
	"github.com/lateen-mesh/lateen/internal/proxy/telemetry/accesslog"
	"github.com/lateen-mesh/lateen/internal/proxy/upstream"
)

func static(name string, addrs ...string) *clusterv3.Cluster {
	cla := &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{}}}
	for _, a := range addrs {
		ap := netip.MustParseAddrPort(a)
		cla.Endpoints[0].LbEndpoints = append(cla.Endpoints[0].LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: ap.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(ap.Port())}}}},
		}}})
	}
	return &clusterv3.Cluster{Name: name, ConnectTimeout: durationpb.New(10 * time.Second), LoadAssignment: cla,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}}
}

// serve runs one handler per connection on an ephemeral port until the test
// ends.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
	return ln.Addr().String()
}

type proxy struct {
	addr string
	log  *bytes.Buffer
	done chan struct{} // one value per finished connection
	*Proxy
}

// start runs a tcp_proxy in front of clusters.
func start(t *testing.T, msg *tcpproxyv3.TcpProxy, clusters ...*clusterv3.Cluster) *proxy {
	t.Helper()
	m := cluster.NewManager(cluster.Options{})
	t.Cleanup(m.Close)
	if err := m.ApplyStatic(clusters); err != nil {
		t.Fatal(err)
	}
	out := new(bytes.Buffer)
	sinks := accesslog.NewSinks(out, out, nil)
	a, err := anypb.New(&streamv3.StdoutAccessLog{AccessLogFormat: &streamv3.StdoutAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{
			InlineString: "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER_RAW%\n"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	msg.StatPrefix = "t"
	msg.AccessLog = []*accesslogv3.AccessLog{{Name: "out", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: a}}}
	reg := telemetry.NewRegistry()
	p, err := New(msg, Deps{Clusters: m, Pools: upstream.New(reg), Registry: reg, Sinks: sinks})
	if err != nil {
		t.Fatal(err)
	}
	w := &proxy{log: out, done: make(chan struct{}, 10), Proxy: p}
	w.addr = serve(t, func(c net.Conn) {
		p.ServeConn(t.Context(), c, &listener.Info{Start: time.Now()})
		w.done <- struct{}{}
	})
	t.Cleanup(func() { sinks.Close(10 * time.Second) })
	return w
}

func (w *proxy) wait(t *testing.T) {
	t.Helper()
	select {
	case <-w.done:
	case <-time.After(30 * time.Second):
		t.Fatal("the connection did not end")
	}
}

func (w *proxy) logged(t *testing.T) string {
	t.Helper()
	w.deps.Sinks.Close(10 * time.Second)
	return w.log.String()
}

func to(name string) *tcpproxyv3.TcpProxy {
	return &tcpproxyv3.TcpProxy{ClusterSpecifier: &tcpproxyv3.TcpProxy_Cluster{Cluster: name}}
}

func TestCarriesBothWaysAndHalfCloses(t *testing.T) {
	for _, size := range []int{0, 100, 300 << 10, 5 << 20} { // the last is spliced
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			// The origin answers with a digest only once the client's side has ended.
			origin := serve(t, func(c net.Conn) {
				defer c.Close()
				h := sha256.New()
				io.Copy(h, c)
				c.Write(h.Sum(nil))
				c.Write(make([]byte, size))
			})
			w := start(t, to("o"), static("o", origin))
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			body := bytes.Repeat([]byte{7}, size)
			if _, err := c.Write(body); err != nil {
				t.Fatal(err)
			}
			c.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			want := sha256.Sum256(body)
			if len(got) != 32+size || !bytes.Equal(got[:32], want[:]) {
				t.Errorf("got %d bytes back", len(got))
			}
			w.wait(t)
			if l := w.logged(t); l != fmt.Sprintf("- %d %d o\n", size, size+32) {
				t.Errorf("log %q", l)
			}
		})
	}
}

func TestFlagsOfFailures(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().String()
	ln.Close()
	full := static("c", closed)
	full.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxConnections: wrapperspb.UInt32(0)}}}
	for name, tc := range map[string]struct {
		msg      *tcpproxyv3.TcpProxy
		clusters []*clusterv3.Cluster
		want     string
	}{
		"connection refused": {to("c"), []*clusterv3.Cluster{static("c", closed)}, "UF,URX 0 0 c\n"},
		"no host":            {to("c"), []*clusterv3.Cluster{static("c")}, "UH 0 0 c\n"},
		"no cluster":         {to("c"), nil, "NC 0 0 c\n"},
		"overflow":           {to("c"), []*clusterv3.Cluster{full}, "UO 0 0 c\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, tc.msg, tc.clusters...)
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.ReadAll(c)
			w.wait(t)
			if l := w.logged(t); l != tc.want {
				t.Errorf("log %q, want %q", l, tc.want)
			}
		})
	}
}

func TestTriesAnotherHost(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().String()
	ln.Close()
	origin := serve(t, func(c net.Conn) { c.Write([]byte("hi")); c.Close() })
	msg := to("c")
	msg.MaxConnectAttempts = wrapperspb.UInt32(2)
	w := start(t, msg, static("c", closed, origin))
	for range 2 { // round robin begins anywhere
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(c); string(b) != "hi" {
			t.Errorf("got %q", b)
		}
		c.Close()
		w.wait(t)
	}
}

func TestIdleTimeout(t *testing.T) {
	origin := serve(t, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
	msg := to("c")
	msg.IdleTimeout = durationpb.New(50 * time.Millisecond)
	w := start(t, msg, static("c", origin))
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("still open")
	}
	w.wait(t)
	if l := w.logged(t); l != "SI 0 0 c\n" {
		t.Errorf("log %q", l)
	}
}

func TestEndsWithItsContext(t *testing.T) {
	origin := serve(t, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
	w := start(t, to("c"), static("c", origin))
	a, b := net.Pipe()
	defer a.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.ServeConn(ctx, b, &listener.Info{Start: time.Now()}); close(done) }()
	a.Write([]byte("x"))
	cancel()
	<-done
}

func TestWeights(t *testing.T) {
	var n uint64
	p, err := New(&tcpproxyv3.TcpProxy{StatPrefix: "t", ClusterSpecifier: &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpproxyv3.TcpProxy_WeightedCluster{
		Clusters: []*tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{{Name: "a", Weight: 1}, {Name: "b", Weight: 3}}}}},
		Deps{Registry: telemetry.NewRegistry(), Rand: func() uint64 { n++; return n }})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for range 400 {
		got[p.pickCluster()]++
	}
	if got["a"] != 100 || got["b"] != 300 {
		t.Errorf("got %v", got)
	}
	if _, err := New(&tcpproxyv3.TcpProxy{}, Deps{Registry: telemetry.NewRegistry()}); err == nil {
		t.Error("no cluster was accepted")
	}
}
