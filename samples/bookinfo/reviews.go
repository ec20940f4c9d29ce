// SPDX-License-Identifier: Apache-2.0

package bookinfo

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

type reviews struct {
	ID      string   `json:"id"`
	Pod     string   `json:"podname"`
	Cluster string   `json:"clustername"`
	Reviews []review `json:"reviews"`
	Error   string   `json:"error,omitempty"`
}

type review struct {
	Reviewer string  `json:"reviewer"`
	Text     string  `json:"text"`
	Rating   *rating `json:"rating,omitempty"`
}

// rating is either stars with a colour, or the reason why there are none.
type rating struct {
	Stars int    `json:"stars,omitempty"`
	Color string `json:"color,omitempty"`
	Error string `json:"error,omitempty"`
}

// Glyphs draws the stars: filled ones, then empty ones up to five.
func (r rating) Glyphs() []bool {
	out := make([]bool, 5)
	for i := range out {
		out[i] = i < r.Stars
	}
	return out
}

const ratingsUnavailable = "Ratings service is currently unavailable"

type reviewsService struct {
	c       Config
	color   string // empty: this version shows no ratings
	timeout time.Duration
}

// newReviews serves GET /reviews/{id} and /health. Version v1 has no ratings,
// v2 shows them black and waits 10 s for them, v3 red and waits 2.5 s.
func newReviews(c Config) (http.Handler, error) {
	s := &reviewsService{c: c}
	switch c.Version {
	case "", "v1":
	case "v2":
		s.color, s.timeout = "black", or(c.RatingsTimeout, ratingsTimeout)
	case "v3":
		s.color, s.timeout = "red", or(c.RatingsTimeout, ratingsTimeoutRed)
	default:
		return nil, fmt.Errorf("reviews has no version %q: have v1, v2, v3", c.Version)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", healthy("Reviews"))
	mux.HandleFunc("GET /reviews/{id}", s.get)
	return mux, nil
}

func (s *reviewsService) get(w http.ResponseWriter, r *http.Request) {
	if _, ok := productID(w, r); !ok {
		return
	}
	id := r.PathValue("id")
	out := reviews{ID: id, Pod: s.c.Pod, Cluster: or(s.c.Cluster, "null"), Reviews: []review{
		{Reviewer: "Reviewer1", Text: "Two pairs of twins, one busy afternoon, and not a dull line between them. I laughed out loud on the train."},
		{Reviewer: "Reviewer2", Text: "Quick, silly and kinder than it looks. Lighter than the later comedies, and all the better to begin with."},
	}}
	if s.color != "" {
		s.addRatings(r, id, out.Reviews)
	}
	writeJSON(w, http.StatusOK, out)
}

func (s *reviewsService) addRatings(r *http.Request, id string, to []review) {
	var got ratings
	if _, err := call(r.Context(), s.c.Client, s.timeout, s.c.Ratings+"/ratings/"+id, forward(r.Header), &got); err != nil {
		slog.Warn("ratings failed", "error", err)
		for i := range to {
			to[i].Rating = &rating{Error: ratingsUnavailable}
		}
		return
	}
	for i := range to {
		if n, ok := got.Ratings[to[i].Reviewer]; ok {
			to[i].Rating = &rating{Stars: n, Color: s.color}
		}
	}
}
