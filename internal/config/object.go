// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// DefaultNamespace is the namespace of an object that names none.
const DefaultNamespace = "default"

// Key names one object. It is comparable.
type Key struct {
	Kind      *Kind
	Namespace string
	Name      string
}

// String returns kind/namespace/name.
func (k Key) String() string {
	kind := "?"
	if k.Kind != nil {
		kind = k.Kind.Name
	}
	return kind + "/" + k.Namespace + "/" + k.Name
}

// Compare orders keys by kind, namespace and name.
func (k Key) Compare(o Key) int {
	a, b := k.Kind, o.Kind
	if a != b {
		if a == nil || b == nil {
			return cmp.Compare(k.String(), o.String())
		}
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Group, b.Group))
	}
	return cmp.Or(cmp.Compare(k.Namespace, o.Namespace), cmp.Compare(k.Name, o.Name))
}

// ConfigPath returns the path by which Istio names an object in the metadata
// of what it generates: /apis/<group>/<version>/namespaces/<ns>/<kind>/<name>.
func (k Key) ConfigPath() string {
	return "/apis/" + k.Kind.Group + "/" + k.Kind.Versions[0] + "/namespaces/" + k.Namespace + "/" + k.Kind.Slug + "/" + k.Name
}

// Source says where an object was read.
type Source struct {
	File string // as the user would name it; empty: not from a file
	Line int    // of the object's first key, from 1; 0: unknown
}

// String returns file:line.
func (s Source) String() string {
	if s.File == "" || s.Line == 0 {
		return s.File
	}
	return fmt.Sprintf("%s:%d", s.File, s.Line)
}

// Object is one configuration object. An object, everything it points to
// included, is immutable once a Store or Decode has returned it; Clone a
// shallow copy to change metadata.
type Object struct {
	Key
	// APIVersion is the one the user wrote; every version of a kind has the same spec type.
	APIVersion  string
	Labels      map[string]string
	Annotations map[string]string
	// CreationTimestamp orders conflicting objects (oldest first, then by
	// namespace and name), as in Istio. It is stable over restarts.
	CreationTimestamp time.Time
	// Generation counts changes of the spec, from 1.
	Generation int64
	// ResourceVersion is opaque and changes with every change of the object.
	// Given to Apply, it makes the apply fail if the stored one is another.
	ResourceVersion string
	// Spec is a pointer to the spec of the canonical package:
	// *networking/v1alpha3.{VirtualService, DestinationRule, Gateway,
	// ServiceEntry, WorkloadEntry, Sidecar}, *security/v1beta1.PeerAuthentication,
	// *mesh/v1alpha1.MeshConfig of istio.io/api, or *v1alpha1.LocalWorkload of api/mesh.
	Spec any
	// Source is where it was read. It does not take part in Equal.
	Source Source
	// Parents are the objects that a generated object was made from: of a
	// VirtualService that of each of its HTTP routes, in their order. It is
	// nil for objects that a user wrote.
	Parents []Key
}

// Clone returns a copy whose metadata may be changed; the spec is shared.
func (o *Object) Clone() *Object {
	c := *o
	c.Labels = maps.Clone(o.Labels)
	c.Annotations = maps.Clone(o.Annotations)
	return &c
}

// Older orders objects as Istio resolves conflicts: by creation time, then
// namespace and name.
func Older(a, b *Object) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// SortByAge sorts objects with Older.
func SortByAge(objects []*Object) { slices.SortStableFunc(objects, Older) }
