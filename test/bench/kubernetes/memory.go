// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// idleTime is how long a sidecar is left alone before its memory is read.
const idleTime = 30 * time.Second

// summary is what is read of the kubelet's /stats/summary.
type summary struct {
	Pods []struct {
		PodRef     struct{ Name, Namespace string }
		Containers []struct {
			Name   string
			Memory struct {
				Time                      time.Time
				WorkingSetBytes, RSSBytes float64
			}
		}
	}
}

// memory prints the mesh's containers as the kubelets see them, idleTime after
// since or a little later: a kubelet looks every ten seconds or so.
func (b *bench) memory(ctx context.Context, since time.Time, when, goal string) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		figures, fresh, err := b.containers(ctx, since.Add(idleTime))
		if err != nil {
			return err
		}
		if fresh {
			for _, name := range slices.Sorted(maps.Keys(figures)) {
				g := ""
				if strings.HasPrefix(name, "sidecar, working set") {
					g = goal
				}
				report(name+", "+when, g, figures[name])
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the kubelet has no new figures: %w", ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// containers returns MiB by figure, and whether all were read after that time.
func (b *bench) containers(ctx context.Context, after time.Time) (map[string][]float64, bool, error) {
	nodes, err := b.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, false, err
	}
	const mib = 1 << 20
	figures, fresh := map[string][]float64{}, true
	for _, n := range nodes.Items {
		raw, err := b.client.CoreV1().RESTClient().Get().Resource("nodes").Name(n.Name).SubResource("proxy").Suffix("stats/summary").DoRaw(ctx)
		if err != nil {
			return nil, false, err
		}
		var s summary
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, false, err
		}
		for _, p := range s.Pods {
			for _, c := range p.Containers {
				of := role(p.PodRef.Namespace, p.PodRef.Name, c.Name)
				if of == "" {
					continue
				}
				fresh = fresh && c.Memory.Time.After(after)
				figures[of+", working set, MiB"] = append(figures[of+", working set, MiB"], c.Memory.WorkingSetBytes/mib)
				figures[of+", RSS, MiB"] = append(figures[of+", RSS, MiB"], c.Memory.RSSBytes/mib)
			}
		}
	}
	return figures, fresh && len(figures) > 0, nil
}

// role names a container of the mesh; "" is any other.
func role(namespace, pod, container string) string {
	switch {
	case namespace == system && strings.HasPrefix(pod, "istiod-"):
		return "istiod"
	case namespace == system && strings.HasPrefix(pod, "istio-ingressgateway-"):
		return "gateway"
	case (namespace == bookinfo || namespace == idle) && container == "istio-proxy":
		return "sidecar"
	}
	return ""
}
