// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/lateen-mesh/lateen/internal/config/k8s"
)

func TestWorkload(t *testing.T) {
	yes := true
	for _, tt := range []struct {
		owner, name, hash string
		wantName, want    string
	}{
		{"ReplicaSet", "reviews-v1-7d9f", "7d9f", "reviews-v1", "Deployment"},
		{"ReplicaSet", "bare", "", "bare", "ReplicaSet"},
		{"StatefulSet", "db", "", "db", "StatefulSet"},
		{"DaemonSet", "agent", "", "agent", "DaemonSet"},
		{"Job", "backup-29393280", "", "backup", "CronJob"},
		{"Job", "migrate-v2", "", "migrate-v2", "Job"},
		{"", "", "", "pod-1", "Pod"},
	} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod-1", Labels: map[string]string{"pod-template-hash": tt.hash}}}
		if tt.owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: tt.owner, Name: tt.name, Controller: &yes}}
		}
		if name, kind := Workload(p); name != tt.wantName || kind != tt.want {
			t.Errorf("%s %s: %s %s, want %s %s", tt.owner, tt.name, kind, name, tt.want, tt.wantName)
		}
	}
}

func TestConvert(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Labels: map[string]string{"app": "a"},
			Annotations: map[string]string{"sidecar.istio.io/inject": "true", "kubernetes.io/psp": "x"}},
		Spec: corev1.PodSpec{ServiceAccountName: "sa", NodeName: "n",
			InitContainers: []corev1.Container{
				{Name: "setup", Ports: []corev1.ContainerPort{{ContainerPort: 1}}},
				{Name: "istio-proxy", RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "prom", ContainerPort: 15090}}}},
			Containers: []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: "TCP"}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	if Pod(pod) != nil {
		t.Error("a pod without an address is kept")
	}
	pod.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
	o := Pod(pod)
	want := &k8s.Pod{IPs: []string{"10.0.0.1", "fd00::1"}, ServiceAccount: "sa", Node: "n", Phase: "Running", Ready: true, Injected: true,
		Ports:    []k8s.ContainerPort{{Name: "web", Number: 8080, Protocol: "TCP"}, {Name: "prom", Number: 15090, Protocol: "TCP"}},
		Workload: "p", WorkloadKind: "Pod"}
	if diff := cmp.Diff(want, o.Spec); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"sidecar.istio.io/inject": "true"}, o.Annotations); diff != "" || o.APIVersion != "v1" {
		t.Error(diff, o.APIVersion)
	}

	grpc := "grpc"
	svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "None", ClusterIPs: []string{"None"},
		Ports: []corev1.ServicePort{{Name: "g", Port: 80, TargetPort: intstr.FromInt32(8080), NodePort: 30000, AppProtocol: &grpc}, {Name: "n", Port: 81, TargetPort: intstr.FromString("web")}}},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "1.2.3.4"}, {Hostname: "lb"}}}}}
	if diff := cmp.Diff(&k8s.Service{Type: "LoadBalancer", Headless: true, Ingress: []string{"1.2.3.4", "lb"}, Ports: []k8s.ServicePort{
		{Name: "g", Number: 80, Target: 8080, NodePort: 30000, Protocol: "TCP", AppProtocol: "grpc"}, {Name: "n", Number: 81, TargetName: "web", Protocol: "TCP"}}},
		Service(svc).Spec); diff != "" {
		t.Error(diff)
	}
}

func TestSecretsThatAreKept(t *testing.T) {
	secret := func(namespace, name string, kind corev1.SecretType, keys ...string) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: kind, Data: map[string][]byte{}}
		for _, k := range keys {
			s.Data[k] = []byte("x")
		}
		return s
	}
	for _, tt := range []struct {
		s    *corev1.Secret
		keys int // that are kept; 0: none of it
	}{
		{secret("default", "tls", corev1.SecretTypeTLS, "tls.crt", "tls.key", "extra"), 2},
		{secret("default", "generic", corev1.SecretTypeOpaque, "cert", "key", "cacert"), 3},
		{secret("default", "ca-only", corev1.SecretTypeOpaque, "ca.crt"), 1},
		{secret("default", "password", corev1.SecretTypeOpaque, "password"), 0},
		{secret("default", "api-key", corev1.SecretTypeOpaque, "key"), 0},
		{secret("default", "token", corev1.SecretTypeServiceAccountToken, "ca.crt", "token"), 0},
		{secret("istio-system", "cacerts", corev1.SecretTypeOpaque, "ca-cert.pem", "ca-key.pem", "ca.crt"), 0},
		{secret("istio-system", "istio-ca-secret", "istio.io/ca-root", "ca-cert.pem", "ca.crt"), 0},
	} {
		o := Secret(tt.s, "istio-system")
		if (o == nil) != (tt.keys == 0) || o != nil && len(o.Spec.(*k8s.Secret).Data) != tt.keys {
			t.Errorf("%s: %v", tt.s.Name, o)
		}
	}
}
