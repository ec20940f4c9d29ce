// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// start is when things were first seen of one pod.
type start struct{ created, running, ready time.Time }

// starts measures pods with a sidecar one after another and all at once, and
// the same pods without: their time includes the scheduler's and the kubelet's.
func (b *bench) starts(ctx context.Context) error {
	for _, ns := range []string{plain, idle} {
		if err := b.kubectl(ctx, "apply", "-n", ns, "-f", b.sample("curl/curl.yaml")); err != nil {
			return err
		}
		if err := b.scale(ctx, ns, 0); err != nil {
			return err
		}
		if err := b.empty(ctx, ns); err != nil {
			return err
		}
	}
	for _, ns := range []string{plain, idle} {
		what := map[string]string{plain: "without sidecar", idle: "with sidecar"}[ns]
		seen := map[string]*start{}
		for n := range b.pods {
			if err := b.follow(ctx, ns, n+1, seen); err != nil {
				return err
			}
		}
		b.reportStarts(what+", one by one", ns, seen)
		if ns == idle {
			if err := b.reportLogs(ctx, "one by one"); err != nil {
				return err
			}
		}
		if err := b.scale(ctx, ns, 0); err != nil {
			return err
		}
		if err := b.empty(ctx, ns); err != nil {
			return err
		}
		seen = map[string]*start{}
		if err := b.follow(ctx, ns, b.pods, seen); err != nil {
			return err
		}
		b.reportStarts(fmt.Sprintf("%s, %d at once", what, b.pods), ns, seen)
		if ns == idle {
			if err := b.reportLogs(ctx, fmt.Sprintf("%d at once", b.pods)); err != nil {
				return err
			}
		}
	}
	return b.scale(ctx, plain, 0)
}

func (b *bench) reportStarts(what, ns string, seen map[string]*start) {
	var whole, sidecar []float64
	for _, s := range seen {
		whole = append(whole, float64(s.ready.Sub(s.created).Milliseconds()))
		sidecar = append(sidecar, float64(s.ready.Sub(s.running).Milliseconds()))
	}
	report("pod "+what+", created to ready, ms", "", whole)
	if ns == idle {
		report("pod "+what+", sidecar runs to pod ready, ms", "", sidecar)
	}
}

// follow scales to n pods and notes what happens to each until all are ready.
func (b *bench) follow(ctx context.Context, ns string, n int, seen map[string]*start) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	now, err := b.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	w, err := b.client.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{ResourceVersion: now.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := b.scale(ctx, ns, n); err != nil {
		return err
	}
	ready := 0
	for _, s := range seen {
		if !s.ready.IsZero() {
			ready++
		}
	}
	for ready < n {
		e, ok := <-w.ResultChan()
		if !ok {
			return fmt.Errorf("%s: %d of %d pods are ready: %w", ns, ready, n, context.Cause(ctx))
		}
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			return fmt.Errorf("%s: the watch says %v", ns, e.Object)
		}
		s := seen[p.Name]
		if s == nil {
			s = &start{created: time.Now()}
			seen[p.Name] = s
		}
		if s.running.IsZero() && sidecarRuns(p) {
			s.running = time.Now()
		}
		if s.ready.IsZero() && isReady(p) {
			s.ready = time.Now()
			ready++
		}
	}
	return nil
}

func sidecarRuns(p *corev1.Pod) bool {
	for _, all := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range all {
			if c.Name == "istio-proxy" && c.State.Running != nil {
				return true
			}
		}
	}
	return false
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// empty waits until a namespace has no pods.
func (b *bench) empty(ctx context.Context, ns string) error {
	return b.kubectl(ctx, "wait", "-n", ns, "pods", "--all", "--for=delete", "--timeout="+settle.String())
}

var succeeded = regexp.MustCompile(`Readiness succeeded in (\S+)`)

// reportLogs prints what the sidecars themselves say of their start.
func (b *bench) reportLogs(ctx context.Context, when string) error {
	pods, err := b.client.CoreV1().Pods(idle).List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("status.phase", "Running").String()})
	if err != nil {
		return err
	}
	var took []float64
	for _, p := range pods.Items {
		text, err := b.client.CoreV1().Pods(idle).GetLogs(p.Name, &corev1.PodLogOptions{Container: "istio-proxy"}).DoRaw(ctx)
		if err != nil {
			return err
		}
		if m := succeeded.FindSubmatch(text); m != nil {
			d, err := time.ParseDuration(string(m[1]))
			if err != nil {
				return err
			}
			took = append(took, float64(d.Microseconds())/1000)
		}
	}
	report("sidecar, "+when+", its start to ready by its log, ms", "", took)
	return nil
}
