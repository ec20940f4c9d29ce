// SPDX-License-Identifier: Apache-2.0

// Package install puts the mesh into a cluster and takes it out again: it turns
// a profile and settings into objects by the Helm chart, applies them in order,
// waits until they work, and removes what an earlier version left.
package install

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/deploy"
)

// DefaultNamespace is where the control plane lives.
const DefaultNamespace = "istio-system"

// Options say what to install. The zero value is the default profile.
type Options struct {
	// Files are the contents of IstioOperator files, by name, in order; later
	// ones and then Set win.
	Files []File
	// Set are PATH=VALUE settings with istioctl's paths.
	Set []string
	// Namespace and Revision win over settings when they are not empty.
	Namespace, Revision string
	// Version is the tag of the images when no setting names one.
	Version string
	// KubeVersion is that of the cluster, such as v1.36.3; empty: any.
	KubeVersion string
}

// File is one input file.
type File struct {
	Name string
	Data []byte
}

// Plan is an installation that has been thought through, not yet applied.
type Plan struct {
	Profile, Namespace string
	// Revision is empty for the only control plane.
	Revision string
	Version  string
	// Values are those that the chart was rendered with, defaults included.
	Values map[string]any
	// Objects are in the order in which they are to be applied.
	Objects []*unstructured.Unstructured
	// Warnings are about settings that do not do all they say.
	Warnings []string
}

// NewPlan renders an installation. Its errors name the setting that is wrong.
func NewPlan(o Options) (*Plan, error) {
	c, err := loadChart(o.Version)
	if err != nil {
		return nil, err
	}
	p := &Plan{Version: c.Metadata.AppVersion}
	if err := p.settle(c, o); err != nil {
		return nil, err
	}
	if p.Warnings, err = checkMeshConfig(p.Values); err != nil {
		return nil, err
	}
	objects, err := render(c, p.Values, p.Namespace, o.KubeVersion)
	if err != nil {
		return nil, err
	}
	crds, err := definitions()
	if err != nil {
		return nil, err
	}
	p.Objects = slices.Concat(crds, objects)
	for _, obj := range p.Objects {
		if _, ok := kindOf(obj); !ok {
			return nil, fmt.Errorf("chart: %s %s is of no kind that can be installed", obj.GetKind(), obj.GetName())
		}
	}
	sortObjects(p.Objects)
	return p, nil
}

// settle decides profile, namespace, revision and values.
func (p *Plan) settle(c *chart.Chart, o Options) error {
	var all []setting
	for _, f := range o.Files {
		s, err := parseOperator(f.Data, f.Name)
		if err != nil {
			return err
		}
		all = append(all, s...)
	}
	sets, err := parseSets(o.Set)
	if err != nil {
		return err
	}
	all = append(all, sets...)

	pick := choice{profile: "default", namespace: DefaultNamespace}
	targets := make([]path, len(all))
	for i, s := range all {
		if targets[i], err = pick.rewrite(s); err != nil {
			return err
		}
	}
	named, err := profiles(c)
	if err != nil {
		return err
	}
	profile, err := chooseProfile(named, pick.profile)
	if err != nil {
		return err
	}
	merged, err := util.CoalesceValues(c, deepCopy(profile).(map[string]any))
	if err != nil {
		return err
	}
	values := deepCopy(map[string]any(merged)).(map[string]any)
	for i, s := range all {
		if targets[i] == nil {
			continue
		}
		if err := applySetting(values, s, targets[i]); err != nil {
			return err
		}
	}
	if o.Revision != "" {
		values["revision"] = o.Revision
	}
	if values["revision"] == "default" {
		values["revision"] = "" // Istio's other name for none
	}
	p.Profile, p.Values = pick.profile, values
	p.Namespace = cmp.Or(o.Namespace, pick.namespace)
	p.Revision, _ = values["revision"].(string)
	return p.checkNames()
}

func (p *Plan) checkNames() error {
	if e := validation.IsDNS1123Label(p.Namespace); len(e) > 0 {
		return fmt.Errorf("namespace %q: %s", p.Namespace, e[0])
	}
	if p.Revision != "" {
		// The revision is part of the names of Services.
		if e := validation.IsDNS1035Label("istiod-" + p.Revision); len(e) > 0 {
			return fmt.Errorf("revision %q: %s", p.Revision, e[0])
		}
	}
	return nil
}

// RevisionLabel is the value of the label istio.io/rev.
func (p *Plan) RevisionLabel() string { return cmp.Or(p.Revision, "default") }

// YAML prints the objects as a stream of documents.
func (p *Plan) YAML() ([]byte, error) {
	var b bytes.Buffer
	for i, o := range p.Objects {
		if i > 0 {
			b.WriteString("---\n")
		}
		doc, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, err
		}
		b.Write(doc)
	}
	return b.Bytes(), nil
}

// definitions are the CRDs, labelled as ours. They are decoded once, and must
// not be changed.
var definitions = sync.OnceValues(func() ([]*unstructured.Unstructured, error) {
	files := deploy.CRDs()
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, name := range names {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		objects, err := decode(data)
		if err != nil {
			return nil, fmt.Errorf("embedded definitions: %s: %w", name, err)
		}
		out = append(out, objects...)
	}
	for _, o := range out {
		labels := map[string]string{OwnerLabel: Owner}
		maps.Copy(labels, o.GetLabels())
		o.SetLabels(labels)
	}
	return out, nil
})

func deepCopy(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = deepCopy(e)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = deepCopy(e)
		}
		return out
	}
	return v
}
