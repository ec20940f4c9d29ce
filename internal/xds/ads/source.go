// SPDX-License-Identifier: Apache-2.0

// Package ads is the aggregated discovery service: it brings every connected
// proxy from what it has to the current view of its class, in delta and in
// state-of-the-world xDS, and knows how far each one is.
//
// What a connection costs is small: a pointer to the set last sent, an interned
// list of subscribed names, one response on its way for each type. There is no
// queue: a proxy that is behind gets the newest view once it has answered.
package ads

import (
	"context"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/lateen-mesh/lateen/internal/xds"
)

// Client is what is known of a proxy when it connects.
type Client struct {
	Node *corev3.Node
	// Identity is the SPIFFE id verified on the connection, empty on plaintext.
	Identity string
	// Delta says that the client speaks delta xDS: only then can it follow
	// virtual hosts as resources of their own.
	Delta bool
	// Addr is the address the client connects from, for messages.
	Addr string
}

// Source tells what each proxy is to be sent.
type Source interface {
	// Connect classifies a proxy and returns the views of its class. It may wait
	// until the first view is complete; ctx ends with the stream. An error with a
	// gRPC status is returned to the proxy as it is, any other as InvalidArgument.
	Connect(ctx context.Context, c *Client) (Subscription, error)
}

// Subscription is one proxy's hold on the views of its class.
type Subscription interface {
	// Class names the class, for status.
	Class() string
	// View returns the current view, never nil, and a channel that is closed when
	// there is a newer one. The epoch of a view is that of the last change to it.
	View() (*xds.View, <-chan struct{})
	// Close is called once, when the stream has ended.
	Close()
}

// Feed holds the current view of one class; a Subscription can be made of it.
// Publishing to any number of subscribers is one store and one close.
type Feed struct {
	state atomic.Pointer[feedState]
}

type feedState struct {
	view    *xds.View
	changed chan struct{}
}

// NewFeed returns a feed with a first view.
func NewFeed(v *xds.View) *Feed {
	f := &Feed{}
	f.state.Store(&feedState{v, make(chan struct{})})
	return f
}

// Publish replaces the view. It must not be called concurrently with itself.
func (f *Feed) Publish(v *xds.View) {
	old := f.state.Swap(&feedState{v, make(chan struct{})})
	close(old.changed)
}

// View is as in Subscription.
func (f *Feed) View() (*xds.View, <-chan struct{}) {
	s := f.state.Load()
	return s.view, s.changed
}
