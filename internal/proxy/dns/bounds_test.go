// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"io"
	"net"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestBounds(t *testing.T) {
	u := newUpstream(t, func(dnsmessage.Question, bool) dnsmessage.Message { return dnsmessage.Message{} })
	s := start(t, u)
	s.Update(names)
	for range maxForwards { // as many questions as may be on their way
		s.slots <- struct{}{}
	}
	if got := s.exchange(t, "udp", dnsmessage.TypeA, "outside.org.", 0); got.RCode != dnsmessage.RCodeServerFailure || u.asked.Load() != 0 {
		t.Errorf("one question too many: %v", got.RCode)
	}
	if got := s.exchange(t, "udp", dnsmessage.TypeA, "reviews.", 0); len(got.Answers) != 1 {
		t.Error("names of the mesh need nobody else")
	}
	for range maxConns {
		s.conns <- struct{}{}
	}
	c, err := net.Dial("tcp", s.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one connection too many: %v", err)
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 10.0.0.10\nsearch a.b c\noptions ndots:5\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range parseResolvConf(text).Search {
			if s == "" {
				t.Error("an empty search domain matches everything")
			}
		}
	})
}
