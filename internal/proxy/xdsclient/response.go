// SPDX-License-Identifier: Apache-2.0

package xdsclient

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lateen-mesh/lateen/internal/proxy/fieldpolicy"
)

// maxNack bounds the text of a NACK in bytes.
const maxNack = 8 << 10

// handle applies one response and answers it. What new configuration refers to
// is subscribed to before the answer, so that the control plane knows of it
// when it goes on to the next type.
func (s *session) handle(r *discoveryv3.DeltaDiscoveryResponse) error {
	t, ok := typeOf(r.GetTypeUrl())
	if !ok {
		return s.stream.Send(&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(),
			ErrorDetail: status.Newf(codes.InvalidArgument, "type %q was not asked for", r.GetTypeUrl()).Proto(),
		})
	}
	changed, removed, bad := s.c.decode(t, r)
	s.c.settle(t, changed, removed, bad, r.GetSystemVersionInfo())
	if err := s.subscribe(); err != nil {
		return err
	}
	ack := &discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.GetNonce()}
	if len(bad) > 0 {
		ack.ErrorDetail = status.New(codes.InvalidArgument, nackText(bad)).Proto()
	}
	if err := s.send(t, ack); err != nil {
		return err
	}
	none := ""
	s.c.lastErr.Store(&none)
	if s.c.cfg.Settled != nil {
		s.c.cfg.Settled(t)
	}
	return nil
}

// decode turns a response into resources; bad holds those that are refused.
func (c *Client) decode(t Type, r *discoveryv3.DeltaDiscoveryResponse) (changed []Resource, removed []string, bad map[string]error) {
	bad = map[string]error{}
	removed = r.GetRemovedResources()
	seen := make(map[string]bool, len(r.GetResources()))
	for _, d := range r.GetResources() {
		if d.GetResource() == nil {
			removed = append(removed, d.GetName()) // "it does not exist" in answer to a name
			continue
		}
		res, err := decodeOne(t, d)
		if err == nil && seen[res.Name] {
			err = errors.New("the response holds this name twice")
		}
		seen[res.Name] = true
		if err != nil {
			bad[res.Name] = err
			c.cache.reject(t, res.Name, d.GetVersion(), err.Error(), time.Now())
			continue
		}
		changed = append(changed, res)
	}
	return changed, removed, bad
}

func decodeOne(t Type, d *discoveryv3.Resource) (Resource, error) {
	res := Resource{Name: d.GetName(), Version: d.GetVersion(), body: d.GetResource().GetValue()}
	if u := d.GetResource().GetTypeUrl(); u != infos[t].url {
		return res, fmt.Errorf("type %q in a response of type %q", u, infos[t].url)
	}
	if infos[t].opaque {
		if res.Name == "" { // istiod names its one table nothing
			res.Name = infos[t].short
		}
		return res, nil
	}
	m := infos[t].empty()
	if err := proto.Unmarshal(res.body, m); err != nil {
		return res, fmt.Errorf("decode: %w", err)
	}
	name := infos[t].name(m)
	switch {
	case res.Name == "":
		res.Name = name
	case name != "" && name != res.Name:
		return res, fmt.Errorf("the message calls itself %q", name)
	}
	if res.Name == "" {
		return res, errors.New("the resource has no name")
	}
	if err := fieldpolicy.Check(m); err != nil {
		return res, err
	}
	res.Message = m
	return res, nil
}

// settle hands resources to the sink and records what became of them.
func (c *Client) settle(t Type, changed []Resource, removed []string, bad map[string]error, version string) {
	now := time.Now()
	if len(changed)+len(removed) > 0 {
		for name, err := range c.cfg.Sink.Apply(t, changed, removed) {
			bad[name] = err
		}
	}
	for i := range changed {
		if err := bad[changed[i].Name]; err != nil {
			c.cache.reject(t, changed[i].Name, changed[i].Version, err.Error(), now)
		} else {
			c.cache.accept(t, &changed[i], now)
		}
	}
	c.cache.remove(t, removed...)
	c.cache.setVersion(t, version)
	c.received[t].Store(true)
	scope := infos[t].scope
	c.cfg.Registry.Counter(scope + "update_attempt").Inc()
	if len(bad) > 0 {
		c.cfg.Registry.Counter(scope + "update_rejected").Inc()
		c.cfg.Log.Warn("configuration refused", "type", t.String(), "reason", nackText(bad))
	} else {
		c.cfg.Registry.Counter(scope + "update_success").Inc()
	}
	c.cfg.Log.Debug("configuration applied", "type", t.String(), "changed", len(changed), "removed", len(removed), "refused", len(bad))
}

// nackText names every refused resource with its reason.
func nackText(bad map[string]error) string {
	names := make([]string, 0, len(bad))
	for n := range bad {
		names = append(names, n)
	}
	slices.Sort(names)
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteByte('\n')
		}
		text := strings.ReplaceAll(bad[n].Error(), "\n", "; ")
		if b.Len()+len(n)+len(text) > maxNack {
			fmt.Fprintf(&b, "... and %d more: %s", len(names)-i, strings.Join(names[i:min(i+100, len(names))], ", "))
			break
		}
		fmt.Fprintf(&b, "%s: %s", n, text)
	}
	return b.String()
}
