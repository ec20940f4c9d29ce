// SPDX-License-Identifier: Apache-2.0

// Package identity is the mesh's notion of who somebody is: SPIFFE identities
// in Istio's form, the certificates that carry them, and the client that has a
// key certified by the mesh's authority. It is small, for the proxy links it.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// maxID bounds a SPIFFE id in bytes (SPIFFE-ID section 2.3).
const maxID = 2048

// ID is a workload's identity in Istio's form.
type ID struct {
	TrustDomain    string // cluster.local unless the mesh says otherwise
	Namespace      string
	ServiceAccount string
}

// String is the identity as a SPIFFE id:
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
func (id ID) String() string { return "spiffe://" + id.Principal() }

// Principal is the identity as Istio's policies write it, without the scheme.
func (id ID) Principal() string {
	return id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// Check says whether each part may stand in a SPIFFE id.
func (id ID) Check() error {
	if err := checkTrustDomain(id.TrustDomain); err != nil {
		return err
	}
	if err := checkSegment("namespace", id.Namespace); err != nil {
		return err
	}
	if err := checkSegment("service account", id.ServiceAccount); err != nil {
		return err
	}
	if n := len(id.String()); n > maxID {
		return fmt.Errorf("spiffe id: %d bytes are more than %d", n, maxID)
	}
	return nil
}

// Parse reads a SPIFFE id in Istio's form and refuses everything else: no port,
// user, query, fragment, percent encoding, upper-case trust domain, empty or
// dot segments (SPIFFE-ID section 2).
func Parse(s string) (ID, error) {
	if len(s) > maxID {
		return ID{}, fmt.Errorf("spiffe id: %d bytes are more than %d", len(s), maxID)
	}
	rest, ok := strings.CutPrefix(s, "spiffe://")
	if !ok {
		return ID{}, errors.New("spiffe id: does not begin with spiffe://")
	}
	part := strings.Split(rest, "/")
	if len(part) != 5 || part[1] != "ns" || part[3] != "sa" {
		return ID{}, errors.New("spiffe id: is not <trust domain>/ns/<namespace>/sa/<service account>")
	}
	id := ID{TrustDomain: part[0], Namespace: part[2], ServiceAccount: part[4]}
	if err := id.Check(); err != nil {
		return ID{}, err
	}
	return id, nil
}

func checkTrustDomain(s string) error {
	if s == "" || len(s) > 255 {
		return fmt.Errorf("spiffe id: trust domain of %d bytes: want 1 to 255", len(s))
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("spiffe id: trust domain holds byte %#x: only a-z, 0-9, dot, dash and underscore may", c)
		}
	}
	return nil
}

func checkSegment(what, s string) error {
	if s == "" || s == "." || s == ".." {
		return fmt.Errorf("spiffe id: %s %q may not be", what, s)
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("spiffe id: %s holds byte %#x: only letters, digits, dot, dash and underscore may", what, c)
		}
	}
	return nil
}

// FromCertificate gives the identity of a certificate, which must have been
// verified before. A certificate with more or fewer than one URI name has none
// (X.509-SVID section 2).
func FromCertificate(c *x509.Certificate) (ID, error) {
	if len(c.URIs) != 1 {
		return ID{}, fmt.Errorf("certificate: %d URI names, want one spiffe id", len(c.URIs))
	}
	return Parse(c.URIs[0].String())
}

// FromSubject gives the identity of a Kubernetes service account token by its
// sub claim, system:serviceaccount:<namespace>:<name>.
func FromSubject(trustDomain, sub string) (ID, error) {
	rest, ok := strings.CutPrefix(sub, "system:serviceaccount:")
	ns, sa, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 {
		return ID{}, errors.New("token subject: is not system:serviceaccount:<namespace>:<name>")
	}
	id := ID{TrustDomain: trustDomain, Namespace: ns, ServiceAccount: sa}
	if err := id.Check(); err != nil {
		return ID{}, fmt.Errorf("token subject: %w", err)
	}
	return id, nil
}
