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
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/agent"
	"github.com/lateen-mesh/lateen/internal/proxy/bootstrap"
)

// Environment of the test's own program when it is to be the proxy.
const (
	asProxy    = "CAPTURE_TEST_PROXY_BOOTSTRAP"
	asProxyUID = "CAPTURE_TEST_PROXY_UID"
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
		OnReady: func(time.Duration) { fmt.Println("ready") },
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
	cmd.Env = append(os.Environ(), asProxy+"="+file, asProxyUID+"="+user)
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
