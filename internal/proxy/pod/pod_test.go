// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lateen-mesh/lateen/internal/identity/identitytest"
)

func origin(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func (p *runningPod) health() string { return "http://127.0.0.1" + p.c.Health + "/healthz/ready" }
func (p *runningPod) status(path string) string {
	return "http://127.0.0.1" + p.c.Status + path
}

// A pod's proxy starts before anything it needs is there, gets its certificate
// and configuration once it is, and serves on while the control plane is away.
func TestPodFollowsItsControlPlane(t *testing.T) {
	ca := identitytest.New(t)
	var token atomic.Pointer[string]
	first := "token-one"
	token.Store(&first)
	pl := newPlane(t, ca, func() string { return *token.Load() })
	in := free(t)
	pl.route(t, in, origin(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "from the application") }))
	e := newPodEnv(t, pl.addr)
	e.vars["ISTIO_META_CLUSTER_ID"] = "Kubernetes"
	e.vars["ISTIO_META_WORKLOAD_NAME"] = "cart"
	e.write(t, "labels", "app=\"cart\"\nversion=\"v1\"\n")
	e.write(t, "annotations", "note=\"two\\nlines\"\n")
	p := start(t, e)

	eventually(t, func() error {
		if !strings.Contains(p.log.String(), "waiting for the root certificate") {
			return fmt.Errorf("log: %s", p.log)
		}
		return nil
	})
	e.write(t, "root-cert.pem", string(ca.RootPEM()))
	want(t, p.health(), 503, "INITIALIZING")
	want(t, p.status("/healthz/ready"), 503, "no workload certificate yet")
	e.write(t, "istio-token", first)
	want(t, p.health(), 200, "LIVE")
	want(t, p.status("/healthz/ready"), 200, "LIVE")
	want(t, "http://"+in+"/", 200, "from the application")
	want(t, "http://127.0.0.1"+p.c.Prometheus+"/stats/prometheus", 200, "envoy_server_live{} 1")
	want(t, "http://127.0.0.1"+p.c.Prometheus+"/config_dump", 404, "")
	want(t, "http://"+p.c.Admin+"/certs", 200, "spiffe://cluster.local/ns/shop/sa/cart")

	text := p.log.String()
	for _, phrase := range []string{
		"\tinfo\tVersion 1.2.3\n",
		"\tinfo\tProxy role\tips=[127.0.0.1] type=sidecar id=cart-5d9.shop domain=shop.svc.cluster.local\n",
		"\tinfo\tgenerated new workload certificate\tlatency=",
		"\tinfo\tReadiness succeeded in ",
		"\tinfo\tlateen-proxy is ready\n",
	} {
		if !strings.Contains(text, phrase) {
			t.Errorf("the log has no %q", phrase)
		}
	}
	if strings.Contains(text, first) {
		t.Error("the log has the token")
	}
	pl.mu.Lock()
	node := pl.node
	pl.mu.Unlock()
	if got := node.GetId(); got != "sidecar~127.0.0.1~cart-5d9.shop~shop.svc.cluster.local" {
		t.Errorf("node id %q", got)
	}
	if got := node.GetMetadata().GetFields()["LABELS"].GetStructValue().GetFields()["version"].GetStringValue(); got != "v1" {
		t.Errorf("label version %q", got)
	}

	// The control plane goes; the proxy serves on. It comes back and takes
	// another token only.
	pl.grpc.Stop()
	eventually(t, func() error {
		if !strings.Contains(p.log.String(), "control plane stream ended") {
			return fmt.Errorf("the end of the stream is not noticed")
		}
		return nil
	})
	want(t, p.health(), 200, "LIVE")
	want(t, "http://"+in+"/", 200, "from the application")
	second := "token-two"
	token.Store(&second)
	e.write(t, "istio-token", second)
	pl.mu.Lock()
	pl.node = nil
	pl.mu.Unlock()
	pl.start(t, pl.addr)
	eventually(t, func() error {
		pl.mu.Lock()
		defer pl.mu.Unlock()
		if pl.node == nil {
			return fmt.Errorf("no new stream")
		}
		return nil
	})
}

func TestQuitEndsAPodOfAJob(t *testing.T) {
	ca := identitytest.New(t)
	pl := newPlane(t, ca, func() string { return "t" })
	pl.route(t, free(t), "127.0.0.1:1")
	e := newPodEnv(t, pl.addr)
	e.vars["PROXY_CONFIG"] = strings.Replace(e.vars["PROXY_CONFIG"], `"0.3s"`, `"3600s"`, 1)
	e.write(t, "root-cert.pem", string(ca.RootPEM()))
	e.write(t, "istio-token", "t")
	p := start(t, e)
	want(t, p.health(), 200, "LIVE")
	if code, _, err := ask(http.MethodGet, p.status("/quitquitquit")); code != 405 || err != nil {
		t.Errorf("GET ends the proxy: %d %v", code, err)
	}
	if err := Request(t.Context(), io.Discard, uint16(atoi(t, p.c.Status)), "post", "quitquitquit", ""); err != nil {
		t.Fatal(err)
	}
	p.await(t) // well before the hour of draining
}

func atoi(t *testing.T, address string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(portOf(address), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A pod that ends serves those who have not heard yet, for as long as it was
// told to, and says on every answer that the connection ends.
func TestDrainServesOn(t *testing.T) {
	ca := identitytest.New(t)
	pl := newPlane(t, ca, func() string { return "t" })
	in := free(t)
	release := make(chan struct{})
	pl.route(t, in, origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		io.WriteString(w, "answer")
	}))
	e := newPodEnv(t, pl.addr)
	e.vars["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] = "true"
	e.vars["MINIMUM_DRAIN_DURATION"] = "1s"
	e.write(t, "root-cert.pem", string(ca.RootPEM()))
	e.write(t, "istio-token", "t")
	p := start(t, e)
	want(t, p.health(), 200, "LIVE")

	slow := make(chan error, 1)
	go func() {
		code, body, err := ask(http.MethodGet, "http://"+in+"/slow")
		if err == nil && (code != 200 || body != "answer") {
			err = fmt.Errorf("%d %q", code, body)
		}
		slow <- err
	}()
	eventually(t, func() error {
		_, body, err := ask(http.MethodGet, "http://"+p.c.Admin+"/stats?filter=downstream_rq_active")
		if !strings.Contains(body, "http.in.downstream_rq_active: 1") {
			return fmt.Errorf("the request is not there yet: %q %v", body, err)
		}
		return nil
	})
	p.stop()
	want(t, p.health(), 503, "DRAINING")
	for range 20 {
		resp, err := http.Get("http://" + in + "/") // http.Get keeps connections
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || !resp.Close {
			t.Fatalf("while draining: %d, Connection: close %v", resp.StatusCode, resp.Close)
		}
	}
	select {
	case <-p.done:
		t.Fatal("ended with a request in progress")
	default:
	}
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("the request in progress: %v", err)
	}
	p.await(t)
}

func TestDrainByTheKubeletsHook(t *testing.T) {
	ca := identitytest.New(t)
	pl := newPlane(t, ca, func() string { return "t" })
	in := free(t)
	pl.route(t, in, origin(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "answer") }))
	e := newPodEnv(t, pl.addr)
	e.vars["PROXY_CONFIG"] = strings.Replace(e.vars["PROXY_CONFIG"], `"0.3s"`, `"3600s"`, 1)
	e.write(t, "root-cert.pem", string(ca.RootPEM()))
	e.write(t, "istio-token", "t")
	p := start(t, e)
	want(t, p.health(), 200, "LIVE")
	if code, _, err := ask(http.MethodPost, p.status("/drain")); code != 200 || err != nil {
		t.Fatal(code, err)
	}
	want(t, p.status("/healthz/ready"), 503, "draining")
	want(t, "http://"+in+"/", 200, "answer")
	p.stop() // the application has ended: nothing is left to wait for
	p.await(t)
}

func TestWait(t *testing.T) {
	var asked atomic.Int32
	url := "http://" + origin(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(503)
		}
	})
	if err := Wait(t.Context(), WaitOptions{URL: url, Period: 1}); err != nil || asked.Load() != 3 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
	never := "http://" + origin(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "warming", http.StatusServiceUnavailable) })
	err := Wait(t.Context(), WaitOptions{URL: never, Period: 1, Timeout: 1})
	if err == nil || !strings.Contains(err.Error(), "not ready after") {
		t.Errorf("got %v", err)
	}
}

func TestRequest(t *testing.T) {
	addr := origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			http.Error(w, "no such thing", 404)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, b)
	})
	port := uint16(atoi(t, addr))
	var out strings.Builder
	if err := Request(t.Context(), &out, port, "get", "stats?filter=x", ""); err != nil || out.String() != "GET /stats?filter=x " {
		t.Errorf("got %q, %v", out.String(), err)
	}
	err := Request(t.Context(), os.Stderr, port, "GET", "/bad", "")
	if err == nil || err.Error() != "received unsuccessful status code 404: no such thing" {
		t.Errorf("got %v", err)
	}
}
