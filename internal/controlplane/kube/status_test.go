// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/kube"
	"github.com/lateen-mesh/lateen/internal/config/kube/apitest"
)

const sidecars = "/apis/networking.istio.io/v1/namespaces/default/sidecars"

func sidecar(name string, spec map[string]any) apitest.Object {
	return apitest.Object{"kind": "Sidecar", "apiVersion": "networking.istio.io/v1", "metadata": apitest.Object{"name": name}, "spec": spec}
}

// TestStatus writes what became of objects into them: once per change, beside
// what others wrote.
func TestStatus(t *testing.T) {
	api := apitest.New(t)
	api.Define("sidecars", "networking.istio.io", "v1")
	api.Define("envoyfilters", "networking.istio.io", "v1alpha3")
	good := sidecar("good", map[string]any{"egress": []any{map[string]any{"hosts": []any{"./*"}}}})
	good["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Theirs", "status": "True"}}}
	api.Put(sidecars, good, sidecar("bad", map[string]any{"egres": []any{}}))
	api.Put("/apis/networking.istio.io/v1alpha3/namespaces/default/envoyfilters", apitest.Object{
		"kind": "EnvoyFilter", "apiVersion": "networking.istio.io/v1alpha3", "metadata": apitest.Object{"name": "filter"}, "spec": map[string]any{}})
	store, err := kube.Open(t.Context(), kube.Options{Config: api.Config()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	client, err := dynamic.NewForConfig(api.Config())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	seen := make(chan []*kube.Report)
	s := &Status{Client: client, Log: slog.New(slog.DiscardHandler), Reports: func(ctx context.Context) <-chan []*kube.Report {
		// A copy of what the writer gets, to wait for.
		out := make(chan []*kube.Report)
		go func() {
			defer close(out)
			for b := range store.Reports(ctx) {
				out <- b
				select {
				case seen <- b:
				case <-ctx.Done():
				}
			}
		}()
		return out
	}}
	go func() { defer close(done); s.Run(ctx) }()
	// A report that brings back a status that is right is the end of the story.
	settled := map[string]bool{}
	for len(settled) < 3 {
		for _, r := range <-seen {
			if _, changed := statusOf(r, time.Now()); !changed {
				settled[r.Key.Name] = true
			}
		}
	}
	cancel()
	<-done
	for name, want := range map[string]string{"good": "Accepted", "bad": "Invalid"} {
		status := api.Get(sidecars + "/" + name)["status"].(map[string]any)
		conditions := status["conditions"].([]any)
		c := conditions[len(conditions)-1].(map[string]any)
		if c["type"] != "Reconciled" || c["reason"] != want || c["observedGeneration"] != float64(1) || status["observedGeneration"] != float64(1) {
			t.Errorf("%s: %v", name, status)
		}
		if name == "good" && len(conditions) != 2 {
			t.Errorf("a condition of somebody else's is lost: %v", conditions)
		}
		if n := api.Requests("PATCH", sidecars+"/"+name+"/status"); n != 1 {
			t.Errorf("%s: %d writes", name, n)
		}
	}
}

func TestStatusOfKindsThatAreNotHonoured(t *testing.T) {
	r := &kube.Report{Key: config.Key{Kind: config.EnvoyFilter, Namespace: "default", Name: "f"}, UID: "u", Generation: 3,
		Problems: []*config.Problem{{Severity: config.SeverityWarning, Message: "EnvoyFilter objects have no effect here", Fix: config.EnvoyFilter.NotHonoured}}}
	status, changed := statusOf(r, time.Unix(1e9, 0))
	c := status["conditions"].([]any)[0].(map[string]any)
	if !changed || c["status"] != "False" || c["reason"] != "NotHonoured" {
		t.Errorf("%v", status)
	}
	r.Status = status
	if _, changed := statusOf(r, time.Unix(2e9, 0)); changed {
		t.Error("it is written again although nothing changed")
	}
	r.Key.Kind = config.HTTPRoute
	if _, changed := statusOf(r, time.Unix(1e9, 0)); changed {
		t.Error("the Gateway API's status is written by somebody else")
	}
}
