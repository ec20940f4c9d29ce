// SPDX-License-Identifier: Apache-2.0

// Package api is the control plane's local interface: the requests and answers
// spoken as JSON over HTTP on lateend's 0600 Unix socket, and a client for them.
package api

import (
	"encoding/json"
	"time"
)

// Paths of the interface. All take and return JSON; an error answers with a
// status of 400 or more and an Error.
const (
	PathVersion  = "/v1/version"
	PathObjects  = "/v1/objects"
	PathProxies  = "/v1/proxies"
	PathWait     = "/v1/wait"
	PathFindings = "/v1/findings"
	PathToken    = "/v1/token"
)

// Error is the body of every failed call.
type Error struct {
	// Code is stable: "invalid", "not_found", "conflict", "unknown_kind",
	// "timeout", "internal".
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Version says what is running.
type Version struct {
	Version   string    `json:"version"`
	GoVersion string    `json:"goVersion"`
	Name      string    `json:"name"` // the mesh's name
	Started   time.Time `json:"started"`
	ConfigDir string    `json:"configDir"`
	// Addresses of the listeners, by purpose: "xds-plaintext", "xds", "debug".
	Addresses map[string]string `json:"addresses"`
	// RootFile is the file with the mesh's root certificates in PEM.
	RootFile string `json:"rootFile"`
}

// Object is one stored object as kubectl would print it, and where it lives.
type Object struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Manifest is the whole object: apiVersion, kind, metadata, spec.
	Manifest json.RawMessage `json:"manifest"`
	// Source is "file:line" of the object; the store's own files are below
	// its applied directory.
	Source string `json:"source,omitempty"`
	// Held, when set, says that the object is not (wholly) in force and why,
	// e.g. because it names a subset that does not exist.
	Held string `json:"held,omitempty"`
}

// ObjectList answers GET /v1/objects?kind=K&namespace=N&name=M. Kind is any
// name kubectl knows (kind, plural, short name); an empty namespace means all.
type ObjectList struct {
	Items []Object `json:"items"`
}

// ApplyRequest is the body of PUT /v1/objects: one object.
type ApplyRequest struct {
	// Manifest is the object in JSON.
	Manifest json.RawMessage `json:"manifest"`
}

// ApplyResponse answers PUT and DELETE.
type ApplyResponse struct {
	// Result is "created", "configured", "unchanged" or "deleted".
	Result   string   `json:"result"`
	Warnings []string `json:"warnings,omitempty"`
	// Epoch is the first epoch that contains the change: pass it to Wait.
	Epoch uint64 `json:"epoch"`
}

// WaitRequest is the body of POST /v1/wait.
type WaitRequest struct {
	Epoch   uint64        `json:"epoch"`
	Timeout time.Duration `json:"timeout"` // nanoseconds; 0 means 10 s
	// Object, when set, waits first until this change has come from where it
	// was stored, and then for its epoch: the way of whoever applied an object
	// to a cluster's API server.
	Object *StoredObject `json:"object,omitempty"`
}

// StoredObject is one version of one object; without a version, its absence.
type StoredObject struct {
	Kind            string `json:"kind"` // any name kubectl knows
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// WaitResponse tells whether every affected proxy acknowledged the epoch.
type WaitResponse struct {
	// Elapsed is in nanoseconds from the call.
	Elapsed time.Duration `json:"elapsed"`
	// Waiting names the proxies that have not acknowledged, with the reason
	// ("no answer yet", or the text of their rejection).
	Waiting []WaitingProxy `json:"waiting,omitempty"`
}

// WaitingProxy is a proxy that does not run the configuration waited for.
type WaitingProxy struct {
	Proxy  string `json:"proxy"` // name.namespace
	Reason string `json:"reason"`
}

// Sync is the state of one resource type at one proxy.
type Sync struct {
	// Status is "SYNCED", "STALE", "NOT SENT" or "NACK".
	Status  string    `json:"status"`
	Version string    `json:"version,omitempty"`
	Message string    `json:"message,omitempty"` // of a NACK
	Since   time.Time `json:"since,omitzero"`
}

// Proxy is one connected proxy.
type Proxy struct {
	NodeID    string `json:"nodeID"`
	Name      string `json:"name"` // name.namespace
	Namespace string `json:"namespace"`
	ClusterID string `json:"clusterID"`
	Type      string `json:"type"` // sidecar or router
	Address   string `json:"address"`
	Version   string `json:"version,omitempty"`
	// Identity is the verified SPIFFE id, empty on a plaintext connection.
	Identity string `json:"identity,omitempty"`
	// Types is keyed by "CDS", "EDS", "LDS", "RDS", "VHDS", "SDS".
	Types map[string]Sync `json:"types"`
}

// ProxyList answers GET /v1/proxies, sorted by name.
type ProxyList struct {
	Items []Proxy `json:"items"`
}

// The codes of what the control plane itself finds. They are stable; see
// docs/findings.md.
const (
	CodeFile    = "LT0001" // an object or file of the directory
	CodeHeld    = "LT0002" // an object that is held back
	CodeRefused = "LT0003" // a resource that a proxy refused
	CodeMissing = "LT0004" // a reference to something that does not exist
)

// Finding is something a user should look at: a file that cannot be read, an
// object that is held back, a resource that a proxy refused.
type Finding struct {
	// Code is stable, e.g. "LT0001".
	Code     string `json:"code"`
	Severity string `json:"severity"` // error, warning, info
	// Object is kind/namespace/name, empty when there is none.
	Object  string `json:"object,omitempty"`
	Source  string `json:"source,omitempty"` // file:line
	Message string `json:"message"`
}

// FindingList answers GET /v1/findings.
type FindingList struct {
	Items []Finding `json:"items"`
}

// TokenRequest is the body of POST /v1/token: a workload token for the CA
// (audience istio-ca). Whoever can open the socket owns the mesh.
type TokenRequest struct {
	Namespace      string        `json:"namespace"`
	ServiceAccount string        `json:"serviceAccount"`
	Lifetime       time.Duration `json:"lifetime"` // nanoseconds; 0 means 24 h
}

// TokenResponse carries the token. It is a secret: never log it.
type TokenResponse struct {
	Token string `json:"token"`
}
