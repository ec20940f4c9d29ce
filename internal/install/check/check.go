// SPDX-License-Identifier: Apache-2.0

// Package check looks at a cluster and says what is well, what is not, and what
// to do about it: the checks behind `lateen check`.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Env is what the checks look at.
type Env struct {
	Typed     kubernetes.Interface
	Dynamic   dynamic.Interface
	Namespace string // of the control plane
	Version   string // of this program
	Now       func() time.Time
	// Mesh asks the control plane; it is called once.
	Mesh func(context.Context) (Mesh, error)

	mesh    Mesh
	meshErr error
	asked   bool
}

// Mesh is what the control plane says about itself and its proxies.
type Mesh struct {
	Planes   []Plane
	Proxies  []Proxy
	Findings []string // of severity error
}

// Plane is a replica of the control plane.
type Plane struct{ Name, Version string }

// Proxy is a connected proxy.
type Proxy struct {
	Name, Version string
	Identity      string   // empty: connected without TLS
	Refused       []string // types it refused, with the reason
	Stale         []string // types it has not acknowledged
}

func (e *Env) ask(ctx context.Context) (Mesh, error) {
	if !e.asked {
		e.asked = true
		e.mesh, e.meshErr = e.Mesh(ctx)
	}
	return e.mesh, e.meshErr
}

// The results of a check.
const (
	Success = "success"
	Warning = "warning"
	Failed  = "error"
)

// Check is one question.
type Check struct {
	// Description says what is true when it is well.
	Description string
	// Hint says what to do when it is not.
	Hint string
	// Fatal ends the checks of its category and all after it, Gate only those of
	// its category, when it has failed.
	Fatal, Gate bool
	Run         func(context.Context, *Env) error
}

// Category is a group of checks under one title.
type Category struct {
	Name   string
	Checks []Check
}

// warning is an error that does not make the whole fail.
type warning struct{ error }

func warn(format string, args ...any) error { return warning{fmt.Errorf(format, args...)} }

// Report is what was found; its JSON has the shape of linkerd check's.
type Report struct {
	Success    bool             `json:"success"`
	Categories []CategoryReport `json:"categories"`
}

// CategoryReport is a group of results.
type CategoryReport struct {
	Name   string        `json:"categoryName"`
	Checks []CheckReport `json:"checks"`
}

// CheckReport is the result of one check.
type CheckReport struct {
	Description string `json:"description"`
	Result      string `json:"result"`
	Error       string `json:"error,omitempty"`
	Hint        string `json:"hint,omitempty"`
}

// checkTime bounds one check.
const checkTime = 30 * time.Second

// Run makes the checks one after the other.
func Run(ctx context.Context, env Env, categories []Category) Report {
	r := Report{Success: true}
	for _, cat := range categories {
		out := CategoryReport{Name: cat.Name}
		for _, c := range cat.Checks {
			res := run(ctx, &env, c)
			out.Checks = append(out.Checks, res)
			if res.Result != Failed {
				continue
			}
			r.Success = false
			if c.Fatal {
				r.Categories = append(r.Categories, out)
				return r
			}
			if c.Gate {
				break
			}
		}
		r.Categories = append(r.Categories, out)
	}
	return r
}

func run(ctx context.Context, env *Env, c Check) CheckReport {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	res := CheckReport{Description: c.Description, Result: Success}
	err := c.Run(ctx, env)
	if err == nil {
		return res
	}
	res.Result, res.Error, res.Hint = Failed, err.Error(), c.Hint
	var w warning
	if errors.As(err, &w) {
		res.Result = Warning
	}
	return res
}

var marks = map[string]string{Success: "√", Warning: "‼", Failed: "×"}

// Write prints the report as linkerd check does; short leaves out what is well.
func (r Report) Write(w io.Writer, short bool) error {
	var b strings.Builder
	for _, cat := range r.Categories {
		titled := false
		for _, c := range cat.Checks {
			if short && c.Result == Success {
				continue
			}
			if !titled {
				titled = true
				fmt.Fprintf(&b, "%s\n%s\n", cat.Name, strings.Repeat("-", len(cat.Name)))
			}
			fmt.Fprintf(&b, "%s %s\n", marks[c.Result], c.Description)
			if c.Result != Success {
				fmt.Fprintf(&b, "    %s\n    hint: %s\n", strings.ReplaceAll(c.Error, "\n", "\n    "), c.Hint)
			}
		}
		if titled {
			b.WriteByte('\n')
		}
	}
	word := "√"
	if !r.Success {
		word = "×"
	}
	fmt.Fprintf(&b, "Status check results are %s\n", word)
	_, err := io.WriteString(w, b.String())
	return err
}
