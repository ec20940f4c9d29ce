// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"context"
	"sync"
	"testing"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// BenchmarkUnary is one small request and response over a loopback connection
// with 16 streams at a time; both sides are ours and both are counted.
func BenchmarkUnary(b *testing.B) {
	cnc, snc := pipe(b)
	body := make([]byte, 1024)
	serve(b, snc, Options{}, func(_ context.Context, s message.ServerStream) {
		resp := message.Response{Status: 200, BodyLength: int64(len(body))}
		resp.Header.AddID(message.ContentType, []byte("text/plain"))
		_ = s.WriteHead(&resp, false)
		_ = s.WriteBody(body, true)
	})
	c := dial(b, cnc, Options{})
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range 16 {
		n := b.N / 16
		if w == 0 {
			n += b.N % 16
		}
		wg.Go(func() {
			r := get("/bench")
			r.Header.AddID(message.UserAgent, []byte("bench"))
			for range n {
				st, err := c.NewStream()
				if err != nil {
					b.Error(err)
					return
				}
				if err := st.WriteHead(r, true); err != nil {
					b.Error(err)
				}
				if _, err := st.ReadHead(); err != nil {
					b.Error(err)
				}
				if _, err := readAll(st.ReadBody); err != nil {
					b.Error(err)
				}
				st.Close()
			}
		})
	}
	wg.Wait()
}
