// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echo is a handler that answers each line with its name and the line.
type echo struct {
	name    string
	ready   atomic.Bool
	drained atomic.Bool
	closed  chan struct{}
	once    sync.Once
}

func (e *echo) Drain()      { e.drained.Store(true) }
func (e *echo) CloseIdle()  {}
func (e *echo) Close()      { e.once.Do(func() { close(e.closed) }) }
func (e *echo) Ready() bool { return e.ready.Load() }

func (e *echo) ServeConn(ctx context.Context, c net.Conn, info *Info) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	in := bufio.NewScanner(c)
	for in.Scan() {
		if in.Text() == "panic" {
			panic("asked to")
		}
		fmt.Fprintf(c, "%s %s %s\n", e.name, info.ALPN, in.Text())
	}
}

// rig is a manager whose chains are echoes, found by the chain's name.
type rig struct {
	*Manager
	mu      sync.Mutex
	made    map[string][]*echo
	unready bool
}

func newRig(t *testing.T, o Options) *rig {
	r := &rig{made: map[string][]*echo{}}
	o.Build = func(_ *listenerv3.Listener, fc *listenerv3.FilterChain) (Handler, error) {
		if strings.HasPrefix(fc.GetName(), "bad") {
			return nil, errors.New("bad chain")
		}
		e := &echo{name: fc.GetName(), closed: make(chan struct{})}
		r.mu.Lock()
		e.ready.Store(!r.unready)
		r.made[e.name] = append(r.made[e.name], e)
		r.mu.Unlock()
		return e, nil
	}
	r.Manager = NewManager(o)
	t.Cleanup(r.Manager.Close)
	return r
}

func (r *rig) echoes(name string) []*echo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.made[name]
}

func address(s string) *corev3.Address {
	host, p, _ := net.SplitHostPort(s)
	var port uint32
	fmt.Sscan(p, &port)
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}
}

// free is an address nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func message(name, addr string, chains ...*listenerv3.FilterChain) *listenerv3.Listener {
	return &listenerv3.Listener{Name: name, Address: address(addr), FilterChains: chains}
}

func named(name string) *listenerv3.FilterChain { return &listenerv3.FilterChain{Name: name} }

func withFilter(t *testing.T, l *listenerv3.Listener, m proto.Message) *listenerv3.Listener {
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	l.ListenerFilters = append(l.ListenerFilters, &listenerv3.ListenerFilter{Name: "f", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: a}})
	return l
}

func (r *rig) apply(t *testing.T, ls ...*listenerv3.Listener) {
	t.Helper()
	if bad := r.Apply(ls, nil); len(bad) > 0 {
		t.Fatal(bad)
	}
}

type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return &client{c, bufio.NewReader(c)}
}

func (c *client) say(t *testing.T, line, want string) {
	t.Helper()
	fmt.Fprintf(c, "%s\n", line)
	got, err := c.in.ReadString('\n')
	if err != nil || got != want+"\n" {
		t.Errorf("said %q, got %q, %v; want %q", line, got, err, want)
	}
}

// wantReset asserts that a connection is reset, which may be as early as in
// the call that makes it.
func wantReset(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestUpdateKeepsSocketAndUnchangedChains(t *testing.T) {
	r := newRig(t, Options{DrainTime: time.Hour})
	addr := free(t)
	two := []*listenerv3.FilterChain{
		{Name: "loop", FilterChainMatch: &listenerv3.FilterChainMatch{SourceType: listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK}},
		{Name: "rest"},
	}
	r.apply(t, message("l", addr, two...))
	c := dial(t, addr)
	c.say(t, "a", "loop  a")

	// Another chain changes: the connection and its handler stay.
	changed := []*listenerv3.FilterChain{two[0], {Name: "rest2"}}
	r.apply(t, message("l", addr, changed...))
	c.say(t, "b", "loop  b")
	if n := len(r.echoes("loop")); n != 1 || r.echoes("loop")[0].drained.Load() {
		t.Errorf("%d handlers for the same chain", n)
	}
	<-r.echoes("rest")[0].closed // it had no connections

	// The connection's own chain changes: drained, new ones go to the new one.
	r.apply(t, message("l", addr, named("new")))
	if !r.echoes("loop")[0].drained.Load() {
		t.Error("the old chain was not drained")
	}
	c.say(t, "c", "loop  c")
	dial(t, addr).say(t, "d", "new  d")
	c.Close()
	<-r.echoes("loop")[0].closed
	if n := len(r.echoes("new")); n != 1 {
		t.Errorf("%d handlers", n)
	}
}

func TestDrainTimeEndsConnections(t *testing.T) {
	r := newRig(t, Options{DrainTime: time.Millisecond})
	addr := free(t)
	r.apply(t, message("l", addr, named("a")))
	c := dial(t, addr)
	c.say(t, "x", "a  x")
	r.apply(t, message("l", addr, named("b")))
	if _, err := c.in.ReadByte(); err == nil {
		t.Error("still open")
	}
	<-r.echoes("a")[0].closed
}

func TestRemovedListenerIsGone(t *testing.T) {
	r := newRig(t, Options{DrainTime: time.Hour})
	addr := free(t)
	r.apply(t, message("l", addr, named("a")))
	r.Apply(nil, []string{"l"})
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("still listening")
	}
	<-r.echoes("a")[0].closed
}

func TestAddressMovesBetweenListeners(t *testing.T) {
	r := newRig(t, Options{DrainTime: time.Hour})
	addr := free(t)
	r.apply(t, message("l", addr, named("a")))
	if bad := r.Apply([]*listenerv3.Listener{message("m", addr, named("b"))}, nil); bad["m"] == nil || !strings.Contains(bad["m"].Error(), `taken by listener "l"`) {
		t.Errorf("got %v", bad)
	}
	if bad := r.Apply([]*listenerv3.Listener{message("m", addr, named("b"))}, []string{"l"}); len(bad) > 0 {
		t.Fatal(bad)
	}
	dial(t, addr).say(t, "x", "b  x")
}

func TestRefusedListenerKeepsTheOld(t *testing.T) {
	r := newRig(t, Options{DrainTime: time.Hour})
	addr := free(t)
	r.apply(t, message("l", addr, named("a")))
	for want, l := range map[string]*listenerv3.Listener{
		"bad chain":              message("l", addr, &listenerv3.FilterChain{Name: "ok", FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(1)}}, named("bad")),
		"has the same match":     message("l", addr, named("x"), named("y")),
		"the list is empty":      message("l", addr),
		"neither socket_address": {Name: "l"},
		"is not an IP address":   message("l", "localhost:1", named("x")),
		"is not supported":       withFilter(t, message("l", addr, named("x")), &listenerv3.Listener{}),
	} {
		bad := r.Apply([]*listenerv3.Listener{l}, nil)
		if bad["l"] == nil || !strings.Contains(bad["l"].Error(), want) {
			t.Errorf("got %v, want %q", bad, want)
		}
	}
	dial(t, addr).say(t, "x", "a  x")
	for _, n := range []string{"ok", "x", "y"} {
		for _, e := range r.echoes(n) {
			<-e.closed // nothing of a refused listener is left
		}
	}
}

func TestWarmingListenerWaits(t *testing.T) {
	r := newRig(t, Options{DrainTime: time.Hour})
	addr := free(t)
	r.apply(t, message("l", addr, named("a")))
	r.unready = true
	r.apply(t, message("l", addr, named("b")))
	if w := r.Warming(); len(w) != 1 {
		t.Fatalf("warming: %v", w)
	}
	dial(t, addr).say(t, "x", "a  x")
	r.Rewarm()
	dial(t, addr).say(t, "x", "a  x")
	r.echoes("b")[0].ready.Store(true)
	r.Rewarm()
	dial(t, addr).say(t, "x", "b  x")
	if w := r.Warming(); len(w) != 0 {
		t.Errorf("warming: %v", w)
	}
}

func TestWarmingListenerThatCannotBindIsRefused(t *testing.T) {
	r := newRig(t, Options{})
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	r.unready = true
	bad := r.Apply([]*listenerv3.Listener{message("l", busy.Addr().String(), named("a"))}, nil)
	if bad["l"] == nil || !errors.Is(bad["l"], syscall.EADDRINUSE) || len(r.Warming()) != 0 {
		t.Errorf("got %v", bad)
	}
	<-r.echoes("a")[0].closed
}

func TestNoChainIsReset(t *testing.T) {
	r := newRig(t, Options{})
	addr := free(t)
	l := message("l", addr, &listenerv3.FilterChain{Name: "a", FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(1)}})
	r.apply(t, l)
	wantReset(t, addr)
	l.DefaultFilterChain = named("default")
	r.apply(t, l)
	dial(t, addr).say(t, "x", "default  x")
}

func TestHTTPInspectorAndTimeout(t *testing.T) {
	r := newRig(t, Options{})
	addr := free(t)
	l := withFilter(t, message("l", addr,
		&listenerv3.FilterChain{Name: "http", FilterChainMatch: &listenerv3.FilterChainMatch{ApplicationProtocols: []string{"http/1.1", "h2c"}}}, named("tcp")), &httpinspectorv3.HttpInspector{})
	r.apply(t, l)
	c := dial(t, addr)
	fmt.Fprint(c, "GET / HT")
	c.say(t, "TP/1.1", "http http/1.1 GET / HTTP/1.1")
	dial(t, addr).say(t, "hello", "tcp  hello")

	quiet := proto.Clone(l).(*listenerv3.Listener)
	quiet.ListenerFiltersTimeout = durationpb.New(10 * time.Millisecond)
	r.apply(t, quiet)
	wantReset(t, addr)
	quiet.ContinueOnListenerFiltersTimeout = true
	r.apply(t, quiet)
	c = dial(t, addr)
	time.Sleep(30 * time.Millisecond) // the inspection gives up meanwhile, or sees "late"
	c.say(t, "late", "tcp  late")
}

func TestConnectionBound(t *testing.T) {
	r := newRig(t, Options{MaxConnections: 1})
	addr := free(t)
	r.apply(t, message("l", addr, named("a")))
	c := dial(t, addr)
	c.say(t, "x", "a  x")
	wantReset(t, addr)
	if n := r.Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestPanicEndsOneConnection(t *testing.T) {
	r := newRig(t, Options{})
	addr := free(t)
	r.apply(t, message("l", addr, named("a")))
	other := dial(t, addr)
	other.say(t, "x", "a  x")
	c := dial(t, addr)
	fmt.Fprintln(c, "panic")
	if _, err := c.in.ReadByte(); err == nil {
		t.Error("still open")
	}
	other.say(t, "y", "a  y")
	if n := r.opts.Registry.Server.PanicsRecovered.Value(); n != 1 {
		t.Errorf("%d panics counted", n)
	}
}

func TestUnixSocket(t *testing.T) {
	r := newRig(t, Options{})
	path := filepath.Join(t.TempDir(), "s")
	l := &listenerv3.Listener{Name: "l", FilterChains: []*listenerv3.FilterChain{named("a")},
		Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: 0o600}}}}
	r.apply(t, l)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "x")
	if got, _ := bufio.NewReader(c).ReadString('\n'); got != "a  x\n" {
		t.Errorf("got %q", got)
	}
}

func TestHandOffTarget(t *testing.T) {
	r := newRig(t, Options{})
	unbound := func(name, addr string) *listenerv3.Listener {
		l := message(name, addr, named(name))
		l.BindToPort = wrapperspb.Bool(false)
		return l
	}
	main := withFilter(t, message("virtualOutbound", free(t), named("main")), &originaldstv3.OriginalDst{})
	main.UseOriginalDst = wrapperspb.Bool(true)
	r.apply(t, main, unbound("exact", "10.1.2.3:80"), unbound("wild", "0.0.0.0:80"))
	l := r.listeners["virtualOutbound"]
	for dst, want := range map[string]string{"10.1.2.3:80": "exact", "10.9.9.9:80": "wild", "10.9.9.9:81": "virtualOutbound"} {
		if got := r.target(l, mustAddrPort(dst)); got.name != want {
			t.Errorf("%s goes to %s, want %s", dst, got.name, want)
		}
	}
	// A connection that was not redirected stays where it came in.
	dial(t, l.specs[0].address).say(t, "x", "main  x")
}

func TestCloseEndsEverything(t *testing.T) {
	r := newRig(t, Options{})
	addr := free(t)
	r.apply(t, message("l", addr, named("a")))
	c := dial(t, addr)
	c.say(t, "x", "a  x")
	r.Close()
	if _, err := io.ReadAll(c.in); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	<-r.echoes("a")[0].closed
}
