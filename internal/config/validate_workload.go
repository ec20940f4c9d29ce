// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	networkingv1beta1 "istio.io/api/networking/v1beta1"
	security "istio.io/api/security/v1beta1"

	lateen "github.com/lateen-mesh/lateen/api/mesh/v1alpha1"
)

func validateSidecar(c *checker, o *Object) {
	s := o.Spec.(*networking.Sidecar)
	if w := s.WorkloadSelector; w != nil {
		c.selector("spec.workloadSelector.labels", w.Labels)
		if len(w.Labels) == 0 {
			c.warn("spec.workloadSelector", "add labels or remove it", "has no labels, so it means the whole namespace")
		}
	}
	c.check(len(s.Ingress) > 0 || len(s.Egress) > 0 || s.OutboundTrafficPolicy != nil || s.InboundConnectionPool != nil,
		"spec", "add ingress, egress, outboundTrafficPolicy or inboundConnectionPool", "is empty")
	c.connectionPool("spec.inboundConnectionPool", s.InboundConnectionPool)
	ports := map[uint32]bool{}
	for i, in := range s.Ingress {
		p := fmt.Sprintf("spec.ingress[%d]", i)
		c.sidecarIngress(p, in)
		if n := in.GetPort().GetNumber(); n != 0 {
			c.check(!ports[n], p+".port.number", "keep one of them", "%d is there twice", n)
			ports[n] = true
		}
	}
	c.sidecarEgress(s)
	if t := s.OutboundTrafficPolicy; t != nil && t.EgressProxy != nil {
		c.check(t.Mode == networking.OutboundTrafficPolicy_ALLOW_ANY, "spec.outboundTrafficPolicy.egressProxy", "use mode ALLOW_ANY", "has a meaning only with mode ALLOW_ANY")
		c.destination("spec.outboundTrafficPolicy.egressProxy", t.EgressProxy)
		c.check(t.EgressProxy.Port != nil, "spec.outboundTrafficPolicy.egressProxy.port", "add the port", "is required")
	}
}

func validateProxyConfig(c *checker, o *Object) {
	s := o.Spec.(*networkingv1beta1.ProxyConfig)
	if s.Selector != nil {
		c.selector("spec.selector.matchLabels", s.Selector.MatchLabels)
	}
	c.check(s.Concurrency.GetValue() >= 0, "spec.concurrency", "write 0 or more", "is %d", s.Concurrency.GetValue())
	for _, k := range slices.Sorted(maps.Keys(s.EnvironmentVariables)) {
		c.check(envName.MatchString(k), "spec.environmentVariables["+clip(k)+"]", "write letters, digits, -, _ and ., not beginning with a digit", "%q is not a variable's name", clip(k))
	}
	if t := s.Image.GetImageType(); t != "" {
		c.oneOf("spec.image.imageType", t, []string{"default", "debug", "distroless"}, "is not an image type")
	}
}

func (c *checker) sidecarPort(p string, port *networking.SidecarPort, bind string) {
	socket := strings.HasPrefix(bind, "unix://")
	if port != nil {
		c.check(port.Number > 0 || socket, p+".port.number", "write a port of 1 to 65535", "is required")
		c.check(port.Number == 0 || !socket, p+".bind", "remove the port's number", "a socket has no port")
		if port.Protocol != "" {
			c.oneOf(p+".port.protocol", strings.ToUpper(port.Protocol), serviceProtocols, "is not a protocol")
		}
	}
	if bind != "" && !socket {
		c.check(isIP(bind), p+".bind", "write an IP address", "%q is not an address", clip(bind))
	}
}

func (c *checker) sidecarIngress(p string, in *networking.IstioIngressListener) {
	c.sidecarPort(p, in.Port, in.Bind)
	c.check(!strings.HasPrefix(in.Bind, "unix://"), p+".bind", "write an IP address", "a socket is not possible for ingress")
	if in.DefaultEndpoint != "" {
		c.loopback(p+".defaultEndpoint", in.DefaultEndpoint)
	}
	c.connectionPool(p+".connectionPool", in.ConnectionPool)
	if t := in.Tls; t != nil {
		c.check(!t.HttpsRedirect, p+".tls.httpsRedirect", "remove it", "is not possible for a sidecar")
		c.check(t.CredentialName == "", p+".tls.credentialName", "name certificate files", "is not possible for a sidecar")
		c.check(len(t.SubjectAltNames) == 0, p+".tls.subjectAltNames", "use an AuthorizationPolicy", "is not possible for a sidecar")
		c.check(t.Mode != networking.ServerTLSSettings_ISTIO_MUTUAL && t.Mode != networking.ServerTLSSettings_AUTO_PASSTHROUGH,
			p+".tls.mode", "use a PeerAuthentication", "%s is not possible for a sidecar", t.Mode)
		c.serverTLS(p+".tls", t)
	}
}

func (c *checker) sidecarEgress(s *networking.Sidecar) {
	ports := map[string]bool{}
	for i, e := range s.Egress {
		p := fmt.Sprintf("spec.egress[%d]", i)
		c.sidecarPort(p, e.Port, e.Bind)
		if e.Port == nil {
			c.check(i == len(s.Egress)-1, p, "put it last", "has no port, so those after it are never reached")
			c.check(!strings.HasPrefix(e.Bind, "unix://"), p+".bind", "add a port with its protocol", "a socket needs a port")
		} else if n := e.Port.Number; n != 0 {
			// Istio wants the number alone to be unique; with addresses of
			// their own, as TCP services without interception have, one port
			// may be bound more than once.
			key := fmt.Sprintf("%s:%d", e.Bind, n)
			c.check(!ports[key], p+".port.number", "keep one of them", "%d is there twice", n)
			ports[key] = true
		}
		for j, h := range e.Hosts {
			c.egressHost(fmt.Sprintf("%s.hosts[%d]", p, j), h)
		}
	}
}

// egressHost checks namespace/host, with namespace one of ., *, ~ and a name.
func (c *checker) egressHost(path, h string) {
	ns, host, ok := strings.Cut(h, "/")
	if !ok {
		c.fail(path, `write namespace/host, such as "./*" or "istio-system/*"`, "%q has no namespace", clip(h))
		return
	}
	c.check(ns == "." || ns == "*" || ns == "~" || isLabel(ns), path, "write ., *, ~ or a namespace before the /", "%q has no namespace", clip(h))
	c.check(isWildcardHost(host), path, "write host, *.host or * after the /", "%q is not a host", clip(h))
}

func validatePeerAuthentication(c *checker, o *Object) {
	a := o.Spec.(*security.PeerAuthentication)
	labels := a.GetSelector().GetMatchLabels()
	c.selector("spec.selector.matchLabels", labels)
	c.check(len(a.PortLevelMtls) == 0 || len(labels) > 0, "spec.portLevelMtls", "add a selector with matchLabels", "needs a selector: the ports are those of a workload")
	for _, port := range slices.Sorted(maps.Keys(a.PortLevelMtls)) {
		c.check(port >= 1 && port <= 65535, fmt.Sprintf("spec.portLevelMtls[%d]", port), "write a port of 1 to 65535", "%d is not a port", port)
	}
}

func validateLocalWorkload(c *checker, o *Object) {
	w := o.Spec.(*lateen.LocalWorkload)
	c.check(isSubdomain(w.Entry), "spec.entry", "name a WorkloadEntry of the namespace", "%q is not a name", clip(w.Entry))
	for i, arg := range w.Command {
		c.check(!strings.ContainsRune(arg, 0), fmt.Sprintf("spec.command[%d]", i), "", "has a NUL character")
	}
	if len(w.Command) > 0 {
		c.check(w.Command[0] != "", "spec.command[0]", "name the program", "is empty")
	}
	for _, k := range slices.Sorted(maps.Keys(w.Env)) {
		c.check(k != "" && !strings.ContainsAny(k, "=\x00") && !strings.ContainsRune(w.Env[k], 0), "spec.env["+clip(k)+"]", "", "%q is not an environment variable", clip(k))
	}
	if r := w.Ready; r != nil {
		c.check(r.Path == "" || strings.HasPrefix(r.Path, "/"), "spec.ready.path", "start it with /", "%q is not a path", clip(r.Path))
		c.check(r.Port <= 65535, "spec.ready.port", "write a port of 1 to 65535", "%d is not a port", r.Port)
	}
}
