// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		args        string
		code        int
		out, errOut string
	}{
		{"", 0, "Usage:", ""},
		{"--help", 0, "Usage:", ""},
		{"version", 0, "unknown", ""},
		{"nobody", 64, "", `unknown server "nobody"`},
		{"tcp-echo 9000", 64, "", "ports and a prefix"},
		{"tcp-echo 9000 hello again", 64, "", "ports and a prefix"},
		{"helloworld 5000 more", 64, "", `unexpected argument "more"`},
		{"load", 64, "", "load takes one URL"},
		{"load --rate 0 http://127.0.0.1:1/", 64, "", "--rate of 1 to 1000"},
		{"load http://127.0.0.1:1/", 0, "sent 0 answered 0 failed 0", ""},
		{"helloworld nowhere:x", 1, "", "listen on nowhere:x"},
		{"helloworld 127.0.0.1:0", 0, "", "serving"},
		{"tcp-echo 127.0.0.1:0,127.0.0.1:0 hi", 0, "", "serving"},
		{"health 127.0.0.1:0,127.0.0.1:0", 0, "", "serving"},
		{"websocket 127.0.0.1:0", 0, "", "serving"},
	} {
		var out, errOut bytes.Buffer
		code := run(stopped, strings.Fields(c.args), func(string) string { return "" }, &out, &errOut)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String(), c.errOut) {
			t.Errorf("servers %s: exit %d, stdout %q, stderr %q", c.args, code, out.String(), errOut.String())
		}
	}
}

// start runs a server and returns the n addresses that it logs.
func start(t *testing.T, n int, env map[string]string, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, args, func(k string) string { return env[k] }, io.Discard, w)
		w.Close()
	}()
	lines := bufio.NewScanner(r)
	var out []string
	for len(out) < n && lines.Scan() {
		m := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(lines.Text())
		if m == nil {
			t.Fatalf("unexpected line %q", lines.Text())
		}
		out = append(out, m[1])
	}
	go io.Copy(io.Discard, r)
	t.Cleanup(func() {
		cancel()
		if c := <-code; c != 0 {
			t.Errorf("servers %v: exit %d", args, c)
		}
	})
	return out
}

func TestServing(t *testing.T) {
	a := start(t, 1, map[string]string{"SERVICE_VERSION": "v2", "HOSTNAME": "pod-7"}, "helloworld", "127.0.0.1:0")
	if got := body(t, "http://"+a[0]+"/hello"); got != "Hello version: v2, instance: pod-7\n" {
		t.Errorf("helloworld said %q", got)
	}
	for _, addr := range start(t, 2, nil, "health", "127.0.0.1:0,127.0.0.1:0") {
		_, port, _ := net.SplitHostPort(addr)
		if got := body(t, "http://"+addr+"/foo"); got != "Listening on "+port+": foo " {
			t.Errorf("health said %q", got)
		}
	}
	for _, addr := range start(t, 2, nil, "tcp-echo", "127.0.0.1:0,127.0.0.1:0", "one") {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "world\n")
		if got, err := bufio.NewReader(c).ReadString('\n'); err != nil || got != "one world\n" {
			t.Errorf("tcp-echo said %q, %v", got, err)
		}
	}
}

func body(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
