// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/lateen-mesh/lateen/internal/compile"
)

// Class is everything about a proxy that its configuration may depend on.
// Proxies of one class get the same views. It is comparable.
type Class struct {
	Mode      compile.Mode
	Namespace string
	Address   string
	Labels    string // see compile.EncodeLabels
	// Pod is the name of the proxy's pod, and Addresses what the proxy has
	// beside Address, comma-separated: both as the node says.
	Pod, Addresses string
	// Account is the service account that a gateway in a cluster has proved to
	// run as. Empty: there are no pods to hold it against.
	Account string
	// OnDemand: virtual hosts are resources of their own.
	OnDemand bool
	// DNS: the proxy answers the DNS queries of its pod.
	DNS bool
	// PublishOn and PublishedPorts ("8080=18080,...") are a gateway's, see
	// compile.Workload.
	PublishOn, PublishedPorts string
}

// String names the class in status and debug output.
func (c Class) String() string {
	return fmt.Sprintf("%s/%s/%s[%s]", c.Mode, c.Namespace, c.Address, c.Labels)
}

// workload is the workload beside a proxy of the class.
func (c Class) workload() compile.Workload {
	w := compile.Workload{
		Namespace: c.Namespace, Address: c.Address, Labels: compile.DecodeLabels(c.Labels),
		PublishOn: c.PublishOn, PublishedPorts: map[uint32]uint32{}, Addresses: []string{c.Address}, Name: c.Pod,
	}
	for a := range strings.SplitSeq(c.Addresses, ",") {
		if a != "" {
			w.Addresses = append(w.Addresses, a)
		}
	}
	for pair := range strings.SplitSeq(c.PublishedPorts, ",") {
		from, to, _ := strings.Cut(pair, "=")
		f, err1 := strconv.ParseUint(from, 10, 16)
		t, err2 := strconv.ParseUint(to, 10, 16)
		if err1 == nil && err2 == nil {
			w.PublishedPorts[uint32(f)] = uint32(t)
		}
	}
	return w
}

// ClassOf reads a node as Istio's proxies describe themselves: the id
// <type>~<ip>~<name>.<namespace>~<domain> and the metadata NAMESPACE, LABELS,
// INTERCEPTION_MODE, INSTANCE_IPS, DNS_CAPTURE, GENERATOR, and our own LATEEN_VHDS, which counts only for
// a delta client, and a gateway's LATEEN_PUBLISH_ON and LATEEN_PUBLISHED_PORTS.
func ClassOf(node *corev3.Node, delta bool) (Class, error) {
	parts := strings.Split(node.GetId(), "~")
	if len(parts) != 4 {
		return Class{}, fmt.Errorf("node id %q: want <type>~<ip>~<name>.<namespace>~<domain>", node.GetId())
	}
	meta := func(key string) string { return node.GetMetadata().GetFields()[key].GetStringValue() }
	c := Class{Namespace: meta("NAMESPACE"), Mode: compile.ModeRedirect}
	if c.Namespace == "" {
		// Istio takes it from the id, then from the domain.
		if _, ns, ok := strings.Cut(parts[2], "."); ok {
			c.Namespace = ns
		} else {
			c.Namespace, _, _ = strings.Cut(parts[3], ".")
		}
	}
	switch parts[0] {
	case "sidecar":
	case "router":
		c.Mode = compile.ModeGateway
	default:
		return Class{}, fmt.Errorf("node id %q: proxies of type %q are not served; want sidecar or router", node.GetId(), parts[0])
	}
	addr, err := netip.ParseAddr(parts[1])
	if err != nil {
		return Class{}, fmt.Errorf("node id %q: %w", node.GetId(), err)
	}
	c.Address = addr.Unmap().String()
	c.Pod, _, _ = strings.Cut(parts[2], ".")
	if pod, ok := strings.CutSuffix(parts[2], "."+c.Namespace); ok {
		c.Pod = pod // pod names may contain dots
	}
	c.Addresses = otherAddresses(meta("INSTANCE_IPS"), c.Address)
	if meta("GENERATOR") == "grpc" {
		return Class{Mode: compile.ModeProxyless, Namespace: c.Namespace, Labels: labelsOf(node)}, nil
	}
	if c.Mode != compile.ModeGateway && meta("INTERCEPTION_MODE") == string(compile.ModeNone) {
		c.Mode = compile.ModeNone
	}
	if c.Mode == compile.ModeGateway {
		if a, err := netip.ParseAddr(meta("LATEEN_PUBLISH_ON")); err == nil {
			c.PublishOn = a.String()
		}
		c.PublishedPorts = meta("LATEEN_PUBLISHED_PORTS")
	}
	c.DNS = meta("DNS_CAPTURE") == "true"
	c.OnDemand = delta && meta("LATEEN_VHDS") == "true"
	c.Labels = labelsOf(node)
	return c, nil
}

// otherAddresses are those of a comma-separated list beside the first, in order.
func otherAddresses(list, first string) string {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		if a, err := netip.ParseAddr(strings.TrimSpace(s)); err == nil && !a.IsLoopback() && !a.IsLinkLocalUnicast() && a.Unmap().String() != first && len(out) < maxAddresses {
			out = append(out, a.Unmap().String())
		}
	}
	return strings.Join(out, ",")
}

// maxAddresses bounds what one proxy may claim to have.
const maxAddresses = 16

func labelsOf(node *corev3.Node) string {
	labels := map[string]string{}
	for k, v := range node.GetMetadata().GetFields()["LABELS"].GetStructValue().GetFields() {
		// A label cannot contain these; they would make two label sets look alike.
		if s := v.GetStringValue(); !strings.ContainsAny(k+s, ",=") {
			labels[k] = s
		}
	}
	return compile.EncodeLabels(labels, nil)
}
