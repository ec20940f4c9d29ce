// SPDX-License-Identifier: Apache-2.0

package kube

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/lateen-mesh/lateen/internal/config"
)

// Rules returns what a Store asks of the API server to read: list and watch of
// every resource it knows, in the whole cluster. Apply and Delete also need
// get, create, update and delete of the kinds that users write, which a
// control plane does without.
func Rules() []rbacv1.PolicyRule {
	read := []string{"list", "watch"}
	rules := []rbacv1.PolicyRule{{APIGroups: []string{crdResource.Group}, Resources: []string{crdResource.Resource}, Verbs: read}}
	for _, k := range append(append(Defined(), config.Ingress, config.IngressClass), config.ClusterKinds()...) {
		rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{k.Group}, Resources: []string{k.Plural}, Verbs: read})
	}
	return rules
}
