// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/kube"
)

// The pace of status writes, so that a mesh of thousands of objects is told
// its state without a burst at the API server.
const (
	statusQPS   = 20
	statusBurst = 50
)

// The condition that says whether an object is in force, Istio's.
const (
	conditionReconciled = "Reconciled"

	reasonAccepted    = "Accepted"
	reasonInvalid     = "Invalid"
	reasonNotHonoured = "NotHonoured"
)

// maxMessage bounds a condition's message in bytes.
const maxMessage = 4096

// Status writes into each of Istio's objects what became of it, in the shape
// of istio.io/api/meta/v1alpha1.IstioStatus. The Gateway API's kinds and
// Ingress have writers of their own. What others wrote into a status stays.
type Status struct {
	// Reports are those of a kube.Store.
	Reports func(context.Context) <-chan []*kube.Report
	Client  dynamic.Interface
	Log     *slog.Logger
	Now     func() time.Time // default time.Now
}

// Run writes until ctx ends, whenever what is stored says something else. A
// write that fails comes again with the next report of its object.
func (s *Status) Run(ctx context.Context) {
	now := s.Now
	if now == nil {
		now = time.Now
	}
	pace := flowcontrol.NewTokenBucketRateLimiter(statusQPS, statusBurst)
	for batch := range s.Reports(ctx) {
		for _, r := range batch {
			status, changed := statusOf(r, now())
			if !changed || r.UID == "" {
				continue
			}
			if pace.Wait(ctx) != nil {
				return
			}
			// Gone or changed meanwhile: a newer report comes, or none is needed.
			if err := s.write(ctx, r, status); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
				s.Log.Warn("status not written", "object", r.Key.String(), "error", err)
			}
		}
	}
}

func (s *Status) write(ctx context.Context, r *kube.Report, status map[string]any) error {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		return err
	}
	// The uid is a precondition: not the status of an object of the same name that came after.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": r.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("status of %s: %w", r.Key, err)
	}
	_, err = s.Client.Resource(gv.WithResource(r.Key.Kind.Plural)).Namespace(r.Key.Namespace).
		Patch(ctx, r.Key.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "lateend"}, "status")
	return err
}

// statusOf returns what is to be merged into the status, and whether the
// stored one lacks it.
func statusOf(r *kube.Report, now time.Time) (status map[string]any, changed bool) {
	k := r.Key.Kind
	if k == config.MeshConfig || !strings.HasSuffix(k.Group, ".istio.io") {
		return nil, false
	}
	want := map[string]any{
		"type": conditionReconciled, "status": "True", "reason": reasonAccepted, "message": message(r.Problems),
		"observedGeneration": r.Generation,
	}
	switch {
	case r.Refused:
		want["status"], want["reason"] = "False", reasonInvalid
	case k.NotHonoured != "":
		want["status"], want["reason"] = "False", reasonNotHonoured
	}
	messages := validationMessages(r.Problems)
	var others []any
	var have map[string]any
	conditions, _ := r.Status["conditions"].([]any)
	for _, c := range conditions {
		if m, _ := c.(map[string]any); m["type"] == conditionReconciled {
			have = m
		} else {
			others = append(others, c)
		}
	}
	same := have != nil && fmt.Sprint(r.Status["observedGeneration"]) == fmt.Sprint(r.Generation)
	for f, v := range want {
		same = same && fmt.Sprint(have[f]) == fmt.Sprint(v)
	}
	stored, _ := r.Status["validationMessages"].([]any)
	if same && (len(stored) == 0 && len(messages) == 0 || reflect.DeepEqual(stored, messages)) {
		return nil, false
	}
	at := now.UTC().Format(time.RFC3339)
	want["lastProbeTime"], want["lastTransitionTime"] = at, at
	if have["status"] == want["status"] && have["lastTransitionTime"] != nil {
		want["lastTransitionTime"] = have["lastTransitionTime"]
	}
	return map[string]any{
		"conditions":         append(slices.Clip(others), want),
		"observedGeneration": r.Generation,
		"validationMessages": messages,
	}, true
}

// message is every problem on a line of its own, without the object's name.
func message(problems []*config.Problem) string {
	var lines []string
	for _, p := range problems {
		q := *p
		q.Object, q.File, q.Line = "", "", 0
		lines = append(lines, string(p.Severity)+": "+q.Error())
	}
	m := strings.Join(lines, "\n")
	if len(m) > maxMessage {
		m = strings.ToValidUTF8(m[:maxMessage], "") + "..."
	}
	return m
}

// validationMessages says by Istio's codes what was found.
func validationMessages(problems []*config.Problem) []any {
	out := []any{}
	for _, p := range problems {
		m := map[string]any{"level": strings.ToUpper(string(p.Severity))}
		if p.Severity == config.SeverityError {
			m["type"] = map[string]any{"name": "SchemaValidationError", "code": "IST0106"}
		} else {
			m["type"] = map[string]any{"name": "NotHonoured"}
		}
		out = append(out, m)
	}
	return out
}
