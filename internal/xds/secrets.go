// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"slices"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
	"github.com/lateen-mesh/lateen/internal/graph"
)

// credentials are the secrets a gateway's configuration refers to.
type credentials struct {
	names []string // resource names, sorted
}

func sameCredentials(a, b *credentials) bool { return slices.Equal(a.names, b.names) }

// secretState is what a class is given, and what could not be given to it.
type secretState struct {
	set     Set
	missing []compile.Held
}

func sameSecrets(a, b *secretState) bool {
	return sameSet(a.set, b.set) && slices.Equal(a.missing, b.missing)
}

// deriveSecrets gives gateways the secrets that they refer to, and no others,
// out of their own namespace only. Sidecars get none: a DestinationRule's
// credential would be readable by every workload that may use the rule. A
// secret that is missing or unusable fails the handshakes that need it; the
// rest of the gateway goes on.
func (v *views) deriveSecrets(g *graph.Graph) {
	wanted := graph.Map(g, "credentials-of-class", v.classes, v.credentials, sameCredentials)
	v.secrets = graph.Map(g, "secrets-of-class", wanted, v.compileSecrets, sameSecrets)
}

func (v *views) credentials(c *graph.Ctx, class Class, _ bool) (*credentials, bool) {
	if class.Mode != compile.ModeGateway {
		return nil, false
	}
	var out credentials
	if own, ok := graph.Fetch(c, v.gateway, class); ok {
		out.names = slices.Clone(own.credentials)
	}
	k, _ := graph.Fetch(c, v.scopeOf, class)
	scope, ok := graph.Fetch(c, v.out.scopes, k)
	if ok {
		seen := map[string]bool{"": true}
		for _, svc := range scope.Services {
			if seen[svc.Rules] {
				continue
			}
			seen[svc.Rules] = true
			for _, rule := range v.out.rulesOf(c, compile.SplitRefs(svc.Rules)) {
				out.names = append(out.names, compile.RuleCredentials(rule)...)
			}
		}
	}
	slices.Sort(out.names)
	out.names = slices.Compact(out.names)
	return &out, true
}

func (v *views) compileSecrets(c *graph.Ctx, class Class, wanted *credentials) (*secretState, bool) {
	out := &secretState{}
	if class.Account != "" && !v.provesPod(c, class) {
		return out, true
	}
	for _, name := range wanted.names {
		from := compile.CredentialSecrets(name)
		var found []*config.Object
		for _, n := range from {
			if o, ok := graph.Fetch(c, v.cluster.secrets, compile.Ref{Namespace: class.Namespace, Name: n}); ok {
				found = append(found, o)
			}
		}
		s, err := compile.Credential(name, found)
		if err != nil {
			key := config.Key{Kind: config.Secret, Namespace: class.Namespace, Name: name}
			if len(from) > 0 {
				key.Name = from[len(from)-1]
			}
			out.missing = append(out.missing, compile.Held{Key: key, Reason: "gateways of the namespace refer to it as " + name + ": " + err.Error()})
			continue
		}
		out.set = append(out.set, v.interner.Make(SecretType, name, Secret(s)))
	}
	out.set = sortSet(out.set)
	return out, true
}

// provesPod tells whether a gateway is the pod that it says it is: one of its
// account, at its address, so that the labels which select it are the pod's own.
// Else every account of a namespace could read the keys of its gateways by
// claiming their labels.
func (v *views) provesPod(c *graph.Ctx, class Class) bool {
	pod, ok := graph.Fetch(c, v.cluster.pods, compile.Ref{Namespace: class.Namespace, Name: class.Pod})
	if !ok || pod.Spec.(*k8s.Pod).ServiceAccount != class.Account {
		return false
	}
	_, ok = compile.PodWorkload(class.workload(), pod)
	return ok
}

// Missing lists the secrets that gateways which are held refer to and that
// cannot be given to them, by key.
func (p *Pipeline) Missing() []compile.Held {
	var out []compile.Held
	for _, e := range p.views.secrets.List() {
		out = append(out, e.Value.missing...)
	}
	slices.SortFunc(out, func(a, b compile.Held) int { return a.Key.Compare(b.Key) })
	return slices.Compact(out)
}
