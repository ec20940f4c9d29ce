// SPDX-License-Identifier: Apache-2.0

// Package bookinfo is the sample application of the service mesh documents: a
// book page put together from four services (productpage, details, reviews in
// three versions, ratings), each served by the same binary. The host names,
// ports, paths, JSON, headers and timeouts are those of the application that
// Istio's documents drive; the words and the looks are ours.
package bookinfo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Config says where one service's neighbours are and which version it plays.
type Config struct {
	// Version is the value of the version label: v1, v2, v3. Details, reviews
	// and ratings behave differently by it.
	Version string
	// Pod names this instance on the page ("Reviews served by: <pod>").
	Pod string
	// Cluster names the cluster of this instance; empty is printed as "null".
	Cluster string

	// Base URLs of the neighbours, such as http://reviews:9080.
	Details, Reviews, Ratings string

	// Client calls the neighbours. Its transport decides about proxies.
	Client *http.Client

	// The timeouts of the calls; zero takes the application's own (the
	// constants below). Tests shorten them.
	DetailsTimeout, ReviewsTimeout, RatingsTimeout time.Duration
}

// The timeouts Istio's fault-injection document relies on: a 7 s delay in
// front of ratings is within what reviews v2 waits, and longer than the two
// tries of 3 s that productpage gives reviews.
const (
	detailsTimeout    = 3 * time.Second
	reviewsTimeout    = 3 * time.Second
	reviewsTries      = 2
	ratingsTimeout    = 10 * time.Second
	ratingsTimeoutRed = 2500 * time.Millisecond
	maxBody           = 64 << 10
)

// Services lists what Handler knows, in the order of a request's way.
var Services = []string{"productpage", "details", "reviews", "ratings"}

// FromEnv reads the environment names of the original application:
// DETAILS_HOSTNAME, DETAILS_SERVICE_PORT (and the same for REVIEWS, RATINGS),
// SERVICES_DOMAIN, SERVICE_VERSION, HOSTNAME and CLUSTER_NAME. Calls go through
// HTTP_PROXY when that is set.
func FromEnv(getenv func(string) string) Config {
	base := func(service string) string {
		up := strings.ToUpper(service)
		host := or(getenv(up+"_HOSTNAME"), service)
		if d := getenv("SERVICES_DOMAIN"); d != "" {
			host += "." + d
		}
		return "http://" + net.JoinHostPort(host, or(getenv(up+"_SERVICE_PORT"), "9080"))
	}
	pod := getenv("HOSTNAME")
	if pod == "" {
		pod, _ = os.Hostname()
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: 100,
		IdleConnTimeout:     time.Minute,
	}
	return Config{
		Version: or(getenv("SERVICE_VERSION"), "v1"),
		Pod:     pod,
		Cluster: getenv("CLUSTER_NAME"),
		Details: base("details"), Reviews: base("reviews"), Ratings: base("ratings"),
		Client: &http.Client{Transport: transport},
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Handler returns the named service, one of Services.
func Handler(service string, c Config) (http.Handler, error) {
	c.Client = or(c.Client, http.DefaultClient)
	switch service {
	case "productpage":
		return newProductpage(c)
	case "details":
		return newDetails(c.Version)
	case "reviews":
		return newReviews(c)
	case "ratings":
		return newRatings(c.Version)
	}
	return nil, fmt.Errorf("unknown service %q: have %s", service, strings.Join(Services, ", "))
}

// Serve answers on l until ctx ends, then lets requests in flight finish for
// up to 5 s. Idle connections are kept longer than the hour after which a
// sidecar closes its own, so that the sidecar never reuses a connection that
// is being closed on this side.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Hour,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-done
	return err
}

// forwarded lists the headers an application must copy from the request it
// got to the requests it makes: what joins the spans of a trace, and what
// routing by user or by client needs.
var forwarded = []string{
	"X-Request-Id", "X-Ot-Span-Context",
	"Traceparent", "Tracestate", "Baggage",
	"B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags",
	"X-Cloud-Trace-Context", "Grpc-Trace-Bin", "Sw8",
	"X-Datadog-Trace-Id", "X-Datadog-Parent-Id", "X-Datadog-Sampling-Priority",
	"End-User", "User-Agent", "Cookie", "Authorization", "Jwt",
}

func forward(from http.Header) http.Header {
	out := make(http.Header, 8)
	for _, name := range forwarded {
		if v := from[name]; len(v) > 0 {
			out[name] = v
		}
	}
	return out
}

// call gets one JSON document from a neighbour. Any status but 200 is an
// error; the status is returned with it when there is one.
func call(ctx context.Context, c *http.Client, timeout time.Duration, u string, h http.Header, into any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return 0, err
	}
	req.Header = h
	res, err := c.Do(req)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return 0, fmt.Errorf("get %s: %w", u, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", u, err)
	}
	if res.StatusCode != http.StatusOK {
		return res.StatusCode, fmt.Errorf("get %s: status %d", u, res.StatusCode)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return 0, fmt.Errorf("get %s: %w", u, err)
	}
	return res.StatusCode, nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		slog.Error("cannot encode an answer", "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client's loss
}

type failure struct {
	Error string `json:"error"`
}

func healthy(service string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": service + " is healthy"})
	}
}

// productID reads {id}; when it is no number it answers 400 itself.
func productID(w http.ResponseWriter, r *http.Request) (id int, ok bool) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || id < 0 {
		writeJSON(w, http.StatusBadRequest, failure{"please provide numeric product id"})
		return 0, false
	}
	return id, true
}
