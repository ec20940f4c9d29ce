// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"slices"
	"strings"
)

// The names that decide.
const (
	InjectName      = "sidecar.istio.io/inject" // label, or annotation
	RevisionLabel   = "istio.io/rev"
	NamespaceLabel  = "istio-injection"
	StatusName      = "sidecar.istio.io/status"
	TemplatesName   = "inject.istio.io/templates"
	OverridesName   = "proxy.istio.io/overrides"
	ProxyConfigName = "proxy.istio.io/config"
)

// ignoredNamespaces are never injected (Istio's pkg/kube/inject IgnoredNamespaces).
var ignoredNamespaces = []string{"kube-system", "kube-public", "kube-node-lease", "local-path-storage"}

// Rule is what decided about a pod.
type Rule string

const (
	RuleInjected    Rule = "already-injected"
	RuleHostNetwork Rule = "host-network"
	RuleNamespace   Rule = "system-namespace"
	RuleLabel       Rule = "pod-label"
	RuleAnnotation  Rule = "pod-annotation"
	RuleNever       Rule = "never-inject-selector"
	RuleAlways      Rule = "always-inject-selector"
	RulePolicy      Rule = "policy"
)

// Decision says whether a pod gets a proxy, and why.
type Decision struct {
	Inject bool   `json:"inject"`
	Rule   Rule   `json:"rule"`
	Reason string `json:"reason"` // a sentence without its full stop
}

// decide follows Istio's injectRequired (pkg/kube/inject/inject.go). Whether the
// pod is asked about at all, by the labels of its namespace, is the webhook
// configuration's business: see Explain.
func decide(i *injection) Decision {
	pod := i.original
	no := func(r Rule, format string, args ...any) Decision {
		return Decision{false, r, fmt.Sprintf(format, args...)}
	}
	yes := func(r Rule, format string, args ...any) Decision {
		return Decision{true, r, fmt.Sprintf(format, args...)}
	}
	if injected(pod) {
		return no(RuleInjected, "the pod has its proxy already (annotation %s)", StatusName)
	}
	if pod.Spec.HostNetwork {
		return no(RuleHostNetwork, "the pod uses the network of its node (hostNetwork: true), which must not be captured")
	}
	if ns := i.namespace(); slices.Contains(ignoredNamespaces, ns) {
		return no(RuleNamespace, "pods of namespace %s are never injected", ns)
	}
	for _, from := range []struct {
		rule Rule
		what string
		set  map[string]string
	}{{RuleLabel, "label", pod.Labels}, {RuleAnnotation, "annotation", pod.Annotations}} {
		v, ok := from.set[InjectName]
		if !ok {
			continue
		}
		switch strings.ToLower(v) {
		case "y", "yes", "true", "on":
			return yes(from.rule, "the pod's %s %s is %q", from.what, InjectName, v)
		case "n", "no", "false", "off":
			return no(from.rule, "the pod's %s %s is %q", from.what, InjectName, v)
		case "":
			continue // as if it were not there
		}
		// Istio takes what it cannot read for a no.
		return no(from.rule, "the pod's %s %s is %q, which is neither true nor false", from.what, InjectName, v)
	}
	if sel, ok := selects(i.s.NeverInjectSelector, pod.Labels); ok {
		return no(RuleNever, "neverInjectSelector %s matches the pod's labels", sel)
	}
	if sel, ok := selects(i.s.AlwaysInjectSelector, pod.Labels); ok {
		return yes(RuleAlways, "alwaysInjectSelector %s matches the pod's labels", sel)
	}
	if i.s.InjectByDefault {
		return yes(RulePolicy, "the injector's policy is enabled, and the pod says nothing against it")
	}
	return no(RulePolicy, "the injector's policy is disabled, and the pod does not ask for it (label %s: \"true\")", InjectName)
}
