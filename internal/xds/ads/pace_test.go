// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/lateen-mesh/lateen/internal/xds"
)

func TestPace(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }
	p := pace{max: time.Second}
	steps := []struct {
		epoch     uint64
		now, want int
	}{
		{1, 0, 0},   // the first at once
		{2, 5, 60},  // its writes took 20 ms
		{1, 50, 50}, // a stream that is late with the round
		{2, 60, 60},
		{3, 61, 61}, // nothing was written
	}
	for i, s := range steps {
		if got := p.ask(s.epoch, at(s.now)); !got.Equal(at(s.want)) {
			t.Errorf("step %d: push at %v, want %v", i, got.Sub(at(0)), at(s.want).Sub(at(0)))
		}
		if i == 0 {
			p.wrote(at(20), time.Millisecond)
			p.wrote(at(5000), time.Hour) // it waited for its proxy
		}
	}
	p.wrote(at(5000), time.Millisecond)
	if got := p.ask(4, at(62)); !got.Equal(at(1061)) {
		t.Errorf("the window is %v, want the most there is", got.Sub(at(61)))
	}
}

// TestEndpointsDoNotWait holds the pacing closed and changes both.
func TestEndpointsDoNotWait(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ClusterType: "a=1", xds.EndpointType: "a=1"}), Options{MaxWindow: time.Hour}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.ClusterType)
	d.subscribe(xds.EndpointType, "a")
	d.ack(d.expect(xds.ClusterType, "a", ""))
	d.ack(d.expect(xds.EndpointType, "a", ""))
	f.settled()
	s := &f.server.pace
	s.mu.Lock()
	s.from, s.took = time.Now(), time.Hour
	s.mu.Unlock()
	f.source.feed.Publish(view(2, map[string]string{xds.ClusterType: "a=2", xds.EndpointType: "a=1"}))
	f.source.feed.Publish(view(3, map[string]string{xds.ClusterType: "a=2", xds.EndpointType: "a=2"}))
	d.ack(d.expect(xds.EndpointType, "a", ""))
	if st := f.server.Status()[0]; st.Synced {
		t.Error("synced, although the cluster has not been sent")
	}
}

func TestSyncZ(t *testing.T) {
	f := newFixture(t, view(1, map[string]string{xds.ClusterType: "a=1", xds.RouteType: "r=1", xds.VirtualHostType: "r/a=1"}), Options{}, Access{})
	d := f.delta("p.default")
	d.subscribe(xds.ClusterType)
	d.ack(d.expect(xds.ClusterType, "a", ""))
	d.subscribe(xds.RouteType, "r")
	d.ack(d.expect(xds.RouteType, "r", ""))
	d.subscribe(xds.VirtualHostType, "r/*")
	d.ack(d.expect(xds.VirtualHostType, "r/a", ""))
	f.settled()
	b, err := json.Marshal(SyncZ(f.server.Status()))
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"cluster_id":"Kubernetes","proxy":"p.default","proxy_type":"sidecar","proxy_version":"1.31","istio_version":"1.31",` +
		`"cluster_sent":"1","cluster_acked":"1","route_sent":"3","route_acked":"3"}]`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}
