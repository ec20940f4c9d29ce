// SPDX-License-Identifier: Apache-2.0

package install

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSettings: Istio's paths and the value of the chart that each becomes.
func TestSettings(t *testing.T) {
	for _, c := range []struct {
		set  string
		path path
		want any
	}{
		{"hub=registry.example.com/lateen", keys("global", "hub"), "registry.example.com/lateen"},
		{"tag=1.20", keys("global", "tag"), "1.20"},
		{"values.global.tag=2", keys("global", "tag"), "2"},
		{"revision=canary", keys("revision"), "canary"},
		{"revision=default", keys("revision"), ""},
		{"meshConfig.accessLogFile=/dev/stdout", keys("meshConfig", "accessLogFile"), "/dev/stdout"},
		{"meshConfig.accessLogFormat=[%START_TIME%] a=b", keys("meshConfig", "accessLogFormat"), "[%START_TIME%] a=b"},
		{"meshConfig.trustDomain=1234", keys("meshConfig", "trustDomain"), "1234"},
		{"meshConfig.defaultConfig.holdApplicationUntilProxyStarts=true", keys("meshConfig", "defaultConfig", "holdApplicationUntilProxyStarts"), true},
		{"meshConfig.defaultConfig.concurrency=2", keys("meshConfig", "defaultConfig", "concurrency"), int64(2)},
		{`meshConfig.defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE=true`, keys("meshConfig", "defaultConfig", "proxyMetadata", "ISTIO_META_DNS_CAPTURE"), "true"},
		{"meshConfig.outboundTrafficPolicy.mode=REGISTRY_ONLY", keys("meshConfig", "outboundTrafficPolicy", "mode"), "REGISTRY_ONLY"},
		{"meshConfig.defaultServiceExportTo={.,*}", keys("meshConfig", "defaultServiceExportTo"), []any{".", "*"}},
		{"values.pilot.replicaCount=3", keys("pilot", "replicaCount"), int64(3)},
		{"values.pilot.env.ENABLE_NATIVE_SIDECARS=false", keys("pilot", "env", "ENABLE_NATIVE_SIDECARS"), false},
		{`values.pilot.nodeSelector.kubernetes\.io/os=linux`, keys("pilot", "nodeSelector", "kubernetes.io/os"), "linux"},
		{"values.pilot.resources.requests.cpu=250m", keys("pilot", "resources", "requests", "cpu"), "250m"},
		{"values.global.imagePullSecrets[0]=mine", keys("global", "imagePullSecrets"), []any{"mine"}},
		{"values.gateways.istio-ingressgateway.type=NodePort", keys("gateways", "istio-ingressgateway", "type"), "NodePort"},
		{"values.gateways.istio-ingressgateway.ports[1].nodePort=30080", append(keys("gateways", "istio-ingressgateway", "ports"), segment{index: 1}, segment{key: "nodePort"}), int64(30080)},
		{"components.pilot.k8s.replicaCount=2", keys("pilot", "replicaCount"), int64(2)},
		{"components.pilot.k8s.hpaSpec.maxReplicas=7", keys("pilot", "autoscaleMax"), int64(7)},
		{"components.egressGateways[0].enabled=true", keys("gateways", "istio-egressgateway", "enabled"), true},
		{"components.ingressGateways[name:istio-ingressgateway].enabled=false", keys("gateways", "istio-ingressgateway", "enabled"), false},
		{"components.ingressGateways[0].k8s.service.type=ClusterIP", keys("gateways", "istio-ingressgateway", "type"), "ClusterIP"},
		{"values.global.proxy.resources.requests.memory=64Mi", keys("global", "proxy", "resources", "requests", "memory"), "64Mi"},
	} {
		p, err := NewPlan(Options{Set: []string{c.set}})
		if err != nil {
			t.Errorf("%s: %v", c.set, err)
			continue
		}
		got, _ := get(p.Values, c.path)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.set, diff)
		}
	}
}

// TestBadSettings: each is refused by its name, with the way out.
func TestBadSettings(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{"profile=dmo", "there are default, demo, minimal"},
		{"compnents.pilot.enabled=true", `did you mean "components"?`},
		{"meshConfig.accesLogFile=/dev/stdout", `meshConfig.accesLogFile: unknown field; did you mean "accessLogFile"?`},
		{"meshConfig.enableTracing=maybe", "want a boolean"},
		{"meshConfig=x", "one of its fields"},
		{"values.pilot.replicaCout=2", `did you mean "replicaCount"?`},
		{"values.pilot.replicaCount=two", "want a number"},
		{"values.pilot.autoscaleEnabled=perhaps", "want true or false"},
		{"values.pilot=x", "want one of its fields"},
		{"values.pilot.tolerations=x", "want a list"},
		{"values.pilot[0]=x", "is no list"},
		{"values.global.imagePullSecrets[3]=x", "the list has only 0 elements"},
		{"components.pilot.enabled=false", "cannot be left out"},
		{"components.cni.enabled=true", "no such component"},
		{"components.ingressGateways[1].enabled=true", "there is one such gateway"},
		{"components.ingressGateways[0].k8s.replicaCuont=2", `did you mean "k8s.replicaCount"?`},
		{"components.pilots.enabled=true", `did you mean "pilot"?`},
		{"hub", "want PATH=VALUE"},
		{"values..x=1", "a key is empty"},
		{"values.x[=1", "a [ without ]"},
		{"values.global.imagePullSecrets[one]=1", "is no place in a list"},
		{"namespace=Not_A_Name", "namespace"},
		{"revision=1.2", "revision"},
	} {
		_, err := NewPlan(Options{Set: []string{c.set}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.set, err, c.want)
		}
	}
}

func TestOperatorFile(t *testing.T) {
	file := File{"operator.yaml", []byte(`apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata:
  name: example
spec:
  profile: demo
  hub: example.com/mesh
  meshConfig:
    accessLogFile: /dev/stderr
    defaultConfig:
      concurrency: 3
  components:
    pilot:
      k8s:
        resources:
          requests:
            cpu: 300m
    egressGateways:
    - name: istio-egressgateway
      enabled: false
  values:
    pilot:
      env:
        A: b
`)}
	p, err := NewPlan(Options{Files: []File{file}, Set: []string{"hub=later.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path path
		want any
	}{
		{keys("global", "hub"), "later.example.com"},
		{keys("meshConfig", "accessLogFile"), "/dev/stderr"},
		{keys("meshConfig", "defaultConfig", "concurrency"), float64(3)},
		{keys("pilot", "resources", "requests", "cpu"), "300m"},
		{keys("pilot", "env", "A"), "b"},
		{keys("gateways", "istio-egressgateway", "enabled"), false},
	} {
		got, _ := get(p.Values, c.path)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.path, diff)
		}
	}
	if p.Profile != "demo" {
		t.Error(p.Profile)
	}
	file.Data = []byte("apiVersion: v1\nkind: ConfigMap\n")
	if _, err := NewPlan(Options{Files: []File{file}}); err == nil || !strings.Contains(err.Error(), "want an IstioOperator") {
		t.Error(err)
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"a.b", `a\.b[0].c`, "components.ingressGateways[name:x].enabled", "[", "a[1]b", `\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePath(text)
		if err != nil {
			return
		}
		if len(p) == 0 {
			t.Fatalf("%q is no path", text)
		}
		if v, err := put(nil, p, "x"); err == nil {
			if got, ok := get(v, p); !ok || got != "x" {
				t.Fatalf("%q: put and got %v", text, got)
			}
		}
	})
}
