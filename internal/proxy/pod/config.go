// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Roles of a proxy (Istio's node types).
const (
	Sidecar = "sidecar"
	Router  = "router"
)

// Istio's paths and ports in a pod.
const (
	defaultTokenFile   = "/var/run/secrets/tokens/istio-token"
	defaultRootFile    = "/var/run/secrets/istio/root-cert.pem"
	defaultLabels      = "/etc/istio/pod/labels"
	defaultAnnotations = "/etc/istio/pod/annotations"
	defaultDiscovery   = "istiod.istio-system.svc:15012"
	defaultServerName  = "istiod.istio-system.svc"

	adminPort      = 15000
	statusPort     = 15020
	healthPort     = 15021
	prometheusPort = 15090

	defaultTerminationDrain = 5 * time.Second
	defaultMinimumDrain     = 5 * time.Second
	// zeroDrainBound only keeps a number finite: the kubelet ends the pod first.
	zeroDrainBound = 24 * time.Hour
)

// Flags are those of `lateen-proxy proxy` that have an effect.
type Flags struct {
	Role           string
	Domain         string // DNS domain of the pod's services; default <namespace>.svc.cluster.local
	ServiceCluster string
	MeshConfigFile string // read when it exists
	Concurrency    int    // 0: not given
}

// Environment is where a pod's settings come from; the zero value is the
// process's own.
type Environment struct {
	Environ  func() []string
	ReadFile func(name string) ([]byte, error)
	// Addresses are those of the pod when INSTANCE_IP does not say.
	Addresses func() ([]netip.Addr, error)
}

func (e *Environment) defaults() {
	if e.Environ == nil {
		e.Environ = os.Environ
	}
	if e.ReadFile == nil {
		e.ReadFile = os.ReadFile
	}
	if e.Addresses == nil {
		e.Addresses = interfaceAddresses
	}
}

// Config is everything a proxy in a pod is started with. Load makes it; it is
// not changed afterwards.
type Config struct {
	Role, Name, Namespace, ServiceAccount, Domain string
	ServiceCluster                                string
	IPs                                           []netip.Addr
	Proxy                                         ProxyConfig
	// Metadata is the node's, as Istio's agent sends it.
	Metadata map[string]any
	Locality [3]string // region, zone, subzone

	DiscoveryAddress   string // host:port
	ServerName         string // in the control plane's certificate
	Plaintext          bool   // no TLS to the control plane, and no identity
	CAAddress          string // host:port, "" for the control plane
	RootFile           string
	TokenFile          string
	CertificateTTL     time.Duration
	DrainTime          time.Duration
	MinimumDrain       time.Duration
	DrainToZero        bool
	Admin, Status      string // addresses as net.Listen takes them
	Health, Prometheus string
	// AppProbers are the application's own probes by path on the status port.
	AppProbers map[string]Prober
	// Scrape is where the application's metrics are, nil for none.
	Scrape *Scrape
	// Warnings name settings that have no effect here.
	Warnings []string
}

// ID is the proxy's name in logs: <pod>.<namespace>.
func (c *Config) ID() string { return c.Name + "." + c.Namespace }

// NodeID is the node's id in Istio's form, <role>~<address>~<id>~<domain>.
func (c *Config) NodeID() string {
	ip := ""
	if len(c.IPs) > 0 {
		ip = c.IPs[0].String()
	}
	return c.Role + "~" + ip + "~" + c.ID() + "~" + c.Domain
}

// loader is the state of one Load.
type loader struct {
	c     *Config
	e     Environment
	flags Flags
	env   map[string]string
	// raw is the ProxyConfig as the control plane gets it.
	raw                 map[string]any
	labels, annotations map[string]string
}

// Load reads a pod's settings. An error names the variable or file and what it
// should hold.
func Load(f Flags, e Environment) (*Config, error) {
	e.defaults()
	l := &loader{c: &Config{Role: f.Role}, e: e, flags: f, env: map[string]string{}, raw: map[string]any{}}
	if f.Role != Sidecar && f.Role != Router {
		return nil, fmt.Errorf("role %q is neither %s nor %s", f.Role, Sidecar, Router)
	}
	for _, kv := range e.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok {
			l.env[k] = v
		}
	}
	steps := []func() error{l.podinfo, l.proxyConfig, l.identity, l.controlPlane, l.life, l.ports, l.application, l.metadata}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return l.c, nil
}

// get is a variable, else its default.
func (l *loader) get(name, fallback string) string {
	if v := l.env[name]; v != "" {
		return v
	}
	return fallback
}

func (l *loader) seconds(name string) (time.Duration, error) {
	v := l.env[name]
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s: %q is no duration; write it as in 5s", name, v)
	}
	return d, nil
}

func (l *loader) port(name string, fallback uint16) (uint16, error) {
	v := l.env[name]
	if v == "" {
		return fallback, nil
	}
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s: %q is no port", name, v)
	}
	return uint16(n), nil
}

func (l *loader) podinfo() error {
	read := func(name string) (map[string]string, error) {
		b, err := l.e.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil // not mounted
		}
		if err != nil {
			return nil, err
		}
		m, err := parsePodinfo(string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return m, nil
	}
	var err error
	if l.labels, err = read(defaultLabels); err != nil {
		return err
	}
	l.annotations, err = read(defaultAnnotations)
	return err
}

// proxyConfig merges the mesh's default and PROXY_CONFIG, and then sets the
// environment that proxyMetadata stands for. The pod's annotation counts only
// without PROXY_CONFIG: the injector has merged it there already, below the
// ProxyConfig objects that override it.
func (l *loader) proxyConfig() error {
	type source struct {
		name string
		text []byte
	}
	sources := []source{{"PROXY_CONFIG", []byte(l.env["PROXY_CONFIG"])}}
	if l.env["PROXY_CONFIG"] == "" {
		sources[0] = source{"annotation proxy.istio.io/config", []byte(l.annotations["proxy.istio.io/config"])}
	}
	if f := l.flags.MeshConfigFile; f != "" {
		b, err := l.e.ReadFile(f)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		text, err := defaultConfig(b)
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		sources = append([]source{{f, text}}, sources...)
	}
	for _, s := range sources {
		warn, err := ParseProxyConfig(s.text, &l.c.Proxy)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if len(warn) > 0 {
			l.c.Warnings = append(l.c.Warnings, s.name+": no effect here: "+strings.Join(warn, ", "))
		}
		if err := mergeRaw(l.raw, s.text); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for k, v := range l.c.Proxy.ProxyMetadata {
		if _, ok := l.env[k]; !ok {
			l.env[k] = v
		}
	}
	return nil
}

func (l *loader) identity() error {
	c := l.c
	c.Name, c.Namespace, c.ServiceAccount = l.env["POD_NAME"], l.env["POD_NAMESPACE"], l.env["SERVICE_ACCOUNT"]
	for name, v := range map[string]string{"POD_NAME": c.Name, "POD_NAMESPACE": c.Namespace} {
		if v == "" {
			return fmt.Errorf("%s is not set: give it by the downward API (fieldRef metadata.name, metadata.namespace)", name)
		}
	}
	c.Domain = l.flags.Domain
	if c.Domain == "" || strings.HasPrefix(c.Domain, ".") {
		c.Domain = c.Namespace + ".svc.cluster.local"
	}
	for _, text := range []string{l.env["INSTANCE_IP"], l.env["INSTANCE_IPS"]} {
		for one := range strings.SplitSeq(text, ",") {
			if one = strings.TrimSpace(one); one == "" {
				continue
			}
			a, err := netip.ParseAddr(one)
			if err != nil {
				return fmt.Errorf("INSTANCE_IP: %q is no IP address", one)
			}
			if !slices.Contains(c.IPs, a) {
				c.IPs = append(c.IPs, a)
			}
		}
	}
	if len(c.IPs) == 0 {
		var err error
		if c.IPs, err = l.e.Addresses(); err != nil {
			return fmt.Errorf("INSTANCE_IP is not set, and the interfaces cannot be read: %w", err)
		}
	}
	if len(c.IPs) == 0 {
		return errors.New("INSTANCE_IP is not set, and no interface has a global address")
	}
	l.locality()
	c.ServiceCluster = firstOf(l.flags.ServiceCluster, c.Proxy.ServiceCluster)
	if c.ServiceCluster == "" {
		app := firstOf(l.labels["service.istio.io/canonical-name"], l.labels["app.kubernetes.io/name"], l.labels["app"], l.env["ISTIO_META_WORKLOAD_NAME"], c.Name)
		c.ServiceCluster = app + "." + c.Namespace
	}
	return nil
}

// locality is the label istio-locality, its parts cut at dots as a label has no
// slash, else Kubernetes' topology labels. Where there is none the control plane
// knows the node's.
func (l *loader) locality() {
	if v := l.labels["istio-locality"]; v != "" {
		sep := "."
		if strings.Contains(v, "/") {
			sep = "/"
		}
		copy(l.c.Locality[:], strings.SplitN(v, sep, 3))
		return
	}
	l.c.Locality = [3]string{l.labels["topology.kubernetes.io/region"], l.labels["topology.kubernetes.io/zone"], l.labels["topology.istio.io/subzone"]}
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

func (l *loader) controlPlane() error {
	c := l.c
	c.DiscoveryAddress = firstOf(c.Proxy.DiscoveryAddress, defaultDiscovery)
	if err := hostPort("discoveryAddress", c.DiscoveryAddress); err != nil {
		return err
	}
	host, p, _ := net.SplitHostPort(c.DiscoveryAddress)
	if net.ParseIP(host) != nil {
		host = defaultServerName
	}
	c.ServerName = l.get("ISTIOD_SAN", host)
	// Istio's plaintext port; nothing secret may go over it.
	c.Plaintext = p == "15010"
	if ca := l.env["CA_ADDR"]; ca != "" && ca != c.DiscoveryAddress {
		if err := hostPort("CA_ADDR", ca); err != nil {
			return err
		}
		c.CAAddress = ca
	}
	c.RootFile = l.get("XDS_ROOT_CA", defaultRootFile)
	c.TokenFile = l.get("LATEEN_TOKEN_FILE", defaultTokenFile)
	var err error
	c.CertificateTTL, err = l.seconds("SECRET_TTL")
	return err
}

func hostPort(name, v string) error {
	host, p, err := net.SplitHostPort(v)
	n, perr := strconv.ParseUint(p, 10, 16)
	if err != nil || perr != nil || host == "" || n == 0 {
		return fmt.Errorf("%s: %q is not host:port, as in %s", name, v, defaultDiscovery)
	}
	return nil
}

func (l *loader) life() error {
	c := l.c
	if c.DrainTime = c.Proxy.TerminationDrainDuration; c.DrainTime == 0 {
		c.DrainTime = defaultTerminationDrain
	}
	// Every client's proxy has to hear of the pod's end first.
	c.MinimumDrain = c.DrainTime
	if l.env["EXIT_ON_ZERO_ACTIVE_CONNECTIONS"] != "true" {
		return nil
	}
	c.DrainToZero, c.DrainTime = true, zeroDrainBound
	var err error
	if c.MinimumDrain, err = l.seconds("MINIMUM_DRAIN_DURATION"); c.MinimumDrain == 0 {
		c.MinimumDrain = defaultMinimumDrain
	}
	return err
}

func (l *loader) ports() error {
	admin, status := l.c.Proxy.ProxyAdminPort, l.c.Proxy.StatusPort
	if admin == 0 {
		admin = adminPort
	}
	if status == 0 {
		status = statusPort
	}
	health, err := l.port("ENVOY_STATUS_PORT", healthPort)
	if err != nil {
		return err
	}
	prom, err := l.port("ENVOY_PROMETHEUS_PORT", prometheusPort)
	if err != nil {
		return err
	}
	on := func(host string, p uint16) string { return net.JoinHostPort(host, strconv.Itoa(int(p))) }
	l.c.Admin = on("127.0.0.1", admin)
	l.c.Status, l.c.Health, l.c.Prometheus = on("", status), on("", health), on("", prom)
	return nil
}

func (l *loader) application() error {
	var err error
	if l.c.AppProbers, err = ParseProbers(l.env["ISTIO_KUBE_APP_PROBERS"]); err != nil {
		return fmt.Errorf("ISTIO_KUBE_APP_PROBERS: %w", err)
	}
	if l.c.Scrape, err = ParseScrape(l.env["ISTIO_PROMETHEUS_ANNOTATIONS"]); err != nil {
		return fmt.Errorf("ISTIO_PROMETHEUS_ANNOTATIONS: %w", err)
	}
	return nil
}

// metadata is the node's metadata: every ISTIO_META_X as X, every
// ISTIO_METAJSON_X as the members of its object, and what the pod is.
func (l *loader) metadata() error {
	m := map[string]any{}
	labels := maps.Clone(l.labels)
	for _, k := range slices.Sorted(maps.Keys(l.env)) {
		v := l.env[k]
		if name, ok := strings.CutPrefix(k, "ISTIO_METAJSON_"); ok {
			var members map[string]any
			if err := json.Unmarshal([]byte(v), &members); err != nil {
				return fmt.Errorf("%s: %w", k, err)
			}
			if name == "LABELS" {
				for key, label := range members {
					if s, ok := label.(string); ok && labels != nil && labels[key] == "" {
						labels[key] = s
					}
				}
				continue
			}
			maps.Copy(m, members)
		} else if name, ok := strings.CutPrefix(k, "ISTIO_META_"); ok && name != "" {
			m[name] = v
		}
	}
	c := l.c
	ips := make([]string, len(c.IPs))
	for i, a := range c.IPs {
		ips[i] = a.String()
	}
	m["NAME"], m["NAMESPACE"], m["INSTANCE_IPS"] = c.Name, c.Namespace, strings.Join(ips, ",")
	m["PILOT_SAN"] = []string{c.ServerName}
	m["LATEEN_VHDS"] = "true"
	if c.ServiceAccount != "" {
		m["SERVICE_ACCOUNT"] = c.ServiceAccount
	}
	if len(labels) > 0 {
		m["LABELS"] = labels
	}
	if len(l.annotations) > 0 {
		m["ANNOTATIONS"] = l.annotations
	}
	if len(l.raw) > 0 {
		m["PROXY_CONFIG"] = l.raw
	}
	if _, ok := m["MESH_ID"]; !ok && c.Proxy.MeshID != "" {
		m["MESH_ID"] = c.Proxy.MeshID
	}
	c.Metadata = m
	return nil
}

func hostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

func interfaceAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	var out []netip.Addr
	for _, a := range all {
		p, perr := netip.ParsePrefix(a.String())
		if perr == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr())
		}
	}
	return out, err
}
