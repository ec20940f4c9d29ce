// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// TestStaleWithBody: a request with a body learns before anything of it is sent
// that the server has closed the connection, so that it may go elsewhere.
func TestStaleWithBody(t *testing.T) {
	for name, spoil := range map[string]func(net.Conn){
		"closed":      func(c net.Conn) { c.Close() },
		"reset":       func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() },
		"unsolicited": func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			client := NewClientConn(a, ClientConfig{})
			cs := client.Begin()
			cs.WriteHead(&message.Request{Method: []byte("GET"), Path: []byte("/"), Authority: []byte("h")}, true)
			go func() {
				b.Read(make([]byte, 1000))
				io.WriteString(b, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
			}()
			if _, err := cs.ReadHead(); err != nil {
				t.Fatal(err)
			}
			if _, err := cs.ReadBody(); err != io.EOF {
				t.Fatal(err)
			}
			cs.Close()
			spoil(b)
			for client.Alive() { // until the kernel has delivered it
			}
			cs = client.Begin()
			err := cs.WriteHead(&message.Request{Method: []byte("POST"), Path: []byte("/"), Authority: []byte("h"), BodyLength: 5}, false)
			var se *message.StreamError
			if !errors.As(err, &se) || !se.Unsent {
				t.Fatalf("got %v, want an unsent request", err)
			}
			cs.Close()
		})
	}
}
