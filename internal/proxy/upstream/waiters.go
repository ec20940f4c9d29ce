// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"slices"

	"github.com/lateen-mesh/lateen/internal/proxy/http1"
)

// waiter is an exchange that waits for a connection to be given back. It gets
// one, or nil when it is to try again.
type waiter struct {
	got chan *http1.ClientConn
	sni string
}

// waiters is a queue, first come first served. Its length is bounded by the
// circuit breaker's pending requests.
type waiters struct{ list []*waiter }

func (q *waiters) push(sni string) *waiter {
	w := &waiter{got: make(chan *http1.ClientConn, 1), sni: sni}
	q.list = append(q.list, w)
	return w
}

func (q *waiters) pop(sni string) *waiter {
	for i, w := range q.list {
		if w.sni == sni {
			q.list = slices.Delete(q.list, i, i+1)
			return w
		}
	}
	return nil
}

func (q *waiters) popAny() *waiter {
	if len(q.list) == 0 {
		return nil
	}
	w := q.list[0]
	q.list = slices.Delete(q.list, 0, 1)
	return w
}

// remove says whether w was still waiting.
func (q *waiters) remove(w *waiter) bool {
	i := slices.Index(q.list, w)
	if i < 0 {
		return false
	}
	q.list = slices.Delete(q.list, i, i+1)
	return true
}
