// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// What marks an object as ours: an uninstall and the pruning of an upgrade
// touch nothing without this label.
const (
	OwnerLabel = "install.lateen.dev/owning-resource"
	Owner      = "lateen"
	revLabel   = "istio.io/rev"
)

// phase is a step of an installation. What is in a later one needs what is in
// an earlier one to be there, and to work.
type phase int

const (
	phaseDefinitions phase = iota
	phaseControlPlane
	// phaseWebhooks comes behind the control plane: pods of meshed namespaces
	// must not wait for an injector that was never there.
	phaseWebhooks
	// phaseGateways comes behind the webhooks: they fill the gateways' pods in.
	phaseGateways
)

// kind is a kind that the chart makes. The table saves discovery, and is what
// an upgrade looks through for objects that are no longer wanted.
type kind struct {
	schema.GroupVersionResource
	name       string
	namespaced bool
	phase      phase
}

func (k kind) gvk() schema.GroupVersionKind { return k.GroupVersion().WithKind(k.name) }

func resource(group, version, plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: plural}
}

// kinds are in the order in which they are applied.
var kinds = []kind{
	{resource("apiextensions.k8s.io", "v1", "customresourcedefinitions"), "CustomResourceDefinition", false, phaseDefinitions},
	{resource("", "v1", "serviceaccounts"), "ServiceAccount", true, phaseControlPlane},
	{resource("", "v1", "configmaps"), "ConfigMap", true, phaseControlPlane},
	{resource("rbac.authorization.k8s.io", "v1", "clusterroles"), "ClusterRole", false, phaseControlPlane},
	{resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings"), "ClusterRoleBinding", false, phaseControlPlane},
	{resource("rbac.authorization.k8s.io", "v1", "roles"), "Role", true, phaseControlPlane},
	{resource("rbac.authorization.k8s.io", "v1", "rolebindings"), "RoleBinding", true, phaseControlPlane},
	{resource("networking.k8s.io", "v1", "ingressclasses"), "IngressClass", false, phaseControlPlane},
	{resource("", "v1", "services"), "Service", true, phaseControlPlane},
	{resource("policy", "v1", "poddisruptionbudgets"), "PodDisruptionBudget", true, phaseControlPlane},
	{deployments, "Deployment", true, phaseControlPlane},
	{resource("autoscaling", "v2", "horizontalpodautoscalers"), "HorizontalPodAutoscaler", true, phaseControlPlane},
	{mutatingWebhooks, "MutatingWebhookConfiguration", false, phaseWebhooks},
	{resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"), "ValidatingWebhookConfiguration", false, phaseWebhooks},
}

var (
	definitionsResource = resource("apiextensions.k8s.io", "v1", "customresourcedefinitions")
	deployments         = resource("apps", "v1", "deployments")
	mutatingWebhooks    = resource("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations")
	namespaces          = resource("", "v1", "namespaces")
	pods                = resource("", "v1", "pods")
	events              = resource("", "v1", "events")
	configMaps          = resource("", "v1", "configmaps")
	secrets             = resource("", "v1", "secrets")
	leases              = resource("coordination.k8s.io", "v1", "leases")
	gatewayClasses      = resource("gateway.networking.k8s.io", "v1", "gatewayclasses")
)

func kindOf(o *unstructured.Unstructured) (kind, bool) {
	for _, k := range kinds {
		if k.gvk() == o.GroupVersionKind() {
			return k, true
		}
	}
	return kind{}, false
}

// phaseOf is the phase of the kind, except that everything of a gateway goes with its gateway.
func phaseOf(o *unstructured.Unstructured) phase {
	k, _ := kindOf(o)
	if k.phase == phaseControlPlane && isGateway(o) {
		return phaseGateways
	}
	return k.phase
}

func isGateway(o *unstructured.Unstructured) bool {
	istio := o.GetLabels()["istio"]
	return o.GetLabels()["app"] != "istiod" && istio != "" && istio != "pilot"
}

// sortObjects orders objects as they are to be applied.
func sortObjects(objects []*unstructured.Unstructured) {
	rank := func(o *unstructured.Unstructured) int {
		return slices.IndexFunc(kinds, func(k kind) bool { return k.gvk() == o.GroupVersionKind() })
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(cmp.Compare(phaseOf(a), phaseOf(b)), cmp.Compare(rank(a), rank(b)),
			cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
}
