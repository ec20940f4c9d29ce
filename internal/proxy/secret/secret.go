// SPDX-License-Identifier: Apache-2.0

// Package secret keeps the proxy's named certificates and validation contexts
// as values that may change at any time: from the configuration itself, from
// files, from SDS over ADS, and from the workload's own identity.
//
// A connection reads the value it needs when it shakes hands, so a rotation
// touches no connection that stands. A name nobody has given a value yet has
// none: handshakes that need it fail, they never go on without it.
package secret

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// KeyPair is a certificate chain with its private key. It is immutable.
type KeyPair struct {
	TLS tls.Certificate // Leaf is set
	// Source says where it came from, for /certs and logs: "inline", "file
	// /path", "sds", "identity".
	Source string
}

// Trust is what a peer's certificate must hold to. It is immutable.
type Trust struct {
	Roots  *x509.CertPool      // nil: the context names no authority
	CAs    []*x509.Certificate // those in Roots
	System bool                // the operating system's roots are asked for
	CRLs   []*x509.RevocationList
	// Context is the message it was made from, without its CA bytes; the
	// consumer reads the SAN matchers and hashes from it. nil when there are none.
	Context *tlsv3.CertificateValidationContext
	Source  string // as in KeyPair
	// Sum is equal for contexts that accept the same peers. Sessions made under
	// one sum are not resumed under another.
	Sum [sha256.Size]byte
}

// Value is one named secret that may change. Its zero value holds nothing.
type Value[T any] struct {
	p       atomic.Pointer[T]
	changed atomic.Int64 // UnixNano of the last Set, for admin
}

// Load is the current secret, nil while there is none.
func (v *Value[T]) Load() *T { return v.p.Load() }

// Set replaces the secret; nil takes it away.
func (v *Value[T]) Set(t *T, now time.Time) {
	v.p.Store(t)
	v.changed.Store(now.UnixNano())
}

// Changed is when Set was last called, zero when never.
func (v *Value[T]) Changed() time.Time {
	if n := v.changed.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// Store holds the named secrets of a proxy. The zero value is ready.
type Store struct {
	mu     sync.Mutex // guards the maps and onWant
	pairs  map[string]*Value[KeyPair]
	trusts map[string]*Value[Trust]
	wanted map[string]bool // names to be fetched by SDS over ADS
	onWant func(name string)
	files  *files
}

// KeyPair gives the value of that name, made empty on first use. The same name
// always gives the same value.
func (s *Store) KeyPair(name string) *Value[KeyPair] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slot(&s.pairs, name)
}

// Trust gives the validation context of that name, as KeyPair does.
func (s *Store) Trust(name string) *Value[Trust] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slot(&s.trusts, name)
}

func slot[T any](m *map[string]*Value[T], name string) *Value[T] {
	v := (*m)[name]
	if v == nil {
		if *m == nil {
			*m = make(map[string]*Value[T])
		}
		v = new(Value[T])
		(*m)[name] = v
	}
	return v
}

// Want says that a configuration refers to name through SDS over ADS. The
// function given to OnWant is told once per name.
func (s *Store) Want(name string) {
	s.mu.Lock()
	if s.wanted[name] {
		s.mu.Unlock()
		return
	}
	if s.wanted == nil {
		s.wanted = make(map[string]bool)
	}
	s.wanted[name] = true
	f := s.onWant
	s.mu.Unlock()
	if f != nil {
		f(name)
	}
}

// OnWant registers the one listener for new names to fetch by SDS over ADS and
// returns those wanted so far, sorted. f is called outside the store's lock.
func (s *Store) OnWant(f func(name string)) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onWant = f
	names := make([]string, 0, len(s.wanted))
	for n := range s.wanted {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Inline gives a value that holds a key pair of the configuration itself. When
// msg names files the value follows them.
func (s *Store) Inline(msg *tlsv3.TlsCertificate, kp *KeyPair) *Value[KeyPair] {
	v := new(Value[KeyPair])
	v.Set(kp, time.Now())
	chain, key := msg.GetCertificateChain(), msg.GetPrivateKey()
	if chain.GetFilename() == "" && key.GetFilename() == "" {
		return v
	}
	// The same files are one watched value however many contexts name them.
	name := "file " + chain.GetFilename() + " " + key.GetFilename()
	named := s.KeyPair(name)
	named.Set(kp, time.Now())
	s.watch("pair/"+name, func() error {
		kp, err := DecodeKeyPair(msg)
		if err == nil {
			named.Set(kp, time.Now())
		}
		return err
	}, chain, key)
	return named
}

// InlineTrust does for a validation context what Inline does for a key pair.
func (s *Store) InlineTrust(msg *tlsv3.CertificateValidationContext, t *Trust) *Value[Trust] {
	v := new(Value[Trust])
	v.Set(t, time.Now())
	if ca, crl := msg.GetTrustedCa(), msg.GetCrl(); ca.GetFilename() != "" || crl.GetFilename() != "" {
		name := "file " + ca.GetFilename() + " " + crl.GetFilename()
		named := s.Trust(name)
		named.Set(t, time.Now())
		s.watch("trust/"+name, func() error {
			t, err := DecodeTrust(msg)
			if err == nil {
				t.Context = nil // its rules were decoded with the TLS context
				named.Set(t, time.Now())
			}
			return err
		}, ca, crl)
		return named
	}
	return v
}

// Local notes a name that this process serves itself, as Istio's agent does:
// the workload's identity, or files named by "file-cert:CERT~KEY" and
// "file-root:CA" (DestinationRule and Gateway with file paths).
func (s *Store) Local(name string) error {
	if rest, ok := strings.CutPrefix(name, "file-cert:"); ok {
		cert, key, ok := strings.Cut(rest, "~")
		if !ok {
			return fmt.Errorf("secret %q: want file-cert:CERTIFICATE~KEY", name)
		}
		return s.setKeyPair(name, &tlsv3.TlsCertificate{CertificateChain: filename(cert), PrivateKey: filename(key)}, true)
	}
	if rest, ok := strings.CutPrefix(name, "file-root:"); ok {
		return s.setTrust(name, &tlsv3.CertificateValidationContext{TrustedCa: filename(rest)}, true)
	}
	return nil
}

func filename(n string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: n}}
}
