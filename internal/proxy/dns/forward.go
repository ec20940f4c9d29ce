// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// serverTimeout bounds one try of one server; resolvers wait five seconds.
const serverTimeout = 2 * time.Second

// forwarder asks the servers of resolv.conf, one after the other.
type forwarder struct {
	servers []netip.AddrPort
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

var errNoServer = errors.New("resolv.conf names no server")

// ask sends a client's message on and gives the answer as the client may have
// it: over UDP no larger than it takes.
func (f *forwarder) ask(ctx context.Context, msg []byte, q *query, tcp bool) ([]byte, error) {
	err := errNoServer
	for _, s := range f.servers {
		var answer []byte
		if answer, err = f.one(ctx, s, msg, q, tcp); err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (f *forwarder) one(ctx context.Context, s netip.AddrPort, msg []byte, q *query, tcp bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	if tcp {
		return f.exchange(ctx, "tcp", s, msg, q)
	}
	answer, err := f.exchange(ctx, "udp", s, msg, q)
	if err != nil {
		return nil, err
	}
	if truncated(answer) {
		if whole, err := f.exchange(ctx, "tcp", s, msg, q); err == nil && len(whole) <= q.size {
			return whole, nil
		}
	}
	if len(answer) > q.size { // more than the client takes
		return q.truncatedReply(), nil
	}
	return answer, nil
}

func truncated(msg []byte) bool { return len(msg) > 2 && msg[2]&2 != 0 } // RFC 1035 section 4.1.1

func (q *query) truncatedReply() []byte {
	b := q.reply(dnsmessage.RCodeSuccess, false)
	if len(b) > 2 {
		b[2] |= 2
	}
	return b
}

// exchange asks one server over one connection. A random number and the
// kernel's random port stand between the answer and a forged one.
func (f *forwarder) exchange(ctx context.Context, network string, s netip.AddrPort, msg []byte, q *query) ([]byte, error) {
	c, err := f.dial(ctx, network, s.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	out := bytes.Clone(msg)
	_, _ = rand.Read(out[:2]) // never fails
	if err := writeMessage(c, out, network == "tcp"); err != nil {
		return nil, err
	}
	buf := make([]byte, ednsSize)
	for {
		var in []byte
		if network == "tcp" {
			if in, err = readMessage(c, nil); err != nil {
				return nil, err
			}
		} else {
			n, err := c.Read(buf)
			if err != nil {
				return nil, err
			}
			in = buf[:n]
		}
		if answers(in, out, q) {
			copy(in, msg[:2])
			return in, nil
		}
		if network == "tcp" {
			return nil, fmt.Errorf("server %s answers another question", s)
		}
	}
}

// answers says whether a message is a response to the question sent.
func answers(in, out []byte, q *query) bool {
	if len(in) < 12 || in[0] != out[0] || in[1] != out[1] {
		return false
	}
	var p dnsmessage.Parser
	h, err := p.Start(in)
	if err != nil || !h.Response {
		return false
	}
	got, err := p.Question()
	if err == dnsmessage.ErrSectionDone { // some servers leave it out of errors
		return h.RCode != dnsmessage.RCodeSuccess
	}
	return err == nil && got.Type == q.question.Type && got.Class == q.question.Class &&
		strings.EqualFold(got.Name.String(), q.question.Name.String())
}

// writeMessage writes a message, over TCP with its length before it (RFC 1035
// section 4.2.2).
func writeMessage(w io.Writer, msg []byte, tcp bool) error {
	if tcp {
		msg = append(binary.BigEndian.AppendUint16(make([]byte, 0, len(msg)+2), uint16(len(msg))), msg...)
	}
	_, err := w.Write(msg)
	return err
}

// readMessage reads a message with its length before it into b where that is
// large enough.
func readMessage(r io.Reader, b []byte) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(length[:]))
	if n > cap(b) {
		b = make([]byte, n)
	}
	_, err := io.ReadFull(r, b[:n])
	return b[:n], err
}
