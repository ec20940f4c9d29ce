// SPDX-License-Identifier: Apache-2.0

package gatewayapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/lateen-mesh/lateen/internal/compile"
	"github.com/lateen-mesh/lateen/internal/compile/gatewayapi"
	"github.com/lateen-mesh/lateen/internal/config"
	"github.com/lateen-mesh/lateen/internal/config/kube"
)

var update = flag.Bool("update", false, "rewrite the expected part of testdata/*.txtar")

const expected = "-- expected --\n"

// TestGoldens translates the objects at the head of each file. What comes of
// them, and their statuses, is the file's end.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(text), expected)
			got := render(t, read(t, input))
			if *update {
				if err := os.WriteFile(f, []byte(input+expected+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// read takes YAML apart: the Gateway API's objects as a store reads them,
// Kubernetes' own as the cluster store does. Objects are a second apart.
func read(t *testing.T, text string) gatewayapi.Input {
	t.Helper()
	in := gatewayapi.Input{
		Classes: map[string]*config.Object{}, Namespaces: map[string]map[string]string{},
		Services: map[compile.Ref]*config.Object{}, Secrets: map[compile.Ref]*config.Object{},
	}
	for i, doc := range strings.Split(text, "\n---\n") {
		var head struct{ Kind, APIVersion string }
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("document %d: %v", i, err)
		}
		switch head.Kind {
		case "":
		case "Service", "Namespace", "Secret":
			readCluster(t, &in, head.Kind, doc)
		default:
			r := config.Decode([]byte(doc), "input.yaml", config.DefaultNamespace)
			if err := config.Errors(r.Problems); err != nil || len(r.Objects) != 1 {
				t.Fatalf("document %d: %v", i, err)
			}
			o := r.Objects[0].Clone()
			o.CreationTimestamp, o.Generation, o.Source = time.Unix(int64(1000+i), 0).UTC(), 1, config.Source{}
			switch o.Kind {
			case config.GatewayClass:
				in.Classes[o.Name] = o
			case config.KubeGateway:
				in.Gateways = append(in.Gateways, o)
			case config.HTTPRoute, config.GRPCRoute:
				in.Routes = append(in.Routes, o)
			case config.ReferenceGrant:
				in.Grants = append(in.Grants, o)
			default:
				t.Fatalf("document %d: nothing is made of a %s", i, o.Kind.Name)
			}
		}
	}
	return in
}

func readCluster(t *testing.T, in *gatewayapi.Input, kind, doc string) {
	t.Helper()
	into := func(o any) {
		if err := yaml.Unmarshal([]byte(doc), o); err != nil {
			t.Fatal(err)
		}
	}
	switch kind {
	case "Namespace":
		var n corev1.Namespace
		into(&n)
		in.Namespaces[n.Name] = n.Labels
	case "Service":
		var s corev1.Service
		into(&s)
		if s.Namespace == "" {
			s.Namespace = "default"
		}
		o := kube.Service(&s)
		in.Services[compile.Ref{Namespace: o.Namespace, Name: o.Name}] = o
	case "Secret":
		var s corev1.Secret
		into(&s)
		if len(s.Data) == 0 {
			s.Data = certificate(t)
		}
		o := kube.Secret(&s, "istio-system")
		if o == nil {
			t.Fatalf("Secret %s is no credential", s.Name)
		}
		in.Secrets[compile.Ref{Namespace: o.Namespace, Name: o.Name}] = o
	}
}

// certificate is what a Secret that is written without data holds.
func certificate(t *testing.T) map[string][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

func render(t *testing.T, in gatewayapi.Input) string {
	t.Helper()
	out := gatewayapi.Translate(in)
	var b strings.Builder
	for _, o := range out.Objects {
		j, err := protojson.Marshal(o.Spec.(proto.Message))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "# %s", o.Key)
		for i, p := range o.Parents {
			if i == 0 || p != o.Parents[i-1] {
				fmt.Fprintf(&b, ", %s", p.ConfigPath())
			}
		}
		b.WriteString("\n" + asYAML(t, j))
	}
	for _, ref := range slices.SortedFunc(maps.Keys(out.Gateways), func(a, b compile.Ref) int { return strings.Compare(a.String(), b.String()) }) {
		g := out.Gateways[ref]
		status(t, &b, "Gateway/"+ref.String(), g.Status(in.Services[g.Service], true, out.Attached[ref]))
	}
	for _, o := range in.Routes {
		status(t, &b, o.Key.String(), out.Routes[o.Key].Parents)
	}
	return b.String()
}

func asYAML(t *testing.T, j []byte) string {
	t.Helper()
	y, err := yaml.JSONToYAML(j)
	if err != nil {
		t.Fatal(err)
	}
	return string(y)
}

// status is written without what the writer adds and what is always alike.
func status(t *testing.T, b *strings.Builder, of string, s any) {
	t.Helper()
	j, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(j, &v); err != nil {
		t.Fatal(err)
	}
	j, err = json.Marshal(terse(v))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(b, "# status of %s\n%s", of, asYAML(t, j))
}

// terse writes a condition as one line.
func terse(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = terse(v[i])
		}
	case map[string]any:
		if v["reason"] != nil {
			return fmt.Sprintf("%s %s %s: %s", v["type"], v["status"], v["reason"], v["message"])
		}
		for k := range v {
			v[k] = terse(v[k])
		}
	}
	return v
}
