// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	lateen "github.com/lateen-mesh/lateen/api/mesh/v1alpha1"
)

func decodeOne(t *testing.T, text string) *Object {
	t.Helper()
	r := Decode([]byte(text), "f.yaml", DefaultNamespace)
	if err := Errors(r.Problems); err != nil || len(r.Objects) != 1 {
		t.Fatalf("%d objects, %v", len(r.Objects), err)
	}
	return r.Objects[0]
}

func TestFindKind(t *testing.T) {
	for word, want := range map[string]*Kind{
		"vs": VirtualService, "virtualservice": VirtualService, "VirtualServices": VirtualService,
		"virtualservices.networking.istio.io": VirtualService, "dr": DestinationRule, "gw": Gateway,
		"se": ServiceEntry, "we": WorkloadEntry, "pa": PeerAuthentication, "sidecar": Sidecar, "sidecars": Sidecar,
	} {
		if got, _ := FindKind(word); got != want {
			t.Errorf("%s: %v, want %v", word, got, want)
		}
	}
	for word, want := range map[string]string{"virtualservce": "virtualservices", "gatways": "gateways", "pods": ""} {
		if got, near := FindKind(word); got != nil || near != want {
			t.Errorf("%s: %v, suggestion %q; want none, %q", word, got, near, want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"abc", "abc", 0}, {"htpp", "http", 1}, {"ab", "ba", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3}} {
		if got := editDistance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := editDistance(tt.b, tt.a); got != tt.want {
			t.Errorf("%q %q: %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
	for word, want := range map[string]string{"match_labels": "matchLabels", "MATCHLABELS": "matchLabels", "metchLabel": "matchLabels", "x": "", "selectors": "selector"} {
		if got := nearest(word, []string{"matchLabels", "selector", "mtls"}); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}

const printed = `apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  annotations:
    a: b
  creationTimestamp: "2024-05-01T10:00:00Z"
  generation: 3
  labels:
    team: x
  name: reviews
  namespace: bookinfo
  resourceVersion: abc
spec:
  hosts:
  - reviews
  http:
  - route:
    - destination:
        host: reviews
        subset: v1
    timeout: 1.500s
`

func TestPrint(t *testing.T) {
	o := decodeOne(t, printed)
	text, err := o.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(printed, string(text)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	text, err = o.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if want := "{\n    \"apiVersion\": \"networking.istio.io/v1alpha3\",\n    \"kind\": \"VirtualService\","; !strings.HasPrefix(string(text), want) {
		t.Errorf("JSON starts not as kubectl's:\n%s", text)
	}
	list, err := ListYAML([]*Object{o, o})
	if err != nil {
		t.Fatal(err)
	}
	r := Decode(list, "list.yaml", DefaultNamespace)
	if len(r.Objects) != 1 || len(r.Problems) != 1 || r.Objects[0].Key != o.Key {
		t.Errorf("a list of one object twice reads back as %v, %v", r.Objects, r.Problems)
	}
	if got, want := o.ConfigPath(), "/apis/networking.istio.io/v1/namespaces/bookinfo/virtual-service/reviews"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestHash(t *testing.T) {
	a := decodeOne(t, printed)
	hash := func(o *Object) string {
		h, err := o.Hash()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	same := a.Clone()
	same.Generation, same.ResourceVersion, same.CreationTimestamp = 9, "z", time.Time{}
	if hash(a) != hash(same) {
		t.Error("what the server sets changes the hash")
	}
	same.Labels["team"] = "y"
	if hash(a) == hash(same) || a.Labels["team"] != "x" {
		t.Error("a label does not change the hash, or the original is changed")
	}
}

func TestTable(t *testing.T) {
	now := time.Date(2024, 5, 1, 11, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		text string
		want []string
	}{
		{printed, []string{"NAME reviews", "GATEWAYS ", `HOSTS ["reviews"]`, "AGE 60m", "SOURCE f.yaml:1"}},
		{`{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: a}, spec: {hosts: [a.b, c.d], resolution: DNS, ports: [{number: 80, name: a}]}}`,
			[]string{"NAME a", `HOSTS ["a.b","c.d"]`, "LOCATION MESH_EXTERNAL", "RESOLUTION DNS", "AGE <unknown>", "SOURCE f.yaml:1"}},
		{`{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: a}, spec: {address: 1.2.3.4}}`,
			[]string{"NAME a", "AGE <unknown>", "ADDRESS 1.2.3.4", "SOURCE f.yaml:1"}},
		{`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a}, spec: {mtls: {mode: STRICT}}}`,
			[]string{"NAME a", "MODE STRICT", "AGE <unknown>", "SOURCE f.yaml:1"}},
	} {
		o := decodeOne(t, tt.text)
		row := o.Row(now)
		var got []string
		for i, title := range o.Kind.Columns() {
			got = append(got, title+" "+row[i])
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2024, 5, 1, 11, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 9*time.Minute + 5*time.Second: "9m5s",
		time.Hour: "60m", 3 * time.Hour: "3h", 7*time.Hour + 30*time.Minute: "7h30m", 47 * time.Hour: "47h",
		49 * time.Hour: "2d1h", 30 * 24 * time.Hour: "30d", 800 * 24 * time.Hour: "2y70d", 3000 * 24 * time.Hour: "8y",
	} {
		if got := Age(now.Add(-d), now); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestMeshConfigMergesOverDefaults(t *testing.T) {
	text := "accessLogFile: /dev/stdout\nenable_auto_mtls: false\ningressControllerMode: OFF\ndefaultServiceExportTo: [\".\"]\nprotocolDetectionTimeout: 0s\ndefaultConfig:\n  statusPort: 1\n"
	r := Decode([]byte(text), "x/"+MeshConfigFile, DefaultNamespace)
	if len(r.Problems) != 0 || len(r.Objects) != 1 || r.Objects[0].Key != MeshConfigKey {
		t.Fatalf("%v, %v", r.Objects, r.Problems)
	}
	m := r.Objects[0].Spec.(*meshv1alpha1.MeshConfig)
	if m.AccessLogFile != "/dev/stdout" || m.EnableAutoMtls.Value || m.IngressControllerMode != meshv1alpha1.MeshConfig_OFF ||
		m.DefaultConfig.StatusPort != 1 || m.DefaultConfig.ProxyAdminPort != 15000 || m.TrustDomain != "cluster.local" ||
		!cmp.Equal(m.DefaultServiceExportTo, []string{"."}) {
		t.Errorf("%v", m)
	}
	if _, errs := Validate(&Object{Key: MeshConfigKey, Spec: DefaultMeshConfig()}); len(errs) != 0 {
		t.Errorf("the default is invalid: %v", errs)
	}
}

func TestLocalWorkloadForms(t *testing.T) {
	o := decodeOne(t, `{apiVersion: mesh.lateen.dev/v1alpha1, kind: LocalWorkload, metadata: {name: a}, spec: {entry: e, command: [c], ready: {path: /h, port: 9080, timeoutSeconds: 5}}}`)
	want := &lateen.LocalWorkload{Entry: "e", Command: []string{"c"}, Ready: &lateen.Probe{Path: "/h", Port: 9080, TimeoutSeconds: 5}}
	if diff := cmp.Diff(want, o.Spec); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	readBack(t, o)
}

func TestBounds(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i < 'k'; i++ {
		p := string(i - 1)
		bomb += string(i) + ": &" + string(i) + " [*" + strings.Repeat(p+",*", 9) + p + "]\n"
	}
	for name, text := range map[string]string{
		"nested": strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"cycle":  "a: &a [*a]",
		"bomb":   bomb,
	} {
		r := Decode([]byte(text), "f.yaml", DefaultNamespace)
		if len(r.Problems) != 1 || r.Problems[0].Severity != SeverityError {
			t.Errorf("%s: %v", name, r.Problems)
		}
	}
}

// TestNotHonouredNamesFields keeps the list from naming what is not there.
func TestNotHonouredNamesFields(t *testing.T) {
	listed := maps.Clone(notHonoured)
	maps.Copy(listed, refusedFields)
	for name, reason := range listed {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _, ok := d.(protoreflect.FieldDescriptor); !ok {
			t.Errorf("%s is not a field", name)
		}
		if reason == "" {
			t.Errorf("%s: no reason", name)
		}
	}
	for name := range zeroDurations {
		if _, err := protoregistry.GlobalFiles.FindDescriptorByName(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrors(t *testing.T) {
	p := &Problem{Severity: SeverityError, File: "f.yaml", Line: 3, Object: "Gateway/a/b", Field: "spec.x", Message: "is bad", Fix: "mend it"}
	if got, want := p.Error(), "f.yaml:3: Gateway/a/b: spec.x: is bad; mend it"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := Errors([]*Problem{{Severity: SeverityWarning}}); err != nil {
		t.Error(err)
	}
	var got *Problem
	if !errors.As(Errors([]*Problem{p}), &got) || got != p {
		t.Error("the problem is not in the error")
	}
}

func TestFeedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Feed
		o := &Object{Key: Key{Gateway, "a", "b"}}
		byContext, cancel := context.WithCancel(t.Context())
		one, two := f.Watch(byContext, []*Object{o}), f.Watch(t.Context(), nil)
		if b := <-one; !b.Initial || len(b.Events) != 1 {
			t.Errorf("%+v", b)
		}
		if b := <-two; !b.Initial || len(b.Events) != 0 {
			t.Errorf("%+v", b)
		}
		cancel()
		if _, ok := <-one; ok {
			t.Error("a batch after the end")
		}
		f.Publish([]Event{{Key: o.Key, Object: o}, {Key: Key{Gateway, "a", "c"}, Object: o}})
		f.Publish([]Event{{Key: o.Key}})
		if b := <-two; b.Initial || len(b.Events) != 2 || b.Events[0].Object != nil {
			t.Errorf("%+v", b)
		}
		f.Close()
		f.Close()
		if _, ok := <-two; ok {
			t.Error("a batch after Close")
		}
		if _, ok := <-f.Watch(t.Context(), nil); ok {
			t.Error("a batch of a closed feed")
		}
	})
}
