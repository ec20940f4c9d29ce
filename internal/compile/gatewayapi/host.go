// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"slices"
	"strings"
)

// covers tells whether a listener's host covers another. A wildcard covers any
// number of labels before its suffix, at least one; the empty host covers all.
func covers(listener, host string) bool {
	if listener == "" || listener == "*" || listener == host {
		return true
	}
	suffix, ok := strings.CutPrefix(listener, "*")
	return ok && strings.HasSuffix(strings.TrimPrefix(host, "*"), suffix) && len(host) > len(suffix)
}

// intersect returns the hosts that a route serves on a listener: of each pair
// the narrower one. No hosts of the route mean the listener's.
func intersect(listener string, route []string) []string {
	if len(route) == 0 {
		return []string{anyHost(listener)}
	}
	var out []string
	for _, h := range route {
		if covers(h, listener) {
			h = listener
		} else if !covers(listener, h) {
			continue
		}
		if h = anyHost(h); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

func anyHost(h string) string {
	if h == "" {
		return "*"
	}
	return h
}
