// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// hello is the ClientHello of crypto/tls for these settings.
func hello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	cfg.InsecureSkipVerify = true // only the first message is made
	go tls.Client(a, cfg).Handshake()
	buf := make([]byte, 1<<15)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// fragmented puts a ClientHello into records of n bytes each.
func fragmented(rec []byte, n int) []byte {
	var out []byte
	for body := rec[5:]; len(body) > 0; {
		k := min(n, len(body))
		out = append(append(out, rec[0], rec[1], rec[2], byte(k>>8), byte(k)), body[:k]...)
		body = body[k:]
	}
	return out
}

func TestParseHello(t *testing.T) {
	rec := hello(t, &tls.Config{ServerName: "Reviews.Default.SVC", NextProtos: []string{"istio-peer-exchange", "istio"}})
	for name, b := range map[string][]byte{"whole": rec, "in records of 7 bytes": fragmented(rec, 7)} {
		t.Run(name, func(t *testing.T) {
			for i := range b {
				var in inspected
				if v := parseHello(b[:i], &in); v != needMore {
					t.Fatalf("decided %v after %d of %d bytes", v, i, len(b))
				}
			}
			var in inspected
			if v := parseHello(b, &in); v != matched || in.serverName != "reviews.default.svc" || !slices.Equal(in.alpn, []string{"istio-peer-exchange", "istio"}) {
				t.Errorf("got %v %+v", v, in)
			}
		})
	}
	t.Run("other protocols", func(t *testing.T) {
		for _, s := range []string{"GET / HTTP/1.1\r\n", "\x16\x02", "SSH-2.0-x", "\x16\x03\x01\x00\x00", "\x16\x03\x01\x00\x01\x02"} {
			if v := parseHello([]byte(s), new(inspected)); v != other {
				t.Errorf("%q: %v", s, v)
			}
		}
	})
	t.Run("CVE-2024-32475, name of 256 bytes", func(t *testing.T) {
		long := helloWithName(strings.Repeat("a", 256))
		if v := parseHello(long, new(inspected)); v != broken {
			t.Errorf("got %v", v)
		}
		if v := parseHello(helloWithName(strings.Repeat("a", 255)), new(inspected)); v != matched {
			t.Errorf("255 bytes: got %v", v)
		}
	})
}

// helloWithName is a minimal ClientHello with one extension.
func helloWithName(name string) []byte {
	u16 := func(n int) []byte { return []byte{byte(n >> 8), byte(n)} }
	sni := append([]byte{0}, append(u16(len(name)), name...)...)
	sni = append(u16(len(sni)), sni...)
	ext := append(append(u16(0), u16(len(sni))...), sni...)
	body := make([]byte, 34)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	body = append(append(body, u16(len(ext))...), ext...)
	msg := append([]byte{1, 0}, append(u16(len(body)), body...)...)
	return append(append([]byte{22, 3, 1}, u16(len(msg))...), msg...)
}

func TestParseRequestLine(t *testing.T) {
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\n":                  "http/1.1",
		"GET / HTTP/1.0\n":                    "http/1.0",
		"\r\nPOST /x HTTP/1.1\r\nhost: a\r\n": "http/1.1",
		"CONNECT a:80 HTTP/1.1\r\n":           "http/1.1",
		preface:                               "h2c",
		preface + "\x00\x00":                  "h2c",
		"GET / HTTP/2.0\r\n":                  "other",
		"GET /\r\n":                           "other",
		"HELLO x HTTP/1.1\r\n":                "other",
		"\x00\x00":                            "other",
		"PRI * HTTP/2.1":                      "other",
		"get / HTTP/1.1\r\n":                  "other",
		"PROPFIND / HTTP/1.1\r\n":             "http/1.1",
		"GET":                                 "more",
		"PR":                                  "more",
		"\r":                                  "more",
		"GET / HTTP/1.1":                      "more",
		preface[:20]:                          "more",
		"GETX":                                "other",
		"GET /" + strings.Repeat("a", maxReqLine): "other",
	} {
		got, v := parseRequestLine([]byte(in))
		switch v {
		case needMore:
			got = "more"
		case other:
			got = "other"
		}
		if got != want {
			t.Errorf("%.30q: %s, want %s", in, got, want)
		}
	}
}

// pair is a TCP connection on loopback.
func pair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestInspectByteAtATimeLeavesTheBytes(t *testing.T) {
	for name, tc := range map[string]struct {
		bytes []byte
		want  inspected
	}{
		"tls":        {hello(t, &tls.Config{ServerName: "a", NextProtos: []string{"h2"}}), inspected{tls: true, serverName: "a", alpn: []string{"h2"}}},
		"http":       {[]byte("GET /x HTTP/1.1\r\n"), inspected{alpn: []string{"http/1.1"}}},
		"h2c":        {[]byte(preface), inspected{alpn: []string{"h2c"}}},
		"neither":    {[]byte("EHLO there\r\n"), inspected{}},
		"long first": {[]byte("GET /" + strings.Repeat("x", 9000) + " HTTP/1.1\r\n"), inspected{alpn: []string{"http/1.1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := pair(t)
			go func() {
				step := 1 + len(tc.bytes)/500
				for b := tc.bytes; len(b) > 0; b = b[min(step, len(b)):] {
					c.Write(b[:min(step, len(b))])
				}
			}()
			got, err := inspect(s, true, true)
			if err != nil {
				t.Fatal(err)
			}
			if got.tls != tc.want.tls || got.serverName != tc.want.serverName || !slices.Equal(got.alpn, tc.want.alpn) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			replay := make([]byte, len(tc.bytes))
			if _, err := io.ReadFull(s, replay); err != nil || string(replay) != string(tc.bytes) {
				t.Errorf("bytes were taken: %v", err)
			}
		})
	}
}

func TestInspectEndsWithThePeer(t *testing.T) {
	for _, sent := range []string{"", "GET /half"} {
		c, s := pair(t)
		c.Write([]byte(sent))
		c.CloseWrite()
		if _, err := inspect(s, true, true); !errors.Is(err, io.EOF) {
			t.Errorf("after %q: %v, want EOF", sent, err)
		}
	}
}

func FuzzParseHello(f *testing.F) {
	f.Add(hello(f, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}}))
	f.Add(fragmented(hello(f, &tls.Config{ServerName: "a.example"}), 9))
	f.Add(helloWithName("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var in inspected
		v := parseHello(b, &in)
		if v == matched && len(in.serverName) > maxServerNameLen {
			t.Errorf("server name of %d bytes", len(in.serverName))
		}
		// More bytes never turn a decision into another one.
		if v == matched || v == other {
			var again inspected
			if w := parseHello(append(b[:len(b):len(b)], 0), &again); w != v || again.serverName != in.serverName {
				t.Errorf("%v became %v", v, w)
			}
		}
	})
}

func FuzzParseRequestLine(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte(preface))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, v := parseRequestLine(b); v == matched || v == other {
			if _, w := parseRequestLine(append(b[:len(b):len(b)], 'x')); w != v && len(b) < maxReqLine-1 {
				t.Errorf("%v became %v", v, w)
			}
		}
	})
}
