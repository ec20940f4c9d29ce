// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
)

// proxyID is the user and group of the proxy: capture lets its traffic pass.
const proxyID = 1337

const (
	healthPort     = 15021
	prometheusPort = 15090
)

const rootAccount = 0

func ptr[T any](v T) *T { return &v }

// proxyContainer is the container lateen-proxy runs in, in both its roles.
func (i *injection) proxyContainer(role string) (corev1.Container, error) {
	env, err := i.proxyEnv()
	if err != nil {
		return corev1.Container{}, err
	}
	args := []string{"proxy", role,
		"--domain", "$(POD_NAMESPACE).svc." + i.s.ClusterDomain,
		"--proxyLogLevel=" + i.annotation(annLogLevel, i.s.LogLevel)}
	if v := i.annotation(annComponentLogLevel, i.s.ComponentLogLevel); v != "" {
		args = append(args, "--proxyComponentLogLevel="+v)
	}
	args = append(args, "--log_output_level="+i.annotation(annAgentLogLevel, i.s.AgentLogLevel))
	return corev1.Container{
		Name: ProxyContainer, Image: i.annotation(annProxyImage, i.s.image(i.s.ProxyImage)), ImagePullPolicy: i.s.ImagePullPolicy,
		Ports:           []corev1.ContainerPort{{Name: "http-envoy-prom", ContainerPort: prometheusPort, Protocol: corev1.ProtocolTCP}},
		Args:            args,
		Env:             env,
		Resources:       i.resources(),
		SecurityContext: i.proxySecurity(role),
		ReadinessProbe:  i.readiness(),
		VolumeMounts: []corev1.VolumeMount{
			{Name: "istiod-ca-cert", MountPath: "/var/run/secrets/istio"},
			{Name: "istio-envoy", MountPath: "/etc/istio/proxy"},
			{Name: "istio-token", MountPath: "/var/run/secrets/tokens"},
			{Name: "istio-podinfo", MountPath: "/etc/istio/pod"},
		},
	}, nil
}

// proxySecurity gives the proxy nothing but its user. A transparent proxy needs
// the capability to bind addresses that are not its own.
func (i *injection) proxySecurity(role string) *corev1.SecurityContext {
	sc := restricted()
	if role == "sidecar" && i.proxy.InterceptionMode == meshv1alpha1.ProxyConfig_TPROXY {
		sc.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
		sc.RunAsUser, sc.RunAsNonRoot = ptr(int64(rootAccount)), ptr(false)
	}
	return sc
}

func restricted() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr(false), Privileged: ptr(false), ReadOnlyRootFilesystem: ptr(true),
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		RunAsUser:    ptr(int64(proxyID)), RunAsGroup: ptr(int64(proxyID)), RunAsNonRoot: ptr(true),
	}
}

// resources are the pod's annotations where it has one of them, else the
// settings' (Istio's template "resources").
func (i *injection) resources() corev1.ResourceRequirements {
	set := func(list *corev1.ResourceList, key corev1.ResourceName, name string) bool {
		v, ok := i.original.Annotations[name]
		if !ok {
			return false
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[key] = resource.MustParse(v) // checkAnnotations has parsed it
		return true
	}
	var out corev1.ResourceRequirements
	a := set(&out.Requests, corev1.ResourceCPU, annProxyCPU)
	b := set(&out.Requests, corev1.ResourceMemory, annProxyMemory)
	c := set(&out.Limits, corev1.ResourceCPU, annProxyCPULimit)
	d := set(&out.Limits, corev1.ResourceMemory, annProxyMemoryLimit)
	if a || b || c || d {
		return out
	}
	return *i.s.ProxyResources.DeepCopy()
}

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}

func limitEnv(name, limit string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: limit, Divisor: resource.MustParse("0")}}}
}

func (i *injection) proxyEnv() ([]corev1.EnvVar, error) {
	proxyConfig, err := i.proxyConfigJSON()
	if err != nil {
		return nil, &Error{i.object(), err.Error()}
	}
	trustDomain := first(i.mesh.GetTrustDomain(), "cluster.local")
	value := func(name, v string) corev1.EnvVar { return corev1.EnvVar{Name: name, Value: v} }
	env := []corev1.EnvVar{
		value("PILOT_CERT_PROVIDER", "istiod"),
		value("CA_ADDR", first(i.s.CAAddress, i.proxy.GetDiscoveryAddress())),
		fieldEnv("POD_NAME", "metadata.name"),
		fieldEnv("POD_NAMESPACE", "metadata.namespace"),
		fieldEnv("INSTANCE_IP", "status.podIP"),
		fieldEnv("INSTANCE_IPS", "status.podIPs"),
		fieldEnv("SERVICE_ACCOUNT", "spec.serviceAccountName"),
		fieldEnv("HOST_IP", "status.hostIP"),
		limitEnv("ISTIO_CPU_LIMIT", "limits.cpu"),
		value("PROXY_CONFIG", proxyConfig),
		value("ISTIO_META_POD_PORTS", i.podPorts()),
		value("ISTIO_META_APP_CONTAINERS", strings.Join(i.appContainers(), ",")),
		limitEnv("GOMEMLIMIT", "limits.memory"),
		limitEnv("GOMAXPROCS", "limits.cpu"),
		value("ISTIO_META_CLUSTER_ID", i.s.ClusterID),
		fieldEnv("ISTIO_META_NODE_NAME", "spec.nodeName"),
		value("ISTIO_META_INTERCEPTION_MODE", i.proxy.InterceptionMode.String()),
	}
	optional := func(name, v string) {
		if v != "" {
			env = append(env, value(name, v))
		}
	}
	optional("ISTIO_META_NETWORK", first(i.original.Labels["topology.istio.io/network"], i.s.Network))
	if w := i.workload; w.Name != "" {
		optional("ISTIO_META_WORKLOAD_NAME", w.Name)
		optional("ISTIO_META_OWNER", w.owner(first(i.namespace(), "default")))
	}
	optional("ISTIO_META_MESH_ID", first(i.s.MeshID, i.proxy.GetMeshId(), trustDomain))
	optional("TRUST_DOMAIN", trustDomain)
	return withMetadata(env, i.proxy.GetProxyMetadata()), nil
}

// withMetadata adds proxyMetadata as variables; what is there already stays.
func withMetadata(env []corev1.EnvVar, metadata map[string]string) []corev1.EnvVar {
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		if !slices.ContainsFunc(env, func(e corev1.EnvVar) bool { return e.Name == name }) {
			env = append(env, corev1.EnvVar{Name: name, Value: metadata[name]})
		}
	}
	return env
}

func (i *injection) podPorts() string {
	ports := []corev1.ContainerPort{}
	for _, c := range i.original.Spec.Containers {
		if c.Name != ProxyContainer {
			ports = append(ports, c.Ports...)
		}
	}
	return mustJSON(ports)
}

func (i *injection) appContainers() []string {
	var names []string
	for _, c := range i.original.Spec.Containers {
		if c.Name != ProxyContainer {
			names = append(names, c.Name)
		}
	}
	return names
}

func readyHandler() corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz/ready", Port: intstr.FromInt32(healthPort)}}
}

// readiness is the proxy's own; the status port 0 turns it off, as in Istio.
func (i *injection) readiness() *corev1.Probe {
	if i.proxy.GetStatusPort() == 0 {
		return nil
	}
	p := &corev1.Probe{ProbeHandler: readyHandler(), PeriodSeconds: 15, TimeoutSeconds: 3, FailureThreshold: 4}
	if r := i.proxy.GetReadinessProbe(); r != nil {
		p.InitialDelaySeconds = r.InitialDelaySeconds
		p.PeriodSeconds = positive(r.PeriodSeconds, p.PeriodSeconds)
		p.TimeoutSeconds = positive(r.TimeoutSeconds, p.TimeoutSeconds)
		p.FailureThreshold = positive(r.FailureThreshold, p.FailureThreshold)
		p.SuccessThreshold = r.SuccessThreshold
		if r.HealthCheckMethod != nil {
			i.warnf("readinessProbe of the ProxyConfig: only its times have an effect; the proxy says itself whether it is ready")
		}
	}
	p.InitialDelaySeconds = i.numberAnnotation(annInitialDelay, p.InitialDelaySeconds)
	p.PeriodSeconds = i.numberAnnotation(annPeriod, p.PeriodSeconds)
	p.FailureThreshold = i.numberAnnotation(annFailureThreshold, p.FailureThreshold)
	return p
}

func positive(v, otherwise int32) int32 {
	if v > 0 {
		return v
	}
	return otherwise
}

// startupOf keeps the other probes back until the proxy has its configuration,
// which may take ten minutes while the control plane is away.
func (i *injection) startupOf(c *corev1.Container) {
	if i.proxy.GetStatusPort() != 0 || i.native {
		c.StartupProbe = &corev1.Probe{ProbeHandler: readyHandler(), PeriodSeconds: 1, TimeoutSeconds: 3, FailureThreshold: 600}
	}
}

// lifecycleOf holds the application back until the proxy is ready, or lets a
// native sidecar begin to drain when the pod ends and not when its application has.
func (i *injection) lifecycleOf(c *corev1.Container) {
	exec := func(command ...string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: command}}
	}
	switch {
	case i.native && i.proxy.GetStatusPort() != 0:
		port := strconv.Itoa(int(i.proxy.GetStatusPort()))
		c.Lifecycle = &corev1.Lifecycle{PreStop: exec("pilot-agent", "request", "--debug-port="+port, "POST", "drain")}
	case i.holds():
		c.Lifecycle = &corev1.Lifecycle{PostStart: exec("pilot-agent", "wait")}
	}
}

// captureContainer is istio-init: it programs the pod's network and ends.
func (i *injection) captureContainer() corev1.Container {
	c := corev1.Container{
		Name: InitContainer, Image: i.annotation(annProxyImage, i.s.image(i.s.InitImage)), ImagePullPolicy: i.s.ImagePullPolicy,
		Args: i.captureArgs(), Env: withMetadata(nil, i.proxy.GetProxyMetadata()),
		Resources: *i.s.InitResources.DeepCopy(),
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr(false), Privileged: ptr(false), ReadOnlyRootFilesystem: ptr(true),
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"}, Drop: []corev1.Capability{"ALL"}},
			RunAsUser:    ptr(int64(rootAccount)), RunAsGroup: ptr(int64(rootAccount)), RunAsNonRoot: ptr(false),
		},
	}
	return c
}

// captureArgs are istio-iptables' flags.
func (i *injection) captureArgs() []string {
	excluded := []string{strconv.Itoa(prometheusPort), strconv.Itoa(healthPort)}
	if p := i.proxy.GetStatusPort(); p != 0 {
		excluded = append(excluded, strconv.Itoa(int(p)))
	}
	excluded = append(excluded, split(i.annotation(annExcludeInPorts, i.s.ExcludeInboundPorts))...)
	list := func(name, otherwise string) string { return strings.Join(split(i.annotation(name, otherwise)), ",") }
	args := []string{"istio-iptables",
		"-p", port(i.mesh.GetProxyListenPort(), 15001), "-z", port(i.mesh.GetProxyInboundListenPort(), 15006),
		"-u", strconv.Itoa(proxyID), "-m", i.proxy.InterceptionMode.String(),
		"-i", list(annIncludeOutbound, i.s.IncludeOutboundRanges), "-x", list(annExcludeOutbound, i.s.ExcludeOutboundRanges),
		"-b", list(annIncludeInPorts, i.s.IncludeInboundPorts), "-d", strings.Join(excluded, ","),
	}
	for _, f := range []struct{ flag, value string }{
		{"-q", list(annIncludeOutPorts, i.s.IncludeOutboundPorts)},
		{"-o", list(annExcludeOutPorts, i.s.ExcludeOutboundPorts)},
		{"-k", list(annRerouteInterfaces, i.annotation(annKubevirtInterfaces, ""))},
		{"-c", list(annExcludeInterfaces, "")},
	} {
		if f.value != "" {
			args = append(args, f.flag, f.value)
		}
	}
	if i.proxy.GetProxyMetadata()["ISTIO_META_DNS_CAPTURE"] == "true" {
		args = append(args, "--redirect-dns")
	}
	return append(args, "--log_output_level="+i.annotation(annAgentLogLevel, i.s.AgentLogLevel))
}

func port(p, otherwise int32) string {
	return strconv.Itoa(int(positive(p, otherwise)))
}

func (i *injection) userMounts() []corev1.VolumeMount {
	m, _ := userMounts(i.annotation(annUserVolumeMount, "{}")) // checkAnnotations has read it
	return m
}
