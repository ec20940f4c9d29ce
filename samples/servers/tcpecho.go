// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Bounds of the echo server.
const (
	maxLine        = 64 << 10
	maxConnections = 4096
	echoIdle       = 2 * time.Hour
	echoWrite      = 10 * time.Second
)

// Echo answers each line it is sent with Prefix, a space and the line.
type Echo struct {
	Prefix string
}

// Serve echoes on l until ctx ends; then it answers the lines it has already
// read and closes. A line longer than 64 KiB ends its connection.
func (e Echo) Serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	places := make(chan struct{}, maxConnections)
	for {
		// Waiting here leaves what is too much in the listener's backlog.
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		if err != nil {
			<-places
			if ctx.Err() != nil {
				return nil
			}
			var again interface{ Temporary() bool }
			if errors.As(err, &again) && again.Temporary() { // out of descriptors, say
				slog.Warn("cannot accept", "address", l.Addr().String(), "error", err)
				select {
				case <-time.After(100 * time.Millisecond):
					continue
				case <-ctx.Done():
					return nil
				}
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		wg.Go(func() {
			defer func() { <-places }()
			e.handle(ctx, c)
		})
	}
}

func (e Echo) handle(ctx context.Context, c net.Conn) {
	defer c.Close()
	// The reader wakes up at once; an answer being written is finished.
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	lines := bufio.NewReaderSize(c, maxLine)
	for {
		_ = c.SetReadDeadline(time.Now().Add(echoIdle))
		if ctx.Err() != nil { // it may have ended just before that line
			_ = c.SetReadDeadline(time.Unix(1, 0))
		}
		line, err := lines.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				slog.Warn("a line is too long", "client", c.RemoteAddr().String(), "limit", maxLine)
			}
			return
		}
		out := make([]byte, 0, len(e.Prefix)+1+len(line))
		out = append(append(append(out, e.Prefix...), ' '), line...)
		_ = c.SetWriteDeadline(time.Now().Add(echoWrite))
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}
