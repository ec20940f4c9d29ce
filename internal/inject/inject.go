// SPDX-License-Identifier: Apache-2.0

// Package inject adds the proxy to pods: a pure function from a pod, its
// namespace and the mesh's settings to the pod with its sidecar, with the reason
// for what was decided.
package inject

import (
	"cmp"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Names of what is added, as Istio has them.
const (
	ProxyContainer = "istio-proxy"
	InitContainer  = "istio-init"

	// AutoImage is the image of a container istio-proxy that is to get ours.
	AutoImage = "auto"
)

// Namespace is what is known of a pod's namespace.
type Namespace struct {
	Name        string
	Labels      map[string]string
	Annotations map[string]string
}

// Workload is the object whose template a pod is made from.
type Workload struct {
	APIVersion string // apps/v1
	Kind       string // Deployment
	Name       string
}

// Input is everything an injection depends on. Inject changes nothing in it.
type Input struct {
	Pod       *corev1.Pod
	Namespace Namespace
	// Workload is empty where it is to be read from the pod's owner references.
	Workload Workload
	Settings *Settings
	// Mesh is nil for Istio's defaults.
	Mesh *meshv1alpha1.MeshConfig
	// ProxyConfigs are the objects of kind ProxyConfig (networking.istio.io) of the
	// pod's namespace and of the root namespace; others are passed over.
	ProxyConfigs []*config.Object
}

// Result is the outcome of an injection.
type Result struct {
	// Pod is the mutated pod, or the one of the input when nothing was injected.
	Pod      *corev1.Pod
	Decision Decision
	// Warnings name what the pod asks for and does not get.
	Warnings []string
}

// Error is a setting of a pod or the mesh that cannot be followed. Its text names
// the object, the field and what to write instead.
type Error struct {
	Object string // Pod default/web, annotation proxy.istio.io/config
	Reason string
}

func (e *Error) Error() string { return e.Object + ": " + e.Reason }

// injection is one run of Inject.
type injection struct {
	in       *Input
	s        *Settings
	mesh     *meshv1alpha1.MeshConfig
	proxy    *meshv1alpha1.ProxyConfig // in effect for this pod
	pod      *corev1.Pod               // being built
	original *corev1.Pod
	workload Workload
	native   bool
	warnings []string
}

// Inject decides whether the pod is to have a proxy and adds it. An injected pod
// comes back unchanged. Its errors are of type *Error, one or several joined.
func Inject(in Input) (Result, error) {
	i, err := newInjection(&in)
	if err != nil {
		return Result{}, err
	}
	r := Result{Pod: in.Pod, Decision: decide(i)}
	if !r.Decision.Inject {
		return r, nil
	}
	templates, err := i.templates()
	if err == nil {
		err = i.checkAnnotations()
	}
	if err != nil {
		return Result{}, err
	}
	if i.proxy, err = i.effectiveProxyConfig(); err != nil {
		return Result{}, err
	}
	if i.native, err = i.nativeSidecar(); err != nil {
		return Result{}, err
	}
	i.pod = in.Pod.DeepCopy()
	for _, apply := range templates {
		if err := apply(i); err != nil {
			return Result{}, err
		}
	}
	if err := i.finish(); err != nil {
		return Result{}, err
	}
	r.Pod, r.Warnings = i.pod, i.warnings
	return r, nil
}

func newInjection(in *Input) (*injection, error) {
	if in.Pod == nil {
		return nil, errors.New("inject: no pod")
	}
	if in.Settings == nil {
		return nil, errors.New("inject: no settings")
	}
	mesh := in.Mesh
	if mesh == nil {
		mesh = config.DefaultMeshConfig()
	}
	i := &injection{in: in, s: in.Settings, mesh: mesh, original: in.Pod}
	i.workload = workloadOf(in)
	return i, nil
}

// object names the pod in messages.
func (i *injection) object() string {
	name := cmp.Or(i.original.Name, i.original.GenerateName, i.workload.Name)
	if ns := i.namespace(); ns != "" {
		name = ns + "/" + name
	}
	return "Pod " + name
}

func (i *injection) namespace() string {
	return cmp.Or(i.in.Namespace.Name, i.original.Namespace)
}

func (i *injection) warnf(format string, args ...any) {
	i.warnings = append(i.warnings, fmt.Sprintf(format, args...))
}

func (i *injection) annotationError(name, format string, args ...any) error {
	return &Error{i.object() + ", annotation " + name, fmt.Sprintf(format, args...)}
}

// finish does what every template needs: labels, annotations, the order of
// containers, the application's probes and metrics, and the record of it all.
func (i *injection) finish() error {
	if err := i.mergeOverlays(); err != nil {
		return err
	}
	i.orderContainers()
	i.rewriteProbes()
	i.mergeMetrics()
	i.setMetadata()
	return i.recordStatus()
}

func setDefault(m *map[string]string, key, value string) {
	if _, ok := (*m)[key]; ok || value == "" {
		return
	}
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}
