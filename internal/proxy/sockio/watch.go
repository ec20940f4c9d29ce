// SPDX-License-Identifier: Apache-2.0

package sockio

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// WaitGone blocks until the peer has closed its side or the connection is
// dead, and returns true, or returns false after Interrupt. It takes the place
// of a read: none may be in progress. Bytes that are waiting to be read are left
// alone. Where it cannot tell (not TCP) it returns false at once.
func (c *Conn) WaitGone() bool {
	if c.tcp == nil {
		return false
	}
	if c.peekFn == nil {
		c.peekFn = c.tryGone
	}
	for {
		c.gone = false
		err := c.raw.Read(c.peekFn)
		if err == nil {
			return c.gone
		}
		if c.fired(&c.in, c.setRead, err) != nil {
			return false
		}
	}
}

func (c *Conn) tryGone(fd uintptr) bool {
	if c.stop.Load() {
		return true
	}
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p[:], 0)
	if err == unix.EINTR {
		n, err = unix.Poll(p[:], 0)
	}
	if err != nil {
		return true
	}
	c.gone = n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	return c.gone
}

// Alive says whether an idle connection can be used: the peer has not closed it
// and has not sent anything that nobody asked for. TLS may have sent tickets,
// so with tlsData waiting bytes are no objection as long as the peer's side is
// still open behind them. It costs one system call; no read may be in progress.
func (c *Conn) Alive(tlsData bool) bool {
	if c.tcp == nil {
		return true
	}
	if c.aliveFn == nil {
		c.aliveFn = c.peekAlive
	}
	c.tlsData = tlsData
	// Control and not Read: a deadline that has passed since says nothing about
	// the peer.
	return c.raw.Control(c.aliveFn) == nil && c.alive
}

func (c *Conn) peekAlive(fd uintptr) {
	var b [1]byte
	n, errno := recv(fd, b[:], syscall.MSG_PEEK)
	for errno == syscall.EINTR {
		n, errno = recv(fd, b[:], syscall.MSG_PEEK)
	}
	switch {
	case errno == syscall.EAGAIN:
		c.alive = true
	case errno != 0 || n == 0 || !c.tlsData:
		c.alive = false
	default:
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		k, err := unix.Poll(p[:], 0)
		c.alive = err == nil && k == 0
	}
}
