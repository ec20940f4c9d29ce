// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"strconv"

	"github.com/lateen-mesh/lateen/internal/proxy/retry"
	"github.com/lateen-mesh/lateen/internal/proxy/route"
)

// noRetry is the state of a request without a retry policy.
var noRetry retry.State

// hash computes the route's hash for ring hash and maglev, and makes the cookie
// that a client without one is to be given.
func (x *exchange) hash(a *route.Action) {
	h, ok, generate := a.Hash(x.req, x.entry.DownstreamRemote.Addr())
	if generate != nil {
		x.cookie = generate
		x.cookieVal = x.arena.Commit(strconv.AppendUint(x.arena.Tail(), x.m.rand(), 16))
		h, ok = route.CombineHash(h, ok, x.cookieVal), true
	}
	x.pick.Hash, x.pick.HasHash = h, ok
}

// setCookie is the Set-Cookie value of the generated cookie.
func (x *exchange) setCookie() []byte {
	c := x.cookie
	b := append(x.arena.Tail(), c.Name...)
	b = append(b, `="`...)
	b = append(b, x.cookieVal...)
	b = append(b, '"')
	if c.TTL > 0 {
		b = append(b, "; Max-Age="...)
		b = strconv.AppendInt(b, int64(c.TTL.Seconds()), 10)
	}
	if c.Path != "" {
		b = append(append(b, "; Path="...), c.Path...)
	}
	for _, at := range c.Attributes {
		b = append(append(b, "; "...), at.Name...)
		if at.Value != "" {
			b = append(append(b, '='), at.Value...)
		}
	}
	return x.arena.Commit(append(b, "; HttpOnly"...))
}
