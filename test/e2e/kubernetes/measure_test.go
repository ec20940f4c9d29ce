// SPDX-License-Identifier: Apache-2.0

//go:build lab

package kubernetes

import (
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var measure = flag.Bool("measure", false, "print the figures of docs/benchmarks.md, On Kubernetes")

// TestMeasure prints figures of Bookinfo in the mesh. It judges none of them:
// the machine decides, and one compares runs.
func TestMeasure(t *testing.T) {
	l := needLab(t)
	if !*measure {
		t.Skip("without -measure")
	}
	if os.Getenv("LATEEN_ISTIO_SAMPLES") == "" {
		t.Skip("set LATEEN_ISTIO_SAMPLES to Istio's samples")
	}
	t.Cleanup(func() { l.clean(t) })
	begin := time.Now()
	l.must(t, `lateen install --set profile=default --skip-confirmation`)
	t.Logf("lateen install: %.1f s", time.Since(begin).Seconds())
	begin = time.Now()
	l.must(t, `kubectl label namespace default istio-injection=enabled && kubectl apply -f $SAMPLES/bookinfo/platform/kube/bookinfo.yaml`)
	l.must(t, `kubectl wait deployment --all --for=condition=Available --timeout=170s`)
	t.Logf("bookinfo, from kubectl apply to available: %.1f s", time.Since(begin).Seconds())
	t.Run("start", l.measureStart)
	t.Run("memory", l.measureMemory)
	l.must(t, `kubectl apply -f $SAMPLES/bookinfo/networking/destination-rule-all.yaml -f $SAMPLES/bookinfo/networking/virtual-service-reviews-50-v3.yaml`)
	t.Run("change", l.measureChange)
}

// measureStart reads in the sidecars' logs how long they took to be ready.
func (l *lab) measureStart(t *testing.T) {
	o := l.must(t, `for p in $(kubectl get pods -o name); do kubectl logs $p -c istio-proxy; done`)
	var took []float64
	for _, m := range regexp.MustCompile(`Readiness succeeded in (\S+)`).FindAllStringSubmatch(o.stdout, -1) {
		d, err := time.ParseDuration(m[1])
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, float64(d.Milliseconds()))
	}
	report(t, "sidecar, from its start to ready, ms", took)
}

// measureMemory waits until the sidecars were idle for 30 s and reads what the
// kubelet says of them.
func (l *lab) measureMemory(t *testing.T) {
	const path = `kubectl get --raw /api/v1/nodes/$(kubectl get node -o jsonpath='{.items[0].metadata.name}')/proxy/stats/summary`
	l.must(t, `sleep 45`) // the kubelet looks every 10 s or so
	o := l.must(t, path)
	var stats struct {
		Pods []struct {
			PodRef     struct{ Name, Namespace string }
			Containers []struct {
				Name   string
				Memory struct{ WorkingSetBytes, RSSBytes float64 }
			}
		}
	}
	if err := json.Unmarshal([]byte(o.stdout), &stats); err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	figures := map[string][]float64{}
	for _, p := range stats.Pods {
		for _, c := range p.Containers {
			of := ""
			switch {
			case p.PodRef.Namespace == "default" && c.Name == "istio-proxy":
				of = "sidecar"
			case strings.HasPrefix(p.PodRef.Name, "istiod-"):
				of = "lateend"
			case strings.HasPrefix(p.PodRef.Name, "istio-ingressgateway-"):
				of = "ingress gateway"
			default:
				continue
			}
			figures[of+", working set, MiB"] = append(figures[of+", working set, MiB"], c.Memory.WorkingSetBytes/mib)
			figures[of+", RSS, MiB"] = append(figures[of+", RSS, MiB"], c.Memory.RSSBytes/mib)
		}
	}
	for name, values := range figures {
		report(t, name, values)
	}
}

// measureChange changes a VirtualService 20 times, and waits each time until
// every sidecar has acknowledged it. The command line's own start and its way to
// the control plane are part of that: lateen proxy-status, which waits for
// nothing, tells how much they are.
func (l *lab) measureChange(t *testing.T) {
	const timed = `took() { local a=$(date +%s%N); "$@" >/dev/null || exit; echo $(( ($(date +%s%N) - a) / 1000 )); }
`
	o := l.must(t, timed+`for i in $(seq 20); do
  { cat $SAMPLES/bookinfo/networking/virtual-service-reviews-50-v3.yaml; echo; echo "    timeout: ${i}s"; } > $TEMP/change.yaml
  took lateen apply --wait -f $TEMP/change.yaml
done`)
	report(t, "lateen apply --wait of a VirtualService, ms", milliseconds(t, o))
	report(t, "lateen proxy-status, ms", milliseconds(t, l.must(t, timed+`for i in $(seq 20); do took lateen proxy-status; done`)))
}

// milliseconds reads lines of microseconds.
func milliseconds(t *testing.T, o output) (out []float64) {
	t.Helper()
	for _, line := range o.lines() {
		n, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, float64(n)/1000)
	}
	return out
}

func report(t *testing.T, name string, v []float64) {
	t.Helper()
	if len(v) == 0 {
		t.Errorf("%s: no figures", name)
		return
	}
	slices.Sort(v)
	t.Logf("%s: median %.1f, %.1f to %.1f, of %d", name, v[len(v)/2], v[0], v[len(v)-1], len(v))
}
