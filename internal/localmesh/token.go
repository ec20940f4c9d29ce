// SPDX-License-Identifier: Apache-2.0

package localmesh

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tokenPath is where a child finds the token in its first inherited
// descriptor. It can be read again and again, unlike a pipe.
const tokenPath = "/proc/self/fd/3"

// tokenFile is a file without a name that only we and the process it is handed
// to can open: a token that never touches a disk, a command line or an
// environment.
type tokenFile struct{ f *os.File }

func newTokenFile(token string) (*tokenFile, error) {
	fd, err := unix.MemfdCreate("lateen-token", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make token file: %w", err)
	}
	t := &tokenFile{os.NewFile(uintptr(fd), "token")}
	if err := t.set(token); err != nil {
		t.f.Close()
		return nil, err
	}
	return t, nil
}

// set replaces the token. A reader in between sees the new one with the end of
// a longer old one at worst, is refused, and reads again.
func (t *tokenFile) set(token string) error {
	if _, err := t.f.WriteAt([]byte(token), 0); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	if err := t.f.Truncate(int64(len(token))); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	return nil
}
