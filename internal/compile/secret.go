// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// The names by which gateways ask for secrets of their namespace, as Istio's do.
const (
	credentialScheme = "kubernetes://"
	rootsSuffix      = "-cacert"
)

func credentialName(secret string) string { return credentialScheme + secret }

func rootsName(secret string) string {
	return credentialScheme + strings.TrimSuffix(secret, rootsSuffix) + rootsSuffix
}

// CredentialSecrets are the Secrets, in the order they are looked for, that a
// credential may come from: roots are in one of their own, or beside the
// certificate.
func CredentialSecrets(resource string) []string {
	name, ok := strings.CutPrefix(resource, credentialScheme)
	if !ok || name == "" || strings.Contains(name, "/") {
		return nil
	}
	if own, ok := strings.CutSuffix(name, rootsSuffix); ok && own != "" {
		return []string{name, own}
	}
	return []string{name}
}

// RuleCredentials are the resource names of the secrets that a DestinationRule
// needs its clients to have.
func RuleCredentials(o *config.Object) []string {
	var out []string
	add := func(t *networking.ClientTLSSettings) {
		if t.GetCredentialName() != "" {
			out = append(out, credentialName(t.CredentialName), rootsName(t.CredentialName))
		}
	}
	visit := func(tp *networking.TrafficPolicy) {
		add(tp.GetTls())
		for _, p := range tp.GetPortLevelSettings() {
			add(p.GetTls())
		}
	}
	spec := o.Spec.(*networking.DestinationRule)
	visit(spec.TrafficPolicy)
	for _, s := range spec.Subsets {
		visit(s.TrafficPolicy)
	}
	return out
}

// Credential makes the secret of that resource name from those there are of
// CredentialSecrets, in that order. Both forms are read: tls.crt, tls.key and
// ca.crt, or cert, key and cacert. An error names the key that is wrong, and
// never what it holds.
func Credential(resource string, found []*config.Object) (*mesh.Secret, error) {
	if len(found) == 0 {
		return nil, errors.New("there is no such Secret")
	}
	roots := len(CredentialSecrets(resource)) > 1
	if roots {
		var first error
		for _, o := range found {
			s, err := rootsOf(resource, o)
			if err == nil {
				return s, nil
			}
			if first == nil {
				first = err
			}
		}
		// A name may end like one of roots and be one of a certificate.
		if s, err := keyPair(resource, found[0]); err == nil && found[0].Name == strings.TrimPrefix(resource, credentialScheme) {
			return s, nil
		}
		return nil, first
	}
	return keyPair(resource, found[0])
}

func either(data map[string][]byte, keys ...string) []byte {
	for _, k := range keys {
		if len(data[k]) > 0 {
			return data[k]
		}
	}
	return nil
}

func keyPair(resource string, o *config.Object) (*mesh.Secret, error) {
	data := o.Spec.(*k8s.Secret).Data
	s := &mesh.Secret{Name: resource, Certificate: either(data, "tls.crt", "cert"), Key: either(data, "tls.key", "key")}
	switch {
	case len(s.Certificate) == 0:
		return nil, errors.New("it has neither tls.crt nor cert: put the certificate chain there")
	case len(s.Key) == 0:
		return nil, errors.New("it has neither tls.key nor key: put the private key there")
	}
	if _, err := tls.X509KeyPair(s.Certificate, s.Key); err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	return s, nil
}

func rootsOf(resource string, o *config.Object) (*mesh.Secret, error) {
	data := o.Spec.(*k8s.Secret).Data
	s := &mesh.Secret{Name: resource, Roots: either(data, "ca.crt", "cacert"), Revoked: either(data, "ca.crl", "crl")}
	if len(s.Roots) == 0 {
		return nil, errors.New("it has neither ca.crt nor cacert: put the roots of the clients there")
	}
	if !x509.NewCertPool().AppendCertsFromPEM(s.Roots) {
		return nil, errors.New("ca.crt holds no certificate in PEM")
	}
	return s, nil
}

// CheckSecret tells what keeps a Secret from being of any use to a gateway.
func CheckSecret(o *config.Object) error {
	data := o.Spec.(*k8s.Secret).Data
	if len(either(data, "tls.crt", "cert"))+len(either(data, "tls.key", "key")) > 0 {
		if _, err := keyPair(o.Name, o); err != nil {
			return err
		}
	}
	if len(either(data, "ca.crt", "cacert")) > 0 {
		_, err := rootsOf(o.Name, o)
		return err
	}
	return nil
}
