// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// maxAnswer bounds what a client reads of one answer.
const maxAnswer = 256 << 20

// Client speaks to one control plane.
type Client struct {
	where string // for errors: a socket, a pod
	http  *http.Client
}

// NewClient returns a client for the socket; it connects on use.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return newClient(socket, dial)
}

// NewClientOver returns a client for the control plane that dial reaches, such
// as a pod by port-forward. Errors name it by where.
func NewClientOver(where string, dial func(context.Context) (net.Conn, error)) *Client {
	return newClient(where, func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) })
}

func newClient(where string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	return &Client{where: where, http: &http.Client{Transport: &http.Transport{
		DialContext: dial, Proxy: nil, MaxIdleConns: 2, DisableCompression: true,
	}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version asks what is running.
func (c *Client) Version(ctx context.Context) (*Version, error) {
	return call[Version](ctx, c, http.MethodGet, PathVersion, nil)
}

// List returns the objects of a kind; namespace and name may be empty.
func (c *Client) List(ctx context.Context, kind, namespace, name string) (*ObjectList, error) {
	return call[ObjectList](ctx, c, http.MethodGet, objectsPath(kind, namespace, name), nil)
}

// Apply stores one object.
func (c *Client) Apply(ctx context.Context, manifest json.RawMessage) (*ApplyResponse, error) {
	return call[ApplyResponse](ctx, c, http.MethodPut, PathObjects, ApplyRequest{Manifest: manifest})
}

// Delete removes one object. It fails with code "not_found" if there is none.
func (c *Client) Delete(ctx context.Context, kind, namespace, name string) (*ApplyResponse, error) {
	return call[ApplyResponse](ctx, c, http.MethodDelete, objectsPath(kind, namespace, name), nil)
}

// Wait returns when every affected proxy runs the epoch, or at the timeout.
func (c *Client) Wait(ctx context.Context, req WaitRequest) (*WaitResponse, error) {
	return call[WaitResponse](ctx, c, http.MethodPost, PathWait, req)
}

// Proxies lists the connected proxies.
func (c *Client) Proxies(ctx context.Context) (*ProxyList, error) {
	return call[ProxyList](ctx, c, http.MethodGet, PathProxies, nil)
}

// Findings lists what a user should look at.
func (c *Client) Findings(ctx context.Context) (*FindingList, error) {
	return call[FindingList](ctx, c, http.MethodGet, PathFindings, nil)
}

// Token makes a workload token.
func (c *Client) Token(ctx context.Context, req TokenRequest) (*TokenResponse, error) {
	return call[TokenResponse](ctx, c, http.MethodPost, PathToken, req)
}

func objectsPath(kind, namespace, name string) string {
	q := url.Values{"kind": {kind}}
	if namespace != "" {
		q.Set("namespace", namespace)
	}
	if name != "" {
		q.Set("name", name)
	}
	return PathObjects + "?" + q.Encode()
}

func call[T any](ctx context.Context, c *Client, method, path string, in any) (*T, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("control plane at %s: %w", c.where, err)
	}
	defer resp.Body.Close()
	answer := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 400 {
		e := &Error{}
		if err := answer.Decode(e); err != nil || e.Message == "" {
			return nil, fmt.Errorf("control plane at %s: %s", c.where, resp.Status)
		}
		return nil, e
	}
	out := new(T)
	if err := answer.Decode(out); err != nil {
		return nil, fmt.Errorf("control plane at %s: answer to %s %s: %w", c.where, method, path, err)
	}
	return out, nil
}
