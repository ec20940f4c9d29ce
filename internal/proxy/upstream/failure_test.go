// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// lateContext is one whose deadline has passed and whose timer has not run yet.
type lateContext struct {
	context.Context
	deadline time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// A socket that gives up a moment before its context does is a connect timeout
// all the same: taken for the request's own time it would not be tried again.
func TestDialDeadlineBeforeItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Millisecond, func() { cancel(errConnectTimeout) })
		err := failure(lateContext{ctx, time.Now()}, time.Second, "", fmt.Errorf("dial: %w", os.ErrDeadlineExceeded))
		var e *message.StreamError
		if !errors.As(err, &e) || e.Reason != message.ConnectTimeout || !e.Unsent {
			t.Errorf("got %v, want an unsent connect timeout", err)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the error reads as the request's own deadline")
		}
	})
}
