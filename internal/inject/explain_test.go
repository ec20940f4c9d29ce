// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExplain(t *testing.T) {
	enabled := map[string]string{NamespaceLabel: "enabled"}
	owned := func(p *corev1.Pod) {
		yes := true
		p.Labels["pod-template-hash"] = "abc"
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-abc", Controller: &yes}}
	}
	inject := func(p *corev1.Pod) {
		r, err := Inject(Input{Pod: p, Settings: testSettings()})
		if err != nil {
			t.Fatal(err)
		}
		*p = *r.Pod
	}
	for _, c := range []struct {
		name            string
		namespace       map[string]string
		revision        string
		change          []func(*corev1.Pod)
		conclusion, fix string
		injected        bool
	}{
		{"as it should be", enabled, "", []func(*corev1.Pod){inject}, "the pod has its proxy: the namespace has the label istio-injection=enabled", "", true},
		{"by hand", nil, "", []func(*corev1.Pod){inject}, "it was injected by hand, or before a label changed", "", true},
		{"too early", enabled, "", []func(*corev1.Pod){owned}, "would get one today", "kubectl rollout restart deployment/web -n shop", false},
		{"no owner", enabled, "", nil, "would get one today", "delete the pod", false},
		{"no label", nil, "", []func(*corev1.Pod){owned}, "neither the namespace", "kubectl label namespace shop istio-injection=enabled --overwrite, then kubectl rollout restart deployment/web -n shop", false},
		{"other revision", map[string]string{RevisionLabel: "old"}, "new", nil, "names another revision than new", "istio.io/rev=new", false},
		{"namespace says no", map[string]string{NamespaceLabel: "disabled"}, "", nil, "istio-injection=disabled", "istio-injection=enabled", false},
		{"pod says no", enabled, "", []func(*corev1.Pod){func(p *corev1.Pod) { p.Labels[InjectName] = "false" }}, `label sidecar.istio.io/inject is "false"`, `"true"`, false},
		{"host network", enabled, "", []func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.HostNetwork = true }}, "hostNetwork: true", "remove hostNetwork", false},
		{"bad annotation", enabled, "", []func(*corev1.Pod){func(p *corev1.Pod) { p.Annotations = map[string]string{annProxyCPU: "x"} }}, "cannot be followed", "make the pod anew", false},
	} {
		pod := podWith(t, nil)
		for _, f := range c.change {
			f(pod)
		}
		s := testSettings()
		s.Revision = first(c.revision, s.Revision)
		e, err := Explain(Input{Pod: pod, Namespace: Namespace{Name: "shop", Labels: c.namespace}, Settings: s})
		if err != nil {
			t.Fatal(err)
		}
		if e.Injected != c.injected || !strings.Contains(e.Conclusion, c.conclusion) || !strings.Contains(e.Fix, c.fix) || c.fix == "" && e.Fix != "" {
			t.Errorf("%s: %+v", c.name, e)
		}
	}
}

func TestInputStays(t *testing.T) {
	pod := podWith(t, map[string]string{"a": "b"})
	before := pod.DeepCopy()
	if _, err := Inject(Input{Pod: pod, Settings: testSettings()}); err != nil {
		t.Fatal(err)
	}
	if mustJSON(before) != mustJSON(pod) {
		t.Error("Inject changed its input")
	}
	if _, err := Inject(Input{Pod: pod}); err == nil {
		t.Error("without settings")
	}
	if _, err := Inject(Input{Settings: testSettings()}); err == nil {
		t.Error("without a pod")
	}
}

func TestParseSettings(t *testing.T) {
	for _, c := range []struct{ config, values, err string }{
		{"policy: sometimes", "", `policy "sometimes" is neither enabled nor disabled`},
		{"defaultTemplates: [grpc-agent]", "", `there is no template "grpc-agent"`},
		{"neverInjectSelector: [{matchExpressions: [{key: a, operator: Like}]}]", "", "neverInjectSelector"},
		{"", `{"global":{"imagePullPolicy":"Sometimes"}}`, `global.imagePullPolicy "Sometimes"`},
		{"", `{"pilot":{"env":{"ENABLE_NATIVE_SIDECARS":"perhaps"}}}`, `ENABLE_NATIVE_SIDECARS "perhaps"`},
		{"", `{"global":{"proxy":{"resources":{"limits":{"cpu":"lots"}}}}}`, "key values"},
		{"[", "", "key config"},
	} {
		_, err := ParseSettings([]byte(c.config), []byte(c.values))
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q %q: %v", c.config, c.values, err)
		}
	}
	s, err := ParseSettings(nil, []byte(`{"global":{"tag":1.5},"pilot":{"env":{"ENABLE_NATIVE_SIDECARS":true}}}`))
	if err != nil || s.Tag != "1.5" || s.Native != NativeOn {
		t.Errorf("%+v %v", s, err)
	}
}

func TestKubelets(t *testing.T) {
	for versions, want := range map[string]bool{"": false, "v1.33.0": true, "1.40.1-gke.3 v1.33.9": true, "v1.32.9 v1.36.0": false, "nonsense": false, "v2.0.0": true} {
		s := Settings{KubeletVersions: strings.Fields(versions)}
		if got := s.kubeletsAreNew(); got != want {
			t.Errorf("%q: %v", versions, got)
		}
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n---\n{}\n")
	f.Add("---\nkind: List\napiVersion: v1\nitems: [{apiVersion: batch/v1, kind: Job, spec: {template: {spec: {containers: [{name: istio-proxy, image: auto}]}}}}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		in := Input{Settings: testSettings()}
		out, outcomes, err := Documents([]byte(text), in)
		if err != nil {
			return
		}
		any := false
		for _, o := range outcomes {
			any = any || o.Decision.Inject
		}
		if !any {
			return
		}
		again, _, err := Documents(out, in)
		if err != nil || string(again) != string(out) {
			t.Fatalf("a second injection changes it (%v):\n%s\n%s", err, out, again)
		}
	})
}
