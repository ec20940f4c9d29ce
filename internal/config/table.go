// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	networkingv1 "k8s.io/api/networking/v1"
	gateway "sigs.k8s.io/gateway-api/apis/v1"

	lateen "github.com/lateen-mesh/lateen/api/mesh/v1alpha1"
)

// column is one column of a table, after NAME.
type column struct {
	title string
	value func(o *Object, now time.Time) string
}

// Columns returns the titles of the kind's table: NAME, then what kubectl
// shows (additionalPrinterColumns of the CRD), then SOURCE.
func (k *Kind) Columns() []string {
	titles := []string{"NAME"}
	for _, c := range columns[k] {
		titles = append(titles, c.title)
	}
	return append(titles, "SOURCE")
}

// Row returns the cells of Columns. now is the time that ages are counted to.
func (o *Object) Row(now time.Time) []string {
	cells := []string{o.Name}
	for _, c := range columns[o.Kind] {
		cells = append(cells, c.value(o, now))
	}
	return append(cells, o.Source.String())
}

var age = column{"AGE", func(o *Object, now time.Time) string { return Age(o.CreationTimestamp, now) }}

var columns = map[*Kind][]column{
	VirtualService: {
		{"GATEWAYS", specColumn(func(s *networking.VirtualService) string { return jsonList(s.Gateways) })},
		{"HOSTS", specColumn(func(s *networking.VirtualService) string { return jsonList(s.Hosts) })},
		age,
	},
	DestinationRule: {
		{"HOST", specColumn(func(s *networking.DestinationRule) string { return s.Host })},
		age,
	},
	Gateway: {age},
	ServiceEntry: {
		{"HOSTS", specColumn(func(s *networking.ServiceEntry) string { return jsonList(s.Hosts) })},
		{"LOCATION", specColumn(func(s *networking.ServiceEntry) string { return s.Location.String() })},
		{"RESOLUTION", specColumn(func(s *networking.ServiceEntry) string { return s.Resolution.String() })},
		age,
	},
	WorkloadEntry: {
		age,
		{"ADDRESS", specColumn(func(s *networking.WorkloadEntry) string { return s.Address })},
	},
	Sidecar: {age},
	PeerAuthentication: {
		{"MODE", specColumn(func(s *security.PeerAuthentication) string {
			if s.Mtls == nil {
				return ""
			}
			return s.Mtls.Mode.String()
		})},
		age,
	},
	ProxyConfig: {age}, WorkloadGroup: {age}, Telemetry: {age},
	EnvoyFilter: {age}, WasmPlugin: {age}, TrafficExtension: {age},
	GatewayClass: {
		{"CONTROLLER", specColumn(func(s *gateway.GatewayClassSpec) string { return string(s.ControllerName) })},
		age,
	},
	KubeGateway: {
		{"CLASS", specColumn(func(s *gateway.GatewaySpec) string { return string(s.GatewayClassName) })},
		age,
	},
	HTTPRoute: {
		{"HOSTNAMES", specColumn(func(s *gateway.HTTPRouteSpec) string { return hostnames(s.Hostnames) })},
		age,
	},
	GRPCRoute: {
		{"HOSTNAMES", specColumn(func(s *gateway.GRPCRouteSpec) string { return hostnames(s.Hostnames) })},
		age,
	},
	ReferenceGrant: {age},
	Ingress: {
		{"CLASS", specColumn(func(s *networkingv1.IngressSpec) string {
			if s.IngressClassName == nil {
				return "<none>"
			}
			return *s.IngressClassName
		})},
		{"HOSTS", specColumn(ingressHosts)},
		age,
	},
	IngressClass: {
		{"CONTROLLER", specColumn(func(s *networkingv1.IngressClassSpec) string { return s.Controller })},
		age,
	},
	LocalWorkload: {
		{"ENTRY", specColumn(func(s *lateen.LocalWorkload) string { return s.Entry })},
		{"COMMAND", specColumn(func(s *lateen.LocalWorkload) string { return strings.Join(s.Command, " ") })},
		age,
	},
	MeshConfig: {age},
}

func specColumn[T any](f func(T) string) func(*Object, time.Time) string {
	return func(o *Object, _ time.Time) string {
		s, ok := o.Spec.(T)
		if !ok {
			return ""
		}
		return f(s)
	}
}

func hostnames(hosts []gateway.Hostname) string {
	words := make([]string, len(hosts))
	for i, h := range hosts {
		words[i] = string(h)
	}
	return jsonList(words)
}

// ingressHosts writes the hosts as kubectl does; a rule without one is for all.
func ingressHosts(s *networkingv1.IngressSpec) string {
	var hosts []string
	for _, r := range s.Rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	if len(hosts) == 0 {
		return "*"
	}
	return strings.Join(hosts, ",")
}

// jsonList writes a list as kubectl prints one in a column.
func jsonList(s []string) string {
	if len(s) == 0 {
		return ""
	}
	b, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	return string(b)
}

// Age writes the time since t as kubectl does: two units below ten of the
// larger one, else one.
func Age(t, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	d := now.Sub(t)
	if d < 0 {
		return "0s"
	}
	two := func(big, small int, bigUnit, smallUnit string) string {
		if small == 0 {
			return fmt.Sprintf("%d%s", big, bigUnit)
		}
		return fmt.Sprintf("%d%s%d%s", big, bigUnit, small, smallUnit)
	}
	seconds, minutes, hours := int(d.Seconds()), int(d.Minutes()), int(d.Hours())
	days := hours / 24
	switch {
	case seconds < 120:
		return fmt.Sprintf("%ds", seconds)
	case minutes < 10:
		return two(minutes, seconds%60, "m", "s")
	case minutes < 180:
		return fmt.Sprintf("%dm", minutes)
	case hours < 8:
		return two(hours, minutes%60, "h", "m")
	case hours < 48:
		return fmt.Sprintf("%dh", hours)
	case days < 8:
		return two(days, hours%24, "d", "h")
	case days < 730:
		return fmt.Sprintf("%dd", days)
	case days < 8*365:
		return two(days/365, days%365, "y", "d")
	}
	return fmt.Sprintf("%dy", days/365)
}
