// SPDX-License-Identifier: Apache-2.0

// Package todo is a sample application of two services: a page with a list of
// things to do, in two versions that a canary release can tell apart, and the
// backend that keeps the list. Names and ports are those of the todo
// application that introductions to service meshes deploy; the code and the
// looks are ours.
package todo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Todo is one thing to do, named by its text.
type Todo struct {
	Item string `json:"item"`
	Done bool   `json:"done"`
}

// Bounds of a list.
const (
	maxItems   = 1000
	maxItemLen = 200 // bytes
	maxBody    = 16 << 10
)

// checkItem says why text cannot be the name of a todo, nil if it can. It is
// one segment of a path, so "." and ".." would be taken for another path.
func checkItem(text string) error {
	switch {
	case strings.TrimSpace(text) == "":
		return errors.New("an item needs a text")
	case len(text) > maxItemLen:
		return fmt.Errorf("an item has at most %d bytes", maxItemLen)
	case text == "." || text == "..":
		return fmt.Errorf("an item cannot be called %q", text)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }):
		return errors.New("an item is one line of plain text")
	}
	return nil
}

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
	stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	return err
}

type failure struct {
	Error string `json:"error"`
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		slog.Error("cannot encode an answer", "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	b = append(b, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client's loss
}
