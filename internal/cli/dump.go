// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"strconv"
	"strings"
)

// A dump is read as plain JSON rather than as messages: then one of a newer
// proxy, or of an Envoy with extensions we do not have, can be read as well.
// Field names are accepted in both spellings of protobuf's JSON.

// at follows field names, given in snake case, from v.
func at(v any, path ...string) any {
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		if x, ok := m[name]; ok {
			v = x
		} else {
			v = m[camel(name)]
		}
	}
	return v
}

func camel(snake string) string {
	head, tail, found := strings.Cut(snake, "_")
	for found {
		var word string
		word, tail, found = strings.Cut(tail, "_")
		if word != "" {
			head += strings.ToUpper(word[:1]) + word[1:]
		}
	}
	return head
}

func list(v any, path ...string) []any {
	l, _ := at(v, path...).([]any)
	return l
}

func text(v any, path ...string) string {
	switch x := at(v, path...).(type) {
	case string:
		return x
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	case json.Number:
		return x.String()
	case bool:
		return strconv.FormatBool(x)
	}
	return ""
}

func texts(v any, path ...string) []string {
	var out []string
	for _, x := range list(v, path...) {
		out = append(out, text(x))
	}
	return out
}

// section returns the part of a config dump with that type.
func section(dump any, name string) any {
	for _, c := range list(dump, "configs") {
		if strings.HasSuffix(text(c, "@type"), "."+name) {
			return c
		}
	}
	return nil
}

// configObject is the object that a resource was made from, as name.namespace,
// by the path Istio leaves in the metadata:
// /apis/<group>/<version>/namespaces/<ns>/<kind>/<name>.
func configObject(resource any, kind string) string {
	path := text(resource, "metadata", "filter_metadata", "istio", "config")
	p := strings.Split(path, "/")
	if len(p) != 8 || p[6] != kind {
		return ""
	}
	return p[7] + "." + p[5]
}

// address is a socket address as address and port.
func address(v any) (host, port string) {
	if pipe := text(v, "pipe", "path"); pipe != "" {
		return "unix://" + pipe, ""
	}
	return text(v, "socket_address", "address"), text(v, "socket_address", "port_value")
}
