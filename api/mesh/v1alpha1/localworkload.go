// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the Go types of Lateen's own kinds, API version
// mesh.lateen.dev/v1alpha1.
package v1alpha1

import (
	"fmt"
	"strings"
)

// Group and Version of the kinds of this package.
const (
	Group   = "mesh.lateen.dev"
	Version = "v1alpha1"
)

// LocalWorkload says how to run, on this machine, the application behind a
// WorkloadEntry. It is read by `lateen up` and is without meaning on Kubernetes.
type LocalWorkload struct {
	// Entry names the WorkloadEntry of the same namespace whose address,
	// labels and service account the workload has. Required.
	Entry string `json:"entry"`
	// Command is the program and its arguments, run without a shell. A program
	// name without a slash is looked up beside lateen, then in PATH. Without a
	// command the workload is a gateway: its proxy is all there is to run.
	Command []string `json:"command,omitempty"`
	// Env is added to the environment of the program.
	Env map[string]string `json:"env,omitempty"`
	// Dir is the working directory; a relative one is relative to the
	// directory of the file that holds the object. Default: that directory.
	Dir string `json:"dir,omitempty"`
	// Ready says when the application takes requests. Default: when its port
	// accepts a TCP connection.
	Ready *Probe `json:"ready,omitempty"`
}

// Probe asks the application whether it takes requests. In YAML it may be
// written as the path alone: `ready: /health`.
type Probe struct {
	// Path is requested with HTTP GET; an answer of 200 to 399 means ready.
	// Empty: a TCP connection that is accepted means ready.
	Path string `json:"path,omitempty"`
	// Port is the service port whose application is asked, 1 to 65535.
	// Default: the lowest port of the WorkloadEntry.
	Port uint32 `json:"port,omitempty"`
	// TimeoutSeconds bounds the whole wait, not one attempt. Default: 60.
	TimeoutSeconds uint32 `json:"timeoutSeconds,omitempty"`
}

// UnmarshalText reads the short form, the path alone.
func (p *Probe) UnmarshalText(text []byte) error {
	s := string(text)
	if !strings.HasPrefix(s, "/") {
		return fmt.Errorf("%q is not a path: start it with /", s)
	}
	*p = Probe{Path: s}
	return nil
}
