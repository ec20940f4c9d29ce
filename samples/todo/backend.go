// SPDX-License-Identifier: Apache-2.0

package todo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// backend keeps the list in memory, in the order things were added.
type backend struct {
	mu    sync.Mutex
	todos []Todo
}

// Backend serves
//
//	GET    /todos/        the list, [{"item":"...","done":false}]
//	POST   /todos/{item}  adds it: 201, or 200 when it was there
//	PUT    /todos/{item}  sets {"done":true}: 200, or 404
//	DELETE /todos/{item}  204, or 404
//	GET    /health
//
// The list has at most 1000 items; the next one is refused with 507.
func Backend() http.Handler {
	b := &backend{todos: []Todo{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /todos/{$}", b.list)
	mux.HandleFunc("POST /todos/{item}", b.add)
	mux.HandleFunc("PUT /todos/{item}", b.set)
	mux.HandleFunc("DELETE /todos/{item}", b.remove)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "UP"})
	})
	return mux
}

func (b *backend) list(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	out := slices.Clone(b.todos)
	b.mu.Unlock()
	writeJSON(w, http.StatusOK, out)
}

func (b *backend) add(w http.ResponseWriter, r *http.Request) {
	item := r.PathValue("item")
	if err := checkItem(item); err != nil {
		writeJSON(w, http.StatusBadRequest, failure{err.Error()})
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch i := b.index(item); {
	case i >= 0:
		writeJSON(w, http.StatusOK, b.todos[i])
	case len(b.todos) >= maxItems:
		writeJSON(w, http.StatusInsufficientStorage, failure{fmt.Sprintf("the list is full: it has %d items", maxItems)})
	default:
		b.todos = append(b.todos, Todo{Item: item})
		writeJSON(w, http.StatusCreated, Todo{Item: item})
	}
}

func (b *backend) set(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Done *bool `json:"done"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil || in.Done == nil {
		writeJSON(w, http.StatusBadRequest, failure{`the body is {"done":true} or {"done":false}`})
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.index(r.PathValue("item"))
	if i < 0 {
		notFound(w, r)
		return
	}
	b.todos[i].Done = *in.Done
	writeJSON(w, http.StatusOK, b.todos[i])
}

func (b *backend) remove(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := b.index(r.PathValue("item"))
	if i < 0 {
		notFound(w, r)
		return
	}
	b.todos = slices.Delete(b.todos, i, i+1)
	w.WriteHeader(http.StatusNoContent)
}

func (b *backend) index(item string) int {
	return slices.IndexFunc(b.todos, func(t Todo) bool { return t.Item == item })
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusNotFound, failure{fmt.Sprintf("no item %q", r.PathValue("item"))})
}
