// SPDX-License-Identifier: Apache-2.0

// Package apitest is a small API server for tests: it keeps objects of any
// resource in memory and answers Kubernetes' REST verbs, watches, resource
// versions and conflicts included, so that tests run the real clients.
package apitest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
)

// Object is an object as JSON has it.
type Object = map[string]any

// Server is an API server. It knows no schemas and checks nothing but names,
// versions and preconditions. A custom resource's group is served once its
// definition is stored and until it is deleted; groups without a dot, those
// of Kubernetes itself (k8s.io) and the core one always.
type Server struct {
	http *httptest.Server

	mu      sync.Mutex
	version int64
	objects map[string]Object // by resource path/namespace/name
	log     []change
	moved   chan struct{}
	away    bool
	// React, when set, may answer a request in the server's place.
	React func(method, path string, body Object) (status int, answer Object)
	// Requests counts requests by method and path.
	requests map[string]int
}

type change struct {
	version  int64
	kind     string // ADDED, MODIFIED, DELETED
	resource string
	object   Object
	before   Object
}

// New starts a server, stopped at the test's end.
func New(t testing.TB) *Server {
	s := &Server{objects: map[string]Object{}, moved: make(chan struct{}), requests: map[string]int{}}
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// Config reaches the server, which speaks JSON alone.
func (s *Server) Config() *rest.Config {
	return &rest.Config{Host: s.http.URL, UserAgent: "test", QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
}

// Away makes the server refuse everything and end all watches, or serve again.
func (s *Server) Away(away bool) {
	s.mu.Lock()
	s.away = away
	s.wake()
	s.mu.Unlock()
	if away {
		s.http.CloseClientConnections()
	}
}

// Requests returns how often a method was called on a path.
func (s *Server) Requests(method, path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[method+" "+path]
}

func (s *Server) wake() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// place is what a path names.
type place struct {
	resource  string // group/plural, without version
	version   string // the API's, as apiVersion has it
	namespace string
	name      string
	sub       string
}

func parse(path string) (place, bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var p place
	var group string
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		p.version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		group, p.version, parts = parts[1], parts[1]+"/"+parts[2], parts[3:]
	default:
		return p, false
	}
	if parts[0] == "namespaces" && len(parts) >= 3 && parts[2] != "status" && parts[2] != "finalize" {
		p.namespace, parts = parts[1], parts[2:]
	}
	p.resource = group + "/" + parts[0]
	if len(parts) > 1 {
		p.name = parts[1]
	}
	if len(parts) > 2 {
		p.sub = parts[2]
	}
	return p, len(parts) <= 3
}

func (p place) key() string { return p.resource + "/" + p.namespace + "/" + p.name }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p, ok := parse(r.URL.Path)
	var body Object
	if r.Body != nil {
		text, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
		if err != nil {
			return
		}
		if len(text) > 0 {
			if err := json.Unmarshal(text, &body); err != nil {
				fail(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "malformed body: "+err.Error())
				return
			}
		}
	}
	s.mu.Lock()
	s.requests[r.Method+" "+r.URL.Path]++
	away, react := s.away, s.React
	served := ok && s.served(p.resource)
	s.mu.Unlock()
	if away {
		fail(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "away")
		return
	}
	if react != nil {
		if status, answer := react(r.Method, r.URL.Path, body); status != 0 {
			write(w, status, answer)
			return
		}
	}
	if !served {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && q.Get("watch") != "":
		s.watch(w, r, p)
	case r.Method == http.MethodGet && p.name == "":
		s.list(w, p, selection(q.Get("labelSelector"), q.Get("fieldSelector")))
	case r.Method == http.MethodGet:
		s.mu.Lock()
		o := s.objects[p.key()]
		s.mu.Unlock()
		if o == nil {
			notFound(w, p)
			return
		}
		write(w, http.StatusOK, at(o, p.version))
	default:
		s.change(w, r, p, body)
	}
}

func (s *Server) served(resource string) bool {
	group, plural, _ := strings.Cut(resource, "/")
	if group == "" || !strings.Contains(group, ".") || strings.HasSuffix(group, "k8s.io") && group != "gateway.networking.k8s.io" {
		return true
	}
	return s.objects["apiextensions.k8s.io/customresourcedefinitions//"+plural+"."+group] != nil
}

func at(o Object, version string) Object {
	out := maps.Clone(o)
	out["apiVersion"] = version
	return out
}

func (s *Server) change(w http.ResponseWriter, r *http.Request, p place, body Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodPost {
		p.name, _ = meta(body)["name"].(string)
	}
	old := s.objects[p.key()]
	if r.Method != http.MethodPost && old == nil {
		notFound(w, p)
		return
	}
	switch r.Method {
	case http.MethodPost:
		if old != nil {
			fail(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, p.name+" already exists")
			return
		}
		write(w, http.StatusCreated, at(s.put(p, nil, body), p.version))
	case http.MethodPut:
		if rv := meta(body)["resourceVersion"]; rv != nil && rv != "" && rv != meta(old)["resourceVersion"] {
			fail(w, http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified")
			return
		}
		write(w, http.StatusOK, at(s.put(p, old, body), p.version))
	case http.MethodPatch:
		next, _ := merge(clone(old), body).(Object)
		if rv := meta(next)["resourceVersion"]; rv != meta(old)["resourceVersion"] {
			fail(w, http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified")
			return
		}
		write(w, http.StatusOK, at(s.put(p, old, next), p.version))
	case http.MethodDelete:
		pre, _ := body["preconditions"].(Object)
		for _, f := range []string{"uid", "resourceVersion"} {
			if want := pre[f]; want != nil && want != meta(old)[f] {
				fail(w, http.StatusConflict, metav1.StatusReasonConflict, "precondition failed: "+f)
				return
			}
		}
		s.remove(p, old)
		write(w, http.StatusOK, Object{"kind": "Status", "apiVersion": "v1", "status": "Success"})
	}
}

// put stores an object as the API server would: metadata of its own, and a
// generation that counts changes of everything but metadata and status.
func (s *Server) put(p place, old, o Object) Object {
	o = clone(o)
	m := meta(o)
	s.version++
	kind := "ADDED"
	if old == nil {
		m["uid"] = "uid-" + strconv.FormatInt(s.version, 10)
		m["creationTimestamp"] = metav1.Now().UTC().Format(time.RFC3339)
		m["generation"] = int64(1)
	} else {
		kind = "MODIFIED"
		if p.sub == "status" {
			status := o["status"]
			o = clone(old)
			o["status"], m = status, meta(o)
		} else if s := old["status"]; s != nil && o["status"] == nil {
			o["status"] = s
		}
		for _, f := range []string{"uid", "creationTimestamp", "generation"} {
			m[f] = meta(old)[f]
		}
		if !same(content(old), content(o)) {
			g, _ := strconv.ParseInt(fmt.Sprint(m["generation"]), 10, 64)
			m["generation"] = g + 1
		}
	}
	if p.namespace != "" {
		m["namespace"] = p.namespace
	}
	if old != nil && same(old, withVersion(o, meta(old)["resourceVersion"])) {
		return old // nothing changes, as in the API server
	}
	m["resourceVersion"] = strconv.FormatInt(s.version, 10)
	s.objects[p.key()] = o
	s.log = append(s.log, change{s.version, kind, p.resource, o, old})
	s.wake()
	return o
}

func withVersion(o Object, rv any) Object {
	o = clone(o)
	meta(o)["resourceVersion"] = rv
	return o
}

func content(o Object) Object {
	c := maps.Clone(o)
	delete(c, "metadata")
	delete(c, "status")
	delete(c, "apiVersion")
	return c
}

func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

func (s *Server) remove(p place, old Object) {
	s.version++
	o := withVersion(old, strconv.FormatInt(s.version, 10))
	delete(s.objects, p.key())
	s.log = append(s.log, change{s.version, "DELETED", p.resource, o, old})
	s.wake()
}

// Put creates or replaces objects, whose apiVersion, plural and namespace
// together are the path, such as "/api/v1/namespaces/default/services".
func (s *Server) Put(path string, objects ...Object) {
	p, _ := parse(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		p.name, _ = meta(o)["name"].(string)
		s.put(p, s.objects[p.key()], o)
	}
}

// Get returns the object at a path, or nil.
func (s *Server) Get(path string) Object {
	p, _ := parse(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[p.key()]; o != nil {
		return clone(o)
	}
	return nil
}

// Remove deletes the object at a path.
func (s *Server) Remove(path string) {
	p, _ := parse(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.objects[p.key()]; o != nil {
		s.remove(p, o)
	}
}

// Define stores an established definition of plural.group with the versions.
func (s *Server) Define(plural, group string, versions ...string) {
	var vs []any
	for _, v := range versions {
		vs = append(vs, Object{"name": v, "served": true})
	}
	s.Put("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Object{
		"kind": "CustomResourceDefinition", "metadata": Object{"name": plural + "." + group},
		"spec":   Object{"group": group, "versions": vs},
		"status": Object{"conditions": []any{Object{"type": "Established", "status": "True"}}},
	})
}

type selector func(Object) bool

func selection(label, field string) selector {
	ls, err := labels.Parse(label)
	if err != nil {
		ls = labels.Nothing()
	}
	return func(o Object) bool {
		set := labels.Set{}
		l, _ := meta(o)["labels"].(Object)
		for k, v := range l {
			set[k], _ = v.(string)
		}
		if !ls.Matches(set) {
			return false
		}
		for _, term := range strings.Split(field, ",") {
			name, want, _ := strings.Cut(term, "=")
			name, not := strings.CutSuffix(name, "!")
			var is any
			switch name {
			case "metadata.name", "metadata.namespace":
				is = meta(o)[strings.TrimPrefix(name, "metadata.")]
			case "type":
				is = o["type"]
			default:
				continue
			}
			if (is == want) == not {
				return false
			}
		}
		return true
	}
}

func (s *Server) list(w http.ResponseWriter, p place, in selector) {
	s.mu.Lock()
	items := []any{}
	for _, k := range slices.Sorted(maps.Keys(s.objects)) {
		o := s.objects[k]
		if strings.HasPrefix(k, p.resource+"/") && (p.namespace == "" || meta(o)["namespace"] == p.namespace) && in(o) {
			items = append(items, at(o, p.version))
		}
	}
	version := strconv.FormatInt(s.version, 10)
	s.mu.Unlock()
	write(w, http.StatusOK, Object{"kind": listKind(p.resource), "apiVersion": p.version, "metadata": Object{"resourceVersion": version}, "items": items})
}

// listKind names the list of a resource as the typed clients want it; for all
// others any name will do.
func listKind(resource string) string {
	for _, kind := range []string{"Service", "EndpointSlice", "Pod", "Node", "Namespace", "Secret", "ConfigMap", "Event", "Lease",
		"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"} {
		if strings.HasSuffix(resource, "/"+strings.ToLower(kind)+"s") {
			return kind + "List"
		}
	}
	return "List"
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, p place) {
	q := r.URL.Query()
	if q.Get("sendInitialEvents") != "" {
		// As a server without that feature answers; the client lists then.
		fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is not served")
		return
	}
	seen, _ := strconv.ParseInt(q.Get("resourceVersion"), 10, 64)
	in := selection(q.Get("labelSelector"), q.Get("fieldSelector"))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	_ = flush()
	enc := json.NewEncoder(w)
	for {
		s.mu.Lock()
		var news []change
		for _, c := range s.log {
			if c.version > seen && c.resource == p.resource && (p.namespace == "" || meta(c.object)["namespace"] == p.namespace) {
				news = append(news, c)
			}
		}
		seen = max(seen, s.version)
		moved, away := s.moved, s.away || !s.served(p.resource)
		s.mu.Unlock()
		for _, c := range news {
			now, before := in(c.object), c.before != nil && in(c.before)
			kind := c.kind
			switch {
			case kind == "MODIFIED" && now && !before:
				kind = "ADDED"
			case kind == "MODIFIED" && !now && before:
				kind = "DELETED"
			case !now:
				continue
			}
			if enc.Encode(Object{"type": kind, "object": at(c.object, p.version)}) != nil {
				return
			}
		}
		if flush() != nil || away {
			return
		}
		select {
		case <-moved:
		case <-r.Context().Done():
			return
		}
	}
}

func meta(o Object) Object {
	m, ok := o["metadata"].(Object)
	if !ok && o != nil {
		m = Object{}
		o["metadata"] = m
	}
	return m
}

func clone(o Object) Object {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // it came from JSON
	}
	var out Object
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return out
}

// merge is RFC 7386.
func merge(target any, patch any) any {
	p, ok := patch.(Object)
	if !ok {
		return patch
	}
	t, ok := target.(Object)
	if !ok {
		t = Object{}
	}
	for k, v := range p {
		if v == nil {
			delete(t, k)
		} else {
			t[k] = merge(t[k], v)
		}
	}
	return t
}

func write(w http.ResponseWriter, status int, o Object) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(o)
}

func notFound(w http.ResponseWriter, p place) {
	fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, p.resource+" "+p.name+" not found")
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	write(w, code, Object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": string(reason), "message": message, "code": code})
}
