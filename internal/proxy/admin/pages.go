// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/lateen-mesh/lateen/internal/proxy/cluster"
	"github.com/lateen-mesh/lateen/internal/proxy/secret"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

type object = map[string]any

func socketAddress(network, address string) object {
	if network == "unix" {
		return object{"pipe": object{"path": address}}
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return object{"socket_address": object{"address": address}}
	}
	return object{"socket_address": object{"address": ap.Addr().String(), "port_value": ap.Port()}}
}

func (p *Proxy) listeners(w http.ResponseWriter, r *http.Request) {
	list := p.Listeners.Listeners()
	if r.URL.Query().Get("format") == "json" {
		var out []object
		for _, l := range list {
			o := object{"name": l.Name}
			for i, a := range l.Addresses {
				if i == 0 {
					o["local_address"] = socketAddress("tcp", a)
				} else {
					more, _ := o["additional_local_addresses"].([]object)
					o["additional_local_addresses"] = append(more, socketAddress("tcp", a))
				}
			}
			out = append(out, o)
		}
		writeJSON(w, object{"listener_statuses": out})
		return
	}
	text(w)
	for _, l := range list {
		for _, a := range l.Addresses {
			fmt.Fprintf(w, "%s::%s\n", l.Name, a)
		}
	}
}

// certificate is one certificate as envoy.admin.v3.CertificateDetails.
func certificate(c secret.CertInfo) object {
	sans := make([]object, 0, len(c.SANs))
	for _, s := range c.SANs {
		kind, name, _ := strings.Cut(s, ":")
		if kind == "ip" {
			kind = "ip_address"
		}
		sans = append(sans, object{kind: name})
	}
	return object{
		"path": c.Path, "serial_number": c.Serial, "subject_alt_names": sans,
		"days_until_expiration": strconv.Itoa(c.DaysLeft),
		"valid_from":            stamp(c.ValidFrom), "expiration_time": stamp(c.NotAfter),
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// certs pairs each certificate chain with the authorities of the same
// context, as far as names tell: the workload's own with the mesh's root.
func (p *Proxy) certs(w http.ResponseWriter, _ *http.Request) {
	out := []object{}
	for _, i := range p.Secrets.Infos(time.Now()) {
		var list []object
		for _, c := range i.Certs {
			list = append(list, certificate(c))
		}
		if len(list) == 0 {
			continue
		}
		if i.Trust {
			out = append(out, object{"ca_cert": list, "cert_chain": []object{}})
		} else {
			out = append(out, object{"ca_cert": []object{}, "cert_chain": list})
		}
	}
	writeJSON(w, object{"certificates": out})
}

func (p *Proxy) serverInfo(w http.ResponseWriter, _ *http.Request) {
	node := object{}
	if b, err := (protojson.MarshalOptions{UseProtoNames: true}).Marshal(p.Bootstrap.GetNode()); err == nil {
		node = raw(b)
	}
	up := fmt.Sprintf("%ds", int64(time.Since(p.Started).Seconds()))
	writeJSON(w, object{
		"version": "lateen-proxy/" + p.Version + "/" + runtime.Version(), "state": p.State(),
		"uptime_current_epoch": up, "uptime_all_epochs": up, "hot_restart_version": "disabled",
		"command_line_options": p.Options, "node": node,
	})
}

func (p *Proxy) memory(w http.ResponseWriter, _ *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	n := func(v uint64) string { return strconv.FormatUint(v, 10) }
	writeJSON(w, object{
		"allocated": n(m.HeapAlloc), "heap_size": n(m.HeapSys), "pageheap_unmapped": n(m.HeapReleased),
		"pageheap_free": n(m.HeapIdle - m.HeapReleased), "total_physical_bytes": n(m.Sys - m.HeapReleased),
	})
}

func (p *Proxy) clusters(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("format") == "json" {
		out := []object{}
		for _, c := range p.Clusters.Clusters() {
			out = append(out, clusterJSON(c))
		}
		writeJSON(w, object{"cluster_statuses": out})
		return
	}
	text(w)
	b := bufio.NewWriter(w)
	defer b.Flush()
	for _, c := range p.Clusters.Clusters() {
		clusterText(b, c)
	}
}

var priorities = []struct {
	name string
	high bool
}{{"default_priority", false}, {"high_priority", true}}

func clusterText(b *bufio.Writer, c *cluster.Cluster) {
	name := c.Name
	fmt.Fprintf(b, "%s::observability_name::%s\n", name, c.StatName)
	for _, p := range priorities {
		t := c.Limits(p.high).Thresholds()
		fmt.Fprintf(b, "%s::%s::max_connections::%d\n%s::%s::max_pending_requests::%d\n%s::%s::max_requests::%d\n%s::%s::max_retries::%d\n",
			name, p.name, t.MaxConnections, name, p.name, t.MaxPending, name, p.name, t.MaxRequests, name, p.name, t.MaxRetries)
	}
	fmt.Fprintf(b, "%s::added_via_api::%t\n", name, c.AddedViaAPI())
	if c.Discovery == cluster.EDS {
		fmt.Fprintf(b, "%s::eds_service_name::%s\n", name, c.ServiceName)
	}
	for _, h := range c.HostInfos() {
		line := func(key string, v any) { fmt.Fprintf(b, "%s::%s::%s::%v\n", name, h.Host.Address(), key, v) }
		for _, s := range hostStats(h.Host) {
			line(s.name, s.value)
		}
		line("hostname", h.Host.Hostname())
		line("health_flags", healthFlags(h.Host.Health()))
		line("weight", h.Host.Weight())
		line("region", h.Locality.Region)
		line("zone", h.Locality.Zone)
		line("sub_zone", h.Locality.SubZone)
		line("canary", false)
		line("priority", h.Priority)
		line("success_rate", -1)
		line("local_origin_success_rate", -1)
	}
}

type stat struct {
	name  string
	value int64
	gauge bool
}

func hostStats(h *cluster.Host) []stat {
	s := h.LoadStats()
	if s == nil {
		s = new(cluster.HostStats)
	}
	return []stat{
		{"cx_active", s.CxActive.Load(), true},
		{"cx_connect_fail", s.CxConnectFail.Load(), false},
		{"cx_total", s.CxTotal.Load(), false},
		{"rq_active", h.Active(), true},
		{"rq_error", s.RqError.Load(), false},
		{"rq_success", s.RqSuccess.Load(), false},
		{"rq_timeout", s.RqTimeout.Load(), false},
		{"rq_total", s.RqTotal.Load(), false},
	}
}

// healthFlags are as Envoy prints them: "healthy" or what is wrong.
func healthFlags(h cluster.Health) string {
	switch h {
	case cluster.Healthy:
		return "healthy"
	case cluster.Degraded:
		return "/degraded_eds_health"
	case cluster.Draining:
		return "/eds_status_draining"
	}
	return "/failed_eds_health"
}

// edsHealth is the value of envoy.config.core.v3.HealthStatus.
func edsHealth(h cluster.Health) string {
	switch h {
	case cluster.Degraded:
		return "DEGRADED"
	case cluster.Unhealthy:
		return "UNHEALTHY"
	case cluster.Draining:
		return "DRAINING"
	}
	return "HEALTHY"
}

// clusterJSON is envoy.admin.v3.ClusterStatus.
func clusterJSON(c *cluster.Cluster) object {
	hosts := []object{}
	for _, h := range c.HostInfos() {
		stats := []object{}
		for _, s := range hostStats(h.Host) {
			o := object{"name": s.name}
			if s.value != 0 {
				o["value"] = strconv.FormatInt(s.value, 10)
			}
			if s.gauge {
				o["type"] = "GAUGE"
			}
			stats = append(stats, o)
		}
		o := object{
			"address": socketAddress(h.Host.Network(), h.Host.Address()), "stats": stats,
			"health_status": object{"eds_health_status": edsHealth(h.Host.Health())}, "weight": h.Host.Weight(),
			"locality": object{"region": h.Locality.Region, "zone": h.Locality.Zone, "sub_zone": h.Locality.SubZone},
		}
		if n := h.Host.Hostname(); n != "" {
			o["hostname"] = n
		}
		if h.Priority > 0 {
			o["priority"] = h.Priority
		}
		hosts = append(hosts, o)
	}
	limits := []object{}
	for _, p := range priorities {
		t := c.Limits(p.high).Thresholds()
		o := object{"max_connections": t.MaxConnections, "max_pending_requests": t.MaxPending, "max_requests": t.MaxRequests, "max_retries": t.MaxRetries}
		if p.high {
			o["priority"] = "HIGH"
		}
		limits = append(limits, o)
	}
	out := object{
		"name": c.Name, "added_via_api": c.AddedViaAPI(), "host_statuses": hosts,
		"circuit_breakers": object{"thresholds": limits}, "observability_name": c.StatName,
	}
	if c.Discovery == cluster.EDS {
		out["eds_service_name"] = c.ServiceName
	}
	return out
}
