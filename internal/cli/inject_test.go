// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
)

// inCluster runs a command against a cluster of these objects.
func inCluster(t *testing.T, stdin string, objects []runtime.Object, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	a := &app{ctx: t.Context(), timeout: time.Minute, Env: Env{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut, Version: "1.2.3", Getenv: func(string) string { return "" }}}
	kinds := map[schema.GroupVersionResource]string{{Group: "networking.istio.io", Version: "v1beta1", Resource: "proxyconfigs"}: "ProxyConfigList"}
	if objects != nil {
		a.openKube = func() (*kubeAccess, error) {
			return &kubeAccess{context: "test", namespace: "default", system: "istio-system",
				typed: fake.NewClientset(objects...), dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds)}, nil
		}
	}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errOut)
	err = root.Execute()
	return out.String(), errOut.String(), err
}

func mesh(values, meshConfig string) []runtime.Object {
	cm := func(name string, data map[string]string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: name}, Data: data}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1.36.3"}}}
	return []runtime.Object{node,
		cm("istio-sidecar-injector", map[string]string{"config": "policy: enabled", "values": values}),
		cm("istio", map[string]string{"mesh": meshConfig})}
}

const webDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1"}]}
`

func TestInjectFromTheCluster(t *testing.T) {
	out, errs, err := inCluster(t, webDeployment, mesh(`{"global":{"hub":"example.com/m","tag":"9"}}`, "trustDomain: td.example"), "kube-inject", "-f", "-")
	if err != nil || errs != "" {
		t.Fatalf("%v %s", err, errs)
	}
	for _, want := range []string{"image: example.com/m/lateen-proxy:9", "restartPolicy: Always", "value: td.example"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	again, errs, err := inCluster(t, out, mesh("", ""), "inject", "-f", "-")
	if err != nil || again != out || !strings.Contains(errs, "note: Deployment default/web is left alone: the pod has its proxy already") {
		t.Errorf("again: %v %s", err, errs)
	}
	if _, _, err := inCluster(t, webDeployment, []runtime.Object{}, "inject", "-f", "-"); err == nil || !strings.Contains(err.Error(), "lateen install") {
		t.Errorf("without a mesh: %v", err)
	}
}

func TestInjectWithoutACluster(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out.yaml")
	_, errs, err := inCluster(t, webDeployment, nil, "inject", "-f", "-", "-o", file, "--native-sidecar=false",
		"--set", "hub=example.com/m", "--set", "meshConfig.trustDomain=td.example", "--set", "meshConfig.defaultConfig.holdApplicationUntilProxyStarts=false")
	if err != nil || errs != "" {
		t.Fatalf("%v %s", err, errs)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := string(b)
	for want, has := range map[string]bool{"image: example.com/m/lateen-proxy:1.2.3": true, "value: td.example": true, "restartPolicy": false, "postStart": false} {
		if strings.Contains(out, want) != has {
			t.Errorf("%q: want %v in\n%s", want, has, out)
		}
	}
	if _, _, err := inCluster(t, "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}\nspec: {template: {spec: {continers: []}}}", nil, "inject", "-f", "-"); err == nil || !strings.Contains(err.Error(), `Deployment default/x: pod template: unknown field "spec.continers"`) {
		t.Errorf("a misspelt field: %v", err)
	}
	if _, _, err := inCluster(t, "", nil, "inject"); err == nil {
		t.Error("without -f")
	}
}

func TestInjectExplain(t *testing.T) {
	pod := func(name string, labels map[string]string) *corev1.Pod {
		yes := true
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: labels,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-abc", Controller: &yes}}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web"}}}}
	}
	objects := append(mesh("", ""),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"istio-injection": "enabled"}}},
		pod("late", map[string]string{"pod-template-hash": "abc"}), pod("out", map[string]string{"sidecar.istio.io/inject": "false"}))
	out, _, err := inCluster(t, "", objects, "inject", "explain", "late.shop")
	var e *exitError
	if !asExit(err, &e) || e.code != ExitFindings {
		t.Errorf("late: %v", err)
	}
	for _, want := range []string{"the pod has no proxy, but would get one today", "webhook called: yes, the namespace has the label istio-injection=enabled", "kubectl rollout restart deployment/web -n shop"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	out, _, err = inCluster(t, "", objects, "inject", "explain", "pod/out", "-n", "shop", "-o", "json")
	if err != nil || !strings.Contains(out, `"rule": "pod-label"`) || !strings.Contains(out, `"asked": false`) {
		t.Errorf("out: %v\n%s", err, out)
	}
	if _, _, err = inCluster(t, "", objects, "inject", "explain", "none"); err == nil {
		t.Error("a pod that is not there")
	}
}

func asExit(err error, to **exitError) bool { return errors.As(err, to) }
