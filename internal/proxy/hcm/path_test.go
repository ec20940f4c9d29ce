// SPDX-License-Identifier: Apache-2.0

package hcm

import (
	"strings"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/lateen-mesh/lateen/internal/proxy/message"
)

func TestCanonicalPath(t *testing.T) {
	none := &config{}
	base := &config{normalize: true}
	merge := &config{normalize: true, mergeSlashes: true}
	decode := &config{normalize: true, mergeSlashes: true, escapedSlashes: hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD}
	redirect := &config{normalize: true, escapedSlashes: hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT}
	reject := &config{normalize: true, escapedSlashes: hcmv3.HttpConnectionManager_REJECT_REQUEST}
	for _, tc := range []struct {
		name     string
		cfg      *config
		in, want string
		verdict  pathVerdict
	}{
		{"NONE changes nothing", none, "/a/../b//c", "/a/../b//c", pathGood},
		{"BASE removes dot segments", base, "/a/./b/../c", "/a/c", pathGood},
		{"above the root", base, "/../../etc/passwd", "/etc/passwd", pathGood},
		{"dots at the end", base, "/a/b/..", "/a/", pathGood},
		{"dot at the end", base, "/a/.", "/a/", pathGood},
		{"only dots", base, "/..", "/", pathGood},
		{"encoded dots", base, "/a/%2e%2E/b", "/b", pathGood},
		{"mixed dots", base, "/a/.%2e/b", "/b", pathGood},
		{"three dots are a name", base, "/a/.../b", "/a/.../b", pathGood},
		{"dots with a parameter are a name", base, "/a/..;x/b", "/a/..;x/b", pathGood},
		{"backslash", base, `/a\..\b`, "/b", pathGood},
		{"escaped slash stays", base, "/a%2fb", "/a%2fb", pathGood},
		{"hex digits keep their case", base, "/a%c3%A9", "/a%c3%A9", pathGood},
		{"query is left alone", base, "/a/../b?c=/../d", "/b?c=/../d", pathGood},
		{"slashes stay in BASE", base, "/a//b", "/a//b", pathGood},
		{"broken escape", base, "/a%zz", "", pathBad},
		{"cut escape", base, "/a%2", "", pathBad},
		{"NUL", base, "/a%00b", "", pathBad},
		{"MERGE_SLASHES", merge, "/a///b//", "/a/b/", pathGood},
		{"merge after dots", merge, "/a/..//b", "/b", pathGood},
		{"DECODE", decode, "/a%2Fb%5Cc", "/a/b/c", pathGood},
		{"decoded dots", decode, "/a%2f..%2fb", "/b", pathGood},
		{"decoded double slash", decode, "/a/%2fb", "/a/b", pathGood},
		{"redirect", redirect, "/a%2fb?q", "/a/b?q", pathRedirect},
		{"reject", reject, "/a%5cb", "", pathBad},
		{"reject nothing", reject, "/a/b?%2f", "/a/b?%2f", pathGood},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var a message.Arena
			got, verdict := canonicalPath([]byte(tc.in), tc.cfg, &a)
			if string(got) != tc.want || verdict != tc.verdict {
				t.Errorf("%q: got %q (%d), want %q (%d)", tc.in, got, verdict, tc.want, tc.verdict)
			}
		})
	}
}

// FuzzCanonicalPath: a canonical path is canonical, and holds no dot segment.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/a/../b", "/%2e%2e/", `/\..`, "//", "/a%2f..%2f", "/.?.."} {
		f.Add(s)
	}
	cfg := &config{normalize: true, mergeSlashes: true, escapedSlashes: hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD}
	f.Fuzz(func(t *testing.T, in string) {
		if !strings.HasPrefix(in, "/") {
			return
		}
		var a message.Arena
		got, verdict := canonicalPath([]byte(in), cfg, &a)
		if verdict != pathGood {
			return
		}
		once := string(got)
		bare, _, _ := strings.Cut(once, "?")
		if !strings.HasPrefix(bare, "/") || strings.Contains(bare+"/", "/../") || strings.Contains(bare+"/", "/./") || strings.Contains(bare, "//") || strings.Contains(bare, `\`) {
			t.Fatalf("%q became %q", in, once)
		}
	})
}
