// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// ttl of answers, in seconds: istio-agent's, short because addresses change.
	ttl = 30
	// minUDP is what every client takes without saying so (RFC 1035 section
	// 4.2.1); maxMessage is what fits a TCP message.
	minUDP, maxMessage = 512, 65535
	// ednsSize is the size of UDP messages that the proxy takes.
	ednsSize = 4096
)

// query is the part of a client's message that an answer depends on.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	name     string // lower case, without the last dot
	edns     bool
	size     int // of the largest answer
}

var (
	errNotQuery  = errors.New("not a query")
	errQuestions = errors.New("not one question")
)

// parseQuery reads a message; what it could read is returned with an error.
func parseQuery(b []byte, tcp bool) (q query, err error) {
	q.size = minUDP
	if tcp {
		q.size = maxMessage
	}
	var p dnsmessage.Parser
	if q.header, err = p.Start(b); err != nil {
		return q, err
	}
	if q.header.Response {
		return q, errNotQuery
	}
	if q.question, err = p.Question(); err != nil {
		return q, err
	}
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone {
		return q, errQuestions
	}
	if err = errors.Join(p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return q, err
	}
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil {
			return q, err
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns = true
			if !tcp { // RFC 6891 section 6.2.3: the class is the size
				q.size = max(int(h.Class), minUDP)
			}
		}
		if err := p.SkipAdditional(); err != nil {
			return q, err
		}
	}
	q.name = strings.ToLower(strings.TrimSuffix(q.question.Name.String(), "."))
	return q, nil
}

// reply is an answer without records.
func (q *query) reply(code dnsmessage.RCode, authoritative bool) []byte {
	return q.build(code, authoritative, "", nil, 0)
}

// build makes an answer: the alias, where canonical is another name than asked
// for, and as many addresses as fit, from the one at the turn on.
func (q *query) build(code dnsmessage.RCode, authoritative bool, canonical string, addrs []netip.Addr, turn int) []byte {
	for n := len(addrs); ; n /= 2 {
		b, err := q.pack(code, authoritative, canonical, addrs, n, turn)
		if err == nil && len(b) <= q.size {
			return b
		}
		if n == 0 {
			return b // a name too long to be an alias's target, or nothing
		}
	}
}

func (q *query) pack(code dnsmessage.RCode, authoritative bool, canonical string, addrs []netip.Addr, n, turn int) ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 0, minUDP), dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RCode: code, Authoritative: authoritative,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true, Truncated: n < len(addrs),
	})
	b.EnableCompression()
	if q.name != "" || q.question.Type != 0 {
		if err := errors.Join(b.StartQuestions(), b.Question(q.question)); err != nil {
			return nil, err
		}
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	owner := q.question.Name
	head := func() dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: ttl}
	}
	if len(addrs) > 0 && canonical != q.name {
		target, err := dnsmessage.NewName(canonical + ".")
		if err == nil {
			err = b.CNAMEResource(head(), dnsmessage.CNAMEResource{CNAME: target})
		}
		if err != nil {
			return nil, err
		}
		owner = target
	}
	for i := range n {
		var err error
		if a := addrs[(i+turn)%len(addrs)]; a.Is4() {
			err = b.AResource(head(), dnsmessage.AResource{A: a.As4()})
		} else {
			err = b.AAAAResource(head(), dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	if q.edns {
		var h dnsmessage.ResourceHeader
		if err := errors.Join(b.StartAdditionals(), h.SetEDNS0(ednsSize, code, false), b.OPTResource(h, dnsmessage.OPTResource{})); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// local answers from the table; false says that others have to be asked.
func (t *table) local(q *query, turn int) ([]byte, bool) {
	if q.question.Class != dnsmessage.ClassINET || q.header.OpCode != 0 {
		return nil, false
	}
	h, canonical := t.find(q.name)
	if h == nil {
		return nil, false
	}
	var addrs []netip.Addr
	switch q.question.Type {
	case dnsmessage.TypeA:
		addrs = h.v4
	case dnsmessage.TypeAAAA:
		addrs = h.v6
	default:
		if !h.foreign {
			return nil, false // cluster DNS may have such records
		}
	}
	// A name without records of a type exists all the same: NXDOMAIN would make
	// resolvers that ask for A and AAAA at once give up both.
	return q.build(dnsmessage.RCodeSuccess, true, canonical, addrs, turn), true
}
