// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ProxyConfig is what lateen-proxy itself honours of Istio's ProxyConfig
// (istio.io/api mesh/v1alpha1/proxy.proto). The message's own Go type is not
// linked: it would bring the configuration kinds into every sidecar.
type ProxyConfig struct {
	DiscoveryAddress         string
	TerminationDrainDuration time.Duration // 0: the default
	Concurrency              int           // 0: the processor limit of the container
	ProxyMetadata            map[string]string
	StatusPort               uint16 // 0: the default
	ProxyAdminPort           uint16 // 0: the default
	ServiceCluster           string
	CACertificatesPEM        []string
	MeshID                   string
}

// elsewhere are the fields that others act on: the injector when it writes the
// pod, or the control plane, which gets them as node metadata.
var elsewhere = map[string]bool{
	"holdApplicationUntilProxyStarts": true, "image": true, "readinessProbe": true, "interceptionMode": true,
	"gatewayTopology": true, "proxyHeaders": true, "configPath": true, "binaryPath": true, "controlPlaneAuthPolicy": true,
	"availabilityZone": true, "customConfigFile": true, "proxyBootstrapTemplatePath": true, "statNameLength": true,
	"parentShutdownDuration": true, "drainDuration": true, "fileFlushInterval": true, "fileFlushMinSizeKb": true,
}

// ParseProxyConfig reads a ProxyConfig in JSON or YAML into what into holds
// already: set fields replace, proxyMetadata is merged by key. The warnings name
// fields that have no effect here.
func ParseProxyConfig(text []byte, into *ProxyConfig) (warnings []string, err error) {
	var raw map[string]yaml.Node
	if err := yaml.Unmarshal(text, &raw); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		n := raw[name]
		if n.Tag == "!!null" {
			continue
		}
		known, err := into.set(name, &n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if !known && !elsewhere[name] {
			warnings = append(warnings, name)
		}
	}
	return warnings, nil
}

func (c *ProxyConfig) set(name string, n *yaml.Node) (known bool, err error) {
	switch name {
	case "discoveryAddress":
		return true, n.Decode(&c.DiscoveryAddress)
	case "terminationDrainDuration":
		c.TerminationDrainDuration, err = duration(n)
		return true, err
	case "concurrency":
		if err := n.Decode(&c.Concurrency); err != nil {
			return true, err
		}
		if c.Concurrency < 0 {
			return true, fmt.Errorf("%d is negative; 0 uses every processor of the container", c.Concurrency)
		}
		return true, nil
	case "proxyMetadata":
		var m map[string]string
		if err := n.Decode(&m); err != nil {
			return true, err
		}
		if c.ProxyMetadata == nil {
			c.ProxyMetadata = map[string]string{}
		}
		maps.Copy(c.ProxyMetadata, m)
		return true, nil
	case "statusPort":
		return true, port(n, &c.StatusPort)
	case "proxyAdminPort":
		return true, port(n, &c.ProxyAdminPort)
	case "serviceCluster":
		return true, n.Decode(&c.ServiceCluster)
	case "caCertificatesPem":
		return true, n.Decode(&c.CACertificatesPEM)
	case "meshId":
		return true, n.Decode(&c.MeshID)
	}
	return false, nil
}

// duration reads protobuf's JSON form, "5s", and Go's.
func duration(n *yaml.Node) (time.Duration, error) {
	var s string
	if err := n.Decode(&s); err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no duration; write seconds as in 5s", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("%q is negative", s)
	}
	return d, nil
}

func port(n *yaml.Node, into *uint16) error {
	var v int
	if err := n.Decode(&v); err != nil {
		return err
	}
	if v < 1 || v > 65535 {
		return fmt.Errorf("%d is no port", v)
	}
	*into = uint16(v)
	return nil
}

// defaultConfig is the defaultConfig of a MeshConfig in YAML, nil when it has
// none.
func defaultConfig(mesh []byte) ([]byte, error) {
	var m struct {
		DefaultConfig map[string]any `yaml:"defaultConfig"`
	}
	if err := yaml.Unmarshal(mesh, &m); err != nil || m.DefaultConfig == nil {
		return nil, err
	}
	return json.Marshal(m.DefaultConfig)
}

// parsePodinfo reads a file of the downward API: a line key="value" per entry,
// the value quoted as strconv does.
func parsePodinfo(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		key, quoted, ok := strings.Cut(line, "=")
		v, err := strconv.Unquote(quoted)
		if !ok || key == "" || err != nil {
			return nil, fmt.Errorf("line %q is not key=\"value\"", line)
		}
		out[key] = v
	}
	return out, nil
}
