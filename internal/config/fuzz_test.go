// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// FuzzDecode holds that whatever is accepted can be written and read back to
// the same object, that the writer of the JSON mapping agrees with our reader,
// and that every finding names a line.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/problems/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, d := range splitDocuments(data) {
			f.Add(d.text, filepath.Base(name) == MeshConfigFile)
		}
	}
	f.Add([]byte("a: &a [*a]"), false)
	f.Add([]byte("? {a: b}\n: c"), false)
	f.Add([]byte("<<: {kind: List}\n<<: [{items: []}, 3]"), false)
	f.Add([]byte("kind: !!binary aGk=\napiVersion: !x y"), false)
	f.Add([]byte("{\"kind\": \"Gateway\",\n\t\"apiVersion\": \"networking.istio.io/v1\"}"), false)
	f.Add([]byte("%YAML 1.1\n---\na: 1\n...\nb: 2"), false)
	f.Fuzz(func(t *testing.T, data []byte, mesh bool) {
		file := "f.yaml"
		if mesh {
			file = MeshConfigFile
		}
		r := Decode(data, file, DefaultNamespace)
		for _, p := range r.Problems {
			if p.Line < 1 {
				t.Errorf("no line: %v", p)
			}
			if p.Message == "" {
				t.Errorf("no message: %+v", p)
			}
		}
		for _, o := range r.Objects {
			readBack(t, o)
		}
	})
}

func readBack(t *testing.T, o *Object) {
	t.Helper()
	for _, write := range []func() ([]byte, error){o.YAML, o.JSON} {
		text, err := write()
		if err != nil {
			t.Fatal(err)
		}
		again := Decode(text, "again.yaml", "other")
		if err := Errors(again.Problems); err != nil || len(again.Objects) != 1 {
			t.Fatalf("%s does not read back: %v\n%s", o.Key, err, text)
		}
		if got := again.Objects[0]; got.Key != o.Key || !SameSpec(got, o) {
			t.Fatalf("%s reads back as %s:\n%s", o.Key, got.Key, text)
		}
	}
	m, ok := o.Spec.(proto.Message)
	if !ok {
		return
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	other := m.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(text, other); err != nil || !proto.Equal(m, other) {
		t.Errorf("%s: the JSON mapping reads another message: %v", o.Key, err)
	}
}
