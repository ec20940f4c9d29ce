// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const prometheusPrefix = "prometheus.io/"

// scrapeConfig is ISTIO_PROMETHEUS_ANNOTATIONS: where the application's own
// metrics are.
type scrapeConfig struct {
	Scrape string `json:"scrape"`
	Path   string `json:"path"`
	Port   string `json:"port"`
}

// scrapeKey is the part of a prometheus.io annotation that says what it is
// about, in the spellings Prometheus' relabelling takes for the same.
func scrapeKey(name string) (string, bool) {
	n := strings.ReplaceAll(name, "_", ".")
	n = strings.Replace(n, "prometheus.io.", prometheusPrefix, 1)
	return strings.CutPrefix(n, prometheusPrefix)
}

// mergeMetrics sends Prometheus to the proxy's agent, which hands out the
// application's metrics with its own (Istio's enablePrometheusMerge).
func (i *injection) mergeMetrics() {
	status := i.proxy.GetStatusPort()
	if !i.boolAnnotation(annMergeMetrics, i.mesh.GetEnablePrometheusMerge().GetValue()) || status == 0 {
		return
	}
	var c scrapeConfig
	for name, value := range i.pod.Annotations {
		switch key, ok := scrapeKey(name); {
		case !ok:
		case key == "scrape":
			c.Scrape = value
		case key == "path":
			c.Path = value
		case key == "port":
			c.Port = value
		}
	}
	if c.Scrape != "" && c.Scrape != "true" {
		return // the user wants no scraping
	}
	port := strconv.Itoa(int(status))
	if c.Port == port {
		return // it leads to the proxy already
	}
	if proxy := i.proxyOf(); c != (scrapeConfig{}) && proxy != nil {
		proxy.Env = append(proxy.Env, corev1.EnvVar{Name: "ISTIO_PROMETHEUS_ANNOTATIONS", Value: mustJSON(c)})
	}
	for name := range i.pod.Annotations {
		if key, ok := scrapeKey(name); ok && (key == "scrape" || key == "path" || key == "port") {
			delete(i.pod.Annotations, name)
		}
	}
	if i.pod.Annotations == nil {
		i.pod.Annotations = map[string]string{}
	}
	i.pod.Annotations[prometheusPrefix+"scrape"] = "true"
	i.pod.Annotations[prometheusPrefix+"path"] = "/stats/prometheus"
	i.pod.Annotations[prometheusPrefix+"port"] = port
}
