// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lateen-mesh/lateen/internal/xds"
)

// The order of pushing, make before break: what is referred to comes before what
// refers to it, and is removed after it.
var pushOrder = []string{xds.ClusterType, xds.EndpointType, xds.SecretType, xds.ListenerType, xds.RouteType, xds.VirtualHostType, xds.NameTableType}

const maxTypes = 16 // that a stream may ask for, unknown ones included

func rank(url string) int {
	if i := slices.Index(pushOrder, url); i >= 0 {
		return i
	}
	return len(pushOrder)
}

// lasting says that removals of this type wait until nothing refers to it.
func lasting(url string) bool { return url == xds.ClusterType || url == xds.EndpointType }

// referring says that the type waits for the ones it refers to.
func referring(url string) bool {
	return url == xds.ListenerType || url == xds.RouteType || url == xds.VirtualHostType
}

// whole says that all resources of the type are subscribed to by default, and
// that a state-of-the-world response holds all of them.
func whole(url string) bool {
	return url == xds.ClusterType || url == xds.ListenerType || url == xds.NameTableType
}

// typeState is one type of resources on one stream. What the proxy has is sent,
// restricted to what it subscribes to, without what is fresh.
type typeState struct {
	url      string
	wildcard bool
	names    *nameSet
	sent     xds.Set
	fresh    []string // asked for, not answered yet
	groups   []string // `<route configuration>/*` asked for, not answered yet
	owes     bool     // an answer, even an empty one

	nonce    uint64   // of the last response; 0: none yet
	inflight bool     // it is not answered yet
	first    bool     // it carries what was fresh
	epoch    uint64   // of the view it is from
	carried  *push    // it, until it is answered
	refused  []string // resources the proxy has not accepted as they were last sent

	version, acked   string
	ackedNonce       uint64
	sentAt, answered time.Time
	nack             *Nack
}

func (st *typeState) covers(name string) bool { return st.wildcard || st.names.covers(name) }

// request is a discovery request of either protocol.
type request struct {
	url     string
	nonce   string
	refused bool
	message string // of the refusal
	// Delta: changes to the subscription, and what the proxy already has.
	add, remove []string
	initial     map[string]string
	// State of the world: the subscription.
	names []string
}

// push is one response to send.
type push struct {
	st    *typeState
	put   xds.Set
	gone  []string
	nonce string
	state xds.Set // what the proxy has afterwards
	fresh bool    // it answers what was fresh
	part  bool    // and nothing else: groups and what is owed still wait
}

// client is the state of one stream. Its methods do no I/O.
type client struct {
	Client
	id        string
	proxy     string
	connected time.Time
	sub       Subscription
	server    *Server

	mu       sync.Mutex // guards what follows: written by the stream, read by status
	types    []*typeState
	view     *xds.View // being pushed
	latest   *xds.View // to push; ahead of view while pushes are paced
	eds      xds.Set   // endpoints to push: those of latest, and what only view still refers to
	changed  <-chan struct{}
	noticed  time.Time // when latest came while all before was answered
	synced   uint64    // epoch of the newest view answered in full
	idle     bool      // all of latest has been answered
	expect   []string  // new clusters whose endpoints the proxy has yet to ask for
	expectBy time.Time // when to stop waiting for that; zero until the clusters are acknowledged
	nonce    uint64
}

// refresh takes the current view of the class.
func (c *client) refresh(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, changed := c.sub.View()
	c.changed = changed
	if v == c.latest {
		return
	}
	if c.idle || c.latest == nil {
		c.noticed = now
	}
	c.latest, c.idle = v, false
	if c.view == nil {
		c.view = v
	}
	c.eds = keep(c.view.Sets[xds.EndpointType], v.Sets[xds.EndpointType])
}

func (c *client) state(url string) *typeState {
	for _, st := range c.types {
		if st.url == url {
			return st
		}
	}
	return nil
}

// add begins the state of a type, at its place in the push order.
func (c *client) add(url string) (*typeState, error) {
	if len(c.types) >= maxTypes {
		return nil, fmt.Errorf("more than %d resource types on one stream", maxTypes)
	}
	st := &typeState{url: url}
	c.types = append(c.types, st)
	slices.SortStableFunc(c.types, func(a, b *typeState) int { return rank(a.url) - rank(b.url) })
	return st, nil
}

// handle takes in a request. An error ends the stream.
func (c *client) handle(r *request, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = false
	if r.url == "" {
		return errors.New("a request names no type")
	}
	st := c.state(r.url)
	begins := st == nil
	if begins {
		var err error
		if st, err = c.add(r.url); err != nil {
			return err
		}
	}
	answers := st.inflight && r.nonce == nonceText(st.nonce)
	if answers {
		c.answer(st, r, now)
	}
	if c.Delta {
		c.subscribeDelta(st, r, begins)
	} else if begins || r.nonce == "" || r.nonce == nonceText(st.nonce) {
		// Otherwise a response has crossed it; the proxy answers that one too, with
		// its subscription as it then is.
		c.subscribeWorld(st, r, begins)
	}
	if n := len(st.names.all()); n > c.server.opts.MaxNames {
		return fmt.Errorf("%d names of %s on one stream, more than %d", n, st.url, c.server.opts.MaxNames)
	}
	return nil
}

func (c *client) answer(st *typeState, r *request, now time.Time) {
	p := st.carried
	st.inflight, st.carried, st.answered = false, nil, now
	if st.url == xds.ClusterType && len(c.expect) > 0 {
		c.expectBy = now.Add(c.server.opts.EndpointGrace)
	}
	if !r.refused {
		st.acked, st.ackedNonce = st.version, st.nonce
		st.accepted(p, c.Delta)
		return
	}
	names := p.named(r.message)
	st.accepted(p, c.Delta) // what it says of these now counts
	st.refused = append(st.refused, names...)
	st.nack = &Nack{Message: r.message, Resources: st.refused[:min(maxListed, len(st.refused))], Time: now, Epoch: st.epoch}
	c.server.metrics.rejected(st.url)
	c.server.opts.Log.Warn("proxy refused configuration",
		"proxy", c.proxy, "type", st.url, "resources", st.nack.Resources, "error", r.message)
}

const maxListed = 16 // names of refused resources in status

// accepted forgets earlier refusals of what the response brought or removed. In
// delta the others stand: the proxy still does not have them.
func (st *typeState) accepted(p *push, delta bool) {
	if st.nack == nil {
		return
	}
	if delta {
		st.refused = slices.DeleteFunc(slices.Clone(st.refused), func(n string) bool {
			return p.put.Get(n) != nil || slices.Contains(p.gone, n)
		})
	} else {
		st.refused = nil
	}
	if len(st.refused) == 0 {
		st.nack = nil
		return
	}
	still := *st.nack
	still.Resources = st.refused[:min(maxListed, len(st.refused))]
	st.nack = &still
}

// named returns the resources of a response that a refusal names, or all when it
// names none.
func (p *push) named(message string) []string {
	var all, named []string
	for _, r := range p.put {
		all = append(all, r.Name)
		if mentions(message, r.Name) {
			named = append(named, r.Name)
		}
	}
	if len(named) > 0 {
		return named
	}
	return all
}

// mentions says whether a text contains a name that is not part of a longer one.
func mentions(text, name string) bool {
	partOfName := func(b byte) bool {
		return b == '_' || b == '-' || b == '|' || b == '/' || '0' <= b && b <= '9' || 'a' <= b|0x20 && b|0x20 <= 'z'
	}
	for at := 0; ; {
		i := strings.Index(text[at:], name)
		if i < 0 {
			return false
		}
		i += at
		end := i + len(name)
		if (i == 0 || !partOfName(text[i-1])) && (end == len(text) || !partOfName(text[end])) {
			return true
		}
		at = i + 1
	}
}

func (c *client) subscribeDelta(st *typeState, r *request, begins bool) {
	if begins && whole(st.url) && len(r.add) == 0 {
		st.wildcard, st.owes = true, true
	}
	add, remove := r.add, r.remove
	if i := slices.Index(add, "*"); i >= 0 {
		add = slices.Delete(slices.Clone(add), i, i+1)
		if !st.wildcard {
			st.restrict()
			st.wildcard = true
		}
		st.owes = true
	}
	if i := slices.Index(remove, "*"); i >= 0 {
		remove = slices.Delete(slices.Clone(remove), i, i+1)
		st.wildcard = false
	}
	c.subscribe(st, add, remove)
	if begins && len(r.initial) > 0 {
		st.sent = recall(r.initial, c.target(st))
		st.fresh = slices.DeleteFunc(st.fresh, func(n string) bool { _, has := r.initial[n]; return has })
	}
}

func (c *client) subscribeWorld(st *typeState, r *request, begins bool) {
	names := slices.Clone(r.names)
	slices.Sort(names)
	names = slices.Compact(names)
	all := slices.Contains(names, "*")
	switch {
	case begins && whole(st.url) && len(names) == 0, all && !st.wildcard:
		st.restrict()
		st.wildcard, st.owes = true, true
	case !all && len(names) > 0:
		st.wildcard = false
	}
	if all {
		names = slices.DeleteFunc(names, func(n string) bool { return n == "*" })
	}
	var gone []string
	for _, n := range st.names.all() {
		if _, ok := slices.BinarySearch(names, n); !ok {
			gone = append(gone, n)
		}
	}
	c.subscribe(st, names, gone)
}

// restrict makes sent what the proxy has, before its subscription grows by
// something else than names.
func (st *typeState) restrict() {
	st.sent = slices.DeleteFunc(slices.Clone(st.sent), func(r *xds.Resource) bool { return !st.covers(r.Name) })
}

// subscribe changes the explicit names. Those that are new are answered even
// when they do not exist, and even when the proxy was sent them before.
func (c *client) subscribe(st *typeState, add, remove []string) {
	if len(add) == 0 && len(remove) == 0 {
		return
	}
	now, fresh := edit(st.names.all(), add, remove)
	for _, n := range fresh {
		if isGroup(n) {
			st.restrict()
			st.owes = true
			break
		}
	}
	old := st.names
	st.names = c.server.names.intern(now)
	c.server.names.release(old)
	for _, n := range fresh {
		if isGroup(n) {
			st.groups = append(st.groups, n)
		} else {
			st.fresh = append(st.fresh, n)
		}
	}
	gone := func(n string) bool { return !st.names.has(n) }
	st.fresh = slices.DeleteFunc(st.fresh, gone)
	st.groups = slices.DeleteFunc(st.groups, gone)
}

// recall returns the set a reconnecting proxy has: of the resources that did not
// change the very ones of now, so that they are not sent again.
func recall(initial map[string]string, now xds.Set) xds.Set {
	out := make(xds.Set, 0, len(initial))
	for name, version := range initial {
		r := now.Get(name)
		if r == nil || r.Version != version {
			r = &xds.Resource{Name: name, Version: version}
		}
		out = append(out, r)
	}
	slices.SortFunc(out, byName)
	return out
}

// target is the set to bring the proxy to. Endpoints are never held back by the
// pacing of the rest, and secrets only go to a proxy that has proved who it is.
func (c *client) target(st *typeState) xds.Set {
	switch {
	case st.url == xds.SecretType && c.Identity == "":
		return nil
	case st.url == xds.EndpointType:
		return c.eds
	}
	return c.view.Sets[st.url]
}

// next returns the next response to send, or nil and when to ask again without
// any event; zero is never.
func (c *client) next(now time.Time) (*push, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wake := c.adopt(now)
	waits, by := c.awaitsEndpoints(now)
	wake = earlier(wake, by)
	busy, gate := false, waits
	for _, st := range c.types {
		switch {
		case st.inflight:
			busy = true
			gate = gate || st.url == xds.ClusterType || referring(st.url) ||
				st.url == xds.EndpointType && (st.first || len(st.fresh) > 0)
		case gate && referring(st.url):
			if p := c.answerFresh(st); p != nil {
				return c.start(p, now), wake
			}
			busy = true
		default:
			if p := c.plan(st, !lasting(st.url)); p != nil {
				return c.start(p, now), wake
			}
		}
	}
	if busy || gate || c.view != c.latest {
		return nil, wake
	}
	for _, url := range []string{xds.ClusterType, xds.EndpointType} {
		if st := c.state(url); st != nil {
			if p := c.plan(st, true); p != nil {
				return c.start(p, now), wake
			}
		}
	}
	c.settle(now)
	return nil, wake
}

// settle notes that everything there is has been sent and answered.
func (c *client) settle(now time.Time) {
	if c.idle || len(c.types) == 0 {
		return
	}
	c.idle = true
	if c.latest.Epoch > c.synced || c.synced == 0 {
		c.server.metrics.converged(now.Sub(c.noticed))
	}
	c.synced = max(c.synced, c.latest.Epoch)
	c.server.progressed()
}

// adopt moves to the latest view, unless pacing says to wait.
func (c *client) adopt(now time.Time) time.Time {
	if c.view == c.latest {
		return time.Time{}
	}
	for url, set := range c.latest.Sets {
		if url != xds.EndpointType && !equal(set, c.view.Sets[url]) || len(c.view.Sets) != len(c.latest.Sets) {
			if at := c.server.pace.ask(c.latest.Epoch, now); at.After(now) {
				return at
			}
			break
		}
	}
	c.view, c.eds = c.latest, c.latest.Sets[xds.EndpointType]
	return time.Time{}
}

// awaitsEndpoints says whether new clusters were sent whose endpoints the proxy
// has not asked for yet, so that nothing may refer to them, and until when.
func (c *client) awaitsEndpoints(now time.Time) (bool, time.Time) {
	if len(c.expect) == 0 {
		return false, time.Time{}
	}
	if eds := c.state(xds.EndpointType); eds != nil {
		c.expect = slices.DeleteFunc(c.expect, eds.covers)
	}
	if !c.expectBy.IsZero() && !now.Before(c.expectBy) {
		c.expect = nil
	}
	if len(c.expect) == 0 {
		c.expect, c.expectBy = nil, time.Time{}
		return false, time.Time{}
	}
	return true, c.expectBy
}

// plan returns what brings one type up to date, or nil.
func (c *client) plan(st *typeState, removals bool) *push {
	p := &push{st: st, fresh: len(st.fresh) > 0 || st.owes}
	now := c.target(st)
	kept := false
	diff(st.sent, now, func(r *xds.Resource) {
		if st.covers(r.Name) {
			p.put = append(p.put, r)
		}
	}, func(r *xds.Resource) {
		if !st.covers(r.Name) {
			return
		}
		if kept = true; removals {
			p.gone = append(p.gone, r.Name)
		}
	})
	missing := p.addFresh(now)
	p.state = now
	if kept && !removals {
		p.state = without(keep(st.sent, now), missing)
	}
	silent := !c.Delta && !whole(st.url) // this protocol cannot say that one of these is not there
	if silent {
		p.gone, missing = nil, nil
	}
	p.gone = append(p.gone, missing...)
	if !silent {
		p.gone = append(p.gone, st.emptyGroups(now)...)
	}
	if len(p.put) > 0 || len(p.gone) > 0 || st.owes || len(st.fresh) > 0 && !silent {
		slices.Sort(p.gone)
		p.gone = slices.Compact(p.gone)
		return p
	}
	if len(st.fresh) > 0 || !kept || removals {
		st.sent, st.fresh = p.state, nil // otherwise something is to be removed, later
	}
	return nil
}

// answerFresh returns the answer to names just asked for and nothing else, or
// nil when there is none to give.
func (c *client) answerFresh(st *typeState) *push {
	if len(st.fresh) == 0 {
		return nil
	}
	p := &push{st: st, fresh: true, part: true}
	now := c.target(st)
	missing := p.addFresh(now)
	p.state = without(overlay(st.sent, now, st.fresh), missing)
	if c.Delta || whole(st.url) {
		p.gone = missing
	} else if len(p.put) == 0 {
		st.sent, st.fresh = p.state, nil
		return nil
	}
	return p
}

// addFresh adds the names just asked for and returns, sorted, those there are no
// resources of. Of those the proxy has nothing, whatever it was sent before.
func (p *push) addFresh(now xds.Set) (missing []string) {
	if len(p.st.fresh) == 0 {
		return nil
	}
	have := len(p.put)
	for _, n := range p.st.fresh {
		if r := now.Get(n); r == nil {
			missing = append(missing, n)
		} else if _, ok := slices.BinarySearchFunc(p.put[:have], r, byName); !ok {
			p.put = append(p.put, r)
		}
	}
	slices.SortFunc(p.put, byName)
	slices.Sort(missing)
	return slices.Compact(missing)
}

// emptyGroups returns the groups just asked for that have no resources. They are
// answered as a name is that does not exist: a proxy that waits for the hosts of
// one route configuration cannot tell from those of others that it has none.
func (st *typeState) emptyGroups(now xds.Set) (empty []string) {
	for _, g := range st.groups {
		if !hasGroup(now, g) {
			empty = append(empty, g)
		}
	}
	return empty
}

// start accounts for a response as sent.
func (c *client) start(p *push, now time.Time) *push {
	st := p.st
	if st.url == xds.ClusterType {
		c.expectEndpoints(p)
	}
	c.nonce++
	st.nonce, st.inflight, st.first, st.epoch, st.sentAt = c.nonce, true, p.fresh, c.latest.Epoch, now
	p.nonce = nonceText(c.nonce)
	st.sent = p.state
	if !c.Delta && whole(st.url) {
		p.put = slices.DeleteFunc(slices.Clone(p.state), func(r *xds.Resource) bool { return !st.covers(r.Name) })
	}
	if c.Delta {
		st.version = strconv.FormatUint(c.latest.Epoch, 10)
	} else {
		st.version = setVersion(p.state, st.covers)
	}
	st.fresh = nil
	if !p.part {
		st.groups, st.owes = nil, false
	}
	st.carried = p
	return p
}

// expectEndpoints notes the clusters of a push that are new to the proxy and
// come with endpoints.
func (c *client) expectEndpoints(p *push) {
	eds := c.state(xds.EndpointType)
	for _, r := range p.put {
		if (eds == nil || !eds.covers(r.Name)) && c.eds.Get(r.Name) != nil {
			c.expect = append(c.expect, r.Name)
		}
	}
	c.expectBy = time.Time{}
}

// close lets go of what is shared.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, st := range c.types {
		c.server.names.release(st.names)
		st.names = nil
	}
}

func nonceText(n uint64) string { return strconv.FormatUint(n, 10) }

// earlier returns the earlier of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
