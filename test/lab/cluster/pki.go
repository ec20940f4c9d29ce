// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// An authority signs the certificates of one lab, and is forgotten with it.
type authority struct {
	dir  string
	name string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// validity of all certificates: longer than any lab, shorter than a mistake.
const validity = 30 * 24 * time.Hour

// newAuthority writes NAME.crt and NAME.key in dir.
func newAuthority(dir, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, name: name, key: key}
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: "lateen-lab-" + name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if a.cert, err = a.sign(t, t, key, name); err != nil {
		return nil, err
	}
	return a, nil
}

// issue writes NAME.crt and NAME.key for a client (user and groups) that is a
// server under the names and addresses of hosts.
func (a *authority) issue(name, user string, groups, hosts []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	_, err = a.sign(t, a.cert, key, name)
	return err
}

func (a *authority) sign(t, parent *x509.Certificate, key *ecdsa.PrivateKey, name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t.SerialNumber, t.NotBefore, t.NotAfter = serial, now.Add(-time.Hour), now.Add(validity)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", name, err)
	}
	if err := errors.Join(writePEM(filepath.Join(a.dir, name+".crt"), "CERTIFICATE", der, 0o644), writeKey(filepath.Join(a.dir, name+".key"), key)); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func writeKey(to string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(to, "EC PRIVATE KEY", der, 0o600)
}

func writePEM(to, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(to, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

// writePKI makes all keys and certificates of the lab, as kubeadm names them.
func (s *State) writePKI() error {
	dir := s.path("pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(dir, "ca")
	if err != nil {
		return err
	}
	// Requests that the API server passes on for others are signed apart, so
	// that no client of the cluster can pretend to be it.
	front, err := newAuthority(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(accounts.Public())
	if err != nil {
		return err
	}
	first := s.Nodes[0].Address.String()
	errs := []error{
		writeKey(filepath.Join(dir, "sa.key"), accounts),
		writePEM(filepath.Join(dir, "sa.pub"), "PUBLIC KEY", public, 0o644),
		front.issue("front-proxy-client", "front-proxy-client", nil, nil),
		ca.issue("apiserver", "kube-apiserver", nil, []string{"localhost", "127.0.0.1", first, Services.Addr().Next().String(),
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + Domain}),
		ca.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil),
		ca.issue("metrics-server", "lab:metrics-server", []string{"system:masters"}, []string{"metrics-server.kube-system.svc", first}),
		ca.issue("admin", "kubernetes-admin", []string{"system:masters"}, nil),
		ca.issue("kube-controller-manager", "system:kube-controller-manager", nil, []string{"localhost", "127.0.0.1"}),
		ca.issue("kube-scheduler", "system:kube-scheduler", nil, []string{"localhost", "127.0.0.1"}),
		ca.issue("kube-proxy", "system:kube-proxy", nil, nil),
	}
	for _, n := range s.Nodes {
		errs = append(errs, ca.issue("kubelet-"+n.Name, "system:node:"+n.Name, []string{"system:nodes"}, []string{n.Name, n.Address.String()}))
	}
	users := []string{"kube-controller-manager", "kube-scheduler", "kube-proxy", "metrics-server"}
	for _, n := range s.Nodes {
		users = append(users, "kubelet-"+n.Name)
	}
	for _, u := range users {
		errs = append(errs, s.writeKubeconfig(s.path("pki", u+".conf"), u))
	}
	return errors.Join(append(errs, s.writeKubeconfig(s.Kubeconfig, "admin"))...)
}

// Server is the API server's address, the same from every node and pod.
func (s *State) Server() string { return "https://" + s.Nodes[0].Address.String() + ":6443" }

func (s *State) writeKubeconfig(to, user string) error {
	data := func(file string) string {
		b, err := os.ReadFile(s.path("pki", file))
		if err != nil {
			return "" // the caller reports that the file was not written
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[4]s
  user:
    client-certificate-data: %[5]s
    client-key-data: %[6]s
contexts:
- name: %[1]s
  context:
    cluster: %[1]s
    user: %[4]s
current-context: %[1]s
`, s.Name, s.Server(), data("ca.crt"), user, data(user+".crt"), data(user+".key"))
	return os.WriteFile(to, []byte(text), 0o600)
}
