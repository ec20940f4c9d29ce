// SPDX-License-Identifier: Apache-2.0

package install

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"

	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/inject"
)

// TestHelmRendersTheSame loads the chart from its directory as helm does, with
// a profile's file as -f, and compares with what `lateen install` applies.
func TestHelmRendersTheSame(t *testing.T) {
	const dir = "../../deploy/charts/lateen"
	for _, profile := range Profiles() {
		c, err := loader.LoadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(dir + "/profiles/" + profile + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		values, err := common.ReadValues(text)
		if err != nil {
			t.Fatal(err)
		}
		top, err := util.ToRenderValues(c, values, common.ReleaseOptions{Name: "other", Namespace: "istio-system", Revision: 1, IsInstall: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		texts, err := engine.Render(c, top)
		if err != nil {
			t.Fatal(err)
		}
		helm := map[string]any{}
		for name, text := range texts {
			if strings.HasSuffix(name, ".txt") {
				continue
			}
			objects, err := decode([]byte(text))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, o := range objects {
				helm[Describe(o)] = o.Object
			}
		}
		p, err := NewPlan(Options{Set: []string{"profile=" + profile}})
		if err != nil {
			t.Fatal(err)
		}
		ours := map[string]any{}
		for _, o := range p.Objects {
			if o.GetKind() != "CustomResourceDefinition" {
				ours[Describe(o)] = o.Object
			}
		}
		if diff := cmp.Diff(helm, ours); diff != "" {
			t.Errorf("%s (-helm +lateen install):\n%s", profile, diff)
		}
	}
}

// TestWebhooksAreTheInjectors holds the chart's webhooks to those that the
// webhooks' own package describes.
func TestWebhooksAreTheInjectors(t *testing.T) {
	for _, c := range []struct {
		file, object string
		options      Options
	}{
		{"injector.yaml", "MutatingWebhookConfiguration/istio-sidecar-injector", Options{}},
		{"injector-default.yaml", "MutatingWebhookConfiguration/istio-sidecar-injector", Options{Set: []string{"values.sidecarInjectorWebhook.enableNamespacesByDefault=true"}}},
		{"injector-revision.yaml", "MutatingWebhookConfiguration/istio-sidecar-injector-canary", Options{Revision: "canary"}},
		{"validator.yaml", "ValidatingWebhookConfiguration/istio-validator-istio-system", Options{}},
	} {
		text, err := os.ReadFile("../webhook/testdata/" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		p := plan(t, c.options)
		found := false
		for _, o := range p.Objects {
			if Describe(o) == c.object {
				found = true
				if diff := cmp.Diff(want[0].Object["webhooks"], o.Object["webhooks"]); diff != "" {
					t.Errorf("%s (-webhook +chart):\n%s", c.file, diff)
				}
			}
		}
		if !found {
			t.Errorf("%s is not in the chart", c.object)
		}
	}
}

// TestWhatIsReadCanBeRead: the control plane accepts the configuration that
// the chart writes, with every profile.
func TestWhatIsReadCanBeRead(t *testing.T) {
	for _, profile := range Profiles() {
		p := plan(t, Options{Set: []string{"profile=" + profile, "values.sidecarInjectorWebhook.injectedAnnotations.a=b"}})
		for _, o := range p.Objects {
			data, _ := get(o.Object, keys("data"))
			m, _ := data.(map[string]any)
			switch Describe(o) {
			case "ConfigMap/istio-system/istio":
				if err := config.Errors(config.Decode([]byte(m["mesh"].(string)), config.MeshConfigFile, "").Problems); err != nil {
					t.Errorf("%s: %v", profile, err)
				}
			case "ConfigMap/istio-system/istio-sidecar-injector":
				s, err := inject.ParseSettings([]byte(m[inject.ConfigKey].(string)), []byte(m[inject.ValuesKey].(string)))
				if err != nil {
					t.Fatalf("%s: %v", profile, err)
				}
				if s.Tag != "1.2.3" || s.Hub != "lateen" || s.Revision != "default" || s.InjectedAnnotations["a"] != "b" {
					t.Errorf("%s: %+v", profile, s)
				}
			}
		}
	}
}
