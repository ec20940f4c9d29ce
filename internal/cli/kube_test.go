// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakedynamic "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/controlplane/api"
	"github.com/lateen-mesh/lateen/internal/install"
)

// clusterOf is a cluster of fakes whose pods answer by ports' handlers.
func clusterOf(t *testing.T, handlers map[string]http.Handler, objects ...runtime.Object) *kubeAccess {
	t.Helper()
	lists := map[schema.GroupVersionResource]string{}
	for _, k := range config.Kinds() {
		for _, v := range k.Versions {
			lists[schema.GroupVersionResource{Group: k.Group, Version: v, Resource: k.Plural}] = k.Name + "List"
		}
	}
	for _, r := range []struct{ group, version, resource, list string }{
		{"apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinitionList"},
		{"", "v1", "serviceaccounts", "ServiceAccountList"}, {"", "v1", "configmaps", "ConfigMapList"}, {"", "v1", "services", "ServiceList"},
		{"rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRoleList"}, {"rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBindingList"},
		{"rbac.authorization.k8s.io", "v1", "roles", "RoleList"}, {"rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBindingList"},
		{"policy", "v1", "poddisruptionbudgets", "PodDisruptionBudgetList"}, {"apps", "v1", "deployments", "DeploymentList"},
		{"autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscalerList"},
		{"admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfigurationList"},
		{"admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfigurationList"},
		{"networking.k8s.io", "v1", "ingressclasses", "IngressClassList"},
	} {
		lists[schema.GroupVersionResource{Group: r.group, Version: r.version, Resource: r.resource}] = r.list
	}
	k := &kubeAccess{context: "test", namespace: "shop", system: install.DefaultNamespace, typed: fake.NewClientset(objects...),
		dynamic: fakedynamic.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), lists)}
	k.forward = func(_ context.Context, namespace, pod string, port int) (net.Conn, error) {
		h := handlers[fmt.Sprintf("%s/%s:%d", namespace, pod, port)]
		if h == nil {
			return nil, fmt.Errorf("nothing listens on port %d of %s/%s", port, namespace, pod)
		}
		ours, theirs := net.Pipe()
		go serveConn(theirs, h)
		return ours, nil
	}
	return k
}

// serveConn answers the requests of one connection.
func serveConn(c net.Conn, h http.Handler) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		w := &buffered{header: http.Header{}, code: http.StatusOK}
		h.ServeHTTP(w, req)
		res := http.Response{StatusCode: w.code, ProtoMajor: 1, ProtoMinor: 1, Header: w.header, ContentLength: int64(w.Len()), Body: io.NopCloser(&w.Buffer)}
		if err := res.Write(c); err != nil {
			return
		}
	}
}

type buffered struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (b *buffered) Header() http.Header { return b.header }
func (b *buffered) WriteHeader(c int)   { b.code = c }

func onCluster(t *testing.T, k *kubeAccess, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	var out, errOut bytes.Buffer
	a := &app{ctx: t.Context(), Env: Env{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut, Version: "1.2.4", Now: func() time.Time { return now },
		Getenv: func(string) string { return "" },
	}, openKube: func() (*kubeAccess, error) { return k, nil }}
	code = a.run(args)
	return code, out.String(), errOut.String()
}

func istiodPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: name, Labels: map[string]string{"app": "istiod"}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning}}
}

const serviceEntry = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: out
  labels: {a: b}
spec:
  hosts: [%s]
  ports:
  - {number: 80, name: http, protocol: HTTP}
  resolution: DNS
`

// TestObjectsInCluster: apply, get and delete go to the API server with the
// user's own permissions, and work without a control plane.
func TestObjectsInCluster(t *testing.T) {
	k := clusterOf(t, nil)
	step := func(stdin string, want int, text string, args ...string) {
		t.Helper()
		code, out, errOut := onCluster(t, k, stdin, args...)
		if code != want || !strings.Contains(out+errOut, text) {
			t.Errorf("lateen %s: exit %d, want %d with %q\n%s%s", strings.Join(args, " "), code, want, text, out, errOut)
		}
	}
	yaml := fmt.Sprintf(serviceEntry, "a.example.com")
	step(yaml, 0, "serviceentry.networking.istio.io/out created", "apply", "-f", "-")
	step(yaml, 0, "serviceentry.networking.istio.io/out unchanged", "apply", "-f", "-")
	step(fmt.Sprintf(serviceEntry, "b.example.com"), 0, "serviceentry.networking.istio.io/out configured", "apply", "-f", "-")
	step("", 0, "b.example.com", "get", "se", "out", "-n", "shop", "-o", "yaml")
	step("", 0, "No serviceentries found in namespace default", "get", "se", "-n", "default")
	step(strings.Replace(yaml, "hosts", "hostz", 1), 1, `did you mean "hosts"`, "apply", "-f", "-")
	step("", 0, "serviceentry.networking.istio.io/out deleted", "delete", "se", "out")
	step("", 1, "not found", "delete", "se", "out")
	step("", 0, "", "delete", "se", "out", "--ignore-not-found")
	step("", 0, "No meshconfigs found", "get", "meshconfigs")
	step("apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: istio, namespace: istio-system}\nspec: {}\n", 1, "lateen install --set meshConfig", "apply", "-f", "-")
}

// TestProxiesInCluster: the proxies of every replica, their configuration by
// a port-forward to the pod.
func TestProxiesInCluster(t *testing.T) {
	synced := api.Sync{Status: "SYNCED"}
	types := map[string]api.Sync{"CDS": synced, "LDS": synced, "EDS": synced, "RDS": synced}
	one := &plane{proxies: []api.Proxy{{Name: "web-1.shop", ClusterID: "Kubernetes", NodeID: "sidecar~10.0.0.5~web-1.shop~shop.svc.cluster.local", Version: "1.2.4", Types: types}}}
	two := &plane{proxies: []api.Proxy{{Name: "api.v1.shop", ClusterID: "Kubernetes", NodeID: "sidecar~10.0.0.6~api.v1.shop~shop.svc.cluster.local", Version: "1.2.3", Types: types}}}
	dump, err := os.ReadFile(filepath.Join("testdata", "config_dump.json"))
	if err != nil {
		t.Fatal(err)
	}
	k := clusterOf(t, map[string]http.Handler{
		"istio-system/istiod-1:9876": one, "istio-system/istiod-2:9876": two,
		"shop/api.v1:15000": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/config_dump" {
				_, _ = w.Write(dump)
			}
		}),
	}, istiodPod("istiod-1"), istiodPod("istiod-2"))
	code, out, errOut := onCluster(t, k, "", "proxy", "status", "-v")
	for _, want := range []string{"web-1.shop", "istiod-1", "api.v1.shop", "istiod-2", "context test"} {
		if !strings.Contains(out+errOut, want) {
			t.Errorf("proxy status: no %q: exit %d\n%s%s", want, code, out, errOut)
		}
	}
	if code, out, errOut = onCluster(t, k, "", "pc", "cluster", "api.v1.shop"); code != 0 || !strings.Contains(out, "SERVICE FQDN") {
		t.Errorf("pc cluster: exit %d\n%s%s", code, out, errOut)
	}
	if code, out, errOut = onCluster(t, k, "", "pc", "cluster", "web-1"); code == 0 || !strings.Contains(errOut, "nothing listens on port 15000 of shop/web-1") {
		t.Errorf("pc cluster of a pod without admin port: exit %d\n%s%s", code, out, errOut)
	}
	if code, out, errOut = onCluster(t, k, "", "version"); code != 0 || !strings.Contains(out, "data plane version: 1.2.3 (1 proxy), 1.2.4 (1 proxy)") {
		t.Errorf("version: exit %d\n%s%s", code, out, errOut)
	}
	if code, _, errOut = onCluster(t, clusterOf(t, nil), "", "proxy", "status"); code != ExitNoMesh || !strings.Contains(errOut, "lateen install") {
		t.Errorf("without a control plane: exit %d\n%s", code, errOut)
	}
}

// TestInstallVerbs: the command lines that istioctl's documents have, as far as
// they end before a cluster changes.
func TestInstallVerbs(t *testing.T) {
	k := clusterOf(t, nil)
	for _, c := range []struct {
		line, stdin, want string
		code              int
	}{
		{"install --set profile=default --set meshConfig.accessLogFile=/dev/stdout --skip-confirmation --dry-run", "", "accessLogFile: /dev/stdout", 0},
		{"install --set meshConfig.defaultConfig.holdApplicationUntilProxyStarts=true --dry-run", "", "holdApplicationUntilProxyStarts: true", 0},
		{"install — set meshConfig.defaultConfig.holdApplicationUntilProxyStarts=true --dry-run", "", "holdApplicationUntilProxyStarts: true", 0},
		{"manifest generate --set profile=demo", "", "name: istio-egressgateway", 0},
		{"install --profile minimal --dry-run --revision canary", "", "name: istiod-canary", 0},
		{"install --set values.pilot.replicaCout=2", "", `did you mean "replicaCount"`, ExitBadInput},
		{"install", "", "nobody answered: use --skip-confirmation", ExitUsage},
		{"install", "n\n", "cancelled: nothing was changed", ExitFailed},
		{"upgrade -y", "", "use `lateen install`", ExitNoMesh},
		{"uninstall -y", "", "there is nothing to uninstall in context test", ExitNoMesh},
		{"x uninstall --purge --dry-run", "", "", 0},
		{"x uninstall — purge --dry-run", "", "", 0},
		{"check -o json", "", `"categoryName": "kubernetes-api"`, ExitFailed},
	} {
		code, out, errOut := onCluster(t, k, c.stdin, strings.Fields(c.line)...)
		if code != c.code || !strings.Contains(out+errOut, c.want) {
			t.Errorf("lateen %s: exit %d, want %d with %q\n%.600s%s", c.line, code, c.code, c.want, out, errOut)
		}
	}
	other := clusterOf(t, nil, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod"}})
	if code, _, errOut := onCluster(t, other, "", "upgrade", "-y"); code != ExitFailed || !strings.Contains(errOut, "is not Lateen's") {
		t.Errorf("upgrade of another mesh: exit %d %s", code, errOut)
	}
}

// TestKubeconfig: which cluster the flags and the environment choose.
func TestKubeconfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	cfg := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "here",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": "https://127.0.0.1:1"}}},
		"contexts": []any{
			map[string]any{"name": "here", "context": map[string]any{"cluster": "c", "namespace": "shop"}},
			map[string]any{"name": "there", "context": map[string]any{"cluster": "c"}},
		},
	}
	b, _ := json.Marshal(cfg)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		env, kubeconfig, context string
		wantContext, wantNS      string
	}{
		{file, "", "", "here", "shop"},
		{"/nowhere", file, "there", "there", "default"},
	} {
		a := &app{Env: Env{Stderr: &bytes.Buffer{}, Getenv: func(name string) string {
			if name == "KUBECONFIG" {
				return c.env
			}
			return ""
		}}, kubeFlags: kubeFlags{kubeconfig: c.kubeconfig, context: c.context}}
		k, err := a.kube()
		if err != nil || k.context != c.wantContext || k.namespace != c.wantNS {
			t.Errorf("%+v: %+v, %v", c, k, err)
		}
	}
	a := &app{Env: Env{Stderr: &bytes.Buffer{}, Getenv: func(string) string { return "" }}}
	if _, err := a.kube(); !noMesh(err) {
		t.Errorf("without a kubeconfig: %v", err)
	}
	if a.hasKube() {
		t.Error("a cluster without a kubeconfig")
	}
}
