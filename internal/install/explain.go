// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// How much of the state of a failing object is shown.
const (
	explainTime   = 10 * time.Second
	explainPods   = 3
	explainEvents = 5
	explainLines  = 10
)

// explain adds to an error what the cluster knows about it. It has its own
// time, because the error often is that the other is over.
func (c *Cluster) explain(ctx context.Context, o *unstructured.Unstructured, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), explainTime)
	defer cancel()
	f := &Failure{Err: fmt.Errorf("%s: %w", Describe(o), err)}
	kindName := strings.ToLower(o.GetKind())
	if o.GetKind() != "Deployment" {
		f.Commands = append(f.Commands, fmt.Sprintf("kubectl describe %s %s", kindName, o.GetName()))
		return f
	}
	ns := o.GetNamespace()
	f.Commands = append(f.Commands, fmt.Sprintf("kubectl describe deployment %s -n %s", o.GetName(), ns))
	labels, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
	selector := metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: labels})
	list, lerr := c.resource(pods, ns).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if lerr != nil {
		f.Details = append(f.Details, fmt.Sprintf("its pods cannot be listed: %v", lerr))
		return f
	}
	if len(list.Items) == 0 {
		f.Details = append(f.Details, "it has no pods")
		f.Details = append(f.Details, c.failedCreate(ctx, o)...)
	}
	shown := 0
	for i := range list.Items {
		pod := &list.Items[i]
		why, container := unready(pod)
		if why == "" || shown == explainPods {
			continue
		}
		shown++
		f.Details = append(f.Details, fmt.Sprintf("pod %s: %s", pod.GetName(), why))
		f.Details = append(f.Details, c.events(ctx, ns, pod.GetName())...)
		if container != "" && c.Logs != nil {
			f.Details = append(f.Details, c.logs(ctx, ns, pod.GetName(), container)...)
			f.Commands = append(f.Commands, fmt.Sprintf("kubectl logs %s -n %s -c %s", pod.GetName(), ns, container))
		}
		f.Commands = append(f.Commands, fmt.Sprintf("kubectl describe pod %s -n %s", pod.GetName(), ns))
	}
	return f
}

// failedCreate says why a Deployment could make no pod, which its ReplicaSet's
// condition or its own tells.
func (c *Cluster) failedCreate(ctx context.Context, o *unstructured.Unstructured) []string {
	now, err := c.resource(deployments, o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
	if err != nil {
		return nil
	}
	var out []string
	for _, cond := range conditions(now) {
		if cond["type"] == "ReplicaFailure" && cond["status"] == "True" {
			out = append(out, fmt.Sprintf("%v: %v", cond["reason"], cond["message"]))
		}
	}
	return out
}

// unready says why a pod is not ready, and which of its containers has a log
// about it; both are empty when it is ready.
func unready(pod *unstructured.Unstructured) (why, container string) {
	for _, group := range []string{"initContainerStatuses", "containerStatuses"} {
		statuses, _, _ := unstructured.NestedSlice(pod.Object, "status", group)
		for _, s := range statuses {
			m, _ := s.(map[string]any)
			name, _, _ := unstructured.NestedString(m, "name")
			if ready, _, _ := unstructured.NestedBool(m, "ready"); ready {
				continue
			}
			if reason, _, _ := unstructured.NestedString(m, "state", "waiting", "reason"); reason != "" {
				message, _, _ := unstructured.NestedString(m, "state", "waiting", "message")
				if restarts, _, _ := unstructured.NestedInt64(m, "restartCount"); restarts > 0 {
					container = name // an earlier run of it has a log
				}
				return strings.TrimSuffix(fmt.Sprintf("container %s is waiting: %s: %s", name, reason, message), ": "), container
			}
			if code, ok, _ := unstructured.NestedInt64(m, "state", "terminated", "exitCode"); ok && code != 0 {
				return fmt.Sprintf("container %s ended with exit code %d", name, code), name
			}
			if _, running, _ := unstructured.NestedMap(m, "state", "running"); running {
				return fmt.Sprintf("container %s runs but is not ready", name), name
			}
		}
	}
	for _, cond := range conditions(pod) {
		if cond["type"] == "Ready" && cond["status"] == "True" {
			return "", ""
		}
		if cond["type"] == "PodScheduled" && cond["status"] == "False" {
			return fmt.Sprintf("not scheduled: %v", cond["message"]), ""
		}
	}
	phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
	return cmp.Or(phase, "no state yet"), ""
}

// events are the last ones about a pod.
func (c *Cluster) events(ctx context.Context, namespace, pod string) []string {
	list, err := c.resource(events, namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
	if err != nil {
		return nil
	}
	items := slices.DeleteFunc(list.Items, func(e unstructured.Unstructured) bool {
		name, _, _ := unstructured.NestedString(e.Object, "involvedObject", "name")
		typ, _, _ := unstructured.NestedString(e.Object, "type")
		return name != pod || typ == "Normal"
	})
	stamp := func(e unstructured.Unstructured) string {
		s, _, _ := unstructured.NestedString(e.Object, "lastTimestamp")
		return s
	}
	slices.SortStableFunc(items, func(a, b unstructured.Unstructured) int { return cmp.Compare(stamp(a), stamp(b)) })
	if len(items) > explainEvents {
		items = items[len(items)-explainEvents:]
	}
	var out []string
	for _, e := range items {
		reason, _, _ := unstructured.NestedString(e.Object, "reason")
		message, _, _ := unstructured.NestedString(e.Object, "message")
		out = append(out, fmt.Sprintf("  event %s: %s", reason, message))
	}
	return out
}

func (c *Cluster) logs(ctx context.Context, namespace, pod, container string) []string {
	text, err := c.Logs(ctx, namespace, pod, container, explainLines)
	if err != nil || strings.TrimSpace(text) == "" {
		return nil
	}
	out := []string{"  last lines of its log:"}
	for line := range strings.Lines(text) {
		out = append(out, "    "+strings.TrimRight(line, "\n"))
	}
	return out
}
