// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkDecode reads services with 10 endpoints each; an operation is one service.
func BenchmarkDecode(b *testing.B) {
	const services = 100
	var text strings.Builder
	for i := range services {
		fmt.Fprintf(&text, "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: s%d\nspec:\n  hosts:\n  - s%[1]d.default.svc.cluster.local\n"+
			"  ports:\n  - number: 80\n    name: http\n    protocol: HTTP\n  resolution: STATIC\n  endpoints:\n", i)
		for j := range 10 {
			fmt.Fprintf(&text, "  - address: 10.0.%d.%d\n    labels:\n      version: v1\n", i, j)
		}
	}
	data := []byte(text.String())
	b.ReportAllocs()
	for i := 0; b.Loop(); i += services {
		if r := Decode(data, "f.yaml", DefaultNamespace); len(r.Objects) != services {
			b.Fatal(r.Problems)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/services, "us/service")
}
