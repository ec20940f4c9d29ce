// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
)

// MeshConfigFile is the base name of the file that holds a MeshConfig without
// kind and metadata.
const MeshConfigFile = "mesh.yaml"

// Result is what one stream of documents held. Every object in Objects decoded
// and validated without error.
type Result struct {
	Objects []*Object
	// Problems holds errors (the object is not in Objects), warnings (it is)
	// and notes about objects of kinds that are not handled.
	Problems []*Problem
}

// Decode reads a stream of YAML or JSON documents, as kubectl would, and
// validates each object. It is strict: an unknown or misspelt field, a wrong
// type or a bad value is an error naming line, object and field. One bad
// object does not disturb the others. A file whose base name is MeshConfigFile
// may hold a bare MeshConfig. Objects that name no namespace get
// defaultNamespace, or DefaultNamespace if it is empty. Several objects of one key in the stream are an error on
// all but the first.
func Decode(data []byte, file, defaultNamespace string) Result {
	return new(Cache).Decode(data, file, defaultNamespace)
}

// DecodeMap is as Decode for one object that is decoded JSON already, as a
// client of the API server has it: maps, slices, strings, booleans, int64 and
// float64. Nothing of it is kept but its strings. Problems have no file and line.
func DecodeMap(object map[string]any) Result {
	d := decoder{namespace: DefaultNamespace}
	n, err := nodeOf(object, 0)
	if err != nil {
		d.problem(SeverityError, 0, "", "", err.Error(), "")
		return d.Result
	}
	d.document(n)
	return d.Result
}

// DecodeMeshConfig decodes a MeshConfig without kind and metadata. file is the
// name that problems carry.
func DecodeMeshConfig(data []byte, file string) Result {
	d := decoder{file: file, namespace: DefaultNamespace}
	docs := splitDocuments(data)
	if len(docs) == 0 {
		d.spec(&Object{Key: MeshConfigKey, APIVersion: MeshConfig.APIVersion()}, &node{kind: mapNode}, 1, "")
		return d.Result
	}
	nodes, err := parseDocument(docs[0])
	switch {
	case err != nil:
		p := &Problem{Severity: SeverityError, File: file, Line: docs[0].lines + 1, Object: MeshConfigKey.String(), Message: err.Error()}
		if s, ok := err.(*syntaxError); ok {
			p.Line = s.line
		}
		d.Problems = append(d.Problems, p)
	case len(docs) > 1 || len(nodes) != 1 || nodes[0].kind != mapNode:
		d.problem(SeverityError, 1, MeshConfigKey.String(), "", "is not one map", "write the fields of the mesh configuration, without kind and metadata")
	default:
		d.spec(&Object{Key: MeshConfigKey, APIVersion: MeshConfig.APIVersion()}, nodes[0], nodes[0].line, "")
	}
	return d.Result
}

// Cache decodes the successive contents of one file: a document whose text is
// the one of last time is not decoded again, and its objects have the same
// spec pointers. The zero value is empty. It is not safe for concurrent use.
type Cache struct {
	documents map[[sha256.Size]byte]decoded
}

// decoded is what one document held when it stood at a line.
type decoded struct {
	Result
	line int
}

// Decode is as the function Decode. All calls must have the same file and defaultNamespace.
func (c *Cache) Decode(data []byte, file, defaultNamespace string) Result {
	if defaultNamespace == "" {
		defaultNamespace = DefaultNamespace
	}
	var r Result
	seen := map[Key]int{}
	now := map[[sha256.Size]byte]decoded{}
	for _, doc := range splitDocuments(data) {
		sum := sha256.Sum256(doc.text)
		held, ok := now[sum]
		if !ok {
			if held, ok = c.documents[sum]; !ok {
				held = decodeDocument(doc, file, defaultNamespace)
			}
		}
		held = held.at(doc.lines)
		now[sum] = held
		r.Problems = append(r.Problems, held.Problems...)
		for _, o := range held.Objects {
			if first, dup := seen[o.Key]; dup {
				r.Problems = append(r.Problems, &Problem{SeverityError, file, o.Source.Line, o.Key.String(), "",
					fmt.Sprintf("the object is there twice, first on line %d", first), "keep one of them"})
				continue
			}
			seen[o.Key] = o.Source.Line
			r.Objects = append(r.Objects, o)
		}
	}
	c.documents = now
	slices.SortStableFunc(r.Problems, func(a, b *Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Field, b.Field))
	})
	return r
}

// at returns the same with all lines moved.
func (d decoded) at(line int) decoded {
	by := line - d.line
	if by == 0 {
		return d
	}
	moved := decoded{line: line}
	for _, o := range d.Objects {
		m := *o
		m.Source.Line += by
		moved.Objects = append(moved.Objects, &m)
	}
	for _, p := range d.Problems {
		m := *p
		m.Line += by
		moved.Problems = append(moved.Problems, &m)
	}
	return moved
}

func decodeDocument(doc document, file, namespace string) decoded {
	d := decoder{file: file, namespace: namespace}
	nodes, err := parseDocument(doc)
	for _, n := range nodes {
		d.document(n)
	}
	if err != nil {
		p := &Problem{Severity: SeverityError, File: file, Line: doc.lines + 1, Object: guessObject(doc.text), Message: err.Error()}
		if s, ok := err.(*syntaxError); ok {
			p.Line = s.line
		}
		d.Problems = append(d.Problems, p)
	}
	return decoded{d.Result, doc.lines}
}

var (
	kindLine = regexp.MustCompile(`(?m)^kind:[ \t]*["']?([A-Za-z]+)`)
	nameLine = regexp.MustCompile(`(?m)^  +name:[ \t]*["']?([-.a-z0-9]+)`)
)

// guessObject names the object of a document that does not parse, for the message only.
func guessObject(text []byte) string {
	k, n := kindLine.FindSubmatch(text), nameLine.FindSubmatch(text)
	if k == nil || n == nil {
		return ""
	}
	return string(k[1]) + " " + string(n[1])
}

type decoder struct {
	Result
	file      string
	namespace string
}

func (d *decoder) problem(severity Severity, line int, object, fieldPath, message, fix string) {
	d.Problems = append(d.Problems, &Problem{severity, d.file, line, object, fieldPath, message, fix})
}

func (d *decoder) document(n *node) {
	if n.kind != mapNode {
		d.problem(SeverityError, n.line, "", "", "the document is "+n.kind.String()+", not an object", "write apiVersion, kind, metadata and spec")
		return
	}
	if filepath.Base(d.file) == MeshConfigFile && n.get("kind") == nil && n.get("apiVersion") == nil {
		d.spec(&Object{Key: MeshConfigKey, APIVersion: MeshConfig.APIVersion()}, n, n.line, "")
		return
	}
	if k, items := n.get("kind"), n.get("items"); k != nil && items != nil && strings.HasSuffix(k.text, "List") && items.kind == listNode {
		for _, item := range items.items {
			if item.kind == mapNode && item.get("kind") == nil && k.text != "List" {
				// The items of a typed list may leave out what the list says.
				item.fields = append(item.fields, field{"kind", k.line, &node{kind: stringNode, line: k.line, text: strings.TrimSuffix(k.text, "List")}})
				if v := n.get("apiVersion"); v != nil && item.get("apiVersion") == nil {
					item.fields = append(item.fields, field{"apiVersion", v.line, v})
				}
			}
			d.document(item)
		}
		return
	}
	d.object(n)
}

var objectFields = []string{"apiVersion", "kind", "metadata", "spec", "status"}

func (d *decoder) object(n *node) {
	kind, apiVersion, ok := d.kindOf(n)
	if !ok {
		return
	}
	before := countErrors(d.Problems)
	obj := &Object{Key: Key{Kind: kind}, APIVersion: apiVersion}
	d.metadata(n, obj)
	if kind == MeshConfig {
		obj.Key = MeshConfigKey
	}
	spec := &node{kind: mapNode, line: n.line}
	for _, f := range n.fields {
		if !slices.Contains(objectFields, f.key) {
			d.problem(SeverityError, f.line, obj.Key.String(), f.key, "unknown field", didYouMean(f.key, objectFields))
		}
		if f.key == "spec" && f.value.kind != nullNode {
			spec = f.value
		}
	}
	if countErrors(d.Problems) > before {
		// Say what is wrong with the spec as well, but keep the object out.
		scratch := decoder{file: d.file, namespace: d.namespace}
		scratch.spec(obj, spec, n.line, "spec")
		d.Problems = append(d.Problems, scratch.Problems...)
		return
	}
	d.spec(obj, spec, n.line, "spec")
}

func countErrors(problems []*Problem) int {
	n := 0
	for _, p := range problems {
		if p.Severity == SeverityError {
			n++
		}
	}
	return n
}

// spec decodes and validates the spec and keeps the object if it is good.
func (d *decoder) spec(obj *Object, n *node, line int, path string) {
	obj.Source = Source{File: d.file, Line: line}
	name := obj.Key.String()
	s := specDecoder{lines: map[string]int{}}
	obj.Spec = obj.Kind.newSpec()
	if obj.Kind == MeshConfig {
		obj.Spec = DefaultMeshConfig()
		s.protoNames = true
	}
	if m, ok := obj.Spec.(proto.Message); ok {
		s.message(n, m.ProtoReflect(), path)
	} else {
		s.goValue(n, obj.Spec, path)
	}
	problems := s.problems
	if len(problems) == 0 {
		warnings, errs := Validate(obj)
		problems = append(errs, warnings...)
	}
	bad := false
	for _, p := range problems {
		p.File, p.Object = d.file, name
		if path == "" {
			p.Field = strings.TrimPrefix(strings.TrimPrefix(p.Field, "spec"), ".")
		}
		if p.Line == 0 {
			p.Line = s.lineOf(p.Field, line)
		}
		bad = bad || p.Severity == SeverityError
	}
	d.Problems = append(d.Problems, problems...)
	if !bad {
		d.Objects = append(d.Objects, obj)
	}
}

// The kinds that Istio has and that are not handled here. Leaving out a
// security policy would leave open what the user means to close, so those are
// refused rather than noted.
var foreignKinds = map[string]Severity{
	"security.istio.io/RequestAuthentication": SeverityError,
	"security.istio.io/AuthorizationPolicy":   SeverityError,
}

// kindOf finds the kind of a document; if there is none of ours, it has said so.
func (d *decoder) kindOf(n *node) (kind *Kind, apiVersion string, ok bool) {
	text := func(key string) (string, bool) {
		v := n.get(key)
		if v == nil || v.kind != stringNode || v.text == "" {
			fix := "write " + key + " as a string"
			for _, f := range n.fields {
				if f.key != key && nearest(f.key, []string{key}) != "" && !slices.Contains(objectFields, f.key) {
					fix = fmt.Sprintf("line %d has %q: did you mean %q?", f.line, f.key, key)
				}
			}
			d.problem(SeverityError, n.line, "", key, "is missing", fix)
			return "", false
		}
		return v.text, true
	}
	name, ok1 := text("kind")
	apiVersion, ok2 := text("apiVersion")
	if !ok1 || !ok2 {
		return nil, "", false
	}
	group, version, _ := strings.Cut(apiVersion, "/")
	object := name
	if m := n.get("metadata"); m != nil && m.kind == mapNode {
		if v := m.get("name"); v != nil {
			object += " " + clip(v.text)
		}
	}
	var inGroup, groups []string
	var named *Kind
	for _, k := range kinds {
		if k.Group == group {
			inGroup = append(inGroup, k.Name)
			if k.Name == name {
				kind = k
			}
		}
		if k.Name == name && named == nil {
			named = k
		}
		groups = append(groups, k.Group)
	}
	severity, foreign := foreignKinds[group+"/"+name]
	switch {
	case kind != nil && !slices.Contains(kind.Versions, version):
		d.problem(SeverityError, n.get("apiVersion").line, object, "apiVersion", fmt.Sprintf("%s has no version %q", name, version),
			"write "+group+"/"+strings.Join(kind.Versions, ", "+group+"/"))
	case kind != nil:
		return kind, apiVersion, true
	case foreign:
		d.problem(severity, n.line, object, "", "objects of kind "+name+"."+group+" are not handled", "remove it: a policy that is not enforced would leave open what it means to close")
	case len(inGroup) > 0 && !strings.HasSuffix(group, "networking.k8s.io"): // which has kinds that are no concern of a mesh
		d.problem(SeverityError, n.get("kind").line, object, "kind", fmt.Sprintf("%s has no kind %q", group, clip(name)), didYouMean(name, inGroup))
	case named != nil && !strings.HasSuffix(group, "networking.k8s.io"):
		fix := "write " + named.APIVersion()
		if near := nearest(group, groups); near == named.Group {
			fix = `did you mean "` + near + "/" + version + `"?`
		}
		d.problem(SeverityError, n.get("apiVersion").line, object, "apiVersion", fmt.Sprintf("%q has no kind %s", clip(apiVersion), name), fix)
	default:
		d.problem(SeverityInfo, n.line, object, "", "objects of kind "+clip(name)+" ("+clip(apiVersion)+") are not handled", "")
	}
	return nil, "", false
}

// The fields of Kubernetes' ObjectMeta. All but the first seven are the
// server's own and are accepted and ignored, so that what `kubectl get -o
// yaml` prints can be read back.
var metadataFields = []string{
	"name", "namespace", "labels", "annotations", "creationTimestamp", "generation", "resourceVersion",
	"uid", "managedFields", "selfLink", "finalizers", "ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName",
}

func (d *decoder) metadata(n *node, obj *Object) {
	m := n.get("metadata")
	obj.Namespace = d.namespace
	if m == nil || m.kind != mapNode {
		d.problem(SeverityError, n.line, obj.Kind.Name, "metadata", "is missing", "write metadata with a name")
		return
	}
	str := func(key string) string {
		v := m.get(key)
		if v == nil || v.kind == nullNode {
			return ""
		}
		if v.kind != stringNode {
			d.problem(SeverityError, v.line, obj.Kind.Name, "metadata."+key, "is "+v.kind.String()+", want a string", quoteFix(v))
			return ""
		}
		return v.text
	}
	obj.Name = str("name")
	if ns := str("namespace"); ns != "" {
		obj.Namespace = ns
	}
	if obj.Kind.ClusterScoped {
		obj.Namespace = "" // as the API server does
	}
	object := obj.Key.String()
	if obj.Kind != MeshConfig {
		if !isSubdomain(obj.Name) {
			d.problem(SeverityError, m.line, object, "metadata.name", fmt.Sprintf("%q is not a name", clip(obj.Name)), "use lower-case letters, digits, - and ., at most 253, as in Kubernetes")
		}
		if !isLabel(obj.Namespace) && !obj.Kind.ClusterScoped {
			d.problem(SeverityError, m.line, object, "metadata.namespace", fmt.Sprintf("%q is not a namespace", clip(obj.Namespace)), "use lower-case letters, digits and -, at most 63")
		}
	}
	for _, f := range m.fields {
		if !slices.Contains(metadataFields, f.key) {
			d.problem(SeverityError, f.line, object, "metadata."+clip(f.key), "unknown field", didYouMean(f.key, metadataFields))
		}
	}
	obj.Labels = d.stringMap(m.get("labels"), object, "metadata.labels")
	for k, v := range obj.Labels {
		if !isQualifiedName(k) || !isLabelValue(v) {
			d.problem(SeverityError, m.get("labels").line, object, "metadata.labels["+clip(k)+"]", fmt.Sprintf("%q is not a label", clip(k+"="+v)), "use at most 63 letters, digits, -, _ and ., as in Kubernetes")
		}
	}
	obj.Annotations = d.stringMap(m.get("annotations"), object, "metadata.annotations")
	if t := str("creationTimestamp"); t != "" {
		created, err := time.Parse(time.RFC3339Nano, t)
		if err != nil {
			d.problem(SeverityError, m.get("creationTimestamp").line, object, "metadata.creationTimestamp", fmt.Sprintf("%q is not a time", clip(t)), "write it as 2006-01-02T15:04:05Z, or leave it out")
		}
		obj.CreationTimestamp = created.UTC()
	}
	if g := m.get("generation"); g != nil && g.kind == intNode {
		obj.Generation, _ = strconv.ParseInt(g.text, 10, 64)
	}
	obj.ResourceVersion = str("resourceVersion")
}

func (d *decoder) stringMap(n *node, object, path string) map[string]string {
	if n == nil || n.kind == nullNode {
		return nil
	}
	if n.kind != mapNode {
		d.problem(SeverityError, n.line, object, path, "is "+n.kind.String()+", want a map", "")
		return nil
	}
	m := make(map[string]string, len(n.fields))
	for _, f := range n.fields {
		if f.value.kind != stringNode {
			d.problem(SeverityError, f.line, object, path+"["+clip(f.key)+"]", "is "+f.value.kind.String()+", want a string", quoteFix(f.value))
			continue
		}
		m[f.key] = f.value.text
	}
	return m
}

// quoteFix tells how to make a string of a scalar that YAML takes for something else.
func quoteFix(n *node) string {
	if n.plain && n.kind != stringNode && n.kind != nullNode && n.kind != mapNode && n.kind != listNode {
		return `quote it: "` + clip(n.text) + `"`
	}
	return ""
}
