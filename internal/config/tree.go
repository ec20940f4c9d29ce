// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The bounds of one document. They are far above what a person or a generator
// of configuration writes and keep a hostile document from using the machine up.
const (
	maxDepth = 100
	maxNodes = 5_000_000
	// maxAliased bounds the values that aliases stand for, so that a few lines
	// cannot become a great many ("billion laughs").
	maxAliased = 50_000
)

type nodeKind uint8

const (
	nullNode nodeKind = iota
	stringNode
	boolNode
	intNode
	floatNode
	mapNode
	listNode
)

func (k nodeKind) String() string {
	return [...]string{"null", "a string", "a boolean", "a number", "a number", "a map", "a list"}[k]
}

// node is one value of a document: YAML with aliases, merge keys and the types
// of scalars resolved as sigs.k8s.io/yaml resolves them, and lines kept.
type node struct {
	kind   nodeKind
	line   int
	text   string // of a scalar, as written; of a string, its value
	plain  bool   // a scalar without quotes
	truth  bool   // of a boolNode
	float  float64
	fields []field
	items  []*node
}

type field struct {
	key   string
	line  int
	value *node
}

// get returns the value of a key of a map, or nil.
func (n *node) get(key string) *node {
	for _, f := range n.fields {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

// syntaxError is a fault of the document itself, at a line of the file.
type syntaxError struct {
	line int
	msg  string
}

func (e *syntaxError) Error() string { return e.msg }

// document is one chunk of a stream, with the number of lines before it.
type document struct {
	text  []byte
	lines int
}

// splitDocuments cuts a stream at its document markers, as kubectl does, so
// that a document that does not parse leaves its neighbours alone.
func splitDocuments(data []byte) []document {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var docs []document
	start, startLine, line := 0, 0, 0
	for pos := 0; pos < len(data); {
		end := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		l := data[pos:end]
		if bytes.HasPrefix(l, []byte("---")) && (len(l) == 3 || strings.IndexByte(" \t\r\n", l[3]) >= 0) {
			docs = append(docs, document{data[start:pos], startLine})
			start, startLine = pos, line
		}
		pos = end
		line++
	}
	docs = append(docs, document{data[start:], startLine})
	kept := docs[:0]
	for _, d := range docs {
		if !blank(d.text) {
			kept = append(kept, d)
		}
	}
	return kept
}

// blank reports whether a chunk holds only white space, comments, directives and a marker.
func blank(text []byte) bool {
	for l := range bytes.Lines(text) {
		l = bytes.TrimSpace(bytes.TrimPrefix(l, []byte("---")))
		if len(l) > 0 && l[0] != '#' && l[0] != '%' {
			return false
		}
	}
	return true
}

var yamlErrorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// parseDocument returns the values of one chunk: usually one, more if it
// holds documents ended by "...".
func parseDocument(d document) (nodes []*node, err error) {
	defer func() {
		// A parser of user input must refuse, not stop the program; the YAML
		// package has had panics on malformed input.
		if p := recover(); p != nil {
			nodes, err = nil, &syntaxError{d.lines + 1, fmt.Sprintf("malformed YAML: %v", p)}
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(d.text))
	for {
		var y yaml.Node
		if err := dec.Decode(&y); errors.Is(err, io.EOF) {
			return nodes, nil
		} else if err != nil {
			line, msg := 1, err.Error()
			if m := yamlErrorLine.FindStringSubmatch(msg); m != nil {
				if n, err := strconv.Atoi(m[1]); err == nil {
					line = n
				}
				msg = msg[len(m[0]):]
			}
			return nodes, &syntaxError{d.lines + line, "malformed YAML: " + msg}
		}
		r := resolver{lines: d.lines}
		n, err := r.resolve(&y, 0)
		if err != nil {
			return nodes, err
		}
		if n.kind != nullNode {
			nodes = append(nodes, n)
		}
	}
}

// resolver turns YAML nodes into nodes.
type resolver struct {
	lines   int // before the document
	nodes   int
	aliases int // that we are within
	aliased int
}

func (r *resolver) fail(y *yaml.Node, format string, args ...any) error {
	return &syntaxError{r.lines + y.Line, fmt.Sprintf(format, args...)}
}

func (r *resolver) resolve(y *yaml.Node, depth int) (*node, error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, r.fail(y, "the document is too large: more than %d values", maxNodes)
	}
	if r.aliases > 0 {
		if r.aliased++; r.aliased > maxAliased {
			return nil, r.fail(y, "the document's aliases stand for more than %d values", maxAliased)
		}
	}
	if depth > maxDepth {
		return nil, r.fail(y, "the document is nested more than %d deep", maxDepth)
	}
	switch y.Kind {
	case yaml.DocumentNode:
		if len(y.Content) != 1 {
			return &node{line: r.lines + y.Line}, nil
		}
		return r.resolve(y.Content[0], depth)
	case yaml.AliasNode:
		r.aliases++
		defer func() { r.aliases-- }()
		return r.resolve(y.Alias, depth+1)
	case yaml.ScalarNode:
		return r.scalar(y)
	case yaml.SequenceNode:
		n := &node{kind: listNode, line: r.lines + y.Line}
		for _, c := range y.Content {
			item, err := r.resolve(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.items = append(n.items, item)
		}
		return n, nil
	case yaml.MappingNode:
		return r.mapping(y, depth)
	}
	return &node{line: r.lines + y.Line}, nil
}

func (r *resolver) mapping(y *yaml.Node, depth int) (*node, error) {
	n := &node{kind: mapNode, line: r.lines + y.Line}
	seen := make(map[string]int, len(y.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if k.ShortTag() == "!!merge" {
			merges = append(merges, v)
			continue
		}
		key, err := r.resolve(k, depth+1)
		if err != nil {
			return nil, err
		}
		if key.kind == mapNode || key.kind == listNode || key.kind == nullNode {
			return nil, r.fail(k, "a key is %s; write a string", key.kind)
		}
		name := key.text
		if key.kind == boolNode {
			name = strconv.FormatBool(key.truth)
		}
		if first, dup := seen[name]; dup {
			return nil, r.fail(k, "key %q is there twice, first on line %d; keep one of them", name, first)
		}
		seen[name] = r.lines + k.Line
		value, err := r.resolve(v, depth+1)
		if err != nil {
			return nil, err
		}
		n.fields = append(n.fields, field{name, r.lines + k.Line, value})
	}
	for _, m := range merges {
		if err := r.merge(n, seen, m, depth); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// merge adds the fields of a merge key's value (https://yaml.org/type/merge.html)
// that the map does not have itself.
func (r *resolver) merge(n *node, seen map[string]int, y *yaml.Node, depth int) error {
	v, err := r.resolve(y, depth+1)
	if err != nil {
		return err
	}
	from := []*node{v}
	if v.kind == listNode {
		from = v.items
	}
	for _, m := range from {
		if m.kind != mapNode {
			return r.fail(y, "the value of << is %s; write an alias of a map", m.kind)
		}
		for _, f := range m.fields {
			if _, ok := seen[f.key]; !ok {
				seen[f.key] = f.line
				n.fields = append(n.fields, f)
			}
		}
	}
	return nil
}

func (r *resolver) scalar(y *yaml.Node) (*node, error) {
	n := &node{
		kind: stringNode, line: r.lines + y.Line, text: y.Value,
		plain: y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0,
	}
	if y.Tag == "!!str" && (!n.plain || yaml11Bools[y.Value] == nil) {
		return n, nil
	}
	var v any
	if err := y.Decode(&v); err != nil {
		// The value is not shown: the document may be a Secret.
		return nil, r.fail(y, "the value is not of its type, %s", y.ShortTag())
	}
	switch v := v.(type) {
	case nil:
		n.kind = nullNode
	case bool:
		n.kind, n.truth = boolNode, v
	case int:
		n.kind, n.text, n.float = intNode, strconv.Itoa(v), float64(v)
	case int64:
		n.kind, n.text, n.float = intNode, strconv.FormatInt(v, 10), float64(v)
	case uint64:
		n.kind, n.text, n.float = intNode, strconv.FormatUint(v, 10), float64(v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, r.fail(y, "%q is not a finite number", y.Value)
		}
		n.kind, n.float = floatNode, v
	case string:
		n.text = v
		if truth := yaml11Bools[v]; truth != nil && n.plain && y.Tag == "!!str" && y.Style&yaml.TaggedStyle == 0 {
			// kubectl reads YAML 1.1, where these words without quotes are booleans.
			n.kind, n.truth = boolNode, *truth
		}
	case time.Time:
		// Kubernetes knows no dates in YAML: it is the text that was written.
	default:
		return nil, r.fail(y, "value of type %s is not supported", y.ShortTag())
	}
	return n, nil
}

// yaml11Bools are the words that are booleans in YAML 1.1 and strings in 1.2.
var yaml11Bools = func() map[string]*bool {
	words := map[string]*bool{}
	for truth, list := range map[bool]string{true: "y Y yes Yes YES on On ON", false: "n N no No NO off Off OFF"} {
		for w := range strings.FieldsSeq(list) {
			words[w] = &truth
		}
	}
	return words
}()

// clip bounds a value for a message.
func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "..."
}

// nodeOf makes the node of a decoded JSON value; fields are in the order of keys.
func nodeOf(v any, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("is nested more than %d deep", maxDepth)
	}
	switch v := v.(type) {
	case nil:
		return &node{kind: nullNode}, nil
	case string:
		return &node{kind: stringNode, text: v}, nil
	case bool:
		return &node{kind: boolNode, text: strconv.FormatBool(v), truth: v}, nil
	case int64:
		return &node{kind: intNode, text: strconv.FormatInt(v, 10), float: float64(v)}, nil
	case float64:
		return &node{kind: floatNode, text: strconv.FormatFloat(v, 'g', -1, 64), float: v}, nil
	case []any:
		n := &node{kind: listNode, items: make([]*node, len(v))}
		for i, item := range v {
			var err error
			if n.items[i], err = nodeOf(item, depth+1); err != nil {
				return nil, err
			}
		}
		return n, nil
	case map[string]any:
		n := &node{kind: mapNode, fields: make([]field, 0, len(v))}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			value, err := nodeOf(v[k], depth+1)
			if err != nil {
				return nil, err
			}
			n.fields = append(n.fields, field{key: k, value: value})
		}
		return n, nil
	}
	return nil, fmt.Errorf("has a value of type %T", v)
}
