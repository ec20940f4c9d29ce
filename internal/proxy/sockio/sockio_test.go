// SPDX-License-Identifier: Apache-2.0

package sockio

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

func pair(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	return New(c), peer
}

// both runs a test over TCP and over a connection that is only a net.Conn.
func both(t *testing.T, f func(t *testing.T, c *Conn, peer net.Conn)) {
	t.Run("tcp", func(t *testing.T) {
		c, peer := pair(t)
		f(t, c, peer)
	})
	t.Run("other", func(t *testing.T) {
		a, b := net.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		f(t, New(a), b)
	})
}

func TestUnreadComesFirst(t *testing.T) {
	both(t, func(t *testing.T, c *Conn, peer net.Conn) {
		c.Unread([]byte("ab"))
		go io.WriteString(peer, "cd")
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "abcd" {
			t.Errorf("%q %v", b, err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	both(t, func(t *testing.T, c *Conn, peer net.Conn) {
		b := make([]byte, 4)
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("error %v", err)
		}
		// An armed deadline that is no longer wanted must not end a read.
		c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		go io.WriteString(peer, "a")
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Time{})
		time.AfterFunc(60*time.Millisecond, func() { io.WriteString(peer, "b") })
		if _, err := c.Read(b); err != nil {
			t.Errorf("the old deadline ended the read: %v", err)
		}
		// A deadline set while a read is blocked ends it.
		time.AfterFunc(10*time.Millisecond, func() { c.SetReadDeadline(time.Unix(1, 0)) })
		if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		// And reading can go on afterwards.
		c.SetReadDeadline(time.Time{})
		go io.WriteString(peer, "c")
		if _, err := c.Read(b); err != nil || b[0] != 'c' {
			t.Errorf("%q %v", b, err)
		}
	})
}

func TestWriteDeadline(t *testing.T) {
	both(t, func(t *testing.T, c *Conn, peer net.Conn) {
		c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		big := make([]byte, 1<<20)
		var err error
		for range 100 {
			if _, err = c.Write(big); err != nil {
				break
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

func TestInterrupt(t *testing.T) {
	both(t, func(t *testing.T, c *Conn, peer net.Conn) {
		time.AfterFunc(10*time.Millisecond, c.Interrupt)
		b := make([]byte, 4)
		if _, err := c.Read(b); !errors.Is(err, ErrInterrupted) {
			t.Fatalf("error %v", err)
		}
		if _, err := c.Read(b); !errors.Is(err, ErrInterrupted) {
			t.Fatalf("error %v", err)
		}
		c.Resume()
		go io.WriteString(peer, "a")
		if n, err := c.Read(b); n != 1 || err != nil {
			t.Errorf("after Resume: %d %v", n, err)
		}
	})
}

func TestWritev(t *testing.T) {
	both(t, func(t *testing.T, c *Conn, peer net.Conn) {
		a, b, d := strings.Repeat("a", 700000), strings.Repeat("b", 900000), strings.Repeat("d", 500000)
		done := make(chan string)
		go func() {
			p := make([]byte, len(a)+len(b)+len(d))
			io.ReadFull(peer, p)
			done <- string(p)
		}()
		if err := c.Writev([]byte(a), []byte(b), []byte(d)); err != nil {
			t.Fatal(err)
		}
		if got := <-done; got != a+b+d {
			t.Error("the parts came out of order")
		}
	})
}

// TestReadBufferHoldsNoBuffer: while there is nothing to read, the buffer is
// back with its owner.
func TestReadBufferHoldsNoBuffer(t *testing.T) {
	c, peer := pair(t)
	out := make(chan int, 100)
	lent := 0
	get := func() []byte { lent++; out <- lent; return make([]byte, 10) }
	put := func([]byte) { lent--; out <- lent }
	go func() {
		<-out                   // tried once
		if n := <-out; n != 0 { // given back
			t.Error("a buffer is held while waiting")
		}
		io.WriteString(peer, "hi")
	}()
	b, n, err := c.ReadBuffer(get, put)
	if err != nil || string(b[:n]) != "hi" {
		t.Errorf("%q %v", b[:n], err)
	}
}

func TestWaitGone(t *testing.T) {
	c, peer := pair(t)
	io.WriteString(peer, "bytes that nobody reads")
	time.AfterFunc(10*time.Millisecond, func() { peer.Close() })
	if !c.WaitGone() {
		t.Error("the peer's leaving was not seen")
	}
	c, _ = pair(t)
	time.AfterFunc(10*time.Millisecond, c.Interrupt)
	if c.WaitGone() {
		t.Error("a peer that stays was taken for gone")
	}
}

func TestSplit(t *testing.T) {
	c, _ := pair(t)
	ctl, data := Split(c)
	if ctl != c || data != net.Conn(c) {
		t.Error("a Conn is not its own control")
	}
}
