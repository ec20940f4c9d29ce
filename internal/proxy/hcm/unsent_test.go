// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bufio"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

const retryRoute = `{"match":{"prefix":"/"},"route":{"cluster":"a","retry_policy":{"retry_on":"connect-failure,refused-stream,unavailable,cancelled","num_retries":2}}}`

// A pod that ends refuses what its application would have got: the client's
// proxy sends it, whatever its method, to another pod, and nobody sees the mark.
func TestUnsentRequestGoesElsewhere(t *testing.T) {
	var refused atomic.Int32
	ending := origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		refused.Add(1)
		w.Header().Set(unsentField, "true")
		w.WriteHeader(503)
	})
	good := origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Method, b)
	})
	p := start(t, "", "", retryRoute, static("a", "", ending, good))
	c := p.dial(t)
	for range 20 {
		resp, body := c.do(t, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
		if resp.StatusCode != 200 || body != "POST hello" {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
	}
	if refused.Load() == 0 {
		t.Error("the pod that ends was never asked")
	}

	// With nowhere else to go the answer is the 503, without the mark.
	p = start(t, "", "", retryRoute, static("a", "", ending))
	resp, _ := p.dial(t).do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if resp.StatusCode != 503 || resp.Header.Get(unsentField) != "" {
		t.Errorf("%d, mark %q", resp.StatusCode, resp.Header.Get(unsentField))
	}
}

// An ordinary 503 may have done something: it is handed on.
func TestOtherRefusalsAreNotRetried(t *testing.T) {
	var asked atomic.Int32
	up := origin(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(503)
	})
	p := start(t, "", "", retryRoute, static("a", "", up, up))
	if resp, _ := p.dial(t).do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 503 || asked.Load() != 1 {
		t.Errorf("%d, asked %d times", resp.StatusCode, asked.Load())
	}
}

// The mark is for peers of the mesh, and only where nothing was sent.
func TestMarkUnsent(t *testing.T) {
	peer := []*x509.Certificate{{}}
	for _, tc := range []struct {
		name    string
		peer    []*x509.Certificate
		reason  message.ResetReason
		reached bool
		ending  string // the method, while the proxy drains
		want    bool
	}{
		{"refused", peer, message.ConnectionFailure, false, "", true},
		{"timed out", peer, message.ConnectTimeout, false, "", true},
		{"no certificate", nil, message.ConnectionFailure, false, "", false},
		{"sent before", peer, message.ConnectionFailure, true, "", false},
		{"broke off", peer, message.ConnectionTermination, false, "", false},
		{"broke off while ending", peer, message.ConnectionTermination, true, "GET", true},
		{"unsafe, broke off while ending", peer, message.ConnectionTermination, true, "POST", false},
	} {
		x := &exchange{}
		x.c = &conn{info: &ConnInfo{PeerCertificates: tc.peer}}
		x.m = &Manager{}
		x.m.draining.Store(tc.ending != "")
		x.req, x.reached, x.bodyDone = &message.Request{Method: []byte(tc.ending)}, tc.reached, true
		x.markUnsent(&x.local, tc.reason)
		if _, got := x.local.Header.GetName(unsentField); got != tc.want {
			t.Errorf("%s: marked %v", tc.name, got)
		}
	}
}

// closer answers one request on each connection, and ends it when it has read
// the next one.
func closer(t *testing.T, asked *atomic.Int32) string {
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
			go func() {
				defer c.Close()
				rd := bufio.NewReader(c)
				for i := range 2 {
					r, err := http.ReadRequest(rd)
					if err != nil {
						return
					}
					_, _ = io.ReadAll(r.Body)
					asked.Add(1)
					if i == 0 {
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func TestSafeRequestIsSentAgainOnReuse(t *testing.T) {
	for _, tc := range []struct {
		raw   string
		want  int
		asked int32
	}{
		{"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 200, 3},
		{"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", 503, 2},
		{"DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", 503, 2},
	} {
		var asked atomic.Int32
		p := start(t, "", "", toA, static("a", "", closer(t, &asked)))
		c := p.dial(t)
		if resp, _ := c.do(t, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		resp, _ := c.do(t, tc.raw)
		method, _, _ := strings.Cut(tc.raw, " ")
		if resp.StatusCode != tc.want || asked.Load() != tc.asked {
			t.Errorf("%s: %d, asked %d times; want %d, %d", method, resp.StatusCode, asked.Load(), tc.want, tc.asked)
		}
	}
}

// breaker takes one connection, and ends it when it has read a request. gone
// ends the listener first.
func breaker(t *testing.T, gone bool) (addr string, broke <-chan struct{}) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			t.Error(err)
		}
		if gone {
			ln.Close()
		}
	}()
	return ln.Addr().String(), ended
}

// Kubernetes ends the application of a pod with a native sidecar before it tells
// the sidecar: what the application broke off waits for that, and goes elsewhere.
func TestBrokenOffBeforeDraining(t *testing.T) {
	for _, tc := range []struct {
		name        string
		gone, drain bool
		method      string
		want        bool
	}{
		{"the pod ends", true, true, "GET", true},
		{"a request that is not safe", true, true, "DELETE", false},
		{"the application crashed", true, false, "GET", false},
		{"the application serves on", false, false, "GET", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr, broke := breaker(t, tc.gone)
			p := start(t, "", "", toA, static("a", "", addr))
			near, far := net.Pipe()
			var served sync.WaitGroup
			served.Go(func() {
				info := &ConnInfo{Local: netip.MustParseAddrPort("127.0.0.1:1"), Remote: netip.MustParseAddrPort("127.0.0.1:2"), PeerCertificates: []*x509.Certificate{{}}}
				p.ServeConn(t.Context(), far, info)
			})
			defer served.Wait()
			defer near.Close()
			fmt.Fprintf(near, "%s / HTTP/1.1\r\nHost: h\r\n\r\n", tc.method)
			<-broke
			if tc.drain {
				// As late as the kubelet is. Were it early for once, the test would
				// pass without having waited.
				defer time.AfterFunc(100*time.Millisecond, p.Drain).Stop()
			}
			resp, err := http.ReadResponse(bufio.NewReader(near), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.Header.Get(unsentField) != ""; resp.StatusCode != 503 || got != tc.want {
				t.Errorf("%s, marked %v", resp.Status, got)
			}
		})
	}
}
