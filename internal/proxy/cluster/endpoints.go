// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"unique"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxPriority is the highest priority Envoy accepts.
const maxPriority = 128

// endpoint is one decoded LbEndpoint.
type endpoint struct {
	address string // "host:port" or a Unix socket's path
	meta    *hostMeta
	weight  uint32
	health  Health
	born    int64 // of a host taken over from another cluster; 0: new
}

// locality is one decoded LocalityLbEndpoints.
type locality struct {
	Locality
	weight    uint32
	priority  uint32
	endpoints []endpoint
}

// assignment is a decoded ClusterLoadAssignment. Each address is in it once.
type assignment struct {
	localities     []locality
	overprovision  uint32
	weightedHealth bool
}

// decodeAssignment checks and compiles a ClusterLoadAssignment. names says
// whether host names are allowed besides addresses (DNS clusters).
func decodeAssignment(msg *endpointv3.ClusterLoadAssignment, names bool) (*assignment, error) {
	a := &assignment{overprovision: defaultOverprovisioning}
	if p := msg.GetPolicy(); p != nil {
		if len(p.GetDropOverloads()) > 0 {
			return nil, errors.New("policy.drop_overloads is not supported: remove it")
		}
		if f := p.GetOverprovisioningFactor(); f != nil {
			if f.GetValue() == 0 {
				return nil, errors.New("policy.overprovisioning_factor is 0: give at least 1")
			}
			a.overprovision = f.GetValue()
		}
		a.weightedHealth = p.GetWeightedPriorityHealth()
	}
	if len(msg.GetNamedEndpoints()) > 0 {
		return nil, errors.New("named_endpoints are not supported: list endpoints")
	}
	d := endpointDecoder{seen: make(map[string]bool), metas: make(map[hostMeta]*hostMeta), names: names}
	for i, m := range msg.GetEndpoints() {
		l, err := d.locality(m)
		if err != nil {
			return nil, fmt.Errorf("endpoints[%d].%w", i, err)
		}
		a.localities = append(a.localities, l)
	}
	return a, nil
}

type endpointDecoder struct {
	seen  map[string]bool
	metas map[hostMeta]*hostMeta
	names bool
}

func (d *endpointDecoder) locality(m *endpointv3.LocalityLbEndpoints) (locality, error) {
	if m.GetPriority() > maxPriority {
		return locality{}, fmt.Errorf("priority %d is above %d", m.GetPriority(), maxPriority)
	}
	if m.GetLbConfig() != nil {
		return locality{}, errors.New("lb_config: collections of endpoints are not supported: list lb_endpoints")
	}
	l := locality{
		Locality: Locality{intern(m.GetLocality().GetRegion()), intern(m.GetLocality().GetZone()), intern(m.GetLocality().GetSubZone())},
		weight:   m.GetLoadBalancingWeight().GetValue(),
		priority: m.GetPriority(),
	}
	l.endpoints = make([]endpoint, 0, len(m.GetLbEndpoints()))
	for i, e := range m.GetLbEndpoints() {
		ep, err := d.endpoint(e)
		if err != nil {
			return locality{}, fmt.Errorf("lb_endpoints[%d].%w", i, err)
		}
		if d.seen[ep.address] {
			continue // Envoy too takes an address once per cluster
		}
		d.seen[ep.address] = true
		l.endpoints = append(l.endpoints, ep)
	}
	return l, nil
}

func (d *endpointDecoder) endpoint(m *endpointv3.LbEndpoint) (endpoint, error) {
	ep := endpoint{weight: 1}
	if m.GetEndpointName() != "" {
		return ep, errors.New("endpoint_name is not supported: give endpoint")
	}
	e := m.GetEndpoint()
	if len(e.GetAdditionalAddresses()) > 0 {
		return ep, errors.New("endpoint.additional_addresses are not supported: give one address")
	}
	var err error
	if ep.address, err = addressOf(e.GetAddress(), d.names); err != nil {
		return ep, fmt.Errorf("endpoint.address: %w", err)
	}
	if w := m.GetLoadBalancingWeight(); w != nil {
		if w.GetValue() == 0 {
			return ep, errors.New("load_balancing_weight is 0: give at least 1")
		}
		ep.weight = w.GetValue()
	}
	switch m.GetHealthStatus() {
	case corev3.HealthStatus_UNKNOWN, corev3.HealthStatus_HEALTHY:
	case corev3.HealthStatus_DEGRADED:
		ep.health = Degraded
	case corev3.HealthStatus_DRAINING:
		ep.health = Draining
	default:
		ep.health = Unhealthy
	}
	meta := hostMeta{Hostname: intern(e.GetHostname())}
	fm := m.GetMetadata().GetFilterMetadata()
	meta.Workload = intern(fm["istio"].GetFields()["workload"].GetStringValue())
	lines, err := lines(fm["envoy.transport_socket_match"])
	if err != nil {
		return ep, fmt.Errorf("metadata: envoy.transport_socket_match: %w", err)
	}
	meta.Match = intern(strings.Join(lines, "\n"))
	if ep.meta = d.metas[meta]; ep.meta == nil {
		ep.meta = &meta
		d.metas[meta] = ep.meta
	}
	return ep, nil
}

func intern(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value()
}

// addressOf gives an address as net.Dial takes it.
func addressOf(a *corev3.Address, names bool) (string, error) {
	switch t := a.GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		s := t.SocketAddress
		if s.GetProtocol() != corev3.SocketAddress_TCP {
			return "", fmt.Errorf("protocol %v is not supported: use TCP", s.GetProtocol())
		}
		port := s.GetPortValue()
		if s.GetNamedPort() != "" || port > 65535 {
			return "", errors.New("give port_value in 0..65535")
		}
		if ip, err := netip.ParseAddr(s.GetAddress()); err == nil {
			return netip.AddrPortFrom(ip, uint16(port)).String(), nil
		}
		if !names || s.GetAddress() == "" {
			return "", fmt.Errorf("%q is no IP address: host names need type STRICT_DNS or LOGICAL_DNS", s.GetAddress())
		}
		return net.JoinHostPort(s.GetAddress(), strconv.Itoa(int(port))), nil
	case *corev3.Address_Pipe:
		if t.Pipe.GetPath() == "" {
			return "", errors.New("pipe.path is empty")
		}
		return t.Pipe.GetPath(), nil
	case nil:
		return "", errors.New("is not set: give socket_address or pipe")
	default:
		return "", fmt.Errorf("%T is not supported: give socket_address or pipe", t)
	}
}

// lines writes a struct of plain values as sorted "key=value" lines, so that a
// match is a test for lines.
func lines(s *structpb.Struct) ([]string, error) {
	out := make([]string, 0, len(s.GetFields()))
	for k, v := range s.GetFields() {
		var text string
		switch t := v.GetKind().(type) {
		case *structpb.Value_StringValue:
			text = t.StringValue
		case *structpb.Value_BoolValue:
			text = strconv.FormatBool(t.BoolValue)
		case *structpb.Value_NumberValue:
			text = strconv.FormatFloat(t.NumberValue, 'g', -1, 64)
		default:
			return nil, fmt.Errorf("value of %q is neither string, number nor bool", k)
		}
		if strings.ContainsAny(k, "=\n") || strings.Contains(text, "\n") {
			return nil, fmt.Errorf("key or value of %q holds = or a line break", k)
		}
		out = append(out, intern(k+"="+text))
	}
	sort.Strings(out)
	return out, nil
}

// hasLines says whether text, lines joined by line breaks, holds all of want.
func hasLines(text string, want []string) bool {
	for _, w := range want {
		found := false
		for l := range strings.SplitSeq(text, "\n") {
			if l == w {
				found = true
				break
			}
		}
		if !found {
			return false
		}
	}
	return true
}
