// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"embed"
	"io/fs"
)

// The definitions are Istio's own, cut from the file that module istio.io/api
// publishes.
//
//go:generate go test . -run TestCRDsAreThoseOfTheModule -update
//go:embed crds/*.yaml
var crds embed.FS

// CRDs returns the custom resource definitions of every kind of Istio's that
// is handled, one file each, in all their versions and with their validation rules.
func CRDs() fs.FS {
	files, err := fs.Sub(crds, "crds")
	if err != nil {
		panic(err) // the path is a constant of the directive above
	}
	return files
}
