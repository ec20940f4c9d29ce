// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/config"
)

// Name is that of the VirtualService that is made for a key. No user's object
// has such a name.
func (k Key) Name() compile.Ref {
	name := k.Parent.Name + "-" + generatedInfix
	namespace := k.Parent.Namespace
	switch {
	case k.Listener != "":
		name += "-" + k.Listener + "~" + k.Host
	case k.Client != "":
		name, namespace = name+"~"+k.Parent.Namespace+"~mesh", k.Client
	default:
		name += "~mesh"
	}
	return compile.Ref{Namespace: namespace, Name: strings.ReplaceAll(name, "*", "_")}
}

// placed is a rule of a route on a port.
type placed struct {
	*Attachment
	rule *Rule
}

// VirtualService merges all rules for a key, the more specific first (see
// before). It has at least one attachment.
func VirtualService(k Key, list []Attachment) *config.Object {
	var all []placed
	for i := range list {
		for j := range list[i].Rules {
			all = append(all, placed{&list[i], &list[i].Rules[j]})
		}
	}
	slices.SortStableFunc(all, func(a, b placed) int { return before(a.rule.rank, b.rule.rank, a.Route, b.Route) })
	oldest := list[0].Route
	for _, a := range list {
		if config.Older(a.Route, oldest) < 0 {
			oldest = a.Route
		}
	}
	spec := &networking.VirtualService{Hosts: []string{k.Host}, Gateways: []string{"mesh"}, ExportTo: []string{"*"}}
	if k.Listener != "" {
		spec.Gateways = []string{list[0].Gateway}
	} else if k.Client != "" {
		spec.ExportTo = []string{"."}
	}
	name := k.Name()
	out := &config.Object{
		Key:        config.Key{Kind: config.VirtualService, Namespace: name.Namespace, Name: name.Name},
		APIVersion: config.VirtualService.APIVersion(), CreationTimestamp: oldest.CreationTimestamp, Source: oldest.Source, Spec: spec,
	}
	for _, p := range all {
		for _, r := range p.rule.routes {
			spec.Http = append(spec.Http, p.place(r))
			out.Parents = append(out.Parents, p.Route.Key)
		}
	}
	if k.Listener == "" {
		spec.Http = append(spec.Http, untouched(k, list)...)
	}
	if len(out.Parents) == 0 {
		out.Parents = []config.Key{oldest.Key}
	}
	return out
}

// place puts a rule's route on a port of a Service, or a redirect's port in.
func (p placed) place(r *networking.HTTPRoute) *networking.HTTPRoute {
	mesh := p.Key.Listener == ""
	if p.rule.redirect == nil && (!mesh || p.Port == 0) {
		return r
	}
	r = proto.CloneOf(r)
	if mesh && p.Port != 0 {
		for _, m := range r.Match {
			m.Port = p.Port
		}
	}
	if p.rule.redirect != nil {
		scheme, port := p.Scheme, p.Port
		if mesh {
			scheme = "http"
		}
		if n := redirectPort(p.rule.redirect, scheme, port); n != 0 {
			r.Redirect.RedirectPort = &networking.HTTPRedirect_Port{Port: n}
		}
	}
	return r
}

// untouched are the ports of the Service that no route is for: they go on as
// without one.
func untouched(k Key, list []Attachment) []*networking.HTTPRoute {
	var out []*networking.HTTPRoute
	for _, port := range list[0].Ports {
		if slices.ContainsFunc(list, func(a Attachment) bool { return a.Port == 0 || a.Port == port }) {
			continue
		}
		out = append(out, &networking.HTTPRoute{
			Name:  "default",
			Match: []*networking.HTTPMatchRequest{{Port: port}},
			Route: []*networking.HTTPRouteDestination{{
				Destination: &networking.Destination{Host: k.Host, Port: &networking.PortSelector{Number: port}}, Weight: 100,
			}},
		})
	}
	return out
}
