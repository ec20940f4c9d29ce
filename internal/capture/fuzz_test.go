// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"os"
	"testing"
)

func FuzzSaved(f *testing.F) {
	b, err := os.ReadFile("testdata/iptables-save.txt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	f.Add("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT ! -d ::1 -j RETURN\nCOMMIT\n")
	c := Default()
	s := Rules(&c, IPv4)
	f.Fuzz(func(_ *testing.T, text string) {
		have := saved(text)
		compareSaved(s, have)
		for _, t := range tables {
			removal(t, s, have[t])
		}
	})
}

func FuzzDecodeRule(f *testing.F) {
	f.Add([]byte{12, 0, 4, 128, 8, 0, 1, 0, 1, 2, 3, 4})
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = decodeRule(b)
		within(b, b[:len(b)/2], 0)
	})
}
