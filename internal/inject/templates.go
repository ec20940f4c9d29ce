// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
)

// The templates: what a pod is filled in with.
const (
	templateSidecar = "sidecar"
	templateGateway = "gateway"
)

// knownTemplates says of each what it is for.
var knownTemplates = map[string]string{
	templateSidecar: "a proxy beside the application",
	templateGateway: "a proxy that is the application",
}

func templateNames() string {
	return strings.Join(slices.Sorted(maps.Keys(knownTemplates)), ", ")
}

// templates are those of the annotation inject.istio.io/templates, else the
// settings' default.
func (i *injection) templates() ([]func(*injection) error, error) {
	names := i.s.DefaultTemplates
	text, chosen := i.original.Annotations[TemplatesName]
	if chosen {
		names = split(text)
	}
	if len(names) == 0 {
		return nil, i.annotationError(TemplatesName, "%q names no template: there are %s", text, templateNames())
	}
	var out []func(*injection) error
	for _, n := range names {
		switch n {
		case templateSidecar:
			out = append(out, (*injection).sidecar)
		case templateGateway:
			out = append(out, (*injection).gateway)
		default:
			return nil, i.annotationError(TemplatesName, "there is no template %q: there are %s", n, templateNames())
		}
	}
	if len(out) > 1 {
		return nil, i.annotationError(TemplatesName, "%q: a pod has one proxy; name one of %s", text, templateNames())
	}
	return out, nil
}

// nativeSidecar decides how the sidecar is run.
func (i *injection) nativeSidecar() (bool, error) {
	if len(i.appContainers()) == 0 {
		return false, nil // the proxy is all there is, and a pod must have a container
	}
	if v, ok := i.original.Annotations[annNativeSidecar]; ok {
		return i.boolAnnotation(annNativeSidecar, v == "true"), nil
	}
	if v := i.proxy.GetProxyMetadata()["ENABLE_NATIVE_SIDECARS"]; v != "" {
		var s Settings
		if err := s.SetNative(v); err != nil {
			return false, &Error{i.object(), "proxyMetadata: " + err.Error()}
		}
		if s.Native != NativeAuto {
			return s.Native == NativeOn, nil
		}
	}
	return i.s.Native == NativeOn || i.s.Native == NativeAuto && i.s.kubeletsAreNew(), nil
}

// sidecar adds the proxy beside the application, and the container that captures
// the pod's network for it.
func (i *injection) sidecar() error {
	if i.proxy.InterceptionMode != meshv1alpha1.ProxyConfig_NONE {
		i.pod.Spec.InitContainers = append(withoutNamed(i.pod.Spec.InitContainers, InitContainer), i.captureContainer())
	}
	proxy, err := i.proxyContainer("sidecar")
	if err != nil {
		return err
	}
	i.startupOf(&proxy)
	i.lifecycleOf(&proxy)
	proxy.VolumeMounts = append(proxy.VolumeMounts, i.userMounts()...)
	i.pod.Spec.Containers = withoutNamed(i.pod.Spec.Containers, ProxyContainer)
	i.pod.Spec.InitContainers = withoutNamed(i.pod.Spec.InitContainers, ProxyContainer)
	if i.native {
		always := corev1.ContainerRestartPolicyAlways
		proxy.RestartPolicy = &always
		i.pod.Spec.InitContainers = append(i.pod.Spec.InitContainers, proxy)
	} else {
		i.pod.Spec.Containers = append(i.pod.Spec.Containers, proxy)
	}
	i.addVolumes()
	if k := i.workload.Kind; !i.native && (k == "Job" || k == "CronJob") {
		i.warnf("the sidecar of this %s is not a native one, so its pods do not end with the application: set the annotation %s: \"true\" (Kubernetes 1.29 on), or have the application POST to http://localhost:%d/quitquitquit", k, annNativeSidecar, i.proxy.GetStatusPort())
	}
	if i.workloadRunsAsProxy() {
		i.warnf("a container of the application runs as user or group %d, which is the proxy's: its traffic is not captured", proxyID)
	}
	return nil
}

// gateway fills the pod's one container in. That is how a gateway is deployed:
// a container istio-proxy with the image "auto".
func (i *injection) gateway() error {
	proxy, err := i.proxyContainer("router")
	if err != nil {
		return err
	}
	i.native = false // it is the application, not a sidecar
	i.pod.Spec.Containers = append(withoutNamed(i.pod.Spec.Containers, ProxyContainer), proxy)
	i.addVolumes()
	i.allowLowPorts()
	return nil
}

const lowPorts = "net.ipv4.ip_unprivileged_port_start"

// allowLowPorts lets a gateway listen on 80 and 443 without a capability.
func (i *injection) allowLowPorts() {
	sc := i.pod.Spec.SecurityContext
	if sc == nil {
		sc = &corev1.PodSecurityContext{}
		i.pod.Spec.SecurityContext = sc
	}
	if !slices.ContainsFunc(sc.Sysctls, func(s corev1.Sysctl) bool { return s.Name == lowPorts }) {
		sc.Sysctls = append(sc.Sysctls, corev1.Sysctl{Name: lowPorts, Value: "0"})
	}
}

func (i *injection) workloadRunsAsProxy() bool {
	is := func(id *int64) bool { return id != nil && *id == proxyID }
	if sc := i.original.Spec.SecurityContext; sc != nil && (is(sc.RunAsUser) || is(sc.RunAsGroup)) {
		return true
	}
	for _, c := range i.original.Spec.Containers {
		if sc := c.SecurityContext; c.Name != ProxyContainer && sc != nil && (is(sc.RunAsUser) || is(sc.RunAsGroup)) {
			return true
		}
	}
	return false
}

func withoutNamed(containers []corev1.Container, name string) []corev1.Container {
	return slices.DeleteFunc(slices.Clone(containers), func(c corev1.Container) bool { return c.Name == name })
}

// orderContainers puts them where Istio does. A native sidecar starts before the
// application's own init containers, so that those are in the mesh too; else the
// capture comes last, so that they are not cut off.
func (i *injection) orderContainers() {
	spec := &i.pod.Spec
	if i.native {
		spec.InitContainers = moveFirst(spec.InitContainers, ProxyContainer)
		spec.InitContainers = moveFirst(spec.InitContainers, InitContainer)
		return
	}
	spec.InitContainers = moveLast(spec.InitContainers, InitContainer)
	if i.holds() {
		spec.Containers = moveFirst(spec.Containers, ProxyContainer)
	} else {
		spec.Containers = moveLast(spec.Containers, ProxyContainer)
	}
}

func moveFirst(containers []corev1.Container, name string) []corev1.Container {
	c := find(containers, name)
	if c == nil {
		return containers
	}
	return append([]corev1.Container{*c}, withoutNamed(containers, name)...)
}

func moveLast(containers []corev1.Container, name string) []corev1.Container {
	c := find(containers, name)
	if c == nil {
		return containers
	}
	return append(withoutNamed(containers, name), *c)
}

// holds reports whether the kubelet is to start the application only once the
// proxy is ready. A native sidecar does that by itself. Unlike Istio this is the
// default: an application must not meet a captured network without its proxy.
func (i *injection) holds() bool {
	if i.native {
		return false
	}
	if h := i.proxy.GetHoldApplicationUntilProxyStarts(); h != nil {
		return h.Value
	}
	return i.s.HoldApplication
}
