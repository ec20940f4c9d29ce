// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// listeners returns every listener message of a dump.
func listeners(dump any) any {
	s := section(dump, "ListenersConfigDump")
	out := []any{}
	for _, l := range list(s, "static_listeners") {
		out = append(out, at(l, "listener"))
	}
	for _, l := range list(s, "dynamic_listeners") {
		if x := at(l, "active_state", "listener"); x != nil {
			out = append(out, x)
		}
	}
	return out
}

// listenerTable has a row for every filter chain, as istioctl does.
func listenerTable(_ *app, dump any) table {
	t := table{header: []string{"ADDRESSES", "PORT", "MATCH", "DESTINATION"}}
	all := listeners(dump).([]any)
	slices.SortStableFunc(all, func(x, y any) int {
		hx, px := address(at(x, "address"))
		hy, py := address(at(y, "address"))
		nx, _ := strconv.Atoi(px)
		ny, _ := strconv.Atoi(py)
		if nx != ny {
			return nx - ny
		}
		return strings.Compare(hx, hy)
	})
	for _, l := range all {
		host, port := address(at(l, "address"))
		for _, more := range list(l, "additional_addresses") {
			h, _ := address(at(more, "address"))
			host += "," + h
		}
		chains := list(l, "filter_chains")
		if d := at(l, "default_filter_chain"); d != nil {
			chains = append(slices.Clone(chains), d)
		}
		for _, c := range chains {
			t.add(host, port, chainMatch(c), chainDestination(c))
		}
	}
	return t
}

// chainMatch puts a filter chain's match in words.
func chainMatch(chain any) string {
	m := at(chain, "filter_chain_match")
	var parts []string
	if p := text(m, "destination_port"); p != "" && p != "0" {
		parts = append(parts, "DestPort: "+p)
	}
	if v := texts(m, "server_names"); len(v) > 0 {
		parts = append(parts, "SNI: "+strings.Join(v, ","))
	}
	if v := text(m, "transport_protocol"); v != "" {
		parts = append(parts, "Trans: "+v)
	}
	if v := texts(m, "application_protocols"); len(v) > 0 {
		parts = append(parts, "App: "+strings.Join(v, ","))
	}
	var ranges []string
	for _, r := range list(m, "prefix_ranges") {
		ranges = append(ranges, text(r, "address_prefix")+"/"+or(text(r, "prefix_len"), "0"))
	}
	if len(ranges) > 0 {
		parts = append(parts, "Addr: "+strings.Join(ranges, ","))
	}
	if len(parts) == 0 {
		return "ALL"
	}
	return strings.Join(parts, "; ")
}

// chainDestination says where a filter chain leads, by its last filter that
// leads anywhere.
func chainDestination(chain any) string {
	for _, f := range slices.Backward(list(chain, "filters")) {
		config := at(f, "typed_config")
		typ := text(config, "@type")
		switch {
		case strings.HasSuffix(typ, ".HttpConnectionManager"):
			if name := text(config, "rds", "route_config_name"); name != "" {
				return "Route: " + name
			}
			return inlineRoute(at(config, "route_config"))
		case strings.HasSuffix(typ, ".TcpProxy"):
			if c := text(config, "cluster"); c != "" {
				return "Cluster: " + c
			}
			var names []string
			for _, w := range list(config, "weighted_clusters", "clusters") {
				names = append(names, text(w, "name")+"@"+text(w, "weight"))
			}
			return "Cluster: " + strings.Join(names, ", ")
		}
	}
	return "Non-HTTP/Non-TCP"
}

func inlineRoute(rc any) string {
	var to []string
	for _, vh := range list(rc, "virtual_hosts") {
		for _, r := range list(vh, "routes") {
			if c := text(r, "route", "cluster"); c != "" && !slices.Contains(to, c) {
				to = append(to, c)
			}
		}
	}
	if len(to) == 1 {
		return "Cluster: " + to[0]
	}
	return "Inline Route: " + or(text(rc, "name"), strings.Join(to, ", "))
}

// routes returns every route configuration of a dump.
func routes(dump any) any {
	s := section(dump, "RoutesConfigDump")
	out := []any{}
	for _, r := range append(list(s, "static_route_configs"), list(s, "dynamic_route_configs")...) {
		out = append(out, at(r, "route_config"))
	}
	return out
}

func routeTable(_ *app, dump any) table {
	t := table{header: []string{"NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"}}
	all := routes(dump).([]any)
	slices.SortStableFunc(all, func(x, y any) int { return byNumber(text(x, "name"), text(y, "name")) })
	for _, rc := range all {
		for _, vh := range list(rc, "virtual_hosts") {
			first := []string{text(rc, "name"), text(vh, "name"), domains(texts(vh, "domains"))}
			routes := list(vh, "routes")
			if len(routes) == 0 {
				t.add(append(first, "/*", "404")...)
			}
			for _, r := range routes {
				t.add(append(slices.Clone(first), routeMatch(at(r, "match")), routeObject(r))...)
			}
		}
	}
	return t
}

// byNumber orders the names of route configurations, most of which are ports.
func byNumber(x, y string) int {
	a, errA := strconv.Atoi(x)
	b, errB := strconv.Atoi(y)
	switch {
	case errA == nil && errB == nil:
		return a - b
	case errA == nil:
		return -1
	case errB == nil:
		return 1
	}
	return strings.Compare(x, y)
}

// domains shows the two first of many, without the ones that only add a port.
func domains(all []string) string {
	if len(all) <= 1 {
		return strings.Join(all, "")
	}
	var hosts, plain []string
	for _, d := range all {
		if strings.HasSuffix(d, ".") || strings.Contains(d, ".:") {
			continue // the same with the root's dot
		}
		if hosts = append(hosts, d); !strings.Contains(d, ":") {
			plain = append(plain, d)
		}
	}
	if len(plain) == 0 {
		plain = hosts
	}
	const shown = 2
	if len(plain) <= shown {
		return strings.Join(plain, ", ")
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(plain[:shown], ", "), len(plain)-shown)
}

// routeMatch shows the path a route is for, and that it asks for more.
func routeMatch(m any) string {
	s := ""
	switch {
	case text(m, "prefix") != "":
		s = text(m, "prefix") + "*"
	case text(m, "path_separated_prefix") != "":
		s = "PathPrefix:" + text(m, "path_separated_prefix")
	case text(m, "path") != "":
		s = text(m, "path")
	case text(m, "safe_regex", "regex") != "":
		s = "regex " + text(m, "safe_regex", "regex")
	case at(m, "connect_matcher") != nil:
		s = "CONNECT"
	}
	var more []string
	for _, h := range list(m, "headers") {
		more = append(more, text(h, "name"))
	}
	for _, q := range list(m, "query_parameters") {
		more = append(more, "?"+text(q, "name"))
	}
	if len(more) > 0 {
		s += " (" + strings.Join(more, ", ") + ")"
	}
	return s
}

// routeObject names the VirtualService of a route, or what answers without one.
func routeObject(r any) string {
	if name := configObject(r, "virtual-service"); name != "" {
		return name
	}
	if code := text(r, "direct_response", "status"); code != "" {
		return code
	}
	if c := text(r, "route", "cluster"); c == "PassthroughCluster" || c == "BlackHoleCluster" {
		return c
	}
	return ""
}
