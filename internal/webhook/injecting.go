// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lateen-mesh/lateen/internal/inject"
)

// inject answers with a patch that adds the proxy to a pod.
func (s *Server) inject(ctx context.Context, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	start := s.opts.Now()
	s.metrics.injectRequests.Add(1)
	response, injected, err := s.injectPod(ctx, req)
	s.metrics.injectTime.observe(s.opts.Now().Sub(start))
	switch {
	case err != nil:
		s.metrics.injectFailure.Add(1)
		s.opts.Log.Warn("pod not injected", "namespace", req.Namespace, "pod", req.Name, "error", err)
	case injected:
		s.metrics.injectSuccess.Add(1)
	default:
		s.metrics.injectSkip.Add(1)
	}
	return response
}

func (s *Server) injectPod(ctx context.Context, req *admissionv1.AdmissionRequest) (_ *admissionv1.AdmissionResponse, injected bool, err error) {
	bad := func(err error) (*admissionv1.AdmissionResponse, bool, error) {
		return denied(http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error()), false, err
	}
	if req.Resource.Group != "" || req.Resource.Resource != "pods" || req.SubResource != "" {
		return allowed(), false, nil // not ours; a rule too wide must not stop anything
	}
	if req.Operation == admissionv1.Delete {
		return allowed(), false, nil
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(req.Object.Raw, pod); err != nil {
		return bad(fmt.Errorf("could not unmarshal the pod: %w", err))
	}
	in, err := s.opts.Input(ctx, req.Namespace)
	if err != nil {
		err = fmt.Errorf("the injector has no settings yet: %w", err)
		return denied(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, err.Error()), false, err
	}
	in.Pod = pod
	in.Namespace.Name = cmp.Or(req.Namespace, in.Namespace.Name, pod.Namespace)
	r, err := inject.Inject(in)
	if err != nil {
		return bad(err)
	}
	response := allowed(warnings(r.Warnings)...)
	s.opts.Log.Debug("pod", "namespace", in.Namespace.Name, "name", cmp.Or(pod.Name, pod.GenerateName),
		"injected", r.Decision.Inject, "reason", r.Decision.Reason)
	if !r.Decision.Inject {
		return response, false, nil
	}
	// The patch is made between two encodings of our own types, so that fields of
	// a newer Kubernetes, unknown here, are in neither and stay as they are.
	before, err := json.Marshal(pod)
	if err != nil {
		return bad(err)
	}
	after, err := json.Marshal(r.Pod)
	if err != nil {
		return bad(err)
	}
	if response.Patch, err = Diff(before, after); err != nil {
		return bad(err)
	}
	patchType := admissionv1.PatchTypeJSONPatch
	response.PatchType = &patchType
	return response, true, nil
}

// Kubernetes cuts warnings at 256 characters each and 4096 in all.
const (
	maxWarning  = 256
	maxWarnings = 16
)

// warnings bounds what kubectl is to show.
func warnings(all []string) []string {
	var out []string
	for _, w := range all {
		if len(out) == maxWarnings-1 && len(all) > maxWarnings {
			return append(out, fmt.Sprintf("and %d more", len(all)-len(out)))
		}
		out = append(out, clip(w, maxWarning))
	}
	return out
}

// clip cuts text to at most n bytes, at a whole character.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const more = "..."
	cut := n - len(more)
	for cut > 0 && text[cut]&0xc0 == 0x80 {
		cut--
	}
	return text[:cut] + more
}
