// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/lateen-mesh/lateen/internal/proxy/dns"
	"github.com/lateen-mesh/lateen/internal/proxy/xdsclient"
)

// capturesDNS says whether the pod's DNS queries are redirected here: the node's
// metadata has DNS_CAPTURE, as istio-agent sets it for ISTIO_META_DNS_CAPTURE.
func (s *Server) capturesDNS() bool {
	v := s.bs.Node.GetMetadata().GetFields()["DNS_CAPTURE"]
	return v.GetBoolValue() || strings.EqualFold(v.GetStringValue(), "true")
}

// newDNS makes the DNS proxy when the pod's queries are captured.
func (s *Server) newDNS() error {
	if !s.capturesDNS() {
		return nil
	}
	path := s.opts.ResolvConf
	if path == "" {
		path = "/etc/resolv.conf"
	}
	conf, err := dns.ReadResolvConf(path)
	if err != nil {
		return fmt.Errorf("DNS proxy: %w", err)
	}
	// type~address~name.namespace~domain
	domain := ""
	if parts := strings.Split(s.bs.Node.GetId(), "~"); len(parts) == 4 {
		domain = parts[3]
	}
	s.dns = dns.New(dns.Options{
		Addresses: s.opts.DNSAddresses, Domain: domain,
		Namespace: s.bs.Node.GetMetadata().GetFields()["NAMESPACE"].GetStringValue(),
		Resolv:    conf, Registry: s.registry, Log: s.log,
	})
	return nil
}

// startDNS serves the pod's DNS queries.
func (s *Server) startDNS(ctx context.Context, wg *sync.WaitGroup) error {
	if s.dns == nil {
		return nil
	}
	if err := s.dns.Listen(ctx); err != nil {
		return fmt.Errorf("DNS proxy: %w", err)
	}
	if s.bs.ADS == nil {
		s.dns.Update(nil) // nobody will send names
	}
	wg.Go(func() { s.dns.Run(ctx) })
	return nil
}

// applyNames takes the name table. A control plane that has none answers with
// nothing: then every question is for the servers of resolv.conf.
func (s *Server) applyNames(changed []xdsclient.Resource) map[string]error {
	var names map[string]dns.Name
	for _, r := range changed {
		var err error
		if names, err = dns.DecodeNameTable(r.Body()); err != nil {
			return map[string]error{r.Name: err}
		}
	}
	s.dns.Update(names)
	return nil
}

// ServeNameTable prints the DNS proxy's name table, for /debug/ndsz.
func (s *Server) ServeNameTable(w http.ResponseWriter, _ *http.Request) {
	if s.dns == nil {
		http.Error(w, "DNS is not captured: set ISTIO_META_DNS_CAPTURE to \"true\" in the proxy's metadata", http.StatusNotFound)
		return
	}
	b, err := s.dns.Dump()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n'))
}
