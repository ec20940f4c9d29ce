// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
)

// TestPicksDuringUpdates changes endpoints and clusters under load: every pick
// finds a host, and every pool made is closed exactly once in the end.
func TestPicksDuringUpdates(t *testing.T) {
	m := newManager(t, Options{})
	mustUpdate(t, m, edsCluster(t, "c", ""))
	mustEndpoints(t, m, cla(t, "c", "10.0.0.1:80", "10.0.0.2:80"))
	var pools sync.Map
	var made atomic.Int64
	create := func(*Host) Pool {
		p := new(fakePool)
		pools.Store(p, true)
		made.Add(1)
		return p
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				h := m.Get("c").Pick(nil)
				if h == nil {
					t.Error("no host")
					return
				}
				h.Begin()
				h.Pool(create)
				h.End()
			}
		})
	}
	for i := range 200 {
		mustEndpoints(t, m, cla(t, "c", fmt.Sprintf("10.0.0.%d:80", i%7+1), fmt.Sprintf("10.0.0.%d:80", i%5+10)))
		if i%10 == 0 {
			mustUpdate(t, m, edsCluster(t, "c", fmt.Sprintf(`,"connectTimeout":"%ds"`, i+1)))
		}
	}
	close(stop)
	wg.Wait()
	m.Remove("c")
	pools.Range(func(p, _ any) bool {
		if n := p.(*fakePool).closed.Load(); n != 1 {
			t.Errorf("a pool was closed %d times", n)
		}
		return true
	})
	if made.Load() == 0 {
		t.Error("no pool was made")
	}
}

func FuzzUpdate(f *testing.F) {
	seed := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(seed(edsCluster(f, "c", tlsMatches)), seed(cla(f, "c", "10.0.0.1:80")))
	f.Add(seed(clusterOf(f, `{"name":"c","lbPolicy":"RING_HASH","ringHashLbConfig":{"minimumRingSize":1}}`)), seed(cla(f, "c")))
	f.Fuzz(func(t *testing.T, c, e []byte) {
		m := NewManager(Options{Resolve: (&fakeDNS{}).resolve})
		defer m.Close()
		var cm clusterv3.Cluster
		var em endpointv3.ClusterLoadAssignment
		if proto.Unmarshal(e, &em) == nil {
			_ = m.UpdateEndpoints(&em)
		}
		if proto.Unmarshal(c, &cm) != nil || cm.GetLbPolicy() == clusterv3.Cluster_RING_HASH || m.Update(&cm) != nil {
			return
		}
		if got := m.Get(cm.GetName()); got != nil {
			got.Pick(nil)
		}
	})
}
