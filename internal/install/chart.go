// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/lateen-mesh/lateen/deploy"
)

// Release is the name of the Helm release that an installation is like.
const Release = "lateen"

// loadChart loads the embedded chart; version becomes its appVersion, which is
// the tag of the images when the values name none.
func loadChart(version string) (*chart.Chart, error) {
	var files []*archive.BufferedFile
	root := deploy.Chart()
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		files = append(files, &archive.BufferedFile{Name: p, Data: b})
		return nil
	})
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("embedded chart: %w", err)
	}
	if version != "" {
		c.Metadata.AppVersion = version
	}
	return c, nil
}

// profiles returns the values of each profile of the chart, by name.
func profiles(c *chart.Chart) (map[string]map[string]any, error) {
	out := map[string]map[string]any{}
	for _, f := range c.Files {
		name, ok := strings.CutPrefix(f.Name, "profiles/")
		if !ok {
			continue
		}
		v, err := common.ReadValues(f.Data)
		if err != nil {
			return nil, fmt.Errorf("embedded chart: %s: %w", f.Name, err)
		}
		out[strings.TrimSuffix(name, ".yaml")] = v
	}
	return out, nil
}

// Profiles lists the names of the profiles.
func Profiles() []string {
	c, err := loadChart("")
	if err != nil {
		return nil
	}
	all, err := profiles(c)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(all))
}

// render runs the chart's templates, as `helm template` does, and returns the
// objects in no particular order.
func render(c *chart.Chart, values map[string]any, namespace, kubeVersion string) ([]*unstructured.Unstructured, error) {
	caps := common.DefaultCapabilities.Copy()
	if kubeVersion != "" {
		v, err := common.ParseKubeVersion(kubeVersion)
		if err != nil {
			return nil, fmt.Errorf("version of Kubernetes %q: %w", kubeVersion, err)
		}
		caps.KubeVersion = *v
	}
	top, err := util.ToRenderValues(c, values, common.ReleaseOptions{
		Name: Release, Namespace: namespace, Revision: 1, IsInstall: true,
	}, caps)
	if err != nil {
		return nil, fmt.Errorf("values of the chart: %w", err)
	}
	texts, err := engine.Render(c, top)
	if err != nil {
		return nil, fmt.Errorf("chart: %w", err)
	}
	var out []*unstructured.Unstructured
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		objects, err := decode([]byte(texts[name]))
		if err != nil {
			return nil, fmt.Errorf("chart: %s: %w", name, err)
		}
		out = append(out, objects...)
	}
	return out, nil
}

// decode reads a stream of YAML documents; empty ones are skipped.
func decode(data []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	d := kyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var m map[string]any
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(m) == 0 {
			continue
		}
		o := &unstructured.Unstructured{Object: m}
		if o.GetKind() == "" || o.GetName() == "" {
			return nil, fmt.Errorf("a document without kind or name")
		}
		out = append(out, o)
	}
}
