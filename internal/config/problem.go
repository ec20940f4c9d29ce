// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"strings"
)

// Severity says whether a problem kept the object out.
type Severity string

const (
	// SeverityError: the object was refused.
	SeverityError Severity = "error"
	// SeverityWarning: the object was accepted, but does not do all it says.
	SeverityWarning Severity = "warning"
	// SeverityInfo: nothing is wrong, such as an object of a kind that is not handled.
	SeverityInfo Severity = "info"
)

// Problem is one finding about one object, placed as exactly as is known.
type Problem struct {
	Severity Severity `json:"severity"`
	File     string   `json:"file,omitempty"`
	Line     int      `json:"line,omitempty"` // from 1; 0: unknown
	// Object is kind/namespace/name as far as it is known, or empty.
	Object string `json:"object,omitempty"`
	// Field is the path of the field, such as spec.http[0].route[1].weight.
	Field   string `json:"field,omitempty"`
	Message string `json:"message"` // what is wrong, with the value
	Fix     string `json:"fix,omitempty"`
}

// Error returns one line: file:line: object: field: message (fix).
func (p *Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	} else if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Object != "" {
		b.WriteString(p.Object + ": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	if p.Fix != "" {
		b.WriteString("; " + p.Fix)
	}
	return b.String()
}

// Errors returns the problems of severity error as one error, or nil.
func Errors(problems []*Problem) error {
	var errs []error
	for _, p := range problems {
		if p.Severity == SeverityError {
			errs = append(errs, p)
		}
	}
	return errors.Join(errs...)
}
