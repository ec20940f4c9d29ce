// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"istio.io/api/annotation"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const annotatedPod = `
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers:
  - name: web
    image: web:1
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /ready, port: 8080}}
`

func podWith(t *testing.T, annotations map[string]string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(annotatedPod), p); err != nil {
		t.Fatal(err)
	}
	p.Annotations = annotations
	return p
}

func testSettings() *Settings {
	s := DefaultSettings()
	s.Tag, s.Native = "1.0", NativeOn
	return s
}

// lines are those of an injected pod that say something by themselves: a name
// in front tells which container they are of.
func lines(t *testing.T, r Result) []string {
	t.Helper()
	pod := r.Pod.DeepCopy()
	var out []string
	add := func(prefix string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var m any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		flat(prefix, m, &out)
	}
	for _, c := range pod.Spec.InitContainers {
		add("init "+c.Name, c)
	}
	for _, c := range pod.Spec.Containers {
		add(c.Name, c)
	}
	pod.Spec.InitContainers, pod.Spec.Containers = nil, nil
	add("pod", pod)
	return out
}

func flat(prefix string, v any, out *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			flat(prefix+"."+k, e, out)
		}
	case []any:
		simple := !slices.ContainsFunc(v, func(e any) bool { _, ok := e.(string); return !ok })
		if simple { // arguments: one line, in order
			*out = append(*out, fmt.Sprintf("%s = %q", prefix, v))
			return
		}
		for k, e := range v {
			name := fmt.Sprint(k)
			if m, ok := e.(map[string]any); ok && m["name"] != nil {
				name = fmt.Sprint(m["name"])
			}
			flat(prefix+"["+name+"]", e, out)
		}
	default:
		*out = append(*out, fmt.Sprintf("%s = %v", prefix, v))
	}
}

// tried are values of every annotation that is read, good and bad.
var tried = []struct{ name, value string }{
	{InjectName, "true"}, {InjectName, "false"}, {InjectName, "maybe"},
	{StatusName, "{}"},
	{TemplatesName, "gateway"}, {TemplatesName, "sidecar"}, {TemplatesName, "grpc-agent"}, {TemplatesName, "sidecar,gateway"}, {TemplatesName, ""},
	{OverridesName, `{"containers":[{"name":"istio-proxy","env":[{"name":"A","value":"b"}]}]}`}, {OverridesName, "x"},
	{ProxyConfigName, "concurrency: 3\nholdApplicationUntilProxyStarts: true\nproxyMetadata: {A: b}"}, {ProxyConfigName, "concurency: 3"}, {ProxyConfigName, "]"},
	{ProxyConfigName, "proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}"},
	{ProxyConfigName, "terminationDrainDuration: 20s\nreadinessProbe: {periodSeconds: 2}"},
	{annProxyImage, "example.com/proxy:2"}, {annProxyImage, "a b"},
	{annProxyImageType, "distroless"},
	{annProxyCPU, "200m"}, {annProxyCPU, "-1"}, {annProxyCPULimit, "3"}, {annProxyMemory, "64Mi"}, {annProxyMemoryLimit, "256Mi"}, {annProxyMemoryLimit, "256 MB"},
	{annInterception, "TPROXY"}, {annInterception, "NONE"}, {annInterception, "tproxy"},
	{annUserVolume, `{"certs":{"secret":{"secretName":"certs"}}}`}, {annUserVolume, `[{"name":"certs","emptyDir":{}}]`}, {annUserVolume, "certs"},
	{annUserVolumeMount, `{"certs":{"mountPath":"/etc/certs","readOnly":true}}`}, {annUserVolumeMount, "7"},
	{annLogLevel, "debug"}, {annLogLevel, "a b"}, {annComponentLogLevel, "http:debug"}, {annAgentLogLevel, "default:debug"},
	{annRewriteProbes, "false"}, {annRewriteProbes, "nope"},
	{annNativeSidecar, "false"},
	{annDiscoveryAddress, "istiod-canary.istio-system.svc:15012"},
	{annStatusPort, "15022"}, {annStatusPort, "0"}, {annStatusPort, "99999"},
	{annInitialDelay, "5"}, {annPeriod, "7"}, {annPeriod, "0"}, {annFailureThreshold, "9"},
	{annIncludeOutbound, "10.0.0.0/8, fd00::/8"}, {annIncludeOutbound, "10.0.0.1"}, {annExcludeOutbound, "10.1.0.0/16"}, {annExcludeOutbound, "*"},
	{annIncludeInPorts, "8080, 9090"}, {annIncludeInPorts, ""}, {annExcludeInPorts, "22"}, {annExcludeInPorts, "ssh"},
	{annIncludeOutPorts, "5432"}, {annExcludeOutPorts, "3306,25"},
	{annExcludeInterfaces, "eth1"}, {annExcludeInterfaces, "'; reboot"}, {annKubevirtInterfaces, "net1"}, {annRerouteInterfaces, "net2"},
	{annMergeMetrics, "false"}, {"prometheus.io/scrape", "false"}, {"prometheus.io/port", "8080"}, {"prometheus_io_path", "/m"},
	{"sidecar.istio.io/proxyCpu", "1"}, {"traffic.sidecar.istio.io/excludeOutboundPort", "1"},
}

// TestAnnotations records what every annotation changes, beside a pod without
// it, in testdata/annotations.txt.
func TestAnnotations(t *testing.T) {
	base, err := Inject(Input{Pod: podWith(t, nil), Settings: testSettings()})
	if err != nil {
		t.Fatal(err)
	}
	plain := lines(t, base)
	var b strings.Builder
	try := func(name, value string) {
		fmt.Fprintf(&b, "%s: %q\n", name, value)
		r, err := Inject(Input{Pod: podWith(t, map[string]string{name: value}), Settings: testSettings()})
		switch {
		case err != nil:
			fmt.Fprintf(&b, "  error: %v\n", err)
			return
		case !r.Decision.Inject:
			fmt.Fprintf(&b, "  not injected: %s\n", r.Decision.Reason)
			return
		}
		for _, w := range r.Warnings {
			fmt.Fprintf(&b, "  warning: %s\n", w)
		}
		now := lines(t, r)
		var changed []string
		for _, l := range plain {
			if !slices.Contains(now, l) {
				changed = append(changed, "  - "+l)
			}
		}
		for _, l := range now {
			if !slices.Contains(plain, l) && !strings.Contains(l, ".annotations."+name+" ") {
				changed = append(changed, "  + "+l)
			}
		}
		slices.SortFunc(changed, func(x, y string) int { return strings.Compare(x[4:]+x[:4], y[4:]+y[:4]) })
		if len(changed) > 40 {
			changed = append(changed[:40], fmt.Sprintf("  and %d more", len(changed)-40))
		}
		for _, l := range changed {
			b.WriteString(l + "\n")
		}
	}
	seen := map[string]bool{}
	for _, c := range tried {
		try(c.name, c.value)
		seen[c.name] = true
	}
	for name := range checks {
		if !seen[name] {
			t.Errorf("annotation %s is read and not tried", name)
		}
	}
	if *update {
		if err := os.WriteFile("testdata/annotations.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/annotations.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("-want +got; refresh with -update:\n%s", diff)
	}
}

// TestIstiosAnnotations holds the two tables to Istio's list: nothing that a pod
// may say is passed over in silence.
func TestIstiosAnnotations(t *testing.T) {
	for _, a := range annotation.AllResourceAnnotations() {
		if !slices.Contains(a.Resources, annotation.Pod) {
			continue
		}
		_, honoured := checks[a.Name]
		_, idle := withoutEffect[a.Name]
		if !honoured && !idle && a.Name != RevisionLabel {
			t.Errorf("annotation %s is in neither table", a.Name)
		}
	}
	for name := range withoutEffect {
		r, err := Inject(Input{Pod: podWith(t, map[string]string{name: "x"}), Settings: testSettings()})
		if err != nil || len(r.Warnings) != 1 || !strings.HasPrefix(r.Warnings[0], "annotation "+name+" has no effect: ") {
			t.Errorf("%s: %v %v", name, err, r.Warnings)
		}
	}
}
