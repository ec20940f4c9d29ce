// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
)

// TestWholeNumbers prints 64-bit integers as the API server wants them.
func TestWholeNumbers(t *testing.T) {
	r := Decode([]byte(`
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec:
  host: a
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy:
      loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 2048}}}
`), "a.yaml", "")
	if len(r.Objects) != 1 {
		t.Fatal(r.Problems)
	}
	b, err := r.Objects[0].YAML()
	if err != nil || !strings.Contains(string(b), "minimumRingSize: 2048\n") {
		t.Errorf("%v\n%s", err, b)
	}
}
