// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// RouteInput is what one HTTPRoute or GRPCRoute is compiled from.
type RouteInput struct {
	Route *config.Object
	// Gateways are those of GatewayRefs that are ours.
	Gateways map[compile.Ref]*Gateway
	// Labels are those of the route's namespace.
	Labels map[string]string
	// Services are those of ServiceRefs.
	Services map[compile.Ref]*config.Object
	// Grants are those of the namespaces of ServiceRefs.
	Grants []*config.Object
}

// Route is a compiled route.
type Route struct {
	// Attachments are where its rules are served.
	Attachments []Attachment
	// Listeners are those that it is attached to, served or not.
	Listeners []ListenerRef
	// Parents is its status; times are not set.
	Parents []v1.RouteParentStatus
}

// ListenerRef names a listener of a Gateway.
type ListenerRef struct {
	Gateway  compile.Ref
	Listener string
}

// Attachment is a route's rules on one host of one parent.
type Attachment struct {
	Key    Key
	Route  *config.Object
	Rules  []Rule
	Scheme string // of the listener
	Port   uint32 // of the listener; of a Service that the rules are for; 0: all
	// Gateway is Istio's Gateway of the listener, namespace/name.
	Gateway string
	// Ports are all HTTP ports of the Service.
	Ports []uint32
}

func common(o *config.Object) (parents []v1.ParentReference, hosts []v1.Hostname) {
	switch s := o.Spec.(type) {
	case *v1.HTTPRouteSpec:
		return s.ParentRefs, s.Hostnames
	case *v1.GRPCRouteSpec:
		return s.ParentRefs, s.Hostnames
	}
	return nil, nil
}

// parentRef reads a reference: which kind it is to, and the object.
func parentRef(o *config.Object, p *v1.ParentReference) (gateway, service bool, ref compile.Ref) {
	group, kind := deref(p.Group, v1.GroupName), deref(p.Kind, "Gateway")
	ref = compile.Ref{Namespace: string(deref(p.Namespace, v1.Namespace(o.Namespace))), Name: string(p.Name)}
	return group == v1.GroupName && kind == "Gateway", group == "" && kind == "Service", ref
}

// GatewayRefs are the Gateways that a route names as parents.
func GatewayRefs(o *config.Object) []compile.Ref {
	var out []compile.Ref
	parents, _ := common(o)
	for i := range parents {
		if gateway, _, ref := parentRef(o, &parents[i]); gateway && !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	return out
}

// ServiceRefs are the Services that a route names, as parents or to send to.
func ServiceRefs(o *config.Object) []compile.Ref {
	var out []compile.Ref
	add := func(r compile.Ref) {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	parents, _ := common(o)
	for i := range parents {
		if _, service, ref := parentRef(o, &parents[i]); service {
			add(ref)
		}
	}
	for _, b := range backends(o) {
		if deref(b.Kind, "Service") == "Service" {
			add(backendRef(o, b))
		}
	}
	return out
}

// CompileRoute compiles a route.
func CompileRoute(in RouteInput) *Route {
	rules := in.rules()
	out := &Route{}
	parents, _ := common(in.Route)
	for i := range parents {
		p := &parents[i]
		var accepted metav1.Condition
		switch gateway, service, ref := parentRef(in.Route, p); {
		case gateway && in.Gateways[ref] != nil:
			accepted = in.attach(out, p, in.Gateways[ref], rules)
		case service:
			accepted = in.attachService(out, p, ref, rules)
		default:
			continue // somebody else's, or nobody's
		}
		st := v1.RouteParentStatus{ParentRef: *p, ControllerName: Controller}
		if accepted.Status == metav1.ConditionTrue && rules.allBad() {
			accepted = condition(v1.RouteConditionAccepted, false, rules.reason, in.Route.Generation, "%s", rules.unsupported)
		}
		st.Conditions = append(st.Conditions, accepted, rules.resolved)
		if accepted.Status == metav1.ConditionTrue && rules.unsupported != "" {
			st.Conditions = append(st.Conditions, condition(v1.RouteConditionPartiallyInvalid, true, rules.reason, in.Route.Generation,
				"Dropped Rule(s): %s; requests for them are answered 500", rules.unsupported))
		}
		out.Parents = append(out.Parents, st)
	}
	return out
}

// attach attaches the route to the listeners of a Gateway that a reference
// means, and says how that went.
func (in *RouteInput) attach(out *Route, p *v1.ParentReference, g *Gateway, rules *rules) metav1.Condition {
	no := func(reason v1.RouteConditionReason, message string, args ...any) metav1.Condition {
		return condition(v1.RouteConditionAccepted, false, reason, in.Route.Generation, message, args...)
	}
	_, names := common(in.Route)
	var hosts []string
	for _, h := range names {
		hosts = append(hosts, strings.ToLower(string(h)))
	}
	meant, admitted, attached := 0, 0, 0
	for i := range g.Listeners {
		l := &g.Listeners[i]
		if p.SectionName != nil && *p.SectionName != "" && string(*p.SectionName) != l.Name || p.Port != nil && uint32(*p.Port) != l.Port {
			continue
		}
		meant++
		if !l.admits(g.Ref, in.Route, in.Labels) {
			continue
		}
		admitted++
		both := intersect(l.Hostname, hosts)
		if len(both) == 0 {
			continue
		}
		attached++
		if r := (ListenerRef{g.Ref, l.Name}); !slices.Contains(out.Listeners, r) {
			out.Listeners = append(out.Listeners, r)
			if l.usable {
				in.serve(out, g, l, both, rules)
			}
		}
	}
	switch {
	case meant == 0:
		return no(v1.RouteReasonNoMatchingParent, "Gateway %s has no listener with that sectionName and port", g.Ref)
	case admitted == 0:
		return no(v1.RouteReasonNotAllowedByListeners, "allowedRoutes of the listeners of Gateway %s do not admit %ss of namespace %s", g.Ref, in.Route.Kind.Name, in.Route.Namespace)
	case attached == 0:
		return no(v1.RouteReasonNoMatchingListenerHostname, "no hostname of the route is one of the listeners of Gateway %s", g.Ref)
	}
	return in.accepted(rules)
}

// serve adds the attachments to one listener. Of plain listeners of a port the
// one with the most specific hostname serves a host, and no other.
func (in *RouteInput) serve(out *Route, g *Gateway, l *Listener, hosts []string, rules *rules) {
	for _, h := range hosts {
		taken := slices.ContainsFunc(g.Listeners, func(x Listener) bool {
			return x.usable && x.Port == l.Port && x.Name != l.Name && x.Hostname != "" && covers(x.Hostname, h) && covers(l.Hostname, x.Hostname)
		})
		if taken {
			continue
		}
		out.Attachments = append(out.Attachments, Attachment{
			Key: Key{Parent: g.Ref, Listener: l.Name, Host: h}, Route: in.Route, Rules: rules.list,
			Scheme: strings.ToLower(string(l.Protocol)), Port: l.Port, Gateway: g.Service.Namespace + "/" + g.istioGateway(l.Name),
		})
	}
}

// attachService attaches the route to a Service: of the Service's own namespace
// it is for all its clients, of another one for the clients there.
func (in *RouteInput) attachService(out *Route, p *v1.ParentReference, ref compile.Ref, rules *rules) metav1.Condition {
	no := func(message string, args ...any) metav1.Condition {
		return condition(v1.RouteConditionAccepted, false, v1.RouteReasonNoMatchingParent, in.Route.Generation, message, args...)
	}
	o := in.Services[ref]
	if o == nil {
		return no("there is no Service %s", ref)
	}
	a := Attachment{Key: Key{Parent: ref, Host: compile.ClusterHost(ref)}, Route: in.Route, Rules: rules.list, Port: uint32(deref(p.Port, 0))}
	if ref.Namespace != in.Route.Namespace {
		a.Key.Client = in.Route.Namespace
	}
	for _, port := range o.Spec.(*k8s.Service).Ports {
		if port.Protocol == "" || port.Protocol == "TCP" {
			a.Ports = append(a.Ports, port.Number)
		}
	}
	if a.Port != 0 && !slices.Contains(a.Ports, a.Port) {
		return no("Service %s has no TCP port %d", ref, a.Port)
	}
	if !slices.ContainsFunc(out.Attachments, func(x Attachment) bool { return x.Key == a.Key && x.Port == a.Port }) {
		out.Attachments = append(out.Attachments, a)
	}
	return in.accepted(rules)
}
