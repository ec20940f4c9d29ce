// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"bytes"
	"net"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
)

// rawOrigin answers every request with 1 KiB, without allocating.
func rawOrigin(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n" + strings.Repeat("x", 1024))
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var b [4096]byte
				n := 0
				for {
					k, err := c.Read(b[n:])
					if err != nil {
						return
					}
					if n += k; bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
						if _, err := c.Write(answer); err != nil {
							return
						}
						n = 0
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// rawClient sends n requests on one connection and reads the answers, without
// allocating.
func rawClient(c net.Conn, n int) error {
	request := []byte("GET /path?x=1 HTTP/1.1\r\nHost: reviews.default.svc.cluster.local\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n")
	var b [4096]byte
	for range n {
		if _, err := c.Write(request); err != nil {
			return err
		}
		need := -1
		for have := 0; need < 0 || have < need; {
			k, err := c.Read(b[have:])
			if err != nil {
				return err
			}
			have += k
			if need < 0 {
				if i := bytes.Index(b[:have], []byte("\r\n\r\n")); i >= 0 {
					need = i + 4 + 1024
				}
			}
		}
	}
	return nil
}

// TestSteadyStateAllocatesNothing holds the request path to 0 allocations, on
// real sockets, with statistics and an access log: more than 100,000 requests
// over 32 connections. What is counted is the test's own goroutines, the
// runtime's timers, and the date's once a second.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		// The race detector makes sync.Pool drop what is put into it.
		cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run", "^"+t.Name()+"$", "-v", ".")
		out, err := cmd.CombinedOutput()
		t.Logf("without the race detector:\n%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	const conns, each = 32, 3200
	p := start(t, `"normalize_path":true,`, "", `{"match":{"prefix":"/none"},"route":{"cluster":"b"}},`+toA, static("a", "", rawOrigin(t)))
	clients := make([]net.Conn, conns)
	for i := range clients {
		clients[i] = p.dial(t).Conn
	}
	round := func(n int) {
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				if err := rawClient(c, n); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	round(200)
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	round(200)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	round(each)
	runtime.ReadMemStats(&after)
	n := after.Mallocs - before.Mallocs
	t.Logf("%d allocations in %d requests", n, conns*each)
	if limit := uint64(conns * each / 200); n > limit {
		t.Errorf("%d allocations in %d requests, want fewer than %d", n, conns*each, limit)
	}
}

// BenchmarkHop is one plaintext hop, client and origin included.
func BenchmarkHop(b *testing.B) {
	p := start(b, `"normalize_path":true,`, "", toA, static("a", "", rawOrigin(b)))
	c := p.dial(b).Conn
	b.ReportAllocs()
	b.ResetTimer()
	if err := rawClient(c, b.N); err != nil {
		b.Fatal(err)
	}
}
