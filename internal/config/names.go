// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"regexp"
	"strings"
)

// The forms of names that Kubernetes and Istio accept
// (k8s.io/apimachinery/pkg/util/validation, RFC 1123).
var (
	labelForm      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	anyCaseLabel   = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)
	hostLabel      = regexp.MustCompile(`^[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9_])?$`)
	qualifiedForm  = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	envName        = regexp.MustCompile(`^[-._a-zA-Z][-._a-zA-Z0-9]*$`)  // k8s.io/apimachinery IsEnvVarName
	headerNameForm = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$") // RFC 9110 section 5.6.2 token
)

// isLabel reports whether s is an RFC 1123 label in lower case.
func isLabel(s string) bool { return len(s) <= 63 && labelForm.MatchString(s) }

// isSubdomain reports whether s is a Kubernetes object name.
func isSubdomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !labelForm.MatchString(part) {
			return false
		}
	}
	return true
}

// isQualifiedName reports whether s is a label key, [prefix/]name.
func isQualifiedName(s string) bool {
	if prefix, name, ok := strings.Cut(s, "/"); ok {
		if !isSubdomain(prefix) {
			return false
		}
		s = name
	}
	return len(s) <= 63 && qualifiedForm.MatchString(s)
}

// isLabelValue reports whether s is a label value; it may be empty.
func isLabelValue(s string) bool { return s == "" || len(s) <= 63 && qualifiedForm.MatchString(s) }

// isHost reports whether s is a host name, relative or fully qualified.
func isHost(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 255 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if len(part) > 63 || !hostLabel.MatchString(part) {
			return false
		}
	}
	return true
}

// isWildcardHost reports whether s is *, *.host or a host.
func isWildcardHost(s string) bool {
	if s == "*" {
		return true
	}
	return isHost(strings.TrimPrefix(s, "*."))
}

func isIP(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

func isIPOrPrefix(s string) bool {
	if _, err := netip.ParsePrefix(s); err == nil {
		return true
	}
	return isIP(s)
}
