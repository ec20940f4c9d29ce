// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// WaitOptions are those of Wait; the defaults are pilot-agent's.
type WaitOptions struct {
	URL            string        // default http://localhost:15021/healthz/ready
	Timeout        time.Duration // default 60 s
	RequestTimeout time.Duration // default 500 ms
	Period         time.Duration // default 500 ms
}

// Wait asks until the answer is 200, for the postStart hook that holds the
// application back until its proxy serves.
func Wait(ctx context.Context, o WaitOptions) error {
	if o.URL == "" {
		o.URL = "http://localhost:" + strconv.Itoa(healthPort) + "/healthz/ready"
	}
	orDefault(&o.Timeout, time.Minute)
	orDefault(&o.RequestTimeout, 500*time.Millisecond)
	orDefault(&o.Period, 500*time.Millisecond)
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	client := &http.Client{Timeout: o.RequestTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(o.Period)
	defer tick.Stop()
	for why := errors.New("it was not asked"); ; {
		err := askReady(ctx, client, o.URL)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			why = err // not that the time was over while it was asked
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lateen-proxy is not ready after %v: %w", o.Timeout, why)
		case <-tick.C:
		}
	}
}

func orDefault(d *time.Duration, to time.Duration) {
	if *d <= 0 {
		*d = to
	}
}

func askReady(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("status %d: %s", resp.StatusCode, strings.TrimSpace(string(why)))
	}
	return nil
}

const requestTimeout = time.Minute

// Request sends one request to a port of this pod's proxy and copies the body of
// its answer to w. A status that is not 200 is an error that holds the body.
func Request(ctx context.Context, w io.Writer, port uint16, method, path, body string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	url := "http://" + net.JoinHostPort("localhost", strconv.Itoa(int(port))) + "/" + strings.TrimPrefix(path, "/")
	req, err := http.NewRequestWithContext(ctx, strings.ToUpper(method), url, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		_, err = io.Copy(w, resp.Body)
		return err
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return errors.New("received unsuccessful status code " + strconv.Itoa(resp.StatusCode) + ": " + strings.TrimSpace(string(b)))
}
