// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"crypto/x509"
	"sort"
	"time"
)

// CertInfo is one certificate as /certs shows it. It never holds key material.
type CertInfo struct {
	Path     string // the source: "inline", "file /path", "sds", "identity"
	Serial   string // hexadecimal
	SANs     []string
	NotAfter time.Time
	// DaysLeft is the whole days until NotAfter, 0 when past.
	DaysLeft  int
	ValidFrom time.Time
}

// Info is one named secret as /certs and the secrets dump show it.
type Info struct {
	Name    string
	Trust   bool // a validation context rather than a certificate
	Active  bool // false: nobody has given it yet
	Updated time.Time
	Certs   []CertInfo // chain, leaf first; or the trusted authorities
	DER     [][]byte   // the same certificates, public by nature
}

// Infos are all named secrets, sorted by name.
func (s *Store) Infos(now time.Time) []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Info
	for name, v := range s.pairs {
		in := Info{Name: name, Updated: v.Changed()}
		if kp := v.Load(); kp != nil {
			in.Active = true
			for i, der := range kp.TLS.Certificate {
				c := kp.TLS.Leaf
				if i > 0 {
					var err error
					if c, err = x509.ParseCertificate(der); err != nil {
						continue
					}
				}
				in.Certs = append(in.Certs, certInfo(c, kp.Source, now))
				in.DER = append(in.DER, der)
			}
		}
		out = append(out, in)
	}
	for name, v := range s.trusts {
		in := Info{Name: name, Trust: true, Updated: v.Changed()}
		if t := v.Load(); t != nil {
			in.Active = true
			for _, c := range t.CAs {
				in.Certs = append(in.Certs, certInfo(c, t.Source, now))
				in.DER = append(in.DER, c.Raw)
			}
		}
		out = append(out, in)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func certInfo(c *x509.Certificate, source string, now time.Time) CertInfo {
	in := CertInfo{Path: source, Serial: c.SerialNumber.Text(16), NotAfter: c.NotAfter, ValidFrom: c.NotBefore}
	for _, u := range c.URIs {
		in.SANs = append(in.SANs, "uri:"+u.String())
	}
	for _, n := range c.DNSNames {
		in.SANs = append(in.SANs, "dns:"+n)
	}
	for _, ip := range c.IPAddresses {
		in.SANs = append(in.SANs, "ip_address:"+ip.String())
	}
	if d := c.NotAfter.Sub(now); d > 0 {
		in.DaysLeft = int(d / (24 * time.Hour))
	}
	return in
}
