// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Validate is what `lateen apply` does with an object, without lines: what is
// sent here has none that the user knows.
func Validate(raw []byte, namespace string) []*config.Problem {
	problems := config.Decode(raw, "", namespace).Problems
	for _, p := range problems {
		p.Line = 0
	}
	return problems
}

// validate refuses an object that cannot be followed, with field and reason.
func (s *Server) validate(_ context.Context, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	if req.Operation != admissionv1.Create && req.Operation != admissionv1.Update || req.SubResource != "" {
		return allowed()
	}
	resource := resourceOf(req)
	if len(req.Object.Raw) == 0 {
		s.metrics.failed(resource, "unrecognizable_type")
		return denied(http.StatusBadRequest, metav1.StatusReasonBadRequest, "the request has no object")
	}
	var errs, notes []string
	for _, p := range s.opts.Validate(req.Object.Raw, req.Namespace) {
		if p.Severity == config.SeverityError {
			errs = append(errs, text(p))
		} else {
			notes = append(notes, text(p))
		}
	}
	if len(errs) > 0 {
		s.metrics.failed(resource, "invalid_resource")
		s.opts.Log.Info("configuration refused", "namespace", req.Namespace, "name", req.Name, "kind", req.Kind.Kind, "errors", len(errs))
		r := denied(http.StatusBadRequest, metav1.StatusReasonBadRequest, "configuration is invalid: "+strings.Join(errs, "\n"))
		r.Warnings = warnings(notes)
		return r
	}
	s.metrics.passed(resource)
	return allowed(warnings(notes)...)
}

// text is a problem without the object's name: kubectl has said it already.
func text(p *config.Problem) string {
	q := *p
	q.Object, q.File = "", ""
	return q.Error()
}

// resourceOf is what a request is about in metrics; kinds that are not ours
// share one name, so that nobody can make many.
func resourceOf(req *admissionv1.AdmissionRequest) metav1.GroupVersionResource {
	for _, k := range config.Kinds() {
		if k.Group != req.Resource.Group || k.Plural != req.Resource.Resource {
			continue
		}
		for _, v := range k.Versions {
			if v == req.Resource.Version {
				return req.Resource
			}
		}
	}
	return metav1.GroupVersionResource{Group: "other", Version: "other", Resource: "other"}
}
