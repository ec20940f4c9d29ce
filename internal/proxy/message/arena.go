// SPDX-License-Identifier: Apache-2.0

package message

// Arena gives out bytes that live until the exchange ends, so that rewriting a
// header costs no allocation in the steady state. The zero value is ready.
type Arena struct {
	buf []byte
}

// Reset makes the memory available again. Slices given out before are dead.
func (a *Arena) Reset() { a.buf = a.buf[:0] }

// Copy returns a copy of b.
func (a *Arena) Copy(b []byte) []byte {
	n := len(a.buf)
	a.buf = append(a.buf, b...)
	return a.buf[n:len(a.buf):len(a.buf)]
}

// Build lets f append to the arena's tail and returns what was appended.
// f must not use the arena itself.
func (a *Arena) Build(f func(dst []byte) []byte) []byte {
	n := len(a.buf)
	a.buf = f(a.buf)
	return a.buf[n:len(a.buf):len(a.buf)]
}

// Tail returns the arena's free end to append to; Commit(result) hands the
// appended bytes out. It is Build without a closure.
func (a *Arena) Tail() []byte { return a.buf[len(a.buf):] }

// Commit takes what was appended to Tail and returns it as an owned slice.
func (a *Arena) Commit(b []byte) []byte {
	n := len(a.buf)
	if cap(b) > 0 && n+len(b) <= cap(a.buf) && len(b) > 0 && &b[0] == &a.buf[:n+1][n] {
		a.buf = a.buf[:n+len(b)]
		return b[:len(b):len(b)]
	}
	return a.Copy(b)
}
