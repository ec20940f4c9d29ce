// SPDX-License-Identifier: Apache-2.0

// Package servers holds the small servers behind the samples of Istio's
// documents: helloworld, tcp-echo, the health-check sample and the websockets
// sample. What each says on the wire is what those documents rely on; the code
// and the looks are ours.
package servers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// How long Serve waits for requests in flight once its context has ended.
const grace = 5 * time.Second

// Serve answers HTTP on l until ctx ends, then lets requests in flight finish
// for up to 5 s. Idle connections are kept longer than the hour after which a
// sidecar closes its own, so that the sidecar never reuses a connection that is
// being closed on this side.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Hour,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	return err
}

// Helloworld answers GET /hello with its version and instance, and GET /health.
func Helloworld(version, instance string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", text(fmt.Sprintf("Hello version: %s, instance: %s\n", version, instance)))
	mux.HandleFunc("GET /health", text("Helloworld is healthy"))
	return mux
}

// Health is one port of the health-check sample: it answers /foo and /bar with
// the port and the path, so that a reader sees which of several ports was
// probed. Any method will do, as probes differ.
func Health(port string) http.Handler {
	mux := http.NewServeMux()
	for _, name := range []string{"foo", "bar"} {
		mux.HandleFunc("/"+name, text(fmt.Sprintf("Listening on %s: %s ", port, name)))
	}
	return mux
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(body)) // the client's loss
	}
}
