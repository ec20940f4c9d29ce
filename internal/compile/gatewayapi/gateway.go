// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// GatewayInput is what one Gateway is compiled from.
type GatewayInput struct {
	Gateway *config.Object
	Class   *config.Object   // its GatewayClass, if there is one
	Grants  []*config.Object // of the namespaces of its certificates
	Secrets map[compile.Ref]*config.Object
	// Services are those that its addresses name.
	Services map[compile.Ref]*config.Object
}

// Gateway is a compiled Gateway of our class.
type Gateway struct {
	Ref        compile.Ref
	Generation int64
	// Objects are Istio's Gateways, one for each listener that can be served.
	Objects   []*config.Object
	Listeners []Listener
	// Reserved are hosts that belong to one listener, whether it has routes or
	// not: they have no rules.
	Reserved []Attachment
	// Managed: what serves it is deployed for it; else Service, which its
	// addresses name, leads to what does.
	Managed bool
	Service compile.Ref
	// Refused: the Gateway as a whole is not accepted, and nothing is to be
	// deployed or changed for it.
	Refused bool
	// refused says why the Gateway as a whole is not accepted.
	refused *metav1.Condition
}

// Listener is one of a Gateway.
type Listener struct {
	Name     string
	Port     uint32
	Protocol v1.ProtocolType
	Hostname string // empty: any
	// Kinds of routes that may attach, of those that there are.
	Kinds      []v1.RouteGroupKind
	Conditions []metav1.Condition
	from       v1.FromNamespaces
	selector   labels.Selector
	usable     bool
}

// Ours tells whether the class is one that we serve.
func Ours(class *config.Object) bool {
	return class != nil && string(class.Spec.(*v1.GatewayClassSpec).ControllerName) == Controller
}

// ClassOf is the name of a Gateway's class.
func ClassOf(o *config.Object) string { return string(o.Spec.(*v1.GatewaySpec).GatewayClassName) }

// Managed tells whether what serves a Gateway is deployed for it: not when its
// addresses name a Service that is there already.
func Managed(spec *v1.GatewaySpec) bool {
	switch len(spec.Addresses) {
	case 0:
		return true
	case 1:
		t := spec.Addresses[0].Type
		return t == nil || *t == v1.IPAddressType
	}
	return false
}

// ServiceTypeAnnotation chooses the type of the Service that is made.
const ServiceTypeAnnotation = "networking.istio.io/service-type"

var serviceTypes = []string{"LoadBalancer", "NodePort", "ClusterIP"}

// ServiceType is the type of the Service that is made for a Gateway.
func ServiceType(o *config.Object) string {
	if i := o.Spec.(*v1.GatewaySpec).Infrastructure; i != nil && i.Annotations[ServiceTypeAnnotation] != "" {
		return string(i.Annotations[ServiceTypeAnnotation])
	}
	if t := o.Annotations[ServiceTypeAnnotation]; t != "" {
		return t
	}
	return serviceTypes[0]
}

// ServiceOf names the Service before what serves the Gateway.
func ServiceOf(o *config.Object) compile.Ref {
	spec := o.Spec.(*v1.GatewaySpec)
	if Managed(spec) {
		return compile.Ref{Namespace: o.Namespace, Name: DeployedName(o.Name, string(spec.GatewayClassName))}
	}
	for _, a := range spec.Addresses {
		if deref(a.Type, v1.IPAddressType) != v1.HostnameAddressType {
			continue
		}
		name, rest, _ := strings.Cut(a.Value, ".")
		namespace, _, _ := strings.Cut(rest, ".")
		if namespace == "" {
			namespace = o.Namespace
		}
		return compile.Ref{Namespace: namespace, Name: name}
	}
	return compile.Ref{}
}

// DeployedName is the name of what is deployed for a Gateway.
func DeployedName(gateway, class string) string { return gateway + "-" + class }

// SecretRefs are the Secrets that a Gateway's listeners refer to.
func SecretRefs(o *config.Object) []compile.Ref {
	var out []compile.Ref
	for _, l := range o.Spec.(*v1.GatewaySpec).Listeners {
		if l.TLS == nil {
			continue
		}
		for _, r := range l.TLS.CertificateRefs {
			out = append(out, compile.Ref{Namespace: string(deref(r.Namespace, v1.Namespace(o.Namespace))), Name: string(r.Name)})
		}
	}
	return out
}

// CompileGateway compiles a Gateway, or returns nil for one of another class.
func CompileGateway(in GatewayInput) *Gateway {
	if !Ours(in.Class) {
		return nil
	}
	o := in.Gateway
	spec := o.Spec.(*v1.GatewaySpec)
	g := &Gateway{Ref: refOf(o), Generation: o.Generation, Managed: Managed(spec), Service: ServiceOf(o)}
	g.refused = in.refuse(spec)
	g.Refused = g.refused != nil
	var selector map[string]string
	if g.Managed {
		selector = map[string]string{NameLabel: o.Name}
	} else if svc := in.Services[g.Service]; svc != nil {
		selector = svc.Spec.(*k8s.Service).Selector
	}
	conflicts := conflicted(spec.Listeners)
	for i := range spec.Listeners {
		l, tls := in.listener(&spec.Listeners[i], conflicts[i])
		l.usable = l.usable && g.refused == nil
		g.Listeners = append(g.Listeners, l)
		if !l.usable || len(selector) == 0 {
			continue
		}
		server := &networking.Server{
			Port:  &networking.Port{Number: l.Port, Protocol: string(l.Protocol), Name: l.Name},
			Hosts: []string{o.Namespace + "/" + anyHost(l.Hostname)}, Tls: tls,
		}
		g.Objects = append(g.Objects, &config.Object{
			Key:        config.Key{Kind: config.Gateway, Namespace: g.Service.Namespace, Name: g.istioGateway(l.Name)},
			APIVersion: config.Gateway.APIVersion(), CreationTimestamp: o.CreationTimestamp, Generation: o.Generation, Source: o.Source,
			Spec: &networking.Gateway{Selector: selector, Servers: []*networking.Server{server}}, Parents: []config.Key{o.Key},
		})
	}
	g.reserve(o)
	return g
}

// reserve keeps requests for a listener's hostname from the routes of a listener
// of the same port with a wider one.
func (g *Gateway) reserve(o *config.Object) {
	for i := range g.Listeners {
		l := &g.Listeners[i]
		wider := slices.ContainsFunc(g.Listeners, func(x Listener) bool {
			return x.usable && x.Port == l.Port && x.Name != l.Name && covers(x.Hostname, l.Hostname)
		})
		if l.usable && l.Hostname != "" && wider {
			g.Reserved = append(g.Reserved, Attachment{
				Key: Key{Parent: g.Ref, Listener: l.Name, Host: l.Hostname}, Route: o, Port: l.Port, Gateway: g.Service.Namespace + "/" + g.istioGateway(l.Name),
			})
		}
	}
}

// istioGateway is the name of the generated Gateway of a listener. A Gateway of
// another namespace than what serves it has its own in the name.
func (g *Gateway) istioGateway(listener string) string {
	name := g.Ref.Name + "-" + generatedInfix + "-" + listener
	if g.Service.Namespace != g.Ref.Namespace {
		name += "~" + g.Ref.Namespace
	}
	return name
}

// refuse says what keeps all of a Gateway from being served. What would make a
// gateway safer is never left out quietly.
func (in *GatewayInput) refuse(spec *v1.GatewaySpec) *metav1.Condition {
	no := func(reason v1.GatewayConditionReason, message string, args ...any) *metav1.Condition {
		c := condition(v1.GatewayConditionAccepted, false, reason, in.Gateway.Generation, message, args...)
		return &c
	}
	if len(spec.Addresses) > 1 {
		return no(v1.GatewayReasonUnsupportedAddress, "spec.addresses: one address is supported, there are %d", len(spec.Addresses))
	}
	for _, a := range spec.Addresses {
		if t := deref(a.Type, v1.IPAddressType); t != v1.IPAddressType && t != v1.HostnameAddressType {
			return no(v1.GatewayReasonUnsupportedAddress, "spec.addresses: type %q is not supported, use IPAddress or Hostname", t)
		}
		if a.Value == "" {
			return no(v1.GatewayReasonUnsupportedAddress, "spec.addresses: an address without a value is not supported; leave addresses out to be given one")
		}
	}
	if ref := ServiceOf(in.Gateway); !Managed(spec) && ref.Namespace != in.Gateway.Namespace && in.Services[ref] == nil {
		return no(v1.GatewayReasonUnsupportedAddress, "spec.addresses: there is no Service %s", ref)
	}
	if t := ServiceType(in.Gateway); !slices.Contains(serviceTypes, t) {
		return no(v1.GatewayReasonInvalidParameters, "annotation %s: %q is no type of a Service, use %s", ServiceTypeAnnotation, t, strings.Join(serviceTypes, ", "))
	}
	if name := ServiceOf(in.Gateway).Name; Managed(spec) && len(name) > 63 {
		return no(v1.GatewayReasonInvalidParameters, "the Service's name %s would be longer than 63 characters: choose a shorter name", name)
	}
	if i := spec.Infrastructure; i != nil && i.ParametersRef != nil {
		return no(v1.GatewayReasonInvalidParameters, "spec.infrastructure.parametersRef is not supported; use labels and annotations")
	}
	if t := spec.TLS; t != nil && t.Frontend != nil {
		return no(v1.GatewayReasonInvalidParameters, "spec.tls.frontend is not supported: clients' certificates would not be checked; use Istio's Gateway with tls.mode MUTUAL")
	}
	if t := spec.TLS; t != nil && t.Backend != nil {
		return no(v1.GatewayReasonInvalidParameters, "spec.tls.backend is not supported; use a DestinationRule with tls.mode MUTUAL")
	}
	return nil
}

// conflicted says of each listener what it conflicts in with an earlier one:
// listeners of a port must have one protocol and hostnames that differ.
func conflicted(list []v1.Listener) []v1.ListenerConditionReason {
	out := make([]v1.ListenerConditionReason, len(list))
	for i := range list {
		for j := range list {
			if i == j || list[i].Port != list[j].Port {
				continue
			}
			switch {
			case list[i].Protocol != list[j].Protocol:
				out[i] = v1.ListenerReasonProtocolConflict
			case deref(list[i].Hostname, "") == deref(list[j].Hostname, "") && out[i] == "":
				out[i] = v1.ListenerReasonHostnameConflict
			}
		}
	}
	return out
}

var routeKinds = []v1.Kind{v1.Kind(config.HTTPRoute.Name), v1.Kind(config.GRPCRoute.Name)}

func (in *GatewayInput) listener(l *v1.Listener, conflict v1.ListenerConditionReason) (Listener, *networking.ServerTLSSettings) {
	out := Listener{
		Name: string(l.Name), Port: uint32(l.Port), Protocol: l.Protocol, Hostname: strings.ToLower(string(deref(l.Hostname, ""))), from: v1.NamespacesFromSame,
	}
	gen := in.Gateway.Generation
	accepted := condition(v1.ListenerConditionAccepted, true, v1.ListenerReasonAccepted, gen, "No errors found")
	resolved := condition(v1.ListenerConditionResolvedRefs, true, v1.ListenerReasonResolvedRefs, gen, "No errors found")
	conflicts := condition(v1.ListenerConditionConflicted, false, v1.ListenerReasonNoConflicts, gen, "No errors found")
	if l.Protocol != v1.HTTPProtocolType && l.Protocol != v1.HTTPSProtocolType {
		accepted = condition(v1.ListenerConditionAccepted, false, v1.ListenerReasonUnsupportedProtocol, gen, "protocol %q is not supported, use HTTP or HTTPS", l.Protocol)
	} else {
		out.Kinds = allowedKinds(l, &resolved, gen)
	}
	if conflict != "" {
		conflicts = condition(v1.ListenerConditionConflicted, true, conflict, gen, "port %d: another listener has it with %s", l.Port, conflictWord(conflict))
		accepted = condition(v1.ListenerConditionAccepted, false, conflict, gen, "the listener conflicts with another one")
	}
	if err := out.namespaces(l); err != nil {
		accepted = condition(v1.ListenerConditionAccepted, false, v1.ListenerReasonUnsupportedValue, gen, "allowedRoutes.namespaces: %v", err)
	}
	var tls *networking.ServerTLSSettings
	if l.Protocol == v1.HTTPSProtocolType && accepted.Status == metav1.ConditionTrue {
		tls = in.tls(l, &accepted, &resolved)
	}
	out.usable = accepted.Status == metav1.ConditionTrue && (resolved.Status == metav1.ConditionTrue || resolved.Reason == string(v1.ListenerReasonInvalidRouteKinds) && len(out.Kinds) > 0)
	programmed := condition(v1.ListenerConditionProgrammed, true, v1.ListenerReasonProgrammed, gen, "No errors found")
	if !out.usable {
		programmed = condition(v1.ListenerConditionProgrammed, false, v1.ListenerReasonInvalid, gen, "the listener is not served, see its other conditions")
	}
	out.Conditions = []metav1.Condition{accepted, conflicts, programmed, resolved}
	return out, tls
}

func conflictWord(r v1.ListenerConditionReason) string {
	if r == v1.ListenerReasonProtocolConflict {
		return "another protocol"
	}
	return "the same hostname"
}

// allowedKinds are the kinds that may attach: those asked for, of those there are.
func allowedKinds(l *v1.Listener, resolved *metav1.Condition, generation int64) []v1.RouteGroupKind {
	out := []v1.RouteGroupKind{}
	group := v1.Group(v1.GroupName)
	if l.AllowedRoutes == nil || len(l.AllowedRoutes.Kinds) == 0 {
		for _, k := range routeKinds {
			out = append(out, v1.RouteGroupKind{Group: &group, Kind: k})
		}
		return out
	}
	for _, k := range l.AllowedRoutes.Kinds {
		if deref(k.Group, group) != group || !slices.Contains(routeKinds, k.Kind) {
			*resolved = condition(v1.ListenerConditionResolvedRefs, false, v1.ListenerReasonInvalidRouteKinds, generation, "allowedRoutes.kinds: %s is not supported for protocol %s, use HTTPRoute or GRPCRoute", k.Kind, l.Protocol)
			continue
		}
		out = append(out, v1.RouteGroupKind{Group: &group, Kind: k.Kind})
	}
	return out
}

func (l *Listener) namespaces(in *v1.Listener) error {
	if in.AllowedRoutes == nil || in.AllowedRoutes.Namespaces == nil {
		return nil
	}
	n := in.AllowedRoutes.Namespaces
	l.from = deref(n.From, v1.NamespacesFromSame)
	switch l.from {
	case v1.NamespacesFromAll, v1.NamespacesFromSame, v1.NamespacesFromNone:
	case v1.NamespacesFromSelector:
		if n.Selector == nil {
			return fmt.Errorf("from Selector needs a selector")
		}
		s, err := metav1.LabelSelectorAsSelector(n.Selector)
		if err != nil {
			return fmt.Errorf("selector: %w", err)
		}
		l.selector = s
	default:
		return fmt.Errorf("from %q is not known, use Same, All or Selector", l.from)
	}
	return nil
}

// tls compiles the TLS of an HTTPS listener.
func (in *GatewayInput) tls(l *v1.Listener, accepted, resolved *metav1.Condition) *networking.ServerTLSSettings {
	gen := in.Gateway.Generation
	if l.TLS == nil || deref(l.TLS.Mode, v1.TLSModeTerminate) != v1.TLSModeTerminate {
		*accepted = condition(v1.ListenerConditionAccepted, false, v1.ListenerReasonUnsupportedValue, gen, "an HTTPS listener needs tls with mode Terminate")
		return nil
	}
	for k := range l.TLS.Options {
		*accepted = condition(v1.ListenerConditionAccepted, false, v1.ListenerReasonUnsupportedValue, gen, "tls.options: %s is not supported", k)
	}
	bad := func(reason v1.ListenerConditionReason, message string, args ...any) *networking.ServerTLSSettings {
		*resolved = condition(v1.ListenerConditionResolvedRefs, false, reason, gen, "tls.certificateRefs: "+message, args...)
		return nil
	}
	if len(l.TLS.CertificateRefs) == 0 {
		return bad(v1.ListenerReasonInvalidCertificateRef, "there is none")
	}
	out := &networking.ServerTLSSettings{Mode: networking.ServerTLSSettings_SIMPLE}
	for _, r := range l.TLS.CertificateRefs {
		if deref(r.Group, "") != "" || deref(r.Kind, "Secret") != "Secret" {
			return bad(v1.ListenerReasonInvalidCertificateRef, "%s is no Secret", deref(r.Kind, ""))
		}
		ref := compile.Ref{Namespace: string(deref(r.Namespace, v1.Namespace(in.Gateway.Namespace))), Name: string(r.Name)}
		if !granted(in.Grants, reference{from: in.Gateway, kind: "Secret", namespace: ref.Namespace, to: ref.Name}) {
			return bad(v1.ListenerReasonRefNotPermitted, "no ReferenceGrant in namespace %s allows Gateways of %s to use Secret %s", ref.Namespace, in.Gateway.Namespace, ref.Name)
		}
		secret := in.Secrets[ref]
		if secret == nil {
			return bad(v1.ListenerReasonInvalidCertificateRef, "there is no Secret %s with a certificate", ref)
		}
		if err := compile.CheckSecret(secret); err != nil {
			return bad(v1.ListenerReasonInvalidCertificateRef, "Secret %s: %v", ref, err)
		}
		if ref.Namespace != ServiceOf(in.Gateway).Namespace {
			return bad(v1.ListenerReasonInvalidCertificateRef, "Secret %s is not in the namespace of the gateway's pods, which is not supported; copy it there", ref)
		}
		out.CredentialNames = append(out.CredentialNames, ref.Name)
	}
	return out
}

// admits tells whether routes of a namespace and kind may attach.
func (l *Listener) admits(gateway compile.Ref, route *config.Object, namespaceLabels map[string]string) bool {
	if !slices.ContainsFunc(l.Kinds, func(k v1.RouteGroupKind) bool { return string(k.Kind) == route.Kind.Name }) {
		return false
	}
	switch l.from {
	case v1.NamespacesFromAll:
		return true
	case v1.NamespacesFromSame:
		return route.Namespace == gateway.Namespace
	case v1.NamespacesFromSelector:
		return l.selector.Matches(labels.Set(namespaceLabels))
	}
	return false
}
