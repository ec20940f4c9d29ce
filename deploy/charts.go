// SPDX-License-Identifier: Apache-2.0

// Package deploy embeds what is installed into a cluster: the Helm chart and the
// custom resource definitions.
package deploy

import (
	"embed"
	"io/fs"
)

// The chart's crds directory is a link to ../../crds and stays out: helm reads
// it from the directory, `lateen install` from CRDs.
//
//go:embed all:charts/lateen
var charts embed.FS

// Chart returns the files of the Helm chart lateen, Chart.yaml at its root,
// without the CRDs.
func Chart() fs.FS {
	chart, err := fs.Sub(charts, "charts/lateen")
	if err != nil {
		panic(err) // the path is a constant of the directive above
	}
	return chart
}
