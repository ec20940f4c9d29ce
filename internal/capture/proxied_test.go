// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/lateen-mesh/lateen/internal/proxy/agent"
	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
)

// Environment of the test's own program when it is to be the proxy.
const (
	asProxy    = "CAPTURE_TEST_PROXY_BOOTSTRAP"
	asProxyUID = "CAPTURE_TEST_PROXY_UID"
	// asResolvConf stands for the pod's /etc/resolv.conf.
	asResolvConf = "CAPTURE_TEST_RESOLV_CONF"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(asProxy); file != "" {
		os.Exit(beProxy(file))
	}
	os.Exit(m.Run())
}

// beProxy serves a bootstrap as lateen-proxy does, as the proxy's user.
func beProxy(file string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bs, err := bootstrap.Load(file, bootstrap.Options{})
	if err != nil {
		return fail(err)
	}
	if os.Getenv(asProxyUID) == "1337" {
		if err := syscall.Setresgid(proxy, proxy, proxy); err != nil {
			return fail(err)
		}
		if err := syscall.Setresuid(proxy, proxy, proxy); err != nil {
			return fail(err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // ends with the test's program, whatever becomes of that
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	err = agent.Run(ctx, bs, agent.Options{
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), DrainTime: time.Millisecond,
		OnReady:    func(time.Duration) { fmt.Println("ready") },
		ResolvConf: os.Getenv(asResolvConf),
	})
	if err != nil {
		return fail(err)
	}
	return 0
}

// startProxy runs the proxy of testdata/NAME in the namespace.
func (n *namespace) startProxy(t *testing.T, name, user string) {
	t.Helper()
	file, err := filepath.Abs("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+peer4.String()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(conf)), 0o755); err != nil { // the proxy's user reads it
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), asProxy+"="+file, asProxyUID+"="+user, asResolvConf+"="+conf)
	var log lockedBuffer
	cmd.Stderr = &log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.must(t, cmd.Start) // a child is in the namespace of the thread that starts it
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	scan := bufio.NewScanner(stdout)
	for scan.Scan() {
		if scan.Text() == "ready" {
			go func() { _, _ = io.Copy(io.Discard, stdout) }()
			return
		}
	}
	t.Fatalf("the proxy did not start:\n%s", log.String())
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serveHTTP answers with who asks for what from where.
func (n *namespace) serveHTTP(t *testing.T, user int, port int, name string) {
	t.Helper()
	var l net.Listener
	var err error
	n.as(user, func() { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "%s at %s from %s by %s", name, r.Host, host, strings.Join(r.Header.Values("X-Through"), ","))
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
}

// get asks by HTTP as a user.
func (n *namespace) get(t *testing.T, user int, address, host string) string {
	t.Helper()
	c := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (c net.Conn, err error) {
			n.as(user, func() { c, err = net.DialTimeout("tcp", address, patience) })
			return c, err
		}}}
	res, err := c.Get("http://" + host + "/")
	if err != nil {
		return "error: " + err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%d %s", res.StatusCode, b)
}

// hello connects, says something if asked to, and gives what the server says;
// "closed" when the connection ends without a word.
func (n *namespace) hello(t *testing.T, user int, address string, poke bool) string {
	t.Helper()
	var c net.Conn
	var err error
	n.as(user, func() { c, err = net.DialTimeout("tcp", address, patience) })
	if err != nil {
		return "closed"
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if poke {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if line == "" && err != nil && !os.IsTimeout(err) {
		return "closed"
	}
	return strings.TrimSpace(line)
}

// greet says a line to whoever connects.
func (n *namespace) greet(t *testing.T, user, port int, line string) {
	t.Helper()
	var l net.Listener
	var err error
	n.as(user, func() { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s to %s\n", line, host)
			c.Close()
		}
	}()
}

// TestProxied runs the proxy behind the rules with listeners as a control plane
// of Istio sends them.
func TestProxied(t *testing.T) {
	pod, peer := pair(t)
	pod.serveHTTP(t, app, 8080, "app")
	pod.serveHTTP(t, app, 8081, "unnamed")
	pod.greet(t, app, 3306, "pod's mysql")
	peer.serveHTTP(t, app, 80, "peer")
	peer.serveHTTP(t, app, 8888, "elsewhere")
	peer.greet(t, app, 3306, "mysql")
	peer.greet(t, app, 5432, "postgres")
	c := captureAll()
	pod.startProxy(t, "redirect.yaml", "1337")
	pod.apply(t, c)
	p4, q4, p6, q6 := pod4.String(), peer4.String(), "["+pod6.String()+"]", "["+peer6.String()+"]"
	for _, test := range []struct {
		name    string
		from    *namespace
		address string
		host    string // empty: no HTTP
		want    string
	}{
		{"HTTP by the port's listener and its route", pod, q4 + ":80", "reviews", "200 peer at reviews from " + p4 + " by reviews"},
		{"a host that no route knows goes where it was meant to", pod, q4 + ":80", "other", "200 peer at other from " + p4 + " by passthrough"},
		{"a port without a listener passes through", pod, q4 + ":8888", "x", "200 elsewhere at x from " + p4 + " by "},
		{"a TCP service by its address", pod, "10.96.0.7:3306", "", "postgres to " + p4},
		{"a server that speaks first", pod, q4 + ":3306", "", "mysql to " + p4},
		{"inbound HTTP reaches the application from 127.0.0.6", peer, p4 + ":8080", "x", "200 app at x from 127.0.0.6 by inbound"},
		{"an unnamed port passes through", peer, p4 + ":8081", "x", "200 unnamed at x from 127.0.0.6 by "},
		{"inbound, the server speaks first", peer, p4 + ":3306", "", "pod's mysql to 127.0.0.6"},
		{"the outbound port itself is closed to the application", pod, p4 + ":15001", "", "closed"},
		{"on localhost too", pod, "127.0.0.1:15001", "", "closed"},
		{"the inbound port as well", pod, "127.0.0.1:15006", "", "closed"},
		{"and to the peer", peer, p4 + ":15006", "", "closed"},
		{"as is the outbound port", peer, p4 + ":15001", "", "closed"},
		{"IPv6 HTTP", pod, q6 + ":80", "reviews", "200 peer at reviews from " + p4 + " by reviews"},
		{"IPv6 pass-through", pod, q6 + ":8888", "x", "200 elsewhere at x from " + pod6.String() + " by "},
		{"IPv6 inbound", peer, p6 + ":8080", "x", "200 app at x from ::6 by inbound"},
		{"IPv6 inbound to an unnamed port", peer, p6 + ":8081", "x", "200 unnamed at x from ::6 by "},
		{"a loop is not possible by IPv6", peer, p6 + ":15006", "", "closed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			if test.host == "" {
				got = test.from.hello(t, app, test.address, test.want == "closed")
			} else {
				got = test.from.get(t, app, test.address, test.host)
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	t.Run("a call to the pod's own service passes both sides", func(t *testing.T) {
		if got, want := pod.get(t, app, "10.96.0.8:80", "self"), "200 app at self from 127.0.0.6 by self,inbound"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestProxiedDNS asks through the rules and the DNS proxy, which asks the pod's
// server by the same addresses and ports as the application does.
func TestProxiedDNS(t *testing.T) {
	pod, peer := pair(t)
	var asked atomic.Int64
	peer.serveDNS(t, func(q dnsmessage.Question) []dnsmessage.Resource {
		asked.Add(1)
		if q.Type != dnsmessage.TypeA {
			return nil
		}
		return []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 5}},
		}}
	})
	c := captureAll()
	c.RedirectDNS, c.DNSServers = true, []netip.Addr{peer4}
	pod.startProxy(t, "redirect.yaml", "1337")
	pod.apply(t, c)
	r := net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (c net.Conn, err error) {
		pod.as(app, func() { c, err = net.Dial(network, peer4.String()+":53") })
		return c, err
	}}
	for range 5 {
		got, err := r.LookupHost(t.Context(), "outside.org.")
		if err != nil || len(got) != 1 || got[0] != "192.0.2.5" {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if n := asked.Load(); n != 10 { // A and AAAA
		t.Errorf("the server was asked %d times", n)
	}
	if got := pod.get(t, proxy, "127.0.0.1:15000", "localhost"); !strings.HasPrefix(got, "200 ") {
		t.Fatalf("admin port: %s", got)
	}
	if n := pod.statistic(t, "dns.upstream_requests"); n != "10" {
		t.Errorf("%s questions went through the proxy", n)
	}
}

// statistic is a value of the proxy's admin port.
func (n *namespace) statistic(t *testing.T, name string) string {
	t.Helper()
	for line := range strings.Lines(n.get(t, proxy, "127.0.0.1:15000", "localhost/stats?filter="+name+"&x=")) {
		if _, v, ok := strings.Cut(strings.TrimSpace(line), name+": "); ok {
			return v
		}
	}
	return "no"
}

// serveDNS answers queries by UDP at the peer's address.
func (n *namespace) serveDNS(t *testing.T, answer func(dnsmessage.Question) []dnsmessage.Resource) {
	t.Helper()
	var pc net.PacketConn
	n.must(t, func() (err error) {
		pc, err = net.ListenPacket("udp", peer4.String()+":53")
		return err
	})
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 1024)
		for {
			k, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(b[:k]); err != nil {
				t.Error(err)
				continue
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			m.Answers = answer(m.Questions[0])
			out, err := m.Pack()
			if err != nil {
				t.Error(err)
			}
			_, _ = pc.WriteTo(out, from)
		}
	}()
}

// TestProxiedTransparent is the same by TPROXY, for which the proxy needs
// NET_ADMIN.
func TestProxiedTransparent(t *testing.T) {
	pod, peer := pair(t)
	pod.serveHTTP(t, app, 8080, "app")
	pod.serveHTTP(t, app, 8081, "unnamed")
	c := captureAll()
	c.InboundInterceptionMode = TProxy
	c.ProxyUID, c.ProxyGID = []uint32{0}, []uint32{0}
	pod.startProxy(t, "tproxy.yaml", "0")
	pod.apply(t, c)
	for _, test := range []struct{ address, want string }{
		{pod4.String() + ":8080", "200 app at x from 127.0.0.6 by inbound"},
		{pod4.String() + ":8081", "200 unnamed at x from 127.0.0.6 by "},
	} {
		if got := peer.get(t, app, test.address, "x"); got != test.want {
			t.Errorf("%s: got %q, want %q", test.address, got, test.want)
		}
	}
	if got := peer.hello(t, app, pod4.String()+":15006", true); got != "closed" {
		t.Errorf("the proxy's own port: %q", got)
	}
}
