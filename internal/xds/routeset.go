// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"strconv"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/graph"
	"github.com/lateen-mesh/lateen/internal/mesh"
)

// routeConfigs makes the route configurations of a scope. With fetch, the
// virtual hosts are put in; without, they are resources of their own.
func (o *outbound) routeConfigs(c *graph.Ctx, opts *compile.Options, k scopeKey, s *compile.Scope, fetch func(compile.HostRef) *Resource) Set {
	var out Set
	inside := map[string][]*Resource{}
	for _, h := range s.Hosts {
		if h.Sniffed {
			if r, ok := graph.Fetch(c, o.sniffed, *h); ok {
				out = append(out, r)
			}
		} else if fetch != nil {
			if r := fetch(*h); r != nil {
				inside[h.RouteConfig] = append(inside[h.RouteConfig], r)
			}
		}
	}
	for _, name := range s.RouteConfigs {
		proxyPort := name == compile.ProxyRouteConfig
		rc := &mesh.RouteConfig{Name: name, OnDemand: fetch == nil, KeepPort: proxyPort || k.mode == compile.ModeProxyless}
		if k.mode != compile.ModeProxyless {
			// With a port bound by the proxy there is no original destination either.
			rc.Hosts = []*mesh.VirtualHost{compile.CatchAll(opts, s.RegistryOnly, k.mode == compile.ModeNone)}
		}
		out = append(out, o.interner.makeRouteConfig(rc, inside[name]))
	}
	return sortSet(out)
}

// makeRouteConfig puts marshalled virtual hosts into a route configuration
// without decoding them: a repeated field is its elements one after another.
func (in *Interner) makeRouteConfig(rc *mesh.RouteConfig, hosts []*Resource) *Resource {
	const virtualHosts = protowire.Number(2) // RouteConfiguration.virtual_hosts
	m := RouteConfig(rc)
	if len(hosts) > 0 {
		var raw []byte
		for _, h := range hosts {
			raw = protowire.AppendTag(raw, virtualHosts, protowire.BytesType)
			raw = protowire.AppendBytes(raw, h.Body)
		}
		// The catch-all comes last, as Istio writes it.
		own, err := deterministic.Marshal(m)
		if err != nil {
			panic("xds: marshal route configuration " + rc.Name + ": " + err.Error())
		}
		return in.makeRaw(RouteType, rc.Name, append(raw, own...))
	}
	return in.Make(RouteType, rc.Name, m)
}

// proxylessListeners are the API listeners for every name a grpc client may
// dial: the full host and the short ones, with the port.
func proxylessListeners(h compile.HostRef) []*listenerv3.Listener {
	names := []string{h.Host}
	port := ":" + strconv.FormatUint(uint64(h.Port), 10)
	names = append(names, compile.ShortNames(h.Host, h.Local)...)
	filters := []*hcmv3.HttpFilter{httpFilter(faultFilter, &faultv3.HTTPFault{}), httpFilter("envoy.filters.http.router", &routerv3.Router{})}
	manager := typed(&hcmv3.HttpConnectionManager{
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: h.RouteConfig}},
		HttpFilters:    filters,
	})
	var out []*listenerv3.Listener
	for _, n := range names {
		out = append(out, &listenerv3.Listener{Name: n + port, ApiListener: &listenerv3.ApiListener{ApiListener: manager}})
	}
	return out
}
