// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/lateen-mesh/lateen/internal/xds"
)

// ClientStatus is how far one connected proxy is.
type ClientStatus struct {
	ConnID      string       `json:"connID"`
	Proxy       string       `json:"proxy"` // name.namespace, as Istio shows it
	Node        string       `json:"node"`  // the node id
	ClusterID   string       `json:"clusterID,omitempty"`
	Version     string       `json:"version,omitempty"` // that the proxy says it is
	Identity    string       `json:"identity,omitempty"`
	Addr        string       `json:"address"`
	Class       string       `json:"class"`
	Delta       bool         `json:"delta"`
	Connected   time.Time    `json:"connected"`
	Epoch       uint64       `json:"epoch"`       // of the newest view meant for it
	SyncedEpoch uint64       `json:"syncedEpoch"` // of the newest view it has answered in full
	Synced      bool         `json:"synced"`
	Types       []TypeStatus `json:"types"` // those the proxy has asked for, in push order
}

// TypeStatus is how far one type of resources of one proxy is.
type TypeStatus struct {
	TypeURL string `json:"typeURL"`
	// State is SYNCED, STALE (sent, not answered), NOT SENT (asked for, nothing to
	// send yet) or NACK (something is refused).
	State   string `json:"state"`
	Version string `json:"version"` // of what was last sent
	Nonce   string `json:"nonce"`
	Acked   string `json:"acked"` // the version last accepted
	// AckedNonce is the nonce of the response last accepted: Nonce when in sync.
	AckedNonce string    `json:"ackedNonce"`
	Sent       time.Time `json:"sent,omitzero"`
	Answered   time.Time `json:"answered,omitzero"`
	Resources  int       `json:"resources"` // the proxy holds, as of the last response
	Nack       *Nack     `json:"nack,omitempty"`
}

// Nack is the last refusal. It stands until what was refused is accepted or
// removed. Resources are those the refusal names, all of the response when it
// names none; at most 16 are listed.
type Nack struct {
	Message   string    `json:"message"`
	Resources []string  `json:"resources"`
	Time      time.Time `json:"time"`
	Epoch     uint64    `json:"epoch"` // of the view that was refused
}

// The states of a type, as `proxy status` shows them.
const (
	StateSynced  = "SYNCED"
	StateStale   = "STALE"
	StateNotSent = "NOT SENT"
	StateNack    = "NACK"
)

// Status lists the connected proxies by name.
func (s *Server) Status() []ClientStatus {
	out := []ClientStatus{}
	for _, c := range s.snapshot() {
		out = append(out, c.status())
	}
	slices.SortFunc(out, func(a, b ClientStatus) int {
		return cmp.Or(strings.Compare(a.Proxy, b.Proxy), strings.Compare(a.ConnID, b.ConnID))
	})
	return out
}

func (c *client) status() ClientStatus {
	v, _ := c.sub.View()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := ClientStatus{
		ConnID: c.id, Proxy: c.proxy, Node: c.Node.GetId(), Identity: c.Identity, Addr: c.Addr,
		ClusterID: metadata(c.Node, "CLUSTER_ID"), Version: metadata(c.Node, "ISTIO_VERSION"),
		Class: c.sub.Class(), Delta: c.Delta, Connected: c.connected,
		Epoch: v.Epoch, SyncedEpoch: c.synced, Synced: c.idle && c.latest == v,
	}
	for _, st := range c.types {
		s.Types = append(s.Types, st.status())
	}
	return s
}

func (st *typeState) status() TypeStatus {
	t := TypeStatus{
		TypeURL: st.url, Version: st.version, Acked: st.acked, Sent: st.sentAt, Answered: st.answered, Nack: st.nack,
		State: StateSynced,
	}
	for _, r := range st.sent {
		if st.covers(r.Name) {
			t.Resources++
		}
	}
	switch {
	case st.nack != nil:
		t.State = StateNack
	case st.inflight:
		t.State = StateStale
	case st.nonce == 0 && t.Resources == 0:
		// A proxy that came back with what it has was sent nothing, and is in sync.
		t.State = StateNotSent
	}
	if st.nonce > 0 {
		t.Nonce = nonceText(st.nonce)
	}
	if st.ackedNonce > 0 {
		t.AckedNonce = nonceText(st.ackedNonce)
	}
	return t
}

// Progress is how far an epoch has come.
type Progress struct {
	Affected int            // proxies the epoch changed something for, among those connected
	Rejected []ClientStatus // that have answered it, but refused a part
	Waiting  []ClientStatus // that have not answered it
}

// Await returns when every proxy that was connected at the call and that the
// epoch changes something for has answered it in full or gone away, or when ctx
// ends, with the error of ctx. Views of the epoch must have been published.
func (s *Server) Await(ctx context.Context, epoch uint64) (Progress, error) {
	var p Progress
	waiting := s.snapshot()
	waiting = slices.DeleteFunc(waiting, func(c *client) bool {
		v, _ := c.sub.View()
		return v.Epoch < epoch
	})
	p.Affected = len(waiting)
	for {
		more := s.progress()
		waiting = slices.DeleteFunc(waiting, func(c *client) bool { return c.answered(epoch) || s.left(c) })
		if len(waiting) == 0 {
			break
		}
		select {
		case <-more:
			continue
		case <-ctx.Done():
		}
		for _, c := range waiting {
			p.Waiting = append(p.Waiting, c.status())
		}
		return p, ctx.Err()
	}
	for _, c := range s.snapshot() {
		st := c.status()
		if slices.ContainsFunc(st.Types, func(t TypeStatus) bool { return t.Nack != nil && t.Nack.Epoch >= epoch }) {
			p.Rejected = append(p.Rejected, st)
		}
	}
	return p, nil
}

func (c *client) answered(epoch uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced >= epoch
}

// SyncStatus is one proxy in the JSON of istiod's /debug/syncz, which Kiali and
// older istioctl read: the nonces sent and acknowledged.
type SyncStatus struct {
	ClusterID     string `json:"cluster_id,omitempty"`
	Proxy         string `json:"proxy,omitempty"`
	ProxyType     string `json:"proxy_type,omitempty"`
	ProxyVersion  string `json:"proxy_version,omitempty"`
	IstioVersion  string `json:"istio_version,omitempty"`
	ClusterSent   string `json:"cluster_sent,omitempty"`
	ClusterAcked  string `json:"cluster_acked,omitempty"`
	ListenerSent  string `json:"listener_sent,omitempty"`
	ListenerAcked string `json:"listener_acked,omitempty"`
	RouteSent     string `json:"route_sent,omitempty"`
	RouteAcked    string `json:"route_acked,omitempty"`
	EndpointSent  string `json:"endpoint_sent,omitempty"`
	EndpointAcked string `json:"endpoint_acked,omitempty"`
}

// SyncZ gives statuses the shape of /debug/syncz. Virtual hosts count as routes:
// the route nonces are equal only when both types are acknowledged.
func SyncZ(all []ClientStatus) []SyncStatus {
	out := make([]SyncStatus, 0, len(all))
	for _, c := range all {
		kind, _, _ := strings.Cut(c.Node, "~")
		s := SyncStatus{ClusterID: c.ClusterID, Proxy: c.Proxy, ProxyType: kind, ProxyVersion: c.Version, IstioVersion: c.Version}
		for _, t := range c.Types {
			acked := t.AckedNonce
			switch t.TypeURL {
			case xds.ClusterType:
				s.ClusterSent, s.ClusterAcked = t.Nonce, acked
			case xds.ListenerType:
				s.ListenerSent, s.ListenerAcked = t.Nonce, acked
			case xds.EndpointType:
				s.EndpointSent, s.EndpointAcked = t.Nonce, acked
			case xds.RouteType:
				s.RouteSent, s.RouteAcked = t.Nonce, acked
			case xds.VirtualHostType: // after routes in push order
				if t.State != StateSynced || s.RouteSent == s.RouteAcked {
					s.RouteSent, s.RouteAcked = t.Nonce, acked
				}
			}
		}
		out = append(out, s)
	}
	return out
}
