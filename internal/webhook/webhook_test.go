// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/inject"
)

var update = flag.Bool("update", false, "rewrite the goldens")

func testInput(context.Context, string) (inject.Input, error) {
	s := inject.DefaultSettings()
	s.Tag, s.Native = "1.0", inject.NativeOn
	return inject.Input{Settings: s}, nil
}

const webPod = `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"web-","labels":{"app":"web"}},
"spec":{"futureField":{"a":1},"containers":[{"name":"web","image":"web:1","futureField":true,"ports":[{"containerPort":8080}],
"readinessProbe":{"httpGet":{"path":"/ready","port":8080}}}],"initContainers":[{"name":"migrate","image":"m:1"}]}}`

func podRequest(namespace, object string) *admissionv1.AdmissionRequest {
	r := &admissionv1.AdmissionRequest{UID: "u1", Namespace: namespace, Operation: admissionv1.Create,
		Kind:     metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}}
	r.Object.Raw = []byte(object)
	return r
}

func configRequest(object string) *admissionv1.AdmissionRequest {
	r := &admissionv1.AdmissionRequest{UID: "u2", Namespace: "default", Operation: admissionv1.Update,
		Kind:     metav1.GroupVersionKind{Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"},
		Resource: metav1.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}}
	r.Object.Raw = []byte(object)
	return r
}

func post(t *testing.T, s *Server, path, version string, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/" + version, Kind: "AdmissionReview"}, Request: req})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(string(body)))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	var out admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	if out.APIVersion != "admission.k8s.io/"+version || out.Response == nil || out.Response.UID != req.UID {
		t.Fatalf("answer %s", w.Body)
	}
	return out.Response
}

func TestInject(t *testing.T) {
	s := NewServer(Options{Input: testInput})
	for _, path := range []string{"/inject", "/inject/cluster/one/net/two"} {
		for _, version := range []string{"v1", "v1beta1"} {
			r := post(t, s, path, version, podRequest("shop", webPod))
			if !r.Allowed || r.PatchType == nil || *r.PatchType != admissionv1.PatchTypeJSONPatch {
				t.Fatalf("%s %s: %+v", path, version, r)
			}
			patched := apply(t, []byte(webPod), r.Patch)
			var pod corev1.Pod
			if err := json.Unmarshal(patched, &pod); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
				names = append(names, c.Name)
			}
			if diff := cmp.Diff([]string{"istio-init", "istio-proxy", "migrate", "web"}, names); diff != "" {
				t.Error(diff)
			}
			if got := pod.Spec.Containers[0].ReadinessProbe.HTTPGet; got.Path != "/app-health/web/readyz" || got.Port.IntValue() != 15020 {
				t.Errorf("probe %+v", got)
			}
			// The owner's namespace is that of the request: the pod has none yet.
			if !strings.Contains(string(patched), "kubernetes://apis/v1/namespaces/shop/pods/web") {
				t.Error("the request's namespace is not in OWNER")
			}
			// What a newer Kubernetes has is not lost.
			if n := strings.Count(string(patched), "futureField"); n != 2 {
				t.Errorf("%d fields of a newer Kubernetes left", n)
			}
		}
	}
}

func TestInjectDecides(t *testing.T) {
	s := NewServer(Options{Input: testInput})
	for _, c := range []struct{ name, pod, message string }{
		{"left alone", `{"metadata":{"name":"a","labels":{"sidecar.istio.io/inject":"false"}},"spec":{"containers":[{"name":"a"}]}}`, ""},
		{"host network", `{"metadata":{"name":"a"},"spec":{"hostNetwork":true,"containers":[{"name":"a"}]}}`, ""},
		{"bad annotation", `{"metadata":{"name":"a","annotations":{"sidecar.istio.io/proxyCPU":"lots"}},"spec":{"containers":[{"name":"a"}]}}`,
			`Pod shop/a, annotation sidecar.istio.io/proxyCPU: "lots" is not a quantity; write it as in 100m, 2, 128Mi or 1Gi`},
		{"no pod", `[]`, "could not unmarshal the pod"},
	} {
		r := post(t, s, "/inject", "v1", podRequest("shop", c.pod))
		if len(r.Patch) > 0 {
			t.Errorf("%s: a patch", c.name)
		}
		if r.Allowed != (c.message == "") {
			t.Errorf("%s: allowed %v", c.name, r.Allowed)
		}
		if c.message != "" && !strings.Contains(r.Result.Message, c.message) {
			t.Errorf("%s: %q", c.name, r.Result.Message)
		}
	}
	r := post(t, s, "/inject", "v1", podRequest("shop", `{"metadata":{"name":"a","annotations":{"sidecar.istio.io/bootstrapOverride":"x"}},"spec":{"containers":[{"name":"a"}]}}`))
	if !r.Allowed || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "bootstrapOverride has no effect") {
		t.Errorf("%+v", r)
	}
	var m strings.Builder
	s.WriteMetrics(&m)
	for _, want := range []string{
		"sidecar_injection_requests_total 5\n", "sidecar_injection_success_total 1\n", "sidecar_injection_failure_total 2\n",
		"sidecar_injection_skip_total 2\n", "sidecar_injection_time_seconds_count 5\n",
	} {
		if !strings.Contains(m.String(), want) {
			t.Errorf("no %q in\n%s", want, m.String())
		}
	}
}

func TestInjectWithoutSettings(t *testing.T) {
	s := NewServer(Options{Input: func(context.Context, string) (inject.Input, error) {
		return inject.Input{}, errors.New("ConfigMap istio is not read yet")
	}})
	r := post(t, s, "/inject", "v1", podRequest("shop", webPod))
	if r.Allowed || r.Result.Code != http.StatusServiceUnavailable {
		t.Errorf("%+v", r.Result)
	}
}

func TestValidate(t *testing.T) {
	s := NewServer(Options{Input: testInput})
	object := func(spec string) string {
		return `{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"reviews","namespace":"default","uid":"x"},"spec":` + spec + `}`
	}
	r := post(t, s, "/validate", "v1", configRequest(object(`{"hosts":["reviews"],"http":[{"route":[{"destination":{"host":"reviews"}}]}]}`)))
	if !r.Allowed || len(r.Warnings) > 0 {
		t.Errorf("good: %+v", r)
	}
	r = post(t, s, "/validate", "v1", configRequest(object(`{"hosts":["reviews"],"http":[{"mirror":{"host":"x"},"route":[{"destination":{"host":"reviews"}}]}]}`)))
	if !r.Allowed || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "spec.http[0].mirror") {
		t.Errorf("warned: %+v", r)
	}
	r = post(t, s, "/validate", "v1", configRequest(object(`{"hosts":["reviews"],"htpp":[]}`)))
	if r.Allowed || !strings.Contains(r.Result.Message, `spec.htpp: unknown field; did you mean "http"?`) {
		t.Errorf("refused: %+v", r.Result)
	}
	for _, raw := range []string{"", "[]", "{}", `"x"`, "{"} {
		if r := s.validate(t.Context(), configRequest(raw)); r.Allowed {
			t.Errorf("%q is allowed", raw)
		}
	}
	deletion := configRequest("")
	deletion.Object.Raw = nil
	deletion.Operation = admissionv1.Delete
	if r := post(t, s, "/validate", "v1", deletion); !r.Allowed {
		t.Error("deleting is refused")
	}
	var m strings.Builder
	s.WriteMetrics(&m)
	const row = `{group="networking.istio.io",version="v1",resource="virtualservices"`
	for _, want := range []string{"galley_validation_passed" + row + "} 2\n", "galley_validation_failed" + row + `,reason="invalid_resource"} 5` + "\n"} {
		if !strings.Contains(m.String(), want) {
			t.Errorf("no %q in\n%s", want, m.String())
		}
	}
}

// TestRequests holds what is no admission request to an HTTP error.
func TestRequests(t *testing.T) {
	s := NewServer(Options{Input: testInput})
	do := func(method, contentType, body string) int {
		r := httptest.NewRequest(method, "/inject", strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w.Code
	}
	const good = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"x"}}`
	for _, c := range []struct {
		method, contentType, body string
		code                      int
	}{
		{"POST", "application/json; charset=utf-8", good, 200},
		{"GET", "application/json", "", 405},
		{"POST", "text/plain", good, 415},
		{"POST", "application/json", "", 400},
		{"POST", "application/json", "{", 400},
		{"POST", "application/json", strings.Replace(good, "/v1", "/v2", 1), 400},
		{"POST", "application/json", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, 400},
		{"POST", "application/json", strings.Repeat(" ", maxBody+1), 413},
	} {
		if got := do(c.method, c.contentType, c.body); got != c.code {
			t.Errorf("%s %s %.40q: %d, want %d", c.method, c.contentType, c.body, got, c.code)
		}
	}
	s.opts.Input = func(context.Context, string) (inject.Input, error) { panic("broken") }
	body, _ := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: podRequest("a", webPod)})
	if got := do("POST", "application/json", string(body)); got != 500 {
		t.Errorf("a panic gives %d", got)
	}
}

// TestObjects keeps testdata/*.yaml, which the chart's templates are held to.
func TestObjects(t *testing.T) {
	for name, object := range map[string]any{
		"injector":          Objects{Namespace: "istio-system"}.Injector(),
		"injector-default":  Objects{Namespace: "istio-system", NamespacesByDefault: true}.Injector(),
		"injector-revision": Objects{Namespace: "istio-system", Revision: "canary"}.Injector(),
		"validator":         Objects{Namespace: "istio-system"}.Validator(),
		"validator-serving": Objects{Namespace: "istio-system", Revision: "canary", Serving: true, CABundle: []byte("PEM")}.Validator(),
	} {
		got, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		file := "testdata/" + name + ".yaml"
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: -want +got; refresh with -update:\n%s", name, diff)
		}
	}
}

// TestAskedIsWhatTheRulesSay holds the words of `lateen inject explain` to the
// selectors that the API server follows, for every choice of labels.
func TestAskedIsWhatTheRulesSay(t *testing.T) {
	choices := func(key string, values ...string) []map[string]string {
		out := []map[string]string{{}}
		for _, v := range values {
			out = append(out, map[string]string{key: v})
		}
		return out
	}
	both := func(a, b []map[string]string) (out []map[string]string) {
		for _, x := range a {
			for _, y := range b {
				m := map[string]string{"kubernetes.io/metadata.name": "shop"}
				for k, v := range x {
					m[k] = v
				}
				for k, v := range y {
					m[k] = v
				}
				out = append(out, m)
			}
		}
		return out
	}
	namespaces := both(choices("istio-injection", "enabled", "disabled"), choices("istio.io/rev", "default", "canary"))
	pods := both(choices("sidecar.istio.io/inject", "true", "false", "yes"), choices("istio.io/rev", "default", "canary"))
	n := 0
	for _, o := range []Objects{{}, {NamespacesByDefault: true}, {Revision: "canary"}} {
		hooks := o.Injector().Webhooks
		for _, ns := range namespaces {
			for _, pod := range pods {
				called := 0
				for _, h := range hooks {
					a, err1 := metav1.LabelSelectorAsSelector(h.NamespaceSelector)
					b, err2 := metav1.LabelSelectorAsSelector(h.ObjectSelector)
					if err1 != nil || err2 != nil {
						t.Fatal(err1, err2)
					}
					if a.Matches(labels.Set(ns)) && b.Matches(labels.Set(pod)) {
						called++
					}
				}
				asked, why := inject.Asked(ns, pod, o.revision(), o.NamespacesByDefault)
				if asked != (called > 0) || called > 1 {
					t.Errorf("%+v namespace %v pod %v: %d rules match, Asked says %v (%s)", o, ns, pod, called, asked, why)
				}
				n++
			}
		}
	}
	t.Logf("%d combinations", n)
}
