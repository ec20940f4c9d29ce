// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/deploy"
	"github.com/lateen-mesh/lateen/internal/config/kube"
)

// TestChartGrantsRules holds the chart's ClusterRole to what the store reads.
// Its template is plain YAML between few actions, which are left out.
func TestChartGrantsRules(t *testing.T) {
	text, err := fs.ReadFile(deploy.Chart(), "templates/clusterrole.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var plain []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "{{") {
			plain = append(plain, line)
		}
	}
	type rule struct {
		APIGroups, Resources, Verbs []string
	}
	var granted []rule
	for _, doc := range strings.Split(strings.Join(plain, ""), "\n---\n") {
		var role struct{ Rules []rule }
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		granted = append(granted, role.Rules...)
	}
	has := func(list []string, word string) bool {
		return slices.Contains(list, word) || slices.Contains(list, "*")
	}
	for _, want := range kube.Rules() {
		for _, verb := range want.Verbs {
			if !slices.ContainsFunc(granted, func(r rule) bool {
				return has(r.APIGroups, want.APIGroups[0]) && has(r.Resources, want.Resources[0]) && has(r.Verbs, verb)
			}) {
				t.Errorf("the chart does not let the control plane %s %s.%s", verb, want.Resources[0], want.APIGroups[0])
			}
		}
	}
}
