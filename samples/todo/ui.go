// SPDX-License-Identifier: Apache-2.0

package todo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Config of the page.
type Config struct {
	// Backend is the base URL of the backend, such as http://todobackend:8080/.
	Backend string
	// Version is v0.1 or v0.2, with or without the v.
	Version string
	// Instance names this instance at the foot of the page.
	Instance string
	// Client calls the backend. Its transport decides about proxies.
	Client *http.Client
	// Timeout of one call to the backend; zero is 5 s.
	Timeout time.Duration
}

// Versions of the page. The second counts what is left, and looks different.
var versions = map[string]look{
	"0.1": {Version: "0.1", Title: "Todo"},
	"0.2": {Version: "0.2", Title: "Todo, with progress", Progress: true},
}

type look struct {
	Version  string
	Title    string
	Progress bool
}

//go:embed page.html
var pageHTML string

//go:embed style.css
var styleCSS string

type ui struct {
	c    Config
	look look
	page *template.Template
	base string
}

// UI serves the page (GET /), the forms on it (POST /add, /done, /delete) and
// GET /health. The style is part of the page: during a canary release a file
// of its own would come from either version.
func UI(c Config) (http.Handler, error) {
	l, ok := versions[strings.TrimPrefix(c.Version, "v")]
	if !ok {
		return nil, fmt.Errorf("todo ui has no version %q: have v0.1, v0.2", c.Version)
	}
	base, err := url.Parse(c.Backend)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("backend %q is no http:// URL", c.Backend)
	}
	t, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return nil, err
	}
	c.Client = cmp.Or(c.Client, http.DefaultClient)
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	u := &ui{c: c, look: l, page: t, base: strings.TrimSuffix(base.String(), "/") + "/todos/"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", u.show)
	mux.HandleFunc("POST /add", u.form(func(r *http.Request, item string) (string, any) { return http.MethodPost, nil }))
	mux.HandleFunc("POST /done", u.form(func(r *http.Request, item string) (string, any) {
		return http.MethodPut, map[string]bool{"done": r.PostFormValue("done") == "true"}
	}))
	mux.HandleFunc("POST /delete", u.form(func(r *http.Request, item string) (string, any) { return http.MethodDelete, nil }))
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "UP"})
	})
	return secure(mux), nil
}

// secure allows the page nothing but its own style and forms to its own host.
func secure(next http.Handler) http.Handler {
	sum := sha256.Sum256([]byte(styleCSS))
	policy := fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		base64.StdEncoding.EncodeToString(sum[:]))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// view is what page.html shows. Error is why there is no list.
type view struct {
	look
	Style    template.CSS
	Instance string
	Todos    []Todo
	Done     int
	MaxLen   int
	Error    string
}

func (u *ui) show(w http.ResponseWriter, r *http.Request) {
	v := view{look: u.look, Style: template.CSS(styleCSS), Instance: u.c.Instance, MaxLen: maxItemLen}
	status := http.StatusOK
	if err := u.call(r, http.MethodGet, "", nil, &v.Todos); err != nil {
		slog.Warn("the backend failed", "error", err)
		status, v.Error = http.StatusBadGateway, "The list cannot be reached right now. Please try again."
	}
	for _, t := range v.Todos {
		if t.Done {
			v.Done++
		}
	}
	var b bytes.Buffer
	if err := u.page.Execute(&b, v); err != nil {
		slog.Error("cannot render the page", "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client's loss
}

// form turns a posted form into one call to the backend, and goes back to the
// page: by path only, as the page may be behind any name and port.
func (u *ui) form(request func(*http.Request, string) (method string, body any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		item := strings.TrimSpace(r.PostFormValue("item"))
		if err := checkItem(item); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		method, body := request(r, item)
		err := u.call(r, method, item, body, nil)
		var refused statusError
		switch {
		case errors.As(err, &refused) && refused.status == http.StatusNotFound:
			// Someone else deleted it: the page will show that.
		case errors.As(err, &refused) && refused.status == http.StatusInsufficientStorage:
			http.Error(w, "the list is full: delete something first", http.StatusInsufficientStorage)
			return
		case err != nil:
			slog.Warn("the backend failed", "error", err)
			http.Error(w, "the list cannot be reached right now", http.StatusBadGateway)
			return
		}
		w.Header().Set("Location", "/")
		w.WriteHeader(http.StatusSeeOther)
	}
}

type statusError struct {
	what   string
	status int
}

func (e statusError) Error() string { return fmt.Sprintf("%s: status %d", e.what, e.status) }

// call makes one call on behalf of r, and decodes the answer when into is set.
func (u *ui) call(r *http.Request, method, item string, body, into any) error {
	ctx, cancel := context.WithTimeout(r.Context(), u.c.Timeout)
	defer cancel()
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.base+url.PathEscape(item), payload)
	if err != nil {
		return err
	}
	for _, name := range forwarded {
		if v := r.Header[name]; len(v) > 0 {
			req.Header[name] = v
		}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := u.c.Client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, req.URL, err)
	}
	if res.StatusCode/100 != 2 {
		return statusError{method + " " + req.URL.String(), res.StatusCode}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("%s %s: %w", method, req.URL, err)
	}
	return nil
}

// forwarded lists the headers that an application copies from the request it
// got to those it makes, for traces to join and for routing by user.
var forwarded = []string{
	"X-Request-Id", "X-Ot-Span-Context",
	"Traceparent", "Tracestate", "Baggage",
	"B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
	"X-Cloud-Trace-Context", "Grpc-Trace-Bin", "Sw8",
	"X-Datadog-Trace-Id", "X-Datadog-Parent-Id", "X-Datadog-Sampling-Priority",
	"End-User", "Authorization",
}
