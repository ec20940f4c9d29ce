// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/lateen-mesh/lateen/internal/config"
)

// The annotations of a pod that choose something (istio.io/api annotation/annotations.yaml).
const (
	annProxyImage         = "sidecar.istio.io/proxyImage"
	annProxyImageType     = "sidecar.istio.io/proxyImageType"
	annProxyCPU           = "sidecar.istio.io/proxyCPU"
	annProxyCPULimit      = "sidecar.istio.io/proxyCPULimit"
	annProxyMemory        = "sidecar.istio.io/proxyMemory"
	annProxyMemoryLimit   = "sidecar.istio.io/proxyMemoryLimit"
	annInterception       = "sidecar.istio.io/interceptionMode"
	annUserVolume         = "sidecar.istio.io/userVolume"
	annUserVolumeMount    = "sidecar.istio.io/userVolumeMount"
	annLogLevel           = "sidecar.istio.io/logLevel"
	annComponentLogLevel  = "sidecar.istio.io/componentLogLevel"
	annAgentLogLevel      = "sidecar.istio.io/agentLogLevel"
	annRewriteProbes      = "sidecar.istio.io/rewriteAppHTTPProbers"
	annNativeSidecar      = "sidecar.istio.io/nativeSidecar"
	annDiscoveryAddress   = "sidecar.istio.io/discoveryAddress"
	annStatusPort         = "status.sidecar.istio.io/port"
	annInitialDelay       = "readiness.status.sidecar.istio.io/initialDelaySeconds"
	annPeriod             = "readiness.status.sidecar.istio.io/periodSeconds"
	annFailureThreshold   = "readiness.status.sidecar.istio.io/failureThreshold"
	annIncludeOutbound    = "traffic.sidecar.istio.io/includeOutboundIPRanges"
	annExcludeOutbound    = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
	annIncludeInPorts     = "traffic.sidecar.istio.io/includeInboundPorts"
	annExcludeInPorts     = "traffic.sidecar.istio.io/excludeInboundPorts"
	annIncludeOutPorts    = "traffic.sidecar.istio.io/includeOutboundPorts"
	annExcludeOutPorts    = "traffic.sidecar.istio.io/excludeOutboundPorts"
	annExcludeInterfaces  = "traffic.sidecar.istio.io/excludeInterfaces"
	annKubevirtInterfaces = "traffic.sidecar.istio.io/kubevirtInterfaces"
	annRerouteInterfaces  = "istio.io/reroute-virtual-interfaces"
	annMergeMetrics       = "prometheus.istio.io/merge-metrics"
)

// checks are the annotations that are honoured, with what their values must be;
// a nil check is done where the annotation is read.
var checks = map[string]func(string) error{
	InjectName: nil, StatusName: nil, TemplatesName: nil, OverridesName: nil, ProxyConfigName: nil,
	annProxyImage: isImage, annProxyCPU: isQuantity, annProxyCPULimit: isQuantity,
	annProxyMemory: isQuantity, annProxyMemoryLimit: isQuantity,
	annInterception: isInterception, annUserVolume: isVolumes, annUserVolumeMount: isMounts,
	annLogLevel: isWord, annComponentLogLevel: isWord, annAgentLogLevel: isWord,
	annRewriteProbes: isBool, annNativeSidecar: isBool, annDiscoveryAddress: isWord,
	annStatusPort: isPortOrZero, annInitialDelay: isCount, annPeriod: isPositive, annFailureThreshold: isPositive,
	annIncludeOutbound: isRanges(true), annExcludeOutbound: isRanges(false),
	annIncludeInPorts: isPorts(true), annExcludeInPorts: isPorts(false),
	annIncludeOutPorts: isPorts(true), annExcludeOutPorts: isPorts(true),
	annExcludeInterfaces: isInterfaces, annKubevirtInterfaces: isInterfaces, annRerouteInterfaces: isInterfaces,
	annMergeMetrics: isBool,
}

const noEnvoy = "lateen-proxy is no Envoy and serves Istio's own metrics as they are"

// withoutEffect are the annotations Istio has and that change nothing here, with
// what a user is told.
var withoutEffect = map[string]string{
	annProxyImageType:                         "there is one image; choose another whole image by " + annProxyImage,
	"sidecar.istio.io/bootstrapOverride":      "lateen-proxy has no Envoy bootstrap; set what you need by " + ProxyConfigName,
	"sidecar.istio.io/statsInclusionPrefixes": noEnvoy, "sidecar.istio.io/statsInclusionSuffixes": noEnvoy,
	"sidecar.istio.io/statsInclusionRegexps": noEnvoy, "sidecar.istio.io/statsHistogramBuckets": noEnvoy,
	"sidecar.istio.io/statsHistogramBins": noEnvoy, "sidecar.istio.io/statsFlushInterval": noEnvoy,
	"sidecar.istio.io/statsEvictionInterval": noEnvoy, "sidecar.istio.io/statsCompression": noEnvoy,
	"sidecar.istio.io/extraStatTags":                     noEnvoy,
	"readiness.status.sidecar.istio.io/applicationPorts": "the proxy is ready when it serves, whichever ports the application has",
	"ambient.istio.io/redirection":                       "there is no ambient mode",
	"ambient.istio.io/bypass-inbound-capture":            "there is no ambient mode",
	"ambient.istio.io/dns-capture":                       "there is no ambient mode; set ISTIO_META_DNS_CAPTURE in proxyMetadata",
}

// ourPrefixes are the groups in which an unknown name is a misspelt one.
var ourPrefixes = []string{
	"sidecar.istio.io/", "traffic.sidecar.istio.io/", "status.sidecar.istio.io/", "readiness.status.sidecar.istio.io/",
	"proxy.istio.io/", "inject.istio.io/", "prometheus.istio.io/", "ambient.istio.io/",
}

// checkAnnotations refuses values that cannot be followed and warns about names
// that change nothing.
func (i *injection) checkAnnotations() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(i.original.Annotations)) {
		value := i.original.Annotations[name]
		check, known := checks[name]
		why, idle := withoutEffect[name]
		switch {
		case known && check != nil:
			if err := check(value); err != nil {
				errs = append(errs, i.annotationError(name, "%q %v", value, err))
			}
		case known:
		case idle:
			i.warnf("annotation %s has no effect: %s", name, why)
		case slices.ContainsFunc(ourPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
			hint := ""
			if near := config.DidYouMean(name, slices.Collect(maps.Keys(checks))); near != "" {
				hint = ": " + near
			}
			i.warnf("annotation %s is not known and has no effect%s", name, hint)
		}
	}
	return errors.Join(errs...)
}

// annotation is the pod's value, else the other.
func (i *injection) annotation(name, otherwise string) string {
	if v, ok := i.original.Annotations[name]; ok {
		return v
	}
	return otherwise
}

func (i *injection) boolAnnotation(name string, otherwise bool) bool {
	b, err := strconv.ParseBool(i.annotation(name, ""))
	if err != nil {
		return otherwise
	}
	return b
}

// numberAnnotation is one that checkAnnotations has accepted.
func (i *injection) numberAnnotation(name string, otherwise int32) int32 {
	n, err := strconv.ParseInt(i.annotation(name, ""), 10, 32)
	if err != nil {
		return otherwise
	}
	return int32(n)
}

func isBool(v string) error {
	if _, err := strconv.ParseBool(v); err != nil {
		return errors.New(`is neither "true" nor "false"`)
	}
	return nil
}

func isImage(v string) error {
	if v == "" || strings.ContainsAny(v, " \t\n") {
		return errors.New("is not an image; write it as registry/name:tag")
	}
	return nil
}

// isWord keeps a value that becomes an argument one word.
func isWord(v string) error {
	if v == "" || strings.ContainsAny(v, " \t\n") {
		return errors.New("is empty or has spaces in it")
	}
	return nil
}

func isQuantity(v string) error {
	q, err := resource.ParseQuantity(v)
	if err != nil || q.Sign() < 0 {
		return errors.New("is not a quantity; write it as in 100m, 2, 128Mi or 1Gi")
	}
	return nil
}

func isInterception(v string) error {
	if !slices.Contains([]string{"REDIRECT", "TPROXY", "NONE"}, v) {
		return errors.New("is none of REDIRECT, TPROXY and NONE")
	}
	return nil
}

func isCount(v string) error {
	if n, err := strconv.ParseInt(v, 10, 32); err != nil || n < 0 {
		return errors.New("is not a number of 0 or more")
	}
	return nil
}

func isPositive(v string) error {
	if n, err := strconv.ParseInt(v, 10, 32); err != nil || n < 1 {
		return errors.New("is not a number of 1 or more")
	}
	return nil
}

func isPortOrZero(v string) error {
	if _, err := strconv.ParseUint(v, 10, 16); err != nil {
		return errors.New("is not a port; 0 turns the sidecar's probes off")
	}
	return nil
}

// split cuts a comma-separated list; blanks and empty parts are dropped.
func split(list string) []string {
	var out []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func isPorts(all bool) func(string) error {
	return func(v string) error {
		if all && strings.TrimSpace(v) == "*" {
			return nil
		}
		for _, p := range split(v) {
			if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
				return fmt.Errorf("has %q in it, which is not a port; write ports separated by commas", p)
			}
		}
		return nil
	}
}

func isRanges(all bool) func(string) error {
	return func(v string) error {
		if all && strings.TrimSpace(v) == "*" {
			return nil
		}
		for _, r := range split(v) {
			if _, err := netip.ParsePrefix(r); err != nil {
				return fmt.Errorf("has %q in it, which is not a range of addresses; write it as 10.0.0.0/8, several separated by commas", r)
			}
		}
		return nil
	}
}

func isInterfaces(v string) error {
	for _, name := range split(v) {
		// IFNAMSIZ is 16 with the final zero.
		if len(name) > 15 || strings.ContainsAny(name, "/ \t\n'\"") {
			return fmt.Errorf("has %q in it, which is not the name of an interface", name)
		}
	}
	return nil
}

func isVolumes(v string) error {
	_, err := userVolumes(v)
	return err
}

func isMounts(v string) error {
	_, err := userMounts(v)
	return err
}

// userVolumes reads {"NAME": VOLUME, ...}, or a list of volumes.
func userVolumes(text string) ([]corev1.Volume, error) {
	return named(text, func(v *corev1.Volume) *string { return &v.Name })
}

// userMounts reads {"NAME": MOUNT, ...}, or a list of mounts.
func userMounts(text string) ([]corev1.VolumeMount, error) {
	return named(text, func(m *corev1.VolumeMount) *string { return &m.Name })
}

func named[T any](text string, name func(*T) *string) ([]T, error) {
	var list []T
	if json.Unmarshal([]byte(text), &list) == nil {
		return list, nil
	}
	var byName map[string]T
	if err := json.Unmarshal([]byte(text), &byName); err != nil {
		return nil, fmt.Errorf(`is not {"NAME": {...}} in JSON: %w`, err)
	}
	for _, n := range slices.Sorted(maps.Keys(byName)) {
		one := byName[n]
		*name(&one) = n
		list = append(list, one)
	}
	return list, nil
}
