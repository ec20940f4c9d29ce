// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"slices"

	v1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/lateen-mesh/lateen/internal/config"
)

// reference is a reference from an object to one of another namespace.
type reference struct {
	from          *config.Object
	group, kind   string
	namespace, to string
}

// granted tells whether a ReferenceGrant in the namespace referred to allows
// the reference. One within a namespace needs none.
func granted(grants []*config.Object, r reference) bool {
	if r.namespace == r.from.Namespace {
		return true
	}
	return slices.ContainsFunc(grants, func(o *config.Object) bool {
		spec := o.Spec.(*v1.ReferenceGrantSpec)
		return o.Namespace == r.namespace &&
			slices.ContainsFunc(spec.From, func(f v1.ReferenceGrantFrom) bool {
				return string(f.Group) == r.from.Kind.Group && string(f.Kind) == r.from.Kind.Name && string(f.Namespace) == r.from.Namespace
			}) &&
			slices.ContainsFunc(spec.To, func(t v1.ReferenceGrantTo) bool {
				return string(t.Group) == r.group && string(t.Kind) == r.kind && (t.Name == nil || *t.Name == "" || string(*t.Name) == r.to)
			})
	})
}
