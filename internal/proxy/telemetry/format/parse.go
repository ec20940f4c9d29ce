// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

// maxFormat bounds the source of a format in bytes.
const maxFormat = 64 << 10

// Format is one compiled format string. It is immutable.
type Format struct {
	ops       []op
	omitEmpty bool
	escape    bool // values of the peer, as in a line of text
}

// op is one literal or one operator.
type op struct {
	eval    func(o *op, dst []byte, e *Entry) ([]byte, bool)
	literal string
	max     int  // bytes of the value to keep, 0 for all
	number  bool // JSON prints the value bare
	outside bool // the value comes from the peer and may hold control bytes
	first   name // header operators
	second  name
	variant int
	layout  []timePart
}

// name is one header name as an operator looks it up.
type name struct {
	text string
	id   message.ID
}

// Compile parses a format string. The error names the operator that is refused.
// Values that are missing print as "-", or as nothing with omitEmpty.
func Compile(source string, omitEmpty bool) (*Format, error) {
	if len(source) > maxFormat {
		return nil, fmt.Errorf("format is longer than %d bytes", maxFormat)
	}
	f := &Format{omitEmpty: omitEmpty}
	for rest := source; rest != ""; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			f.text(rest)
			break
		}
		f.text(rest[:i])
		rest = rest[i:]
		if strings.HasPrefix(rest, "%%") {
			f.text("%")
			rest = rest[2:]
			continue
		}
		tok, n, err := scan(rest)
		if err != nil {
			return nil, err
		}
		o, err := operator(tok)
		if err != nil {
			return nil, err
		}
		f.ops = append(f.ops, o)
		rest = rest[n:]
	}
	return f, nil
}

// CompileText is Compile for a line of a text log: what a peer sends can not end
// a quoted field of it. In values of the peer '"' and '\' print behind a '\', and
// bytes beyond ASCII as \xHH; a maximum length counts before that.
func CompileText(source string, omitEmpty bool) (*Format, error) {
	f, err := Compile(source, omitEmpty)
	if err != nil {
		return nil, err
	}
	f.escape = true
	return f, nil
}

// Literal returns the whole format when it has no operator.
func (f *Format) Literal() (string, bool) {
	switch {
	case len(f.ops) == 0:
		return "", true
	case len(f.ops) == 1 && f.ops[0].eval == nil:
		return f.ops[0].literal, true
	}
	return "", false
}

// text adds a literal, merged with one before it.
func (f *Format) text(s string) {
	if s == "" {
		return
	}
	if n := len(f.ops); n > 0 && f.ops[n-1].eval == nil {
		f.ops[n-1].literal += s
		return
	}
	f.ops = append(f.ops, op{literal: s})
}

// token is one operator as written: %NAME(args):max%.
type token struct {
	name, args string
	hasArgs    bool
	max        int
}

// scan reads the token at the start of s, which begins with '%', and returns
// its length. Arguments may hold '%' and ')': they end at the first ')' that is
// followed by '%' or ':digits%' (Envoy: SubstitutionFormatParser).
func scan(s string) (token, int, error) {
	i := 1
	for i < len(s) && (s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9' || s[i] == '_') {
		i++
	}
	t := token{name: s[1:i]}
	if t.name == "" {
		return t, 0, fmt.Errorf("format: '%%' at %q starts no operator; write %%%% for a percent sign", clip(s))
	}
	if i < len(s) && s[i] == '(' {
		t.hasArgs = true
		for j := i + 1; j < len(s); j++ {
			if s[j] != ')' {
				continue
			}
			if max, n, ok := ending(s[j+1:]); ok {
				t.args, t.max = s[i+1:j], max
				return t, j + 1 + n, nil
			}
		}
		return t, 0, fmt.Errorf("format: operator %s has no closing )%%", t.name)
	}
	max, n, ok := ending(s[i:])
	if !ok {
		return t, 0, fmt.Errorf("format: operator %s at %q has no closing %%", t.name, clip(s))
	}
	t.max = max
	return t, i + n, nil
}

// ending reads "%" or ":digits%".
func ending(s string) (max, n int, ok bool) {
	if s == "" {
		return 0, 0, false
	}
	if s[0] == '%' {
		return 0, 1, true
	}
	if s[0] != ':' {
		return 0, 0, false
	}
	i := strings.IndexByte(s, '%')
	if i < 2 {
		return 0, 0, false
	}
	max, err := strconv.Atoi(s[1:i])
	if err != nil || max <= 0 {
		return 0, 0, false
	}
	return max, i + 1, true
}

func clip(s string) string {
	if len(s) > 24 {
		return s[:24] + "..."
	}
	return s
}

// operator builds the operation of one token.
func operator(t token) (op, error) {
	o := op{max: t.max}
	switch t.name {
	case "REQ", "RESP", "TRAILER", "REQ_WITHOUT_QUERY":
		return headerOperator(o, t)
	case "START_TIME", "START_TIME_LOCAL":
		layout, err := parseTime(t.args)
		if err != nil {
			return op{}, fmt.Errorf("format: operator %s: %w", t.name, err)
		}
		o.layout, o.eval = layout, evalStartTime
		if t.name == "START_TIME_LOCAL" {
			o.variant = 1
		}
		return o, nil
	case "QUERY_PARAM":
		if t.args == "" {
			return op{}, fmt.Errorf("format: operator %s needs a parameter name", t.name)
		}
		o.first.text, o.eval, o.outside = t.args, evalQuery, true
		return o, nil
	case "ENVIRONMENT":
		if t.args == "" {
			return op{}, fmt.Errorf("format: operator %s needs a variable name", t.name)
		}
		return constant(o, os.Getenv(t.args)), nil
	case "HOSTNAME":
		host, err := os.Hostname()
		if err != nil {
			return op{}, fmt.Errorf("format: operator HOSTNAME: %w", err)
		}
		return constant(o, host), nil
	case "GRPC_STATUS":
		switch t.args {
		case "", "CAMEL_STRING":
		case "SNAKE_STRING":
			o.variant = 1
		case "NUMBER":
			o.variant, o.number = 2, true
		default:
			return op{}, fmt.Errorf("format: operator GRPC_STATUS has no style %q", t.args)
		}
		o.eval = evalGRPCStatus
		return o, nil
	}
	if p, ok := simple[t.name]; ok {
		if t.hasArgs {
			return op{}, fmt.Errorf("format: operator %s takes no argument", t.name)
		}
		o.eval, o.number, o.outside, o.variant = p.eval, p.number, p.outside, p.variant
		return o, nil
	}
	return op{}, fmt.Errorf("format: operator %s is not supported", t.name)
}

// constant makes an operator whose value is known now; an empty one is missing.
func constant(o op, v string) op {
	if o.max > 0 && len(v) > o.max {
		v = v[:o.max]
	}
	o.literal = v
	o.eval = func(o *op, dst []byte, _ *Entry) ([]byte, bool) {
		return append(dst, o.literal...), o.literal != ""
	}
	return o
}

func headerOperator(o op, t token) (op, error) {
	first, second, _ := strings.Cut(t.args, "?")
	if first == "" || strings.Contains(second, "?") {
		return op{}, fmt.Errorf("format: operator %s needs NAME or NAME?FALLBACK, not %q", t.name, t.args)
	}
	o.outside = true
	o.first, o.second = headerName(first), headerName(second)
	switch t.name {
	case "REQ":
		o.eval = evalReq
	case "REQ_WITHOUT_QUERY":
		o.eval = evalReqWithoutQuery
	case "RESP":
		o.eval = evalResp
	default:
		o.eval = evalTrailer
	}
	return o, nil
}

func headerName(s string) name {
	s = strings.ToLower(s)
	if s == "host" {
		s = ":authority"
	}
	return name{text: s, id: message.Lookup([]byte(s))}
}
