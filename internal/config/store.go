// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"errors"
)

var (
	// ErrNotFound is wrapped by the errors of Get and Delete for a key that is not stored.
	ErrNotFound = errors.New("not found")
	// ErrConflict is wrapped by the errors of Apply and Delete when the object
	// was changed since the given resource version was read.
	ErrConflict = errors.New("the object has been changed; read it again and apply the change to the latest version")
	// ErrInvalid is wrapped by the error of Apply for an object that does not
	// validate; the error also wraps each *Problem.
	ErrInvalid = errors.New("invalid object")
)

// Store holds the objects. Implementations are safe for concurrent use and
// pass storetest.Run.
type Store interface {
	// Get returns the object, or an error wrapping ErrNotFound.
	Get(ctx context.Context, key Key) (*Object, error)
	// List returns the objects of a kind (nil: all kinds) in a namespace
	// (empty: all), sorted by key.
	List(ctx context.Context, kind *Kind, namespace string) ([]*Object, error)
	// Watch returns the changes until ctx is done, when the channel is closed.
	// The first batch has Initial set and holds everything stored, possibly
	// nothing. A receiver that is slow gets fewer, larger batches: nothing is
	// lost and nothing grows beyond the number of objects.
	Watch(ctx context.Context) <-chan Batch
	// Apply creates or replaces the object and returns what happened. A
	// non-empty ResourceVersion must be the stored one. On return a Get sees
	// the change; watchers see it soon after.
	Apply(ctx context.Context, obj *Object) (Applied, error)
	// Delete removes the object. A non-empty resourceVersion must be the stored one.
	Delete(ctx context.Context, key Key, resourceVersion string) error
}

// Batch is one consistent set of changes: applying all of it goes from one
// state that the user wrote to another. A key occurs once in a batch.
type Batch struct {
	Initial bool
	Events  []Event // sorted by key
}

// Event is one change of one object.
type Event struct {
	Key Key
	// Object is the new value, or nil if the object was deleted.
	Object *Object
}

// Outcome is what Apply did, in kubectl's words.
type Outcome string

const (
	Created    Outcome = "created"
	Configured Outcome = "configured"
	Unchanged  Outcome = "unchanged"
)

// Applied is the result of Apply.
type Applied struct {
	Outcome Outcome
	Object  *Object    // as stored
	Notes   []*Problem // warnings about the object
}
