// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/cespare/xxhash/v2"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/match"
	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// hashKind says what a hash policy hashes.
type hashKind uint8

const (
	hashHeader hashKind = iota
	hashCookie
	hashSourceIP
	hashQuery
)

type hashPolicy struct {
	kind     hashKind
	terminal bool
	header   headerName
	name     string // of the cookie or query parameter
	cookie   *HashCookie
}

// HashCookie is a cookie that a client without one is to be given, so that its
// next requests hash alike.
type HashCookie struct {
	Name       string
	Path       string
	TTL        time.Duration // 0: a session cookie
	Attributes []HashCookieAttribute
}

// HashCookieAttribute is one more attribute of a HashCookie.
type HashCookieAttribute struct{ Name, Value string }

func compileHash(ps []*routev3.RouteAction_HashPolicy) ([]hashPolicy, error) {
	var hs []hashPolicy
	for i, p := range ps {
		h := hashPolicy{terminal: p.GetTerminal()}
		switch s := p.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			h.kind, h.header = hashHeader, newHeaderName(s.Header.GetHeaderName())
			if s.Header.GetRegexRewrite() != nil {
				return nil, fmt.Errorf("hash_policy[%d].header.regex_rewrite: not supported", i)
			}
			if h.header.name == nil {
				return nil, fmt.Errorf("hash_policy[%d].header.header_name: is empty", i)
			}
		case *routev3.RouteAction_HashPolicy_Cookie_:
			if err := h.compileCookie(s.Cookie); err != nil {
				return nil, fmt.Errorf("hash_policy[%d].cookie.%w", i, err)
			}
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			if !s.ConnectionProperties.GetSourceIp() {
				continue
			}
			h.kind = hashSourceIP
		case *routev3.RouteAction_HashPolicy_QueryParameter_:
			h.kind, h.name = hashQuery, s.QueryParameter.GetName()
		default:
			return nil, fmt.Errorf("hash_policy[%d]: policy_specifier %T is not supported", i, s)
		}
		hs = append(hs, h)
	}
	return hs, nil
}

func (h *hashPolicy) compileCookie(c *routev3.RouteAction_HashPolicy_Cookie) error {
	h.kind, h.name = hashCookie, c.GetName()
	if h.name == "" {
		return errors.New("name: is empty")
	}
	if c.GetTtl() == nil {
		return nil // nothing to generate
	}
	if c.GetTtl().CheckValid() != nil || c.GetTtl().AsDuration() < 0 {
		return errors.New("ttl: is not a valid duration")
	}
	h.cookie = &HashCookie{Name: c.GetName(), Path: c.GetPath(), TTL: c.GetTtl().AsDuration()}
	for _, a := range c.GetAttributes() {
		h.cookie.Attributes = append(h.cookie.Attributes, HashCookieAttribute{a.GetName(), a.GetValue()})
	}
	return nil
}

// Hashes reports whether the route has hash policies.
func (a *Action) Hashes() bool { return len(a.hash) > 0 }

// Hash combines the hash policies in order (Envoy: HashPolicyImpl::generateHash).
// It reports false when none applies: the balancer then draws at random. When a
// cookie with a lifetime is missing, generate names it: the caller makes a
// value, sends it with the response and mixes it in with CombineHash.
func (a *Action) Hash(req *message.Request, remote netip.Addr) (hash uint64, ok bool, generate *HashCookie) {
	for i := range a.hash {
		h := &a.hash[i]
		v, found, cookie := h.hash(req, remote)
		if cookie != nil && generate == nil {
			generate = cookie
		}
		if found {
			hash, ok = combine(hash, ok, v), true
		}
		if ok && h.terminal {
			break
		}
	}
	return hash, ok, generate
}

// CombineHash mixes the hash of a generated cookie's value into what Hash gave.
func CombineHash(hash uint64, ok bool, value []byte) uint64 {
	return combine(hash, ok, xxhash.Sum64(value))
}

func combine(hash uint64, ok bool, v uint64) uint64 {
	if !ok {
		return v
	}
	return bits.RotateLeft64(hash, 1) ^ v
}

func (h *hashPolicy) hash(req *message.Request, remote netip.Addr) (uint64, bool, *HashCookie) {
	switch h.kind {
	case hashHeader:
		v, ok := h.headerHash(&req.Header)
		return v, ok, nil
	case hashCookie:
		if v, ok := cookieValue(&req.Header, h.name); ok {
			return xxhash.Sum64(v), true, nil
		}
		return 0, false, h.cookie
	case hashQuery:
		v, ok := match.QueryValue(req.Path, h.name)
		return xxhash.Sum64(v), ok, nil
	}
	if !remote.IsValid() {
		return 0, false, nil
	}
	var buf [64]byte
	return xxhash.Sum64(remote.Unmap().AppendTo(buf[:0])), true, nil
}

// headerHash hashes every value of the header, in order.
func (h *hashPolicy) headerHash(fields *message.Header) (hash uint64, ok bool) {
	for i := range fields.Fields {
		f := &fields.Fields[i]
		if h.header.id != message.Unknown && f.ID == h.header.id || bytes.Equal(f.Name, h.header.name) {
			hash, ok = combine(hash, ok, xxhash.Sum64(f.Value)), true
		}
	}
	return hash, ok
}

// cookieValue finds a cookie by name (RFC 6265 section 4.2.1).
func cookieValue(fields *message.Header, name string) ([]byte, bool) {
	for i := range fields.Fields {
		if fields.Fields[i].ID != message.Cookie {
			continue
		}
		for rest := fields.Fields[i].Value; len(rest) > 0; {
			pair := rest
			if j := bytes.IndexByte(rest, ';'); j >= 0 {
				pair, rest = rest[:j], rest[j+1:]
			} else {
				rest = nil
			}
			pair = bytes.TrimSpace(pair)
			j := bytes.IndexByte(pair, '=')
			if j < 0 || string(pair[:j]) != name {
				continue
			}
			v := pair[j+1:]
			if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
				v = v[1 : len(v)-1]
			}
			return v, true
		}
	}
	return nil, false
}
