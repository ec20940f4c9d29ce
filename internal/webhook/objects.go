// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"maps"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lateen-mesh/lateen/internal/inject"
)

// Objects say how the webhooks of one control plane are registered.
type Objects struct {
	Namespace string // of the control plane
	Revision  string // empty or default for the only control plane
	// NamespacesByDefault injects into namespaces that do not say otherwise.
	NamespacesByDefault bool
	// CABundle verifies the server; the control plane puts it in once it serves.
	CABundle []byte
	// Serving: the validator refuses what it cannot be asked about. It begins with
	// false, so that nothing waits for a control plane that was never there.
	Serving bool
	Labels  map[string]string
}

func (o Objects) revision() string {
	if o.Revision == "" {
		return "default"
	}
	return o.Revision
}

func (o Objects) suffix() string {
	if r := o.revision(); r != "default" {
		return "-" + r
	}
	return ""
}

func (o Objects) labels(own map[string]string) map[string]string {
	out := map[string]string{inject.RevisionLabel: o.revision()}
	maps.Copy(out, o.Labels)
	maps.Copy(out, own)
	return out
}

func (o Objects) client(path string) admissionregistrationv1.WebhookClientConfig {
	port := int32(443)
	return admissionregistrationv1.WebhookClientConfig{CABundle: o.CABundle, Service: &admissionregistrationv1.ServiceReference{
		Name: "istiod" + o.suffix(), Namespace: o.Namespace, Path: &path, Port: &port}}
}

// Injector returns the configuration that has the API server ask about pods of
// meshed namespaces, and of no others: those never depend on the mesh.
func (o Objects) Injector() *admissionregistrationv1.MutatingWebhookConfiguration {
	in := func(key string, values ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: values}
	}
	notIn := func(key string, values ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpNotIn, Values: values}
	}
	absent := func(key string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpDoesNotExist}
	}
	type requirements = []metav1.LabelSelectorRequirement
	rev, injection, choice := inject.RevisionLabel, inject.NamespaceLabel, inject.InjectName
	hooks := []admissionregistrationv1.MutatingWebhook{
		o.hook("rev.namespace", requirements{in(rev, o.revision()), absent(injection)}, requirements{notIn(choice, "false")}),
		o.hook("rev.object", requirements{absent(rev), absent(injection)}, requirements{notIn(choice, "false"), in(rev, o.revision())}),
	}
	if o.revision() == "default" {
		hooks = append(hooks,
			o.hook("namespace", requirements{in(injection, "enabled")}, requirements{notIn(choice, "false")}),
			o.hook("object", requirements{absent(injection), absent(rev)}, requirements{in(choice, "true"), absent(rev)}))
		if o.NamespacesByDefault {
			hooks = append(hooks, o.hook("auto",
				requirements{absent(injection), absent(rev), notIn("kubernetes.io/metadata.name", "kube-system", "kube-public", "kube-node-lease", "local-path-storage")},
				requirements{absent(choice), absent(rev)}))
		}
	}
	return &admissionregistrationv1.MutatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: "istio-sidecar-injector" + o.suffix(), Labels: o.labels(map[string]string{"app": "sidecar-injector"})},
		Webhooks:   hooks,
	}
}

func (o Objects) hook(name string, namespaces, objects []metav1.LabelSelectorRequirement) admissionregistrationv1.MutatingWebhook {
	return admissionregistrationv1.MutatingWebhook{
		Name:                    name + ".sidecar-injector.istio.io",
		ClientConfig:            o.client(InjectPath),
		Rules:                   rules([]string{""}, []string{"v1"}, "pods", admissionregistrationv1.Create),
		FailurePolicy:           ptr(admissionregistrationv1.Fail),
		MatchPolicy:             ptr(admissionregistrationv1.Equivalent),
		NamespaceSelector:       &metav1.LabelSelector{MatchExpressions: namespaces},
		ObjectSelector:          &metav1.LabelSelector{MatchExpressions: objects},
		SideEffects:             ptr(admissionregistrationv1.SideEffectClassNone),
		TimeoutSeconds:          ptr(int32(10)),
		AdmissionReviewVersions: []string{"v1"},
		ReinvocationPolicy:      ptr(admissionregistrationv1.NeverReinvocationPolicy),
	}
}

// Validator returns the configuration that has the API server ask about Istio's
// kinds.
func (o Objects) Validator() *admissionregistrationv1.ValidatingWebhookConfiguration {
	policy := admissionregistrationv1.Ignore
	if o.Serving {
		policy = admissionregistrationv1.Fail
	}
	hook := admissionregistrationv1.ValidatingWebhook{
		Name:         "rev.validation.istio.io",
		ClientConfig: o.client(ValidatePath),
		Rules: rules([]string{"security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"}, []string{"*"}, "*",
			admissionregistrationv1.Create, admissionregistrationv1.Update),
		FailurePolicy:           &policy,
		MatchPolicy:             ptr(admissionregistrationv1.Equivalent),
		SideEffects:             ptr(admissionregistrationv1.SideEffectClassNone),
		TimeoutSeconds:          ptr(int32(10)),
		AdmissionReviewVersions: []string{"v1"},
	}
	if o.revision() != "default" {
		hook.ObjectSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: inject.RevisionLabel, Operator: metav1.LabelSelectorOpIn, Values: []string{o.revision()}}}}
	}
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "ValidatingWebhookConfiguration"},
		ObjectMeta: metav1.ObjectMeta{Name: "istio-validator" + o.suffix() + "-" + o.Namespace, Labels: o.labels(map[string]string{"app": "istiod", "istio": "istiod"})},
		Webhooks:   []admissionregistrationv1.ValidatingWebhook{hook},
	}
}

func rules(groups, versions []string, resource string, operations ...admissionregistrationv1.OperationType) []admissionregistrationv1.RuleWithOperations {
	return []admissionregistrationv1.RuleWithOperations{{
		Operations: operations,
		Rule:       admissionregistrationv1.Rule{APIGroups: groups, APIVersions: versions, Resources: []string{resource}, Scope: ptr(admissionregistrationv1.NamespacedScope)},
	}}
}

func ptr[T any](v T) *T { return &v }
