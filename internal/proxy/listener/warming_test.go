// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"net"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

// TestWarmingListenerIsRefusedAtOnce: that an address cannot be opened is known
// before the listener's routes are.
func TestWarmingListenerIsRefusedAtOnce(t *testing.T) {
	r := newRig(t, Options{DrainTime: time.Hour})
	addr := free(t)
	taken, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r.unready = true
	bad := r.Apply([]*listenerv3.Listener{message("l", addr, named("a"))}, nil)
	if bad["l"] == nil || !strings.Contains(bad["l"].Error(), "address already in use") {
		t.Errorf("got %v, want the address refused", bad)
	}
	if w := r.Warming(); len(w) != 0 {
		t.Errorf("warming: %v", w)
	}
	<-r.echoes("a")[0].closed // nothing of it is left
}
