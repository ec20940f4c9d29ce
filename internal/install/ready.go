// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// established holds when the API server serves a custom resource.
func established(o *unstructured.Unstructured) (state, error) {
	if o == nil {
		return state{missing: "it does not exist"}, nil
	}
	for _, c := range conditions(o) {
		if c["type"] == "NamesAccepted" && c["status"] == "False" {
			return state{}, fmt.Errorf("%s: %v", Describe(o), c["message"])
		}
		if c["type"] == "Established" && c["status"] == "True" {
			return state{ready: true}, nil
		}
	}
	return state{missing: "not served yet"}, nil
}

// rolledOut holds when every replica of a Deployment is of its newest version
// and available, and none of another is left. This is kubectl rollout status.
func rolledOut(o *unstructured.Unstructured) (state, error) {
	if o == nil {
		return state{missing: "it does not exist"}, nil
	}
	for _, c := range conditions(o) {
		if c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded" {
			return state{}, fmt.Errorf("%s exceeded its progress deadline", Describe(o))
		}
	}
	number := func(fields ...string) int64 {
		n, _, _ := unstructured.NestedInt64(o.Object, fields...)
		return n
	}
	if number("status", "observedGeneration") < o.GetGeneration() {
		return state{missing: "the change has not been seen yet"}, nil
	}
	want := int64(1)
	if n, ok, _ := unstructured.NestedInt64(o.Object, "spec", "replicas"); ok {
		want = n
	}
	updated, all, available := number("status", "updatedReplicas"), number("status", "replicas"), number("status", "availableReplicas")
	switch {
	case updated < want:
		return state{missing: fmt.Sprintf("%d of %d replicas updated", updated, want)}, nil
	case all > updated:
		return state{missing: fmt.Sprintf("%d old replicas are ending", all-updated)}, nil
	case available < updated:
		return state{missing: fmt.Sprintf("%d of %d replicas available", available, updated)}, nil
	}
	return state{ready: true}, nil
}

// trusted holds when every webhook has the CA bundle by which the API server
// verifies it; lateend puts it in.
func trusted(o *unstructured.Unstructured) (state, error) {
	if o == nil {
		return state{missing: "it does not exist"}, nil
	}
	hooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
	for _, h := range hooks {
		m, _ := h.(map[string]any)
		if bundle, _, _ := unstructured.NestedString(m, "clientConfig", "caBundle"); bundle == "" {
			return state{missing: "the control plane has not put its CA bundle in"}, nil
		}
	}
	return state{ready: true}, nil
}

// gone holds when the object is not there.
func gone(o *unstructured.Unstructured) (state, error) {
	if o == nil {
		return state{ready: true}, nil
	}
	return state{missing: "it is being deleted"}, nil
}

func conditions(o *unstructured.Unstructured) []map[string]any {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	var out []map[string]any
	for _, c := range list {
		if m, ok := c.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
