// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// Rule is one match of one rule of a route, as VirtualService routes.
type Rule struct {
	rank   rank
	routes []*networking.HTTPRoute
	// redirect: the port of the routes' redirect is the listener's, unless it
	// is said.
	redirect *v1.HTTPRequestRedirectFilter
}

// Equal tells whether two rules are the same.
func (r *Rule) Equal(o *Rule) bool {
	return r.rank == o.rank && slices.EqualFunc(r.routes, o.routes, func(a, b *networking.HTTPRoute) bool { return a == b || proto.Equal(a, b) }) &&
		reflect.DeepEqual(r.redirect, o.redirect)
}

// rules is all rules of a route, and what was wrong with them.
type rules struct {
	list     []Rule
	resolved metav1.Condition
	// unsupported says what a rule asks for that cannot be given, of the first
	// such rule; reason is the standard's.
	unsupported string
	reason      v1.RouteConditionReason
	bad, all    int
	// without says what is asked for and has no effect yet.
	without []string
}

// accepted is the condition of a route that a parent takes.
func (in *RouteInput) accepted(r *rules) metav1.Condition {
	message := "Route was valid"
	if len(r.without) > 0 {
		message += ", but " + strings.Join(r.without, " and ")
	}
	return condition(v1.RouteConditionAccepted, true, v1.RouteReasonAccepted, in.Route.Generation, "%s", message)
}

// lacks notes what has no effect, once.
func (r *rules) lacks(what string) {
	if !slices.Contains(r.without, what) {
		r.without = append(r.without, what)
	}
}

func (r *rules) allBad() bool { return r.all > 0 && r.bad == r.all }

// unsupported is an error about a rule that cannot be served as it is meant.
type unsupported struct {
	reason v1.RouteConditionReason
	text   string
}

func (e *unsupported) Error() string { return e.text }

func unsupportedf(format string, args ...any) error {
	return &unsupported{v1.RouteReasonUnsupportedValue, fmt.Sprintf(format, args...)}
}

// backend is one backendRef of either kind of route.
type backend struct {
	v1.BackendObjectReference
	weight  int32
	filters []v1.HTTPRouteFilter
}

// ruleSpec is what is common to the rules of both kinds of routes.
type ruleSpec struct {
	name     string
	matches  []match
	filters  []v1.HTTPRouteFilter
	backends []backend
	timeouts *v1.HTTPRouteTimeouts
	retry    *v1.HTTPRouteRetry
	session  bool
}

func specs(o *config.Object) []ruleSpec {
	switch s := o.Spec.(type) {
	case *v1.HTTPRouteSpec:
		return httpRules(s)
	case *v1.GRPCRouteSpec:
		return grpcRules(s)
	}
	return nil
}

func httpRules(s *v1.HTTPRouteSpec) []ruleSpec {
	var out []ruleSpec
	for i := range s.Rules {
		r := &s.Rules[i]
		spec := ruleSpec{
			name: string(deref(r.Name, "")), filters: r.Filters, timeouts: r.Timeouts, retry: r.Retry, session: r.SessionPersistence != nil,
		}
		for j := range r.Matches {
			spec.matches = append(spec.matches, httpMatch(&r.Matches[j]))
		}
		for _, b := range r.BackendRefs {
			spec.backends = append(spec.backends, backend{b.BackendObjectReference, deref(b.Weight, 1), b.Filters})
		}
		out = append(out, spec)
	}
	return out
}

// backends are all objects that a route sends to, mirrors included.
func backends(o *config.Object) []v1.BackendObjectReference {
	var out []v1.BackendObjectReference
	mirrors := func(list []v1.HTTPRouteFilter) {
		for i := range list {
			if m := list[i].RequestMirror; m != nil {
				out = append(out, m.BackendRef)
			}
		}
	}
	for _, r := range specs(o) {
		mirrors(r.filters)
		for _, b := range r.backends {
			out = append(out, b.BackendObjectReference)
			mirrors(b.filters)
		}
	}
	return out
}

func backendRef(o *config.Object, b v1.BackendObjectReference) compile.Ref {
	return compile.Ref{Namespace: string(deref(b.Namespace, v1.Namespace(o.Namespace))), Name: string(b.Name)}
}

func (in *RouteInput) rules() *rules {
	out := &rules{resolved: condition(v1.RouteConditionResolvedRefs, true, v1.RouteReasonResolvedRefs, in.Route.Generation, "All references resolved")}
	for i, spec := range specs(in.Route) {
		out.all++
		name := spec.name
		if name == "" {
			name = fmt.Sprintf("%s.%s.%d", in.Route.Namespace, in.Route.Name, i)
		}
		if len(spec.matches) == 0 {
			spec.matches = []match{{rank: rank{class: classPrefix, length: 1}, path: pathMatch{prefix: "/"}}}
		}
		for j := range spec.matches {
			rule, err := in.rule(&spec, &spec.matches[j], out)
			if err != nil {
				if j == 0 {
					out.bad++
				}
				if out.unsupported == "" {
					out.unsupported, out.reason = fmt.Sprintf("rules[%d]: %v", i, err), v1.RouteReasonUnsupportedValue
					if u, ok := err.(*unsupported); ok {
						out.reason = u.reason
					}
				}
				rule = Rule{routes: []*networking.HTTPRoute{{Match: spec.matches[j].requests(), DirectResponse: &networking.HTTPDirectResponse{Status: 500}}}}
			}
			rule.rank = spec.matches[j].rank
			rule.rank.rule, rule.rank.match = i, j
			for _, r := range rule.routes {
				r.Name = name
			}
			out.list = append(out.list, rule)
		}
	}
	return out
}

// rule compiles one match of a rule. Where nothing can be sent to, requests are
// answered 500, as the standard asks.
func (in *RouteInput) rule(spec *ruleSpec, m *match, out *rules) (Rule, error) {
	if m.err != nil {
		return Rule{}, m.err
	}
	if spec.session {
		return Rule{}, unsupportedf("sessionPersistence is not supported; use a DestinationRule with consistentHash")
	}
	base := &networking.HTTPRoute{}
	f, err := in.filters(spec.filters, base, out)
	if err != nil {
		return Rule{}, err
	}
	if err := timeouts(spec, base); err != nil {
		return Rule{}, err
	}
	if f.redirect != nil {
		routes, err := redirects(f.redirect, m, base)
		return Rule{routes: routes, redirect: f.redirect}, err
	}
	if err := in.forward(spec.backends, base, out); err != nil {
		return Rule{}, err
	}
	routes, err := rewrites(f.rewrite, m, base)
	return Rule{routes: routes}, err
}

// forward sends to the backends by weight. The share of those that cannot be
// sent to is answered 500.
func (in *RouteInput) forward(list []backend, r *networking.HTTPRoute, out *rules) error {
	var bad, all float64
	for i := range list {
		b := &list[i]
		all += float64(b.weight)
		to := in.destination(b.BackendObjectReference, out)
		if to == nil {
			bad += float64(b.weight)
			continue
		}
		d := &networking.HTTPRouteDestination{Destination: to, Weight: b.weight}
		var scratch networking.HTTPRoute
		f, err := in.filters(b.filters, &scratch, out)
		switch {
		case err != nil:
			return err
		case f.redirect != nil || f.rewrite != nil || len(scratch.Mirrors) > 0 || scratch.CorsPolicy != nil:
			return unsupportedf("backendRefs[%d].filters: only RequestHeaderModifier and ResponseHeaderModifier are supported there", i)
		}
		d.Headers = scratch.Headers
		r.Route = append(r.Route, d)
	}
	switch {
	case all == 0 || bad == all:
		r.Route = nil
		r.DirectResponse = &networking.HTTPDirectResponse{Status: 500}
	case bad > 0:
		r.Fault = &networking.HTTPFaultInjection{Abort: &networking.HTTPFaultInjection_Abort{
			ErrorType: &networking.HTTPFaultInjection_Abort_HttpStatus{HttpStatus: 500}, Percentage: &networking.Percent{Value: 100 * bad / all},
		}}
	}
	if len(r.Route) == 1 {
		r.Route[0].Weight = 100
	}
	return nil
}

// destination resolves a reference, or returns nil and says why not in the
// route's condition ResolvedRefs.
func (in *RouteInput) destination(b v1.BackendObjectReference, out *rules) *networking.Destination {
	bad := func(reason v1.RouteConditionReason, message string, args ...any) *networking.Destination {
		if out.resolved.Status == metav1.ConditionTrue { // the first one counts
			out.resolved = condition(v1.RouteConditionResolvedRefs, false, reason, in.Route.Generation, message, args...)
		}
		return nil
	}
	ref := backendRef(in.Route, b)
	group, kind := string(deref(b.Group, "")), string(deref(b.Kind, "Service"))
	if group != "" || kind != "Service" {
		return bad(v1.RouteReasonInvalidKind, "backendRef %s: kind %s of group %q is not supported, use Service", ref, kind, group)
	}
	if !granted(in.Grants, reference{from: in.Route, kind: kind, namespace: ref.Namespace, to: ref.Name}) {
		return bad(v1.RouteReasonRefNotPermitted, "no ReferenceGrant in namespace %s allows %ss of %s to use Service %s", ref.Namespace, in.Route.Kind.Name, in.Route.Namespace, ref.Name)
	}
	o := in.Services[ref]
	if o == nil {
		return bad(v1.RouteReasonBackendNotFound, "there is no Service %s", ref)
	}
	if b.Port == nil {
		return bad(v1.RouteReasonUnsupportedValue, "backendRef %s: a Service needs a port", ref)
	}
	port := uint32(*b.Port)
	if !slices.ContainsFunc(o.Spec.(*k8s.Service).Ports, func(p k8s.ServicePort) bool { return p.Number == port }) {
		return bad(v1.RouteReasonBackendNotFound, "Service %s has no port %d", ref, port)
	}
	return &networking.Destination{Host: compile.ClusterHost(ref), Port: &networking.PortSelector{Number: port}}
}
