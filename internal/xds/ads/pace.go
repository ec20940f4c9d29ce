// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"sync"
	"time"
)

// pace spreads pushes of configuration so that they leave room for the rest. A
// round begins when the first stream asks to push an epoch newer than the round
// before; the first change after a pause is pushed at once. The next round begins
// no sooner than three times as long after this one as its writes have taken, so
// that under constant change a third of the time goes into pushing.
type pace struct {
	max time.Duration

	mu    sync.Mutex // guards the round
	epoch uint64
	from  time.Time
	took  time.Duration // until its last write
}

// ask says when a stream may push the epoch: now, or later.
func (p *pace) ask(epoch uint64, now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if epoch <= p.epoch {
		return now
	}
	if at := p.from.Add(min(p.max, 3*p.took)); at.After(now) {
		return at
	}
	p.epoch, p.from, p.took = epoch, now, 0
	return now
}

// wrote notes that a push has been handed to the connection. One that had to
// wait for its proxy says nothing of the cost.
func (p *pace) wrote(now time.Time, took time.Duration) {
	if took > maxCost {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = now.Sub(p.from)
}

const maxCost = 100 * time.Millisecond
