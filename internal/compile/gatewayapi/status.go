// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

// ClassStatus is the status of a GatewayClass of ours.
func ClassStatus(class *config.Object) []metav1.Condition {
	spec := class.Spec.(*v1.GatewayClassSpec)
	if spec.ParametersRef != nil {
		return []metav1.Condition{condition(v1.GatewayClassConditionStatusAccepted, false, v1.GatewayClassReasonInvalidParameters, class.Generation, "spec.parametersRef is not supported")}
	}
	return []metav1.Condition{condition(v1.GatewayClassConditionStatusAccepted, true, v1.GatewayClassReasonAccepted, class.Generation, "Handled by Lateen")}
}

// Status is the Gateway's status, times not set. service is the Service before
// it, nil if there is none (yet); ready tells whether a pod behind it is.
// attached counts the routes by listener.
func (g *Gateway) Status(service *config.Object, ready bool, attached map[string]int32) v1.GatewayStatus {
	out := v1.GatewayStatus{Addresses: addresses(g.Service, service)}
	usable := 0
	for i := range g.Listeners {
		l := &g.Listeners[i]
		if l.usable {
			usable++
		}
		kinds := l.Kinds
		if kinds == nil {
			kinds = []v1.RouteGroupKind{}
		}
		out.Listeners = append(out.Listeners, v1.ListenerStatus{
			Name: v1.SectionName(l.Name), SupportedKinds: kinds, AttachedRoutes: attached[l.Name], Conditions: slices.Clone(l.Conditions),
		})
	}
	out.Conditions = []metav1.Condition{g.accepted(usable), g.programmed(usable, service, ready, out.Addresses)}
	if g.refused != nil {
		for i := range out.Listeners {
			for j := range out.Listeners[i].Conditions {
				if c := &out.Listeners[i].Conditions[j]; c.Type == string(v1.ListenerConditionProgrammed) {
					*c = condition(v1.ListenerConditionProgrammed, false, v1.ListenerReasonInvalid, g.Generation, "the Gateway is not accepted")
				}
			}
		}
	}
	return out
}

func (g *Gateway) accepted(usable int) metav1.Condition {
	accepted := 0
	for i := range g.Listeners {
		for _, c := range g.Listeners[i].Conditions {
			if c.Type == string(v1.ListenerConditionAccepted) && c.Status == metav1.ConditionTrue {
				accepted++
			}
		}
	}
	switch {
	case g.refused != nil:
		return *g.refused
	case accepted == 0:
		return condition(v1.GatewayConditionAccepted, false, v1.GatewayReasonListenersNotValid, g.Generation, "no listener is valid, see their conditions")
	case usable < len(g.Listeners):
		return condition(v1.GatewayConditionAccepted, true, v1.GatewayReasonListenersNotValid, g.Generation, "%d of %d listeners are not served, see their conditions", len(g.Listeners)-usable, len(g.Listeners))
	}
	return condition(v1.GatewayConditionAccepted, true, v1.GatewayReasonAccepted, g.Generation, "Resource accepted")
}

func (g *Gateway) programmed(usable int, service *config.Object, ready bool, list []v1.GatewayStatusAddress) metav1.Condition {
	no := func(reason v1.GatewayConditionReason, message string, args ...any) metav1.Condition {
		return condition(v1.GatewayConditionProgrammed, false, reason, g.Generation, message, args...)
	}
	switch {
	case g.refused != nil || usable == 0:
		return no(v1.GatewayReasonInvalid, "nothing of it can be served, see condition Accepted and the listeners")
	case service == nil && g.Managed:
		return no(v1.GatewayReasonPending, "Service %s is being made", g.Service)
	case service == nil:
		return no(v1.GatewayReasonAddressNotUsable, "there is no Service %s, which spec.addresses names", g.Service)
	case len(list) == 0:
		return no(v1.GatewayReasonAddressNotAssigned, "Service %s has no address yet", g.Service)
	case !ready:
		return no(v1.GatewayReasonNoResources, "no pod behind Service %s is ready", g.Service)
	}
	var ports []string
	for i := range g.Listeners {
		if p := fmt.Sprintf("%s:%d", compile.ClusterHost(g.Service), g.Listeners[i].Port); g.Listeners[i].usable && !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	return condition(v1.GatewayConditionProgrammed, true, v1.GatewayReasonProgrammed, g.Generation, "Resource programmed, assigned to service(s) %s", strings.Join(ports, " and "))
}

// addresses are those by which a Service is reached from where it is meant to
// be: a load balancer's, else its name in the cluster.
func addresses(ref compile.Ref, service *config.Object) []v1.GatewayStatusAddress {
	if service == nil {
		return nil
	}
	ip, hostname := v1.IPAddressType, v1.HostnameAddressType
	spec := service.Spec.(*k8s.Service)
	list := append(slices.Clone(spec.Ingress), spec.ExternalIPs...)
	if len(list) == 0 && spec.Type != "LoadBalancer" {
		list = []string{compile.ClusterHost(ref)}
	}
	var out []v1.GatewayStatusAddress
	for _, a := range list {
		t := &hostname
		if _, err := netip.ParseAddr(a); err == nil {
			t = &ip
		}
		out = append(out, v1.GatewayStatusAddress{Type: t, Value: a})
	}
	return out
}
