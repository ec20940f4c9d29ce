// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/config"
)

// setting is one value for one place, as the user wrote it.
type setting struct {
	path path
	// value is a string when it came from a command line; then its type is
	// that of the place it is for.
	value any
	typed bool
	// from names the place for errors: --set profile, or a file.
	from string
}

// parseSets reads --set arguments: PATH=VALUE, in order.
func parseSets(sets []string) ([]setting, error) {
	var out []setting
	for _, s := range sets {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--set %s: want PATH=VALUE", s)
		}
		p, err := parsePath(strings.TrimSpace(name))
		if err != nil {
			return nil, fmt.Errorf("--set %s: %w", s, err)
		}
		out = append(out, setting{path: p, value: value, from: "--set " + name})
	}
	return out, nil
}

// parseOperator reads the documents of an IstioOperator file into settings.
func parseOperator(data []byte, file string) ([]setting, error) {
	var doc struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}
	if err := yaml.UnmarshalStrict(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if doc.Kind != "IstioOperator" || !strings.HasPrefix(doc.APIVersion, "install.istio.io/") {
		return nil, fmt.Errorf("%s: kind %q of %q: want an IstioOperator of install.istio.io/v1alpha1", file, doc.Kind, doc.APIVersion)
	}
	var out []setting
	flatten(nil, doc.Spec, func(p path, v any) {
		out = append(out, setting{path: p, value: v, typed: true, from: file + ": spec." + p.String()})
	})
	return out, nil
}

// flatten calls leaf for everything below v that is no map. The lists of
// gateways are gone through; other lists are leaves.
func flatten(p path, v any, leaf func(path, any)) {
	switch x := v.(type) {
	case map[string]any:
		if len(x) == 0 && len(p) > 0 {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(x)) {
			flatten(append(slices.Clone(p), segment{key: k}), x[k], leaf)
		}
	case []any:
		if len(p) != 2 || p[0].key != "components" {
			leaf(p, v)
			return
		}
		for i, e := range x {
			s := segment{index: i}
			if m, ok := e.(map[string]any); ok {
				if name, ok := m["name"].(string); ok {
					s = segment{key: "name", match: name, isMatch: true}
					m = maps.Clone(m)
					delete(m, "name")
					e = m
				}
			}
			flatten(append(slices.Clone(p), s), e, leaf)
		}
	default:
		leaf(p, v)
	}
}

// choice is what is decided before the chart's values: which profile, where.
type choice struct {
	profile, namespace string
}

// rewrite turns the path of a setting, which is one of Istio's, into that of
// one of the chart's values. An empty path means that choice took the setting.
func (c *choice) rewrite(s setting) (path, error) {
	p := s.path
	whole := p.String()
	switch whole {
	case "profile":
		c.profile = fmt.Sprint(s.value)
		return nil, nil
	case "namespace", "values.global.istioNamespace":
		c.namespace = fmt.Sprint(s.value)
		return nil, nil
	case "hub", "tag":
		return keys("global", whole), nil
	case "revision":
		return p, nil
	case "components.base.enabled", "components.pilot.enabled":
		if fmt.Sprint(s.value) != "true" {
			return nil, fmt.Errorf("%s: the control plane cannot be left out; remove the setting", s.from)
		}
		return nil, nil
	case "components.cni.enabled", "components.ztunnel.enabled":
		if fmt.Sprint(s.value) != "false" {
			return nil, fmt.Errorf("%s: Lateen has no such component; remove the setting", s.from)
		}
		return nil, nil
	}
	switch p[0].key {
	case "meshConfig":
		return p, nil
	case "values":
		if len(p) > 1 && !p[1].isIndex() && !p[1].isMatch {
			return p[1:], nil
		}
	case "components":
		return component(s)
	}
	return nil, fmt.Errorf("%s: there is no setting %q; %s", s.from, whole, hint(p[0].key, topLevel))
}

var topLevel = []string{"profile", "hub", "tag", "revision", "namespace", "meshConfig", "values", "components"}

// hint says what may have been meant.
func hint(word string, candidates []string) string {
	if h := config.DidYouMean(word, candidates); h != "" {
		return h
	}
	return "there are " + strings.Join(slices.Sorted(slices.Values(candidates)), ", ")
}

// componentFields are the fields of a component and the values they stand for.
var componentFields = map[string][]string{
	"k8s.replicaCount":        {"replicaCount"},
	"k8s.resources":           {"resources"},
	"k8s.nodeSelector":        {"nodeSelector"},
	"k8s.tolerations":         {"tolerations"},
	"k8s.affinity":            {"affinity"},
	"k8s.podAnnotations":      {"podAnnotations"},
	"k8s.serviceAnnotations":  {"serviceAnnotations"},
	"k8s.hpaSpec.minReplicas": {"autoscaleMin"},
	"k8s.hpaSpec.maxReplicas": {"autoscaleMax"},
}

// gatewayFields are those that only gateways have.
var gatewayFields = map[string][]string{
	"enabled":                              {"enabled"},
	"label":                                {"labels"},
	"k8s.service.type":                     {"type"},
	"k8s.service.ports":                    {"ports"},
	"k8s.service.loadBalancerIP":           {"loadBalancerIP"},
	"k8s.service.loadBalancerSourceRanges": {"loadBalancerSourceRanges"},
	"k8s.service.externalTrafficPolicy":    {"externalTrafficPolicy"},
}

// component finds the value that a path below components stands for.
func component(s setting) (path, error) {
	p := s.path
	if len(p) < 2 {
		return nil, fmt.Errorf("%s: want a component: ingressGateways, egressGateways or pilot", s.from)
	}
	switch name := p[1].key; name {
	case "pilot":
		return field(s, keys("pilot"), p[2:], componentFields)
	case "ingressGateways", "egressGateways":
		gateway := "istio-" + strings.TrimSuffix(name, "Gateways") + "gateway"
		if len(p) < 4 || !p[2].isMatch && !p[2].isIndex() {
			return nil, fmt.Errorf("%s: want components.%s[0].enabled or another field of a gateway", s.from, name)
		}
		if p[2].isMatch && (p[2].key != "name" || p[2].match != gateway) || p[2].isIndex() && p[2].index != 0 {
			return nil, fmt.Errorf("%s: there is one such gateway, %s[name:%s]; install others as Gateways of the Gateway API or with the chart", s.from, name, gateway)
		}
		if p[3:].String() == "name" && s.value == gateway {
			return nil, nil
		}
		all := maps.Clone(componentFields)
		maps.Copy(all, gatewayFields)
		return field(s, keys("gateways", gateway), p[3:], all)
	default:
		return nil, fmt.Errorf("%s: there is no component %q; %s", s.from, name, hint(name, []string{"base", "pilot", "ingressGateways", "egressGateways", "cni"}))
	}
}

func field(s setting, base, rest path, fields map[string][]string) (path, error) {
	for n := len(rest); n > 0; n-- {
		if to, ok := fields[rest[:n].String()]; ok {
			return slices.Concat(base, keys(to...), rest[n:]), nil
		}
	}
	return nil, fmt.Errorf("%s: there is no field %q; %s", s.from, rest, hint(rest.String(), slices.Sorted(maps.Keys(fields))))
}

var errUnknownProfile = errors.New("unknown profile")

// chooseProfile returns the values of a profile.
func chooseProfile(all map[string]map[string]any, name string) (map[string]any, error) {
	v, ok := all[name]
	if !ok {
		names := slices.Sorted(maps.Keys(all))
		return nil, fmt.Errorf("profile %q: %w: there are %s", name, errUnknownProfile, strings.Join(names, ", "))
	}
	return v, nil
}
