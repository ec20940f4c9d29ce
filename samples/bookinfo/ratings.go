// SPDX-License-Identifier: Apache-2.0

package bookinfo

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"sync"
)

type ratings struct {
	ID      int            `json:"id"`
	Ratings map[string]int `json:"ratings"`
}

// ratingsService keeps what was posted in memory, for at most maxRated
// products; every other product has the two ratings it was born with.
type ratingsService struct {
	mu     sync.Mutex
	posted map[int]map[string]int
}

const maxRated = 1000

// newRatings serves GET and POST /ratings/{id} and /health. Version
// v-unavailable answers 503 to every call, which shows what callers make of
// that.
func newRatings(version string) (http.Handler, error) {
	s := &ratingsService{posted: map[int]map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", healthy("Ratings"))
	switch version {
	case "", "v1", "v2", "v3":
		mux.HandleFunc("GET /ratings/{id}", s.get)
		mux.HandleFunc("POST /ratings/{id}", s.post)
	case "v-unavailable":
		mux.HandleFunc("/ratings/{id}", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, http.StatusServiceUnavailable, failure{"Service unavailable"})
		})
	default:
		return nil, fmt.Errorf("ratings has no version %q: have v1, v2, v3, v-unavailable", version)
	}
	return mux, nil
}

func (s *ratingsService) get(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	out := maps.Clone(s.posted[id])
	s.mu.Unlock()
	if out == nil {
		out = map[string]int{"Reviewer1": 5, "Reviewer2": 4}
	}
	writeJSON(w, http.StatusOK, ratings{id, out})
}

func (s *ratingsService) post(w http.ResponseWriter, r *http.Request) {
	id, ok := productID(w, r)
	if !ok {
		return
	}
	var in map[string]int
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil || in == nil {
		writeJSON(w, http.StatusBadRequest, failure{"please provide valid ratings JSON"})
		return
	}
	s.mu.Lock()
	_, known := s.posted[id]
	full := !known && len(s.posted) >= maxRated
	if !full {
		s.posted[id] = in
	}
	s.mu.Unlock()
	if full {
		writeJSON(w, http.StatusInsufficientStorage, failure{"too many rated products"})
		return
	}
	writeJSON(w, http.StatusOK, ratings{id, in})
}
