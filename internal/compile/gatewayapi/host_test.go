// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"slices"
	"strings"
	"testing"
)

// TestIntersect follows HTTPRouteSpec.Hostnames: of a listener's and a route's
// hostname the narrower one counts, and a wildcard is at least one label.
func TestIntersect(t *testing.T) {
	for _, c := range []struct{ listener, route, want string }{
		{"", "", "*"},
		{"a.example.com", "", "a.example.com"},
		{"", "a.example.com *.b.example.com", "a.example.com *.b.example.com"},
		{"*.example.com", "a.example.com", "a.example.com"},
		{"*.example.com", "a.b.example.com", "a.b.example.com"},
		{"*.example.com", "example.com", ""},
		{"*.example.com", "notexample.com", ""},
		{"*.example.com", "*.a.example.com", "*.a.example.com"},
		{"*.a.example.com", "*.example.com", "*.a.example.com"},
		{"a.example.com", "*.example.com a.example.com", "a.example.com"},
		{"a.example.com", "b.example.com", ""},
		{"*.example.com", "*.example.com", "*.example.com"},
	} {
		if got := strings.Join(intersect(c.listener, slices.Collect(strings.FieldsSeq(c.route))), " "); got != c.want {
			t.Errorf("listener %q, route %q: got %q, want %q", c.listener, c.route, got, c.want)
		}
	}
}
