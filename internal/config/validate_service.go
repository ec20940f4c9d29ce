// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

var serviceProtocols = []string{"HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "HTTP_PROXY", "MONGO", "MYSQL", "REDIS", "TCP", "TLS", "UDP"}

func validateServiceEntry(c *checker, o *Object) {
	s := o.Spec.(*networking.ServiceEntry)
	for i, h := range s.Hosts {
		p := fmt.Sprintf("spec.hosts[%d]", i)
		c.check(isWildcardHost(h), p, "write a host such as api.example.com", "%q is not a host", clip(h))
		c.check(h != "*", p, "name the hosts", `"*" would be every host there is`)
	}
	c.check(len(s.Hosts) <= 256, "spec.hosts", "split it", "has %d entries, more than 256", len(s.Hosts))
	c.exportTo("spec.exportTo", s.ExportTo, true)
	c.servicePorts(s)
	cidr := s.Resolution == networking.ServiceEntry_NONE || s.Resolution == networking.ServiceEntry_STATIC
	for i, a := range s.Addresses {
		p := fmt.Sprintf("spec.addresses[%d]", i)
		c.check(isIPOrPrefix(a), p, "write an IP address or a CIDR", "%q is not an address", clip(a))
		c.check(cidr || !strings.Contains(a, "/"), p, "use resolution NONE or STATIC", "a CIDR is not possible with resolution %s", s.Resolution)
	}
	if s.WorkloadSelector != nil {
		c.selector("spec.workloadSelector.labels", s.WorkloadSelector.Labels)
		c.check(len(s.Endpoints) == 0, "spec.workloadSelector", "keep one of them", "cannot be there together with endpoints")
	}
	names := map[string]bool{}
	for _, port := range s.Ports {
		names[port.Name] = true
	}
	for i, e := range s.Endpoints {
		p := fmt.Sprintf("spec.endpoints[%d]", i)
		c.workload(p, e)
		for _, name := range slices.Sorted(maps.Keys(e.Ports)) {
			c.check(names[name], p+".ports["+clip(name)+"]", "name a port of spec.ports", "%q is not a port of the service", clip(name))
		}
	}
	c.resolution(s)
}

func (c *checker) servicePorts(s *networking.ServiceEntry) {
	numbers, names := map[uint32]bool{}, map[string]bool{}
	for i, port := range s.Ports {
		p := fmt.Sprintf("spec.ports[%d]", i)
		c.check(!numbers[port.Number], p+".number", "keep one of them", "%d is there twice", port.Number)
		numbers[port.Number] = true
		if port.Name != "" {
			c.check(len(port.Name) <= 63 && anyCaseLabel.MatchString(port.Name), p+".name", "use letters, digits and -", "%q is not a name", clip(port.Name))
			c.check(!names[port.Name], p+".name", "rename one of them", "%q is there twice", clip(port.Name))
		}
		names[port.Name] = true
		if port.Protocol != "" {
			c.oneOf(p+".protocol", strings.ToUpper(port.Protocol), serviceProtocols, "is not a protocol")
		}
		if port.TargetPort != 0 && s.Resolution == networking.ServiceEntry_NONE {
			c.warn(p+".targetPort", "remove it", "has no effect with resolution NONE")
		}
	}
	if len(s.Ports) == 0 {
		c.warn("spec.ports", "add the ports of the service", "is empty, so nothing can be sent to it")
	}
}

func (c *checker) resolution(s *networking.ServiceEntry) {
	wildcard := slices.IndexFunc(s.Hosts, func(h string) bool { return strings.HasPrefix(h, "*") })
	switch s.Resolution {
	case networking.ServiceEntry_NONE:
		c.check(len(s.Endpoints) == 0, "spec.endpoints", "use resolution STATIC or DNS", "is not possible with resolution NONE")
	case networking.ServiceEntry_STATIC:
		if len(s.Endpoints) == 0 && s.WorkloadSelector == nil {
			c.warn("spec.endpoints", "add endpoints or a workloadSelector", "is empty, so the service has nowhere to send to")
		}
		for i, e := range s.Endpoints {
			p := fmt.Sprintf("spec.endpoints[%d].address", i)
			socket := strings.HasPrefix(e.Address, "unix://")
			c.check(e.Address == "" || isIP(e.Address) || socket, p, "write an IP address, or use resolution DNS", "%q is not an IP address", clip(e.Address))
			c.check(!socket || len(s.Ports) <= 1, p, "keep one port", "a socket serves one port, there are %d", len(s.Ports))
		}
	case networking.ServiceEntry_DNS, networking.ServiceEntry_DNS_ROUND_ROBIN:
		if len(s.Endpoints) == 0 && s.WorkloadSelector == nil && wildcard >= 0 {
			c.fail(fmt.Sprintf("spec.hosts[%d]", wildcard), "add endpoints, or use resolution NONE or DYNAMIC_DNS", "%q cannot be looked up", clip(s.Hosts[wildcard]))
		}
		for i, e := range s.Endpoints {
			p := fmt.Sprintf("spec.endpoints[%d].address", i)
			c.check(e.Address == "" || isHost(e.Address) || isIP(e.Address), p, "write a host or an IP address", "%q cannot be looked up", clip(e.Address))
		}
		c.check(s.Resolution == networking.ServiceEntry_DNS || len(s.Endpoints) <= 1, "spec.endpoints", "keep one, or use resolution DNS", "has %d entries with resolution DNS_ROUND_ROBIN", len(s.Endpoints))
	case networking.ServiceEntry_DYNAMIC_DNS:
		c.check(len(s.Endpoints) == 0 && s.WorkloadSelector == nil, "spec.endpoints", "remove them", "is not possible with resolution DYNAMIC_DNS")
	}
}

func validateWorkloadEntry(c *checker, o *Object) {
	c.workload("spec", o.Spec.(*networking.WorkloadEntry))
}

func (c *checker) workload(p string, w *networking.WorkloadEntry) {
	switch file, socket := strings.CutPrefix(w.Address, "unix://"); {
	case w.Address == "":
		c.check(w.Network != "", p+".address", "write an IP address, a host or unix://<path>", "is required")
	case socket:
		c.check((strings.HasPrefix(file, "/") || strings.HasPrefix(file, "@")) && !strings.HasSuffix(file, "/"), p+".address", "write unix:// and the absolute path of a socket", "%q is not a socket", clip(w.Address))
		c.check(len(w.Ports) == 0, p+".ports", "remove them", "is not possible with a socket")
	default:
		c.check(isIP(w.Address) || isHost(w.Address), p+".address", "write an IP address, a host or unix://<path>", "%q is not an address", clip(w.Address))
	}
	for _, name := range slices.Sorted(maps.Keys(w.Ports)) {
		path := p + ".ports[" + clip(name) + "]"
		c.check(len(name) < 63 && anyCaseLabel.MatchString(name), path, "use letters, digits and -", "%q is not a name", clip(name))
		c.check(w.Ports[name] >= 1 && w.Ports[name] <= 65535, path, "write a port of 1 to 65535", "%d is not a port", w.Ports[name])
	}
	c.labels(p+".labels", w.Labels)
	c.check(w.ServiceAccount == "" || isSubdomain(w.ServiceAccount), p+".serviceAccount", "use lower-case letters, digits, - and .", "%q is not a name", clip(w.ServiceAccount))
	c.check(len(w.Locality) <= 2048 && strings.Count(w.Locality, "/") <= 2, p+".locality", "write region, region/zone or region/zone/subzone", "%q is not a locality", clip(w.Locality))
}
