// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

func validateDestinationRule(c *checker, o *Object) {
	r := o.Spec.(*networking.DestinationRule)
	if r.Host != "" {
		c.check(isWildcardHost(r.Host) || isIP(r.Host), "spec.host", "write a service such as reviews, or *.example.com", "%q is not a host", clip(r.Host))
	}
	c.exportTo("spec.exportTo", r.ExportTo, false)
	if r.WorkloadSelector != nil {
		c.selector("spec.workloadSelector.matchLabels", r.WorkloadSelector.MatchLabels)
		local := len(r.ExportTo) == 0 || len(r.ExportTo) == 1 && (r.ExportTo[0] == "." || r.ExportTo[0] == o.Namespace)
		c.check(local, "spec.exportTo", `write "."`, "a rule with a workloadSelector is for its own namespace only")
	}
	c.trafficPolicy("spec.trafficPolicy", r.TrafficPolicy)
	seen := map[string]bool{}
	for i, s := range r.Subsets {
		p := fmt.Sprintf("spec.subsets[%d]", i)
		if s.Name != "" {
			c.check(isLabel(s.Name), p+".name", "use lower-case letters, digits and -", "%q is not the name of a subset", clip(s.Name))
			c.check(!seen[s.Name], p+".name", "rename one of them", "%q is there twice", clip(s.Name))
		}
		seen[s.Name] = true
		c.labels(p+".labels", s.Labels)
		c.trafficPolicy(p+".trafficPolicy", s.TrafficPolicy)
	}
}

func (c *checker) selector(path string, labels map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		c.check(!strings.Contains(k+labels[k], "*"), path+"["+clip(k)+"]", "write the whole label", "%q has a wildcard", clip(k+"="+labels[k]))
	}
	c.labels(path, labels)
}

func (c *checker) trafficPolicy(p string, t *networking.TrafficPolicy) {
	if t == nil {
		return
	}
	c.check(proto.Size(t) > 0, p, "add a setting or remove it", "is empty")
	c.loadBalancer(p+".loadBalancer", t.LoadBalancer)
	c.connectionPool(p+".connectionPool", t.ConnectionPool)
	c.outlier(p+".outlierDetection", t.OutlierDetection)
	c.clientTLS(p+".tls", t.Tls)
	seen := map[uint32]bool{}
	for i, s := range t.PortLevelSettings {
		q := fmt.Sprintf("%s.portLevelSettings[%d]", p, i)
		n := s.GetPort().GetNumber()
		c.check(n > 0, q+".port.number", "write a port of 1 to 65535", "is required")
		c.check(!seen[n], q+".port.number", "keep one of them", "%d is there twice", n)
		seen[n] = true
		c.loadBalancer(q+".loadBalancer", s.LoadBalancer)
		c.connectionPool(q+".connectionPool", s.ConnectionPool)
		c.outlier(q+".outlierDetection", s.OutlierDetection)
		c.clientTLS(q+".tls", s.Tls)
	}
	if u := t.Tunnel; u != nil {
		c.check(u.Protocol == "" || u.Protocol == "CONNECT" || u.Protocol == "POST", p+".tunnel.protocol", "write CONNECT or POST", "is %q", clip(u.Protocol))
		c.check(u.TargetHost == "" || isHost(u.TargetHost) || isIP(u.TargetHost), p+".tunnel.targetHost", "", "%q is not a host", clip(u.TargetHost))
	}
	if b := t.RetryBudget; b != nil {
		v := b.Percent.GetValue()
		c.check(v >= 0 && v <= 100, p+".retryBudget.percent", "write 0 to 100", "is %v", v)
	}
}

// maxTableSize is Envoy's bound on the Maglev table.
const maxTableSize = 5000011

func (c *checker) loadBalancer(p string, lb *networking.LoadBalancerSettings) {
	if lb == nil {
		return
	}
	if h := lb.GetConsistentHash(); h != nil {
		c.check(h.HashKey != nil, p+".consistentHash", "add httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName", "says not what to hash")
		if name := h.GetHttpHeaderName(); name != "" {
			c.check(headerNameForm.MatchString(name), p+".consistentHash.httpHeaderName", "", "%q is not a header name", clip(name))
		}
		if m := h.GetMaglev(); m != nil {
			n := m.TableSize
			c.check(n == 0 || n <= maxTableSize && new(big.Int).SetUint64(n).ProbablyPrime(10), p+".consistentHash.maglev.tableSize", "write a prime number such as 65537", "%d is not a prime number of at most %d", n, maxTableSize)
		}
	}
	if lb.Warmup != nil {
		//lint:ignore SA1019 users have it
		c.check(lb.WarmupDurationSecs == nil, p+".warmupDurationSecs", "remove it", "cannot be there together with warmup")
		simple := lb.GetSimple()
		c.check(lb.GetConsistentHash() == nil && simple != networking.LoadBalancerSettings_RANDOM && simple != networking.LoadBalancerSettings_PASSTHROUGH,
			p+".warmup", "use ROUND_ROBIN or LEAST_REQUEST", "needs a load balancer that counts")
		a := lb.Warmup.Aggression
		c.check(a == nil || a.Value >= 1, p+".warmup.aggression", "write 1 or more", "is %v", a.GetValue())
		m := lb.Warmup.MinimumPercent.GetValue()
		c.check(m >= 0 && m <= 100, p+".warmup.minimumPercent", "write 0 to 100", "is %v", m)
	}
	c.locality(p+".localityLbSetting", lb.LocalityLbSetting)
}

func (c *checker) locality(p string, l *networking.LocalityLoadBalancerSetting) {
	if l == nil {
		return
	}
	c.check(len(l.Distribute) == 0 || len(l.Failover)+len(l.FailoverPriority) == 0, p, "keep one of them", "has distribute and failover")
	for i, d := range l.Distribute {
		q := fmt.Sprintf("%s.distribute[%d]", p, i)
		c.check(d.From != "", q+".from", "write region, region/zone or region/zone/subzone", "is required")
		total := uint64(0)
		for _, w := range d.To {
			total += uint64(w)
		}
		c.check(total == 100, q+".to", "make the weights add up to 100", "weights add up to %d", total)
	}
	for i, f := range l.Failover {
		q := fmt.Sprintf("%s.failover[%d]", p, i)
		c.check(f.From != "" && f.To != "" && f.From != f.To, q, "name two regions", "goes from %q to %q", clip(f.From), clip(f.To))
		c.check(!strings.Contains(f.From+f.To, "/"), q, "name regions only", "names a zone")
	}
}

func (c *checker) connectionPool(p string, s *networking.ConnectionPoolSettings) {
	if s == nil {
		return
	}
	c.check(s.Tcp != nil || s.Http != nil, p, "add tcp or http", "is empty")
	if h := s.Http; h != nil {
		upgrade := h.H2UpgradePolicy == networking.ConnectionPoolSettings_HTTPSettings_UPGRADE
		c.check(!upgrade || !h.UseClientProtocol, p+".http.useClientProtocol", "keep one of them", "cannot be there together with h2UpgradePolicy UPGRADE")
	}
}

func (c *checker) outlier(p string, o *networking.OutlierDetection) {
	if o == nil {
		return
	}
	for i, code := range o.OutlierDetectionHttpErrorCodes {
		c.check(code >= 100 && code <= 599, fmt.Sprintf("%s.outlierDetectionHttpErrorCodes[%d]", p, i), "write 100 to 599", "%d is not a status", code)
	}
	c.check(o.ConsecutiveLocalOriginFailures == nil || o.SplitExternalLocalOriginErrors, p+".consecutiveLocalOriginFailures",
		"add splitExternalLocalOriginErrors: true", "has a meaning only with splitExternalLocalOriginErrors")
}

func (c *checker) clientTLS(p string, t *networking.ClientTLSSettings) {
	if t == nil {
		return
	}
	files := t.ClientCertificate + t.PrivateKey + t.CaCertificates + t.CaCrl
	switch t.Mode {
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
		c.check(files == "" && t.CredentialName == "", p, "remove the certificates, or use mode MUTUAL", "mode ISTIO_MUTUAL uses the workload's own certificate")
	case networking.ClientTLSSettings_MUTUAL:
		if t.CredentialName == "" {
			c.check(t.ClientCertificate != "", p+".clientCertificate", "name the file, or a credentialName", "is required with mode MUTUAL")
			c.check(t.PrivateKey != "", p+".privateKey", "name the file, or a credentialName", "is required with mode MUTUAL")
		} else {
			c.check(files == "", p+".credentialName", "keep one of them", "cannot be there together with certificate files")
		}
	case networking.ClientTLSSettings_SIMPLE:
		c.check(t.CredentialName == "" || files == "", p+".credentialName", "keep one of them", "cannot be there together with certificate files")
	case networking.ClientTLSSettings_DISABLE:
		if files != "" || t.CredentialName != "" || t.Sni != "" {
			c.warn(p, "remove the other fields", "mode is DISABLE, so the other fields have no effect")
		}
	}
}
