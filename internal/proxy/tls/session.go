// SPDX-License-Identifier: Apache-2.0

package tlsconf

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"sync"

	"github.com/lateen-mesh/lateen/internal/proxy/secret"
)

// A resumed session stands for the certificates of the handshake it came from.
// VerifyConnection checks them again, but failing there would break off a
// connection that a full handshake with today's certificates would make. So
// sessions are dropped when what they rest on has changed: on the client the
// trust and its own certificate, on the server the trust.

// sessions is a client's cache of sessions.
type sessions struct {
	client *Client
	mu     sync.Mutex // guards the rest
	lru    tls.ClientSessionCache
	trust  [sha256.Size]byte
	own    *secret.KeyPair
}

// current drops the sessions of other secrets. Callers hold mu.
func (s *sessions) current() tls.ClientSessionCache {
	trust := s.client.common.peer.sum()
	var own *secret.KeyPair
	if certs := s.client.common.certs; len(certs) > 0 {
		own = certs[0].Load()
	}
	if s.lru == nil || s.trust != trust || s.own != own {
		s.lru = tls.NewLRUClientSessionCache(s.client.sessions)
		s.trust, s.own = trust, own
	}
	return s.lru
}

// Get implements tls.ClientSessionCache.
func (s *sessions) Get(key string) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current().Get(key)
}

// Put implements tls.ClientSessionCache.
func (s *sessions) Put(key string, cs *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current().Put(key, cs)
}

// sum is that of the trust in use, zero without any.
func (p *peer) sum() (sum [sha256.Size]byte) {
	if p != nil {
		if t := p.trust.Load(); t != nil {
			sum = t.Sum
		}
	}
	return sum
}

// bindTickets writes the trust's sum into the server's tickets and leaves
// tickets of another sum unused: the client then makes a full handshake.
func bindTickets(cfg *tls.Config, p *peer) {
	cfg.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		sum := p.sum()
		ss.Extra = append(ss.Extra, sum[:])
		return cfg.EncryptTicket(cs, ss)
	}
	cfg.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := cfg.DecryptTicket(identity, cs)
		if err != nil || ss == nil {
			return nil, err
		}
		sum := p.sum()
		if len(ss.Extra) == 0 || !bytes.Equal(ss.Extra[len(ss.Extra)-1], sum[:]) {
			return nil, nil
		}
		return ss, nil
	}
}
