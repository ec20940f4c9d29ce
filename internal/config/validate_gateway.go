// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

var gatewayProtocols = []string{"HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS"}

func validateGateway(c *checker, o *Object) {
	g := o.Spec.(*networking.Gateway)
	c.check(len(g.Servers) > 0, "spec.servers", "add a server", "is required")
	c.selector("spec.selector", g.Selector)
	if len(g.Selector) == 0 {
		c.warn("spec.selector", "name the labels of the gateway workload, such as istio: ingressgateway", "is empty: the servers are put on every gateway")
	}
	names := map[string]bool{}
	for i, s := range g.Servers {
		p := fmt.Sprintf("spec.servers[%d]", i)
		c.server(p, s)
		if s.Port != nil && s.Port.Name != "" {
			c.check(!names[s.Port.Name], p+".port.name", "rename one of them", "%q is there twice", clip(s.Port.Name))
			names[s.Port.Name] = true
		}
	}
}

func (c *checker) server(p string, s *networking.Server) {
	for i, h := range s.Hosts {
		c.gatewayHost(fmt.Sprintf("%s.hosts[%d]", p, i), h)
	}
	if s.Bind != "" && !strings.HasPrefix(s.Bind, "unix://") {
		c.check(isIP(s.Bind), p+".bind", "write an IP address", "%q is not an address", clip(s.Bind))
	}
	if s.DefaultEndpoint != "" {
		c.loopback(p+".defaultEndpoint", s.DefaultEndpoint)
	}
	if s.Port == nil {
		return
	}
	protocol := strings.ToUpper(s.Port.Protocol)
	if protocol != "" {
		c.oneOf(p+".port.protocol", protocol, gatewayProtocols, "is not a protocol of a gateway")
	}
	terminates := protocol == "HTTPS" || protocol == "TLS"
	switch {
	case s.Tls == nil:
		c.check(!terminates, p+".tls", "add tls with a mode", "is required with protocol %s", protocol)
	case terminates:
		c.check(!s.Tls.HttpsRedirect, p+".tls.httpsRedirect", "put it on the HTTP server", "has no use with protocol %s", protocol)
		c.serverTLS(p+".tls", s.Tls)
	default:
		redirectOnly := s.Tls.HttpsRedirect && s.Tls.CredentialName+s.Tls.ServerCertificate == ""
		c.check(redirectOnly, p+".tls", "use protocol HTTPS or TLS; with HTTP, only httpsRedirect", "is not possible with protocol %s", protocol)
	}
}

// gatewayHost checks [namespace/]host, with namespace one of ., * and a name.
func (c *checker) gatewayHost(path, h string) {
	host := h
	if ns, rest, ok := strings.Cut(h, "/"); ok {
		c.check(ns == "." || ns == "*" || isLabel(ns), path, "write host, or namespace/host", "%q has no namespace before the /", clip(h))
		host = rest
	}
	c.check(isWildcardHost(host) || isIP(host), path, "write host, *.host or *", "%q is not a host", clip(h))
}

// loopback checks an endpoint of the application beside the proxy.
func (c *checker) loopback(path, endpoint string) {
	const fix = "write 127.0.0.1:<port>, 0.0.0.0:<port>, [::1]:<port>, :<port> or unix://<path>"
	if file, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		c.check(strings.HasPrefix(file, "/") || strings.HasPrefix(file, "@"), path, fix, "%q is not an absolute path", clip(file))
		return
	}
	i := strings.LastIndexByte(endpoint, ':')
	port, err := 0, error(nil)
	if i >= 0 {
		port, err = strconv.Atoi(endpoint[i+1:])
	}
	if i < 0 || err != nil || port < 1 || port > 65535 {
		c.fail(path, fix, "%q has no port", clip(endpoint))
		return
	}
	host := strings.TrimSuffix(strings.TrimPrefix(endpoint[:i], "["), "]")
	if host == "" {
		return
	}
	a, err := netip.ParseAddr(host)
	c.check(err == nil && (a.IsLoopback() || a.IsUnspecified()), path, fix, "%q is not an address of the workload itself", clip(host))
}

func (c *checker) serverTLS(p string, t *networking.ServerTLSSettings) {
	mode := t.Mode.String()
	c.check(t.CredentialName == "" || len(t.CredentialNames) == 0, p+".credentialNames", "keep one of them", "cannot be there together with credentialName")
	c.check(len(t.TlsCertificates) == 0 || t.CredentialName == "" && len(t.CredentialNames) == 0, p+".tlsCertificates", "keep one of them", "cannot be there together with a credential name")
	c.check(len(t.CredentialNames) <= 2, p+".credentialNames", "keep one RSA and one ECDSA credential", "has %d entries", len(t.CredentialNames))
	c.check(len(t.TlsCertificates) <= 2, p+".tlsCertificates", "keep one RSA and one ECDSA certificate", "has %d entries", len(t.TlsCertificates))
	files := t.ServerCertificate + t.PrivateKey + t.CaCertificates
	named := t.CredentialName != "" || len(t.CredentialNames) > 0
	switch t.Mode {
	case networking.ServerTLSSettings_ISTIO_MUTUAL:
		c.check(files == "" && !named, p, "remove the certificates, or use mode MUTUAL", "mode ISTIO_MUTUAL uses the workload's own certificate")
	case networking.ServerTLSSettings_PASSTHROUGH, networking.ServerTLSSettings_AUTO_PASSTHROUGH:
		if files != "" || named {
			c.warn(p, "remove the certificates", "mode %s does not use certificates", mode)
		}
	default:
		if named {
			c.check(t.CaCrl == "", p+".caCrl", "put it into the credential", "cannot be there together with a credential name")
			return
		}
		if len(t.TlsCertificates) == 0 {
			c.check(t.ServerCertificate != "", p+".serverCertificate", "name the file, or a credentialName", "is required with mode %s", mode)
			c.check(t.PrivateKey != "", p+".privateKey", "name the file, or a credentialName", "is required with mode %s", mode)
		}
		c.check(t.Mode == networking.ServerTLSSettings_SIMPLE || t.CaCertificates != "" || t.CaCertCredentialName != "", p+".caCertificates",
			"name the file with the clients' roots, or a credentialName", "is required with mode %s", mode)
		c.check(t.Mode != networking.ServerTLSSettings_SIMPLE || t.CaCrl == "", p+".caCrl", "use mode MUTUAL", "has no use with mode SIMPLE")
	}
	if t.MaxProtocolVersion != networking.ServerTLSSettings_TLS_AUTO {
		c.check(t.MinProtocolVersion <= t.MaxProtocolVersion, p+".minProtocolVersion", "lower it", "%s is above the maximum, %s", t.MinProtocolVersion, t.MaxProtocolVersion)
	}
}
