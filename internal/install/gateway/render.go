// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/lateen-mesh/lateen/internal/compile/gatewayapi"
	"github.com/lateen-mesh/lateen/internal/config"
)

// Istio's labels and ports.
const (
	classLabel   = "gateway.networking.k8s.io/gateway-class-name"
	managedLabel = "gateway.istio.io/managed"
	managedBy    = "istio.io-gateway-controller"
	statusPort   = 15021
	metricsPort  = 15090
	proxyID      = int64(1337)
)

// Render makes what is deployed for a Gateway: a ServiceAccount, a Deployment
// whose pods the injector fills in, and a Service. uid is the Gateway's, which
// owns them: they go with it. revision is the control plane's.
func Render(o *config.Object, uid types.UID, revision string) ([]*unstructured.Unstructured, error) {
	r := newRendering(o, uid, revision)
	var out []*unstructured.Unstructured
	for _, x := range []runtime.Object{r.account(), r.deployment(), r.service()} {
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(x)
		if err != nil {
			return nil, fmt.Errorf("render %s: %w", o.Key, err)
		}
		u := &unstructured.Unstructured{Object: m}
		// They are ours to set only as far as we say something.
		unstructured.RemoveNestedField(u.Object, "status")
		unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
		unstructured.RemoveNestedField(u.Object, "spec", "strategy")
		unstructured.RemoveNestedField(u.Object, "spec", "template", "metadata", "creationTimestamp")
		out = append(out, u)
	}
	return out, nil
}

type rendering struct {
	gateway  *config.Object
	spec     *v1.GatewaySpec
	uid      types.UID
	revision string
	name     string
	// labels and annotations of everything; those of pods leave out what is
	// said to the Service only.
	labels, annotations, podAnnotations map[string]string
}

func newRendering(o *config.Object, uid types.UID, revision string) *rendering {
	r := &rendering{
		gateway: o, spec: o.Spec.(*v1.GatewaySpec), uid: uid, revision: revision, name: gatewayapi.ServiceOf(o).Name,
		labels: map[string]string{}, annotations: map[string]string{},
	}
	maps.Copy(r.labels, o.Labels)
	maps.Copy(r.annotations, o.Annotations)
	if i := r.spec.Infrastructure; i != nil {
		for k, v := range i.Labels {
			r.labels[string(k)] = string(v)
		}
		for k, v := range i.Annotations {
			r.annotations[string(k)] = string(v)
		}
	}
	r.labels[gatewayapi.NameLabel] = o.Name
	r.labels[classLabel] = string(r.spec.GatewayClassName)
	r.labels[managedLabel] = managedBy
	r.podAnnotations = maps.Clone(r.annotations)
	delete(r.podAnnotations, gatewayapi.ServiceTypeAnnotation)
	return r
}

func (r *rendering) meta() metav1.ObjectMeta {
	yes := true
	return metav1.ObjectMeta{
		Name: r.name, Namespace: r.gateway.Namespace, Labels: r.labels, Annotations: r.annotations,
		OwnerReferences: []metav1.OwnerReference{{
			APIVersion: config.KubeGateway.APIVersion(), Kind: config.KubeGateway.Name, Name: r.gateway.Name, UID: r.uid, Controller: &yes,
		}},
	}
}

func (r *rendering) selector() map[string]string {
	return map[string]string{gatewayapi.NameLabel: r.gateway.Name}
}

func (r *rendering) account() *corev1.ServiceAccount {
	return &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: r.meta()}
}

// service has the status port, by which load balancers check, and each
// listener's.
func (r *rendering) service() *corev1.Service {
	out := &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: r.meta()}
	out.Spec.Selector = r.selector()
	out.Spec.Type = corev1.ServiceType(gatewayapi.ServiceType(r.gateway))
	if len(r.spec.Addresses) == 1 && out.Spec.Type == corev1.ServiceTypeLoadBalancer {
		out.Spec.LoadBalancerIP = r.spec.Addresses[0].Value //nolint:staticcheck // the one way to ask for an address
	}
	family := corev1.IPFamilyPolicyPreferDualStack
	out.Spec.IPFamilyPolicy = &family
	tcp := "tcp"
	out.Spec.Ports = []corev1.ServicePort{{Name: "status-port", Port: statusPort, TargetPort: intstr.FromInt32(statusPort), Protocol: corev1.ProtocolTCP, AppProtocol: &tcp}}
	names := []string{"status-port"}
	for _, l := range r.spec.Listeners {
		if slices.ContainsFunc(out.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == int32(l.Port) }) {
			continue
		}
		name, protocol := string(l.Name), strings.ToLower(string(l.Protocol))
		if len(validation.IsDNS1123Label(name)) > 0 || slices.Contains(names, name) {
			name = fmt.Sprintf("port-%d", l.Port) // a listener's name may be longer than a port's
		}
		names = append(names, name)
		out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{
			Name: name, Port: int32(l.Port), TargetPort: intstr.FromInt32(int32(l.Port)), Protocol: corev1.ProtocolTCP, AppProtocol: &protocol,
		})
	}
	return out
}

// deployment says nothing of replicas, so that who scales it is left alone.
func (r *rendering) deployment() *appsv1.Deployment {
	out := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: r.meta()}
	out.Spec.Selector = &metav1.LabelSelector{MatchLabels: r.selector()}
	labels := maps.Clone(r.labels)
	maps.Copy(labels, map[string]string{
		"sidecar.istio.io/inject": "true", "service.istio.io/canonical-name": r.name, "service.istio.io/canonical-revision": "latest",
	})
	if r.revision != "" && r.revision != "default" {
		labels["istio.io/rev"] = r.revision
	}
	annotations := map[string]string{
		"inject.istio.io/templates": "gateway", "prometheus.io/path": "/stats/prometheus", "prometheus.io/port": "15020", "prometheus.io/scrape": "true",
	}
	maps.Copy(annotations, r.podAnnotations)
	out.Spec.Template = corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
		Spec: corev1.PodSpec{
			ServiceAccountName: r.name,
			SecurityContext: &corev1.PodSecurityContext{
				// Without a capability a gateway may listen on 80 and 443.
				Sysctls:      []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}},
				RunAsNonRoot: pointer(true), RunAsUser: pointer(proxyID), RunAsGroup: pointer(proxyID), FSGroup: pointer(proxyID),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{r.container()},
		},
	}
	return out
}

// container is what the injector's template "gateway" fills in.
func (r *rendering) container() corev1.Container {
	c := corev1.Container{
		Name: "istio-proxy", Image: "auto",
		Ports: []corev1.ContainerPort{{Name: "status-port", ContainerPort: statusPort, Protocol: corev1.ProtocolTCP}, {Name: "http-envoy-prom", ContainerPort: metricsPort, Protocol: corev1.ProtocolTCP}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: pointer(false), ReadOnlyRootFilesystem: pointer(true), RunAsNonRoot: pointer(true),
			RunAsUser: pointer(proxyID), RunAsGroup: pointer(proxyID), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	for _, l := range r.spec.Listeners {
		if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == int32(l.Port) }) {
			c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: int32(l.Port), Protocol: corev1.ProtocolTCP})
		}
	}
	return c
}

func pointer[T any](v T) *T { return &v }
