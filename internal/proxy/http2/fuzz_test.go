// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

func hpackField(name, value string) hpack.HeaderField {
	return hpack.HeaderField{Name: name, Value: value}
}

// script is a connection whose peer has said all it will ever say.
type script struct {
	io.Reader
	net.Conn
}

func (s script) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (s script) Write(p []byte) (int, error)      { return len(p), nil }
func (s script) Close() error                     { return nil }
func (s script) SetDeadline(time.Time) error      { return nil }
func (s script) SetReadDeadline(time.Time) error  { return nil }
func (s script) SetWriteDeadline(time.Time) error { return nil }

// FuzzServer feeds frames to the stream machine: it must neither panic nor
// hang, and a request that reaches a handler must be fit to forward.
func FuzzServer(f *testing.F) {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	var hb bytes.Buffer
	enc := hpack.NewEncoder(&hb)
	for _, kv := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/"}, {":authority", "a"}, {"cookie", "a=b"}, {"cookie", "c=d"}} {
		_ = enc.WriteField(hpackField(kv[0], kv[1]))
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: hb.Bytes(), EndHeaders: true})
	_ = fr.WriteData(1, false, []byte("body"))
	_ = fr.WriteWindowUpdate(1, 100)
	_ = fr.WriteWindowUpdate(0, 100)
	_ = fr.WritePing(false, [8]byte{1})
	_ = fr.WriteData(1, true, nil)
	_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
	_ = fr.WriteGoAway(0, http2.ErrCodeNo, nil)
	f.Add(b.Bytes())
	f.Add(append([]byte(nil), b.Bytes()[:40]...))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := io.MultiReader(bytes.NewReader([]byte(Preface)), bytes.NewReader(in))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s := NewServerConn(ctx, script{Reader: r}, Options{MaxConcurrentStreams: 8}, func(_ context.Context, s message.ServerStream) {
			r := s.Request()
			for _, f := range append(r.Header.Fields, message.Field{Name: []byte("m"), Value: r.Method}, message.Field{Name: []byte("p"), Value: r.Path}, message.Field{Name: []byte("a"), Value: r.Authority}) {
				if bytes.ContainsAny(f.Name, "\r\n\x00: ") || bytes.ContainsAny(f.Value, "\r\n\x00") {
					t.Errorf("field %q: %q", f.Name, f.Value)
				}
			}
			for {
				if _, err := s.ReadBody(); err != nil {
					break
				}
			}
			_ = s.WriteHead(&message.Response{Status: 200}, true)
		})
		_ = s.Serve()
	})
}

// FuzzHPACK decodes any block and re-encodes what was accepted: the result must
// be the same fields.
func FuzzHPACK(f *testing.F) {
	var hb bytes.Buffer
	enc := hpack.NewEncoder(&hb)
	for _, kv := range [][2]string{{"x-a", "1"}, {"x-request-id", "abc"}, {"user-agent", "curl"}} {
		_ = enc.WriteField(hpackField(kv[0], kv[1]))
	}
	f.Add(hb.Bytes())
	f.Add([]byte{0x82, 0x86, 0x84, 0x3f, 0xe1, 0x1f})
	f.Fuzz(func(t *testing.T, in []byte) {
		decode := func(p []byte) (message.Header, error) {
			var b block
			d := hpack.NewDecoder(4096, func(f hpack.HeaderField) { b.emit(f, 1<<16, 100) })
			if _, err := d.Write(p); err != nil {
				return message.Header{}, err
			}
			if err := d.Close(); err != nil {
				return message.Header{}, err
			}
			if b.tooLarge {
				return message.Header{}, errTooLarge
			}
			var h head
			err := h.parse(&b, trailerBlock)
			return message.Header{Fields: h.fields}, err
		}
		want, err := decode(in)
		if err != nil {
			return
		}
		w := newWriter(nil, time.Second)
		w.beginHeaders()
		w.encodeFields(&want)
		got, err := decode(w.encBuf.Bytes())
		if err != nil {
			t.Fatalf("own encoding of %v: %v", want, err)
		}
		if len(got.Fields) != len(want.Fields) {
			t.Fatalf("%d fields became %d", len(want.Fields), len(got.Fields))
		}
		for i := range want.Fields {
			if !bytes.Equal(got.Fields[i].Name, want.Fields[i].Name) || !bytes.Equal(got.Fields[i].Value, want.Fields[i].Value) {
				t.Fatalf("field %d: %q became %q", i, want.Fields[i], got.Fields[i])
			}
		}
	})
}
