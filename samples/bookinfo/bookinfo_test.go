// SPDX-License-Identifier: Apache-2.0

package bookinfo

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func start(t *testing.T, service string, c Config) string {
	t.Helper()
	h, err := Handler(service, c)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// app starts all four services with reviews at the given version.
func app(t *testing.T, reviewsVersion string) string {
	t.Helper()
	c := Config{Pod: "reviews-" + reviewsVersion + "-test", Version: "v1"}
	c.Ratings = start(t, "ratings", c)
	c.Details = start(t, "details", c)
	r := c
	r.Version = reviewsVersion
	c.Reviews = start(t, "reviews", r)
	return start(t, "productpage", c)
}

func get(t *testing.T, c *http.Client, u string, h ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(h); i += 2 {
		req.Header.Set(h[i], h[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

func wantJSON(t *testing.T, u string, status int, want string) {
	t.Helper()
	code, h, body := get(t, http.DefaultClient, u)
	if code != status || h.Get("Content-Type") != "application/json" {
		t.Errorf("GET %s: status %d %s, want %d application/json", u, code, h.Get("Content-Type"), status)
	}
	var g, w any
	if err := json.Unmarshal([]byte(body), &g); err != nil {
		t.Fatalf("GET %s: %v in %q", u, err, body)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("GET %s (-want +got):\n%s", u, diff)
	}
}

func TestDetails(t *testing.T) {
	u := start(t, "details", Config{})
	wantJSON(t, u+"/health", 200, `{"status":"Details is healthy"}`)
	wantJSON(t, u+"/details/7", 200, `{"id":7,"author":"William Shakespeare","year":1595,"type":"paperback","pages":200,
		"publisher":"PublisherA","language":"English","ISBN-10":"1234567890","ISBN-13":"123-1234567890"}`)
	wantJSON(t, start(t, "details", Config{Version: "v2"})+"/details/7", 200, `{"id":7,"author":"William Shakespeare","year":2005,"type":"hardcover","pages":224,
		"publisher":"PublisherB","language":"English","ISBN-10":"0987654321","ISBN-13":"123-0987654321"}`)
	wantJSON(t, u+"/details/x", 400, `{"error":"please provide numeric product id"}`)
}

func TestRatings(t *testing.T) {
	u := start(t, "ratings", Config{Version: "v1"})
	wantJSON(t, u+"/health", 200, `{"status":"Ratings is healthy"}`)
	wantJSON(t, u+"/ratings/0", 200, `{"id":0,"ratings":{"Reviewer1":5,"Reviewer2":4}}`)
	wantJSON(t, u+"/ratings/x", 400, `{"error":"please provide numeric product id"}`)

	post := func(body string) int {
		res, err := http.Post(u+"/ratings/3", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	for body, want := range map[string]int{`{"Reviewer1":2}`: 200, `null`: 400, `[1]`: 400, `{"a":"b"}`: 400, "": 400} {
		if got := post(body); got != want {
			t.Errorf("POST %q: status %d, want %d", body, got, want)
		}
	}
	wantJSON(t, u+"/ratings/3", 200, `{"id":3,"ratings":{"Reviewer1":2}}`)
	wantJSON(t, u+"/ratings/4", 200, `{"id":4,"ratings":{"Reviewer1":5,"Reviewer2":4}}`)

	u = start(t, "ratings", Config{Version: "v-unavailable"})
	wantJSON(t, u+"/ratings/0", 503, `{"error":"Service unavailable"}`)
}

func TestReviews(t *testing.T) {
	stars := start(t, "ratings", Config{Version: "v1"})
	for version, color := range map[string]string{"v1": "", "v2": "black", "v3": "red"} {
		u := start(t, "reviews", Config{Version: version, Ratings: stars, Pod: "reviews-" + version + "-abc"})
		wantJSON(t, u+"/health", 200, `{"status":"Reviews is healthy"}`)
		wantJSON(t, u+"/reviews/x", 400, `{"error":"please provide numeric product id"}`)
		_, _, body := get(t, http.DefaultClient, u+"/reviews/0")
		var got reviews
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		if got.ID != "0" || got.Pod != "reviews-"+version+"-abc" || got.Cluster != "null" || len(got.Reviews) != 2 {
			t.Errorf("%s: %+v", version, got)
		}
		var want *rating
		if color != "" {
			want = &rating{Stars: 5, Color: color}
		}
		if diff := cmp.Diff(want, got.Reviews[0].Rating); diff != "" {
			t.Errorf("%s (-want +got):\n%s", version, diff)
		}
	}
	down := start(t, "ratings", Config{Version: "v-unavailable"})
	u := start(t, "reviews", Config{Version: "v3", Ratings: down})
	if _, _, body := get(t, http.DefaultClient, u+"/reviews/0"); !strings.Contains(body, `"rating":{"error":"Ratings service is currently unavailable"}`) {
		t.Errorf("no word of the missing ratings: %s", body)
	}
}

func TestAPI(t *testing.T) {
	u := app(t, "v3")
	_, _, body := get(t, http.DefaultClient, u+"/api/v1/products")
	var list []map[string]any
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != 1 || list[0]["title"] != "The Comedy of Errors" || list[0]["id"] != 0.0 {
		t.Errorf("products: %v %s", err, body)
	}
	wantJSON(t, u+"/api/v1/products/0/ratings", 200, `{"id":0,"ratings":{"Reviewer1":5,"Reviewer2":4}}`)
	wantJSON(t, u+"/api/v1/products/0x/ratings", 400, `{"error":"please provide numeric product id"}`)
	for path, want := range map[string]string{
		"":         `"ISBN-10":"1234567890"`,
		"/reviews": `"podname":"reviews-v3-test"`,
	} {
		if code, _, body := get(t, http.DefaultClient, u+"/api/v1/products/0"+path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func TestPage(t *testing.T) {
	for version, want := range map[string]string{
		"v1": `Reviews served by: <code>reviews-v1-test</code>`,
		"v2": `<p class="stars black" role="img" aria-label="5 of 5 stars">★★★★★</p>`,
		"v3": `<p class="stars red" role="img" aria-label="4 of 5 stars">★★★★<span>☆</span></p>`,
	} {
		code, h, body := get(t, http.DefaultClient, app(t, version)+"/productpage")
		if code != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %v", version, code, h)
		}
		for _, w := range []string{want, "<title>Simple Bookstore App</title>", "1234567890", "Two pairs of twins"} {
			if !strings.Contains(body, w) {
				t.Errorf("%s: page lacks %q", version, w)
			}
		}
		if got := strings.Contains(body, "stars "); got != (version != "v1") {
			t.Errorf("%s: stars shown: %v", version, got)
		}
	}
}

func TestPageFiles(t *testing.T) {
	u := app(t, "v1")
	for path, want := range map[string]string{
		"/static/style.css": "text/css",
		"/static/sail.svg":  "image/svg+xml",
		"/health":           "text/plain",
		"/":                 "text/html",
		"/index.html":       "text/html",
	} {
		if code, h, _ := get(t, http.DefaultClient, u+path); code != 200 || !strings.HasPrefix(h.Get("Content-Type"), want) {
			t.Errorf("%s: %d %s", path, code, h.Get("Content-Type"))
		}
	}
	if code, _, _ := get(t, http.DefaultClient, u+"/nothing"); code != 404 {
		t.Errorf("/nothing: %d", code)
	}
}

// TestUnavailable cuts one neighbour at a time.
func TestUnavailable(t *testing.T) {
	var calls atomic.Int32
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(555)
	}))
	t.Cleanup(broken.Close)
	u := start(t, "productpage", Config{Details: broken.URL, Reviews: broken.URL, Ratings: broken.URL})
	code, _, body := get(t, http.DefaultClient, u+"/productpage")
	if code != 200 || calls.Load() != 3 {
		t.Errorf("status %d after %d calls, want 200 after 3 (details once, reviews twice)", code, calls.Load())
	}
	for _, w := range []string{detailsUnavailable, reviewsUnavailable, "Error fetching product reviews!"} {
		if !strings.Contains(body, w) {
			t.Errorf("page lacks %q", w)
		}
	}
	wantJSON(t, u+"/api/v1/products/0", 555, `{"error":"`+detailsUnavailable+`"}`)
	wantJSON(t, u+"/api/v1/products/0/reviews", 555, `{"error":"`+reviewsUnavailable+`"}`)
	wantJSON(t, u+"/api/v1/products/0/ratings", 555, `{"error":"`+productRatingsGone+`"}`)
	const metrics = "# HELP request_result_total Results of requests\n# TYPE request_result_total counter\n" +
		"request_result_total{destination_app=\"details\",response_code=\"555\"} 2\n" +
		"request_result_total{destination_app=\"ratings\",response_code=\"555\"} 1\n" +
		"request_result_total{destination_app=\"reviews\",response_code=\"555\"} 4\n"
	if code, h, body := get(t, http.DefaultClient, u+"/metrics"); code != 200 || body != metrics || !strings.HasPrefix(h.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("metrics: %d %s\n%s", code, h.Get("Content-Type"), body)
	}
}

// TestSlow holds both tries of reviews until the test ends.
func TestSlow(t *testing.T) {
	release := make(chan struct{})
	var calls atomic.Int32
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		<-release
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(release) })
	c := Config{Reviews: slow.URL, ReviewsTimeout: 20 * time.Millisecond}
	c.Details = start(t, "details", c)
	_, _, body := get(t, http.DefaultClient, start(t, "productpage", c)+"/productpage")
	if !strings.Contains(body, reviewsUnavailable) || calls.Load() != 2 {
		t.Errorf("after %d calls the page lacks the sentence", calls.Load())
	}
}

func TestForwardedHeaders(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]http.Header{}
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[strings.Split(r.URL.Path, "/")[1]] = r.Header.Clone()
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(spy.Close)
	rv := start(t, "reviews", Config{Version: "v2", Ratings: spy.URL})
	u := start(t, "productpage", Config{Details: spy.URL, Reviews: rv})
	sent := []string{"X-Request-Id", "r1", "X-B3-Traceid", "t1", "X-B3-Sampled", "1", "Traceparent", "00-x", "X-Ot-Span-Context", "o", "User-Agent", "ua", "End-User", "kim"}
	get(t, http.DefaultClient, u+"/productpage", append(sent, "X-Private", "no")...)
	for _, service := range []string{"details", "ratings"} {
		for i := 0; i < len(sent); i += 2 {
			if got := seen[service].Get(sent[i]); got != sent[i+1] {
				t.Errorf("%s got %s=%q, want %q", service, sent[i], got, sent[i+1])
			}
		}
		if seen[service].Get("X-Private") != "" {
			t.Errorf("%s got a header that is not to be forwarded", service)
		}
	}
}

func TestLogin(t *testing.T) {
	var user atomic.Value
	spy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user.Store(r.Header.Get("End-User"))
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(spy.Close)
	u := start(t, "productpage", Config{Details: spy.URL, Reviews: spy.URL})
	jar, _ := cookiejar.New(nil)
	c := &http.Client{Jar: jar}
	res, err := c.PostForm(u+"/login", url.Values{"username": {"jason"}, "passwd": {""}})
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.Request.URL.Path != "/productpage" || user.Load() != "jason" || !strings.Contains(string(body), "Signed in as <b>jason</b>") {
		t.Errorf("after login: at %s, end-user %q", res.Request.URL, user.Load())
	}
	get(t, c, u+"/productpage", "End-User", "kim")
	if user.Load() != "jason" {
		t.Errorf("end-user %q, want the session's jason over the client's header", user.Load())
	}
	get(t, c, u+"/logout")
	if user.Load() != "" {
		t.Errorf("after logout: end-user %q", user.Load())
	}
	get(t, http.DefaultClient, u+"/productpage", "Cookie", "session=amFzb24.AAAA")
	if user.Load() != "" {
		t.Errorf("a hand-made cookie signed in %q", user.Load())
	}
	for _, bad := range []string{"", "a\r\nb: c", strings.Repeat("x", 65), "ü"} {
		res, err := http.PostForm(u+"/login", url.Values{"username": {bad}})
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 400 {
			t.Errorf("login %q: status %d, want 400", bad, res.StatusCode)
		}
	}
}

func TestFromEnv(t *testing.T) {
	env := map[string]string{"DETAILS_HOSTNAME": "d", "REVIEWS_SERVICE_PORT": "81", "SERVICES_DOMAIN": "shop.svc", "SERVICE_VERSION": "v2", "HOSTNAME": "pod-1"}
	c := FromEnv(func(k string) string { return env[k] })
	got := []string{c.Details, c.Reviews, c.Ratings, c.Version, c.Pod}
	want := []string{"http://d.shop.svc:9080", "http://reviews.shop.svc:81", "http://ratings.shop.svc:9080", "v2", "pod-1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c = FromEnv(func(string) string { return "" }); c.Reviews != "http://reviews:9080" || c.Version != "v1" {
		t.Errorf("defaults: %+v", c)
	}
}

func TestHandlerRefuses(t *testing.T) {
	for _, c := range []struct{ service, version string }{{"nobody", "v1"}, {"reviews", "v9"}, {"ratings", "v9"}} {
		if _, err := Handler(c.service, Config{Version: c.version}); err == nil {
			t.Errorf("%v: no error", c)
		}
	}
}

func TestServeFinishesRequests(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = w.Write([]byte("done"))
	})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, h) }()
	answer := make(chan string, 1)
	go func() {
		_, _, body := get(t, http.DefaultClient, "http://"+l.Addr().String())
		answer <- body
	}()
	<-entered
	cancel()
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("answer %q", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
