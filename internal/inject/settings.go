// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// Native says whether a sidecar is an init container that restarts
// (Kubernetes 1.29 on), which starts before and ends after the application.
type Native string

const (
	NativeAuto Native = "auto" // where every kubelet has it by default
	NativeOn   Native = "true"
	NativeOff  Native = "false"
)

// nativeMinor is the minor version of Kubernetes 1 from which on NativeAuto
// means yes: there SidecarContainers is no longer a choice.
const nativeMinor = 33

// Settings are the injector's own. DefaultSettings has Istio's.
type Settings struct {
	Hub, Tag string
	// ProxyImage and InitImage are names under Hub, or whole when they have a slash.
	ProxyImage, InitImage string
	ImagePullPolicy       corev1.PullPolicy // empty: Kubernetes' default
	ImagePullSecrets      []string
	// Revision is the control plane's, "default" for the only one.
	Revision string
	// InjectByDefault is Istio's policy enabled: a pod that says nothing is injected.
	InjectByDefault bool
	// NamespacesByDefault: the webhook is called for namespaces without a label
	// too (enableNamespacesByDefault). Only Explain looks at it.
	NamespacesByDefault  bool
	NeverInjectSelector  []metav1.LabelSelector
	AlwaysInjectSelector []metav1.LabelSelector
	// InjectedAnnotations are set on every injected pod.
	InjectedAnnotations map[string]string
	// DefaultTemplates are used when the pod names none.
	DefaultTemplates []string

	ClusterID, Network, MeshID string
	ClusterDomain              string
	CAAddress                  string // empty: the discovery address

	Native Native
	// KubeletVersions are those of the nodes (v1.36.3), for NativeAuto.
	KubeletVersions []string

	RewriteProbes bool
	// HoldApplication holds the application back until its proxy is ready, where
	// nobody has said otherwise and the sidecar is not native.
	HoldApplication bool

	IncludeOutboundRanges, ExcludeOutboundRanges string
	IncludeInboundPorts, ExcludeInboundPorts     string
	IncludeOutboundPorts, ExcludeOutboundPorts   string

	ProxyResources, InitResources corev1.ResourceRequirements
	LogLevel, ComponentLogLevel   string
	AgentLogLevel                 string
}

// DefaultSettings returns new settings with Istio's defaults and no tag.
func DefaultSettings() *Settings {
	return &Settings{
		Hub: "lateen", ProxyImage: "lateen-proxy", InitImage: "lateen-proxy", Revision: "default",
		InjectByDefault: true, DefaultTemplates: []string{templateSidecar},
		ClusterID: "Kubernetes", ClusterDomain: "cluster.local",
		Native: NativeAuto, RewriteProbes: true, HoldApplication: true,
		IncludeOutboundRanges: "*", IncludeInboundPorts: "*",
		ProxyResources: resources("100m", "128Mi", "2", "1Gi"),
		InitResources:  resources("10m", "32Mi", "500m", "128Mi"),
		LogLevel:       "warning", AgentLogLevel: "default:info",
	}
}

func resources(cpu, memory, cpuLimit, memoryLimit string) corev1.ResourceRequirements {
	list := func(c, m string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(c), corev1.ResourceMemory: resource.MustParse(m)}
	}
	return corev1.ResourceRequirements{Requests: list(cpu, memory), Limits: list(cpuLimit, memoryLimit)}
}

// The keys of the ConfigMap istio-sidecar-injector.
const (
	ConfigKey = "config"
	ValuesKey = "values"
)

// injectorConfig is the key config: Istio's, without the templates, which are ours.
type injectorConfig struct {
	Policy               string                 `json:"policy"`
	DefaultTemplates     []string               `json:"defaultTemplates"`
	NeverInjectSelector  []metav1.LabelSelector `json:"neverInjectSelector"`
	AlwaysInjectSelector []metav1.LabelSelector `json:"alwaysInjectSelector"`
	InjectedAnnotations  map[string]string      `json:"injectedAnnotations"`
}

// chartValues are the chart's values, as far as they are about injection.
type chartValues struct {
	Revision string `json:"revision"`
	Global   struct {
		Hub              string   `json:"hub"`
		Tag              any      `json:"tag"`
		ImagePullPolicy  string   `json:"imagePullPolicy"`
		ImagePullSecrets []string `json:"imagePullSecrets"`
		MeshID           string   `json:"meshID"`
		Network          string   `json:"network"`
		CAAddress        string   `json:"caAddress"`
		MultiCluster     struct {
			ClusterName string `json:"clusterName"`
		} `json:"multiCluster"`
		Proxy     proxyValues `json:"proxy"`
		ProxyInit struct {
			Image     string                       `json:"image"`
			Resources *corev1.ResourceRequirements `json:"resources"`
		} `json:"proxy_init"`
		Logging struct {
			Level string `json:"level"`
		} `json:"logging"`
	} `json:"global"`
	Pilot struct {
		Env map[string]any `json:"env"`
	} `json:"pilot"`
	SidecarInjectorWebhook struct {
		RewriteAppHTTPProbe       *bool `json:"rewriteAppHTTPProbe"`
		EnableNamespacesByDefault bool  `json:"enableNamespacesByDefault"`
	} `json:"sidecarInjectorWebhook"`
}

type proxyValues struct {
	Image                string                       `json:"image"`
	Resources            *corev1.ResourceRequirements `json:"resources"`
	LogLevel             string                       `json:"logLevel"`
	ComponentLogLevel    string                       `json:"componentLogLevel"`
	ClusterDomain        string                       `json:"clusterDomain"`
	IncludeIPRanges      *string                      `json:"includeIPRanges"`
	ExcludeIPRanges      string                       `json:"excludeIPRanges"`
	IncludeInboundPorts  *string                      `json:"includeInboundPorts"`
	ExcludeInboundPorts  string                       `json:"excludeInboundPorts"`
	IncludeOutboundPorts string                       `json:"includeOutboundPorts"`
	ExcludeOutboundPorts string                       `json:"excludeOutboundPorts"`
}

// ParseSettings reads the two keys of the ConfigMap istio-sidecar-injector over
// DefaultSettings. Either may be empty. Values that are not about injection are
// passed over; a bad one is an error that names it.
func ParseSettings(configText, valuesText []byte) (*Settings, error) {
	s := DefaultSettings()
	if len(configText) > 0 {
		var c injectorConfig
		if err := yaml.Unmarshal(configText, &c); err != nil {
			return nil, fmt.Errorf("ConfigMap istio-sidecar-injector, key %s: %w", ConfigKey, err)
		}
		if err := s.setConfig(&c); err != nil {
			return nil, fmt.Errorf("ConfigMap istio-sidecar-injector, key %s: %w", ConfigKey, err)
		}
	}
	if len(valuesText) > 0 {
		var v chartValues
		if err := yaml.Unmarshal(valuesText, &v); err != nil {
			return nil, fmt.Errorf("ConfigMap istio-sidecar-injector, key %s: %w", ValuesKey, err)
		}
		if err := s.setValues(&v); err != nil {
			return nil, fmt.Errorf("ConfigMap istio-sidecar-injector, key %s: %w", ValuesKey, err)
		}
	}
	return s, nil
}

func (s *Settings) setConfig(c *injectorConfig) error {
	switch c.Policy {
	case "", "enabled":
	case "disabled":
		s.InjectByDefault = false
	default:
		return fmt.Errorf("policy %q is neither enabled nor disabled", c.Policy)
	}
	if len(c.DefaultTemplates) > 0 {
		for _, t := range c.DefaultTemplates {
			if _, ok := knownTemplates[t]; !ok {
				return fmt.Errorf("defaultTemplates: there is no template %q: there are %s", t, templateNames())
			}
		}
		s.DefaultTemplates = c.DefaultTemplates
	}
	selectors := slices.Concat(c.NeverInjectSelector, c.AlwaysInjectSelector)
	for k := range selectors {
		if _, err := metav1.LabelSelectorAsSelector(&selectors[k]); err != nil {
			return fmt.Errorf("neverInjectSelector, alwaysInjectSelector: %w", err)
		}
	}
	s.NeverInjectSelector, s.AlwaysInjectSelector = c.NeverInjectSelector, c.AlwaysInjectSelector
	s.InjectedAnnotations = c.InjectedAnnotations
	return nil
}

func (s *Settings) setValues(v *chartValues) error {
	g, p := &v.Global, &v.Global.Proxy
	set := func(to *string, value string) { *to = cmp.Or(value, *to) }
	set(&s.Revision, v.Revision)
	set(&s.Hub, g.Hub)
	if g.Tag != nil {
		set(&s.Tag, fmt.Sprint(g.Tag))
	}
	switch p := corev1.PullPolicy(g.ImagePullPolicy); p {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
		s.ImagePullPolicy = p
	default:
		return fmt.Errorf("global.imagePullPolicy %q: use Always, IfNotPresent or Never", g.ImagePullPolicy)
	}
	s.ImagePullSecrets = g.ImagePullSecrets
	set(&s.MeshID, g.MeshID)
	set(&s.Network, g.Network)
	set(&s.CAAddress, g.CAAddress)
	set(&s.ClusterID, g.MultiCluster.ClusterName)
	set(&s.ProxyImage, p.Image)
	set(&s.InitImage, cmp.Or(g.ProxyInit.Image, p.Image))
	set(&s.LogLevel, p.LogLevel)
	set(&s.ComponentLogLevel, p.ComponentLogLevel)
	set(&s.AgentLogLevel, g.Logging.Level)
	set(&s.ClusterDomain, p.ClusterDomain)
	if p.Resources != nil {
		s.ProxyResources = *p.Resources
	}
	if g.ProxyInit.Resources != nil {
		s.InitResources = *g.ProxyInit.Resources
	}
	if p.IncludeIPRanges != nil {
		s.IncludeOutboundRanges = *p.IncludeIPRanges
	}
	if p.IncludeInboundPorts != nil {
		s.IncludeInboundPorts = *p.IncludeInboundPorts
	}
	s.ExcludeOutboundRanges, s.ExcludeInboundPorts = p.ExcludeIPRanges, p.ExcludeInboundPorts
	s.IncludeOutboundPorts, s.ExcludeOutboundPorts = p.IncludeOutboundPorts, p.ExcludeOutboundPorts
	s.NamespacesByDefault = v.SidecarInjectorWebhook.EnableNamespacesByDefault
	if r := v.SidecarInjectorWebhook.RewriteAppHTTPProbe; r != nil {
		s.RewriteProbes = *r
	}
	if n, ok := v.Pilot.Env["ENABLE_NATIVE_SIDECARS"]; ok {
		return s.SetNative(fmt.Sprint(n))
	}
	return nil
}

// SetNative reads Istio's ENABLE_NATIVE_SIDECARS.
func (s *Settings) SetNative(text string) error {
	switch n := Native(strings.ToLower(text)); n {
	case NativeAuto, NativeOn, NativeOff:
		s.Native = n
		return nil
	}
	return fmt.Errorf("ENABLE_NATIVE_SIDECARS %q: use auto, true or false", text)
}

// image is the reference of a proxy image.
func (s *Settings) image(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	ref := s.Hub + "/" + name
	if s.Tag != "" {
		ref += ":" + s.Tag
	}
	return ref
}

var kubernetesVersion = regexp.MustCompile(`^v?(\d+)\.(\d+)`)

// kubeletsAreNew reports whether every node runs native sidecars by default. A
// cluster whose nodes are not known counts as old: old pods run everywhere.
func (s *Settings) kubeletsAreNew() bool {
	for _, v := range s.KubeletVersions {
		m := kubernetesVersion.FindStringSubmatch(v)
		if m == nil {
			return false
		}
		major, _ := strconv.Atoi(m[1])
		minor, _ := strconv.Atoi(m[2])
		if major < 1 || major == 1 && minor < nativeMinor {
			return false
		}
	}
	return len(s.KubeletVersions) > 0
}

// selects returns the first selector that matches.
func selects(selectors []metav1.LabelSelector, of map[string]string) (string, bool) {
	for k := range selectors {
		sel, err := metav1.LabelSelectorAsSelector(&selectors[k])
		if err != nil || sel.Empty() {
			continue // ParseSettings refuses a bad one; an empty one selects nothing, as in Istio
		}
		if sel.Matches(labels.Set(of)) {
			return sel.String(), true
		}
	}
	return "", false
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only strings and numbers are given
	}
	return string(b)
}
