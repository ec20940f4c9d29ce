// SPDX-License-Identifier: Apache-2.0

package bookinfo

import (
	"bytes"
	"embed"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"time"
)

const (
	detailsUnavailable = "Sorry, product details are currently unavailable for this book."
	reviewsUnavailable = "Sorry, product reviews are currently unavailable for this book."
	productRatingsGone = "Sorry, product ratings are currently unavailable for this book."
)

type product struct {
	ID          int           `json:"id"`
	Title       string        `json:"title"`
	Description template.HTML `json:"descriptionHtml"`
}

var products = []product{{
	ID:    0,
	Title: "The Comedy of Errors",
	Description: `One of <b>William Shakespeare’s</b> early plays and his shortest. Two sets of twins, parted at birth by a ` +
		`storm, spend a single day in the same town without knowing it. What follows are wrong dinners, wrong arrests and a ` +
		`very wrong proposal, until everybody stands in the same street at last. ` +
		`<a href="https://en.wikipedia.org/wiki/The_Comedy_of_Errors">Read more on Wikipedia</a>.`,
}}

//go:embed page.html index.html
var pages embed.FS

//go:embed static
var static embed.FS

type productpage struct {
	c     Config
	pages *template.Template
	login sessions
	asked *results
}

// newProductpage serves the page, its API, log-in and static files.
func newProductpage(c Config) (http.Handler, error) {
	c.DetailsTimeout = or(c.DetailsTimeout, detailsTimeout)
	c.ReviewsTimeout = or(c.ReviewsTimeout, reviewsTimeout)
	c.RatingsTimeout = or(c.RatingsTimeout, reviewsTimeout)
	t, err := template.ParseFS(pages, "*.html")
	if err != nil {
		return nil, err
	}
	p := &productpage{c: c, pages: t, login: newSessions(), asked: newResults()}

	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.index)
	mux.HandleFunc("GET /index.html", p.index)
	mux.HandleFunc("GET /productpage", p.page)
	mux.HandleFunc("POST /login", p.login.in)
	mux.HandleFunc("GET /logout", p.login.out)
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("Product page is healthy"))
	})
	mux.Handle("GET /metrics", p.asked)
	mux.HandleFunc("GET /api/v1/products", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, products)
	})
	mux.HandleFunc("GET /api/v1/products/{id}", api(p.details))
	mux.HandleFunc("GET /api/v1/products/{id}/reviews", api(p.reviews))
	mux.HandleFunc("GET /api/v1/products/{id}/ratings", api(p.ratings))
	files := http.FileServerFS(static)
	mux.HandleFunc("GET /static/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=300")
		files.ServeHTTP(w, r)
	})
	return secure(mux), nil
}

// secure allows the pages nothing but what they carry themselves.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// api turns a call to a neighbour into an endpoint of the API.
func api[T any](get func(*http.Request, string) (int, T)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := productID(w, r); !ok {
			return
		}
		status, v := get(r, r.PathValue("id"))
		writeJSON(w, status, v)
	}
}

// outgoing are the headers of a call made on behalf of r: the forwarded ones,
// and end-user from the session, never from outside when one is signed in.
func (p *productpage) outgoing(r *http.Request) http.Header {
	h := forward(r.Header)
	if user := p.login.user(r); user != "" {
		h.Set("End-User", user)
	}
	return h
}

// fetch tries a neighbour up to tries times, and reports and counts what came
// of it: 500 stands for a call without an answer.
func (p *productpage) fetch(r *http.Request, app string, tries int, timeout time.Duration, u string, into any) int {
	status := 0
	for range tries {
		var err error
		status, err = call(r.Context(), p.c.Client, timeout, u, p.outgoing(r), into)
		p.asked.add(app, or(status, http.StatusInternalServerError))
		if err == nil {
			return status
		}
		slog.Warn("a call failed", "error", err)
		if r.Context().Err() != nil {
			break // the reader left
		}
	}
	return or(status, http.StatusInternalServerError)
}

func (p *productpage) details(r *http.Request, id string) (int, any) {
	var d details
	if status := p.fetch(r, "details", 1, p.c.DetailsTimeout, p.c.Details+"/details/"+id, &d); status != http.StatusOK {
		return status, failure{detailsUnavailable}
	}
	return http.StatusOK, d
}

func (p *productpage) reviews(r *http.Request, id string) (int, any) {
	var v reviews
	if status := p.fetch(r, "reviews", reviewsTries, p.c.ReviewsTimeout, p.c.Reviews+"/reviews/"+id, &v); status != http.StatusOK {
		return status, failure{reviewsUnavailable}
	}
	return http.StatusOK, v
}

func (p *productpage) ratings(r *http.Request, id string) (int, any) {
	var v ratings
	if status := p.fetch(r, "ratings", 1, p.c.RatingsTimeout, p.c.Ratings+"/ratings/"+id, &v); status != http.StatusOK {
		return status, failure{productRatingsGone}
	}
	return http.StatusOK, v
}

// view is what page.html shows. Details or Reviews is nil when the service
// did not answer, and the error says so in its place.
type view struct {
	Product      product
	User         string
	Details      any
	DetailsError string
	Reviews      any
	ReviewsError string
}

func (p *productpage) page(w http.ResponseWriter, r *http.Request) {
	v := view{Product: products[0], User: p.login.user(r)}
	id := strconv.Itoa(v.Product.ID)
	if status, d := p.details(r, id); status == http.StatusOK {
		v.Details = d
	} else {
		v.DetailsError = detailsUnavailable
	}
	if status, d := p.reviews(r, id); status == http.StatusOK {
		v.Reviews = d
	} else {
		v.ReviewsError = reviewsUnavailable
	}
	p.render(w, "page.html", v)
}

func (p *productpage) index(w http.ResponseWriter, _ *http.Request) {
	p.render(w, "index.html", map[string]string{"Details": p.c.Details, "Reviews": p.c.Reviews, "Ratings": p.c.Ratings})
}

func (p *productpage) render(w http.ResponseWriter, name string, v any) {
	var b bytes.Buffer
	if err := p.pages.ExecuteTemplate(&b, name, v); err != nil {
		slog.Error("cannot render a page", "page", name, "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b.Bytes())
}
