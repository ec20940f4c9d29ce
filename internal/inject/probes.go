// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// prober is one entry of ISTIO_KUBE_APP_PROBERS, in Istio's form.
type prober struct {
	HTTPGet        *corev1.HTTPGetAction   `json:"httpGet,omitempty"`
	TCPSocket      *corev1.TCPSocketAction `json:"tcpSocket,omitempty"`
	GRPC           *corev1.GRPCAction      `json:"grpc,omitempty"`
	TimeoutSeconds int32                   `json:"timeoutSeconds,omitempty"`
}

// rewriteProbes sends the kubelet's probes to the proxy's agent, which asks the
// application: with STRICT mutual TLS the kubelet has no certificate, and a TCP
// probe would only find the proxy.
func (i *injection) rewriteProbes() {
	status := i.proxy.GetStatusPort()
	proxy := i.proxyOf()
	if status == 0 || proxy == nil || !i.boolAnnotation(annRewriteProbes, i.s.RewriteProbes) {
		return
	}
	r := rewriter{i: i, port: status, probers: map[string]prober{}}
	for k := range i.pod.Spec.Containers {
		r.container(&i.pod.Spec.Containers[k])
	}
	for k := range i.pod.Spec.InitContainers {
		// A sidecar of the user's own has probes too.
		if c := &i.pod.Spec.InitContainers[k]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			r.container(c)
		}
	}
	if len(r.probers) > 0 {
		proxy.Env = append(proxy.Env, corev1.EnvVar{Name: "ISTIO_KUBE_APP_PROBERS", Value: mustJSON(r.probers)})
	}
}

type rewriter struct {
	i       *injection
	port    int32
	probers map[string]prober
	current *corev1.Container
}

func (r *rewriter) container(c *corev1.Container) {
	if c.Name == ProxyContainer || c.Name == InitContainer {
		return
	}
	r.current = c
	health := "/app-health/" + c.Name + "/"
	r.probe(c.LivenessProbe, health+"livez", "livenessProbe")
	r.probe(c.ReadinessProbe, health+"readyz", "readinessProbe")
	r.probe(c.StartupProbe, health+"startupz", "startupProbe")
	if l := c.Lifecycle; l != nil {
		r.lifecycle(l.PreStop, "/app-lifecycle/"+c.Name+"/prestopz", "lifecycle.preStop")
		r.lifecycle(l.PostStart, "/app-lifecycle/"+c.Name+"/poststartz", "lifecycle.postStart")
	}
}

func (r *rewriter) probe(p *corev1.Probe, path, field string) {
	if p == nil {
		return
	}
	h := &p.ProbeHandler
	switch {
	case h.HTTPGet != nil:
		r.httpGet(h.HTTPGet, path, field, p.TimeoutSeconds)
	case h.TCPSocket != nil:
		if r.tcpSocket(h.TCPSocket, path, field, p.TimeoutSeconds) {
			h.HTTPGet, h.TCPSocket = r.agent(path), nil
		}
	case h.GRPC != nil:
		r.probers[path] = prober{GRPC: h.GRPC.DeepCopy(), TimeoutSeconds: p.TimeoutSeconds}
		h.HTTPGet, h.GRPC = r.agent(path), nil
	}
}

func (r *rewriter) lifecycle(h *corev1.LifecycleHandler, path, field string) {
	switch {
	case h == nil:
	case h.HTTPGet != nil:
		r.httpGet(h.HTTPGet, path, field, 0)
	case h.TCPSocket != nil:
		if r.tcpSocket(h.TCPSocket, path, field, 0) {
			h.HTTPGet, h.TCPSocket = r.agent(path), nil
		}
	}
}

func (r *rewriter) agent(path string) *corev1.HTTPGetAction {
	return &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(r.port)}
}

// httpGet rewrites in place, so that the probe's headers go with it.
func (r *rewriter) httpGet(h *corev1.HTTPGetAction, path, field string, timeout int32) {
	if h.Host != "" {
		return // it asks somebody else than the pod
	}
	number, ok := r.number(h.Port, field)
	if !ok || number == r.port {
		return
	}
	was := h.DeepCopy()
	was.Port = intstr.FromInt32(number)
	if h.Scheme == corev1.URISchemeHTTPS {
		h.Scheme = corev1.URISchemeHTTP
	}
	h.Path, h.Port = path, intstr.FromInt32(r.port)
	r.probers[path] = prober{HTTPGet: was, TimeoutSeconds: timeout}
}

func (r *rewriter) tcpSocket(t *corev1.TCPSocketAction, path, field string, timeout int32) bool {
	if t.Host != "" {
		return false
	}
	number, ok := r.number(t.Port, field)
	if !ok {
		return false
	}
	r.probers[path] = prober{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(number)}, TimeoutSeconds: timeout}
	return true
}

// number resolves the name of a port within its container.
func (r *rewriter) number(p intstr.IntOrString, field string) (int32, bool) {
	if p.Type == intstr.Int {
		return p.IntVal, true
	}
	for _, have := range r.current.Ports {
		if have.Name == p.StrVal {
			return have.ContainerPort, true
		}
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(p.StrVal), 10, 16); err == nil && n > 0 {
		return int32(n), true
	}
	r.i.warnf("container %s, %s: the container has no port named %q, so the probe is left as it is", r.current.Name, field, p.StrVal)
	return 0, false
}
