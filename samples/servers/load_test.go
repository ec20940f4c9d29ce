// SPDX-License-Identifier: Apache-2.0

package servers

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A load counts what is not 200, says why, and waits for the answers that are due.
func TestLoadCounts(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch n.Add(1) {
		case 2:
			http.Error(w, "no healthy upstream", http.StatusServiceUnavailable)
		case 3:
			panic(http.ErrAbortHandler)
		case 5:
			stop()
		}
	}))
	defer s.Close()
	var out bytes.Buffer
	if err := (&Load{URL: s.URL, Rate: 100, Report: time.Hour, Out: &out}).Run(ctx); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`503 Service Unavailable: "no healthy upstream\n"`, "the connection was closed without an answer", " failed 2\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("does not say %q:\n%s", want, out.String())
		}
	}
}

func TestLoadTellsWhatIsStillOpen(t *testing.T) {
	var out bytes.Buffer
	l := &Load{Out: &out, inFlight: map[int]struct{}{}}
	for range 4 {
		l.begin()
	}
	l.end(0, "")
	l.end(2, "slow")
	l.report()
	l.end(1, "")
	l.end(3, "")
	l.report()
	_, after, _ := strings.Cut(out.String(), "\n")
	if want := "sent 4 answered 1 failed 1\nsent 4 answered 4 failed 1\n"; after != want || !strings.Contains(out.String(), "request 2: slow\n") {
		t.Errorf("got\n%s", out.String())
	}
}

func TestLoadRefusesARate(t *testing.T) {
	if err := (&Load{URL: "http://127.0.0.1:1", Report: time.Second}).Run(t.Context()); err == nil {
		t.Error("a rate of 0 was taken")
	}
}
